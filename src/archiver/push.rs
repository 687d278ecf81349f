//! `highwater wal push`: an `archive_command`, one process per call.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tokio::runtime::Builder;

use super::{Config, error::PushFailure, flights::Outcome, pusher::Pusher};
use crate::telemetry::say;

/// Segments that one call pushes beyond the one it was called for: its answer must not wait for ever.
const MOST_AHEAD: usize = 31;
/// How long it waits for those that are on their way when its own is durable.
const DRAIN: Duration = Duration::from_secs(5);

/// Arguments of `highwater wal push`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration: where the archive is. With a socket too, the way to take while no daemon is there.
    #[arg(long, required_unless_present = "socket")]
    pub config: Option<PathBuf>,
    /// The socket of `highwater wal daemon`.
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// The file to archive (%p).
    pub file: PathBuf,
}

/// Archives one file, and the finished segments after it.
pub fn run(args: &Args) -> ExitCode {
    let outcome = push(args);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn push(args: &Args) -> Outcome {
    // With a socket alone the client has answered already.
    let config = args.config.as_deref().unwrap_or(std::path::Path::new(""));
    let config = Config::read(config).map_err(PushFailure::Config)?;
    let path = std::env::current_dir().map_err(|cause| PushFailure::Read {
        path: args.file.clone(),
        cause,
    });
    let path = path?.join(&args.file);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(PushFailure::Runtime)?;
    let outcome = runtime.block_on(async {
        let pusher = Pusher::new(config, MOST_AHEAD).map_err(PushFailure::Open)?;
        let outcome = pusher.push(&path).await;
        // Routine where the store is slow: PostgreSQL asks for them in their turn.
        let left = pusher.drain(DRAIN).await;
        tracing::debug!(left, "segments left on their way");
        outcome
    });
    // Whatever is still read or compressed for a successor must not hold up the answer.
    runtime.shutdown_background();
    outcome
}
