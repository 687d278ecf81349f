//! The recovery pod: data directory, recovery settings, PostgreSQL under supervision.
//!
//! `highwater recover` runs on the database's own image, on volumes restored from a backup's snapshots. It makes the data
//! directory right, lets PostgreSQL replay WAL that `highwater wal fetch` hands out, and stops it once it was promoted.
//! It may be killed at any point and started again.

mod archive;
pub mod beside;
mod checks;
mod commits;
mod controldata;
pub mod cut;
mod directory;
mod error;
pub mod fetch;
mod files;
pub mod job;
mod marker;
mod pace;
pub mod prefetch;
mod program;
mod promoted;
mod reader;
mod report;
pub mod restored;
mod server;
mod settings;

use std::{path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

pub use archive::{ArchiveError, Base, base};
pub use directory::Texts;
pub use files::{Owner, replace as replace_file};
pub use report::patiently;

use self::{
    fetch::{FetchConfig, MountedPaths},
    job::{Job, JobError},
    marker::Marker,
    report::Reporter,
};
use crate::{
    api::{
        PgArchiveSpec, PgRestore, RestorePlan, RestoreProgress,
        conditions::{self, RECOVERED, Status},
    },
    clock::{Clock as _, SystemClock, micro_time},
    controller::context::Chain,
    kubernetes::RequestError,
};

/// How long an outage of the archive may last before recovery is given up.
const ARCHIVE_DEADLINE: Duration = Duration::from_secs(600);

/// Arguments of `highwater recover`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The namespace of the restore.
    #[arg(long, env = "HIGHWATER_NAMESPACE")]
    pub namespace: String,
    /// The PgRestore's name.
    #[arg(long)]
    pub restore: String,
    /// PGDATA. Default: where the backup had it.
    #[arg(long)]
    pub pgdata: Option<PathBuf>,
    /// A directory for configuration and socket: outside the restored volumes, with a short path.
    #[arg(long, default_value = "/highwater/run/postgres")]
    pub work: PathBuf,
    /// Where the archive's Secrets and directory are mounted.
    #[command(flatten)]
    pub mounted: MountedPaths,
    /// Where a drill's own program is asked.
    #[command(flatten)]
    pub exchange: beside::Exchange,
}

/// What ends the program with exit code 1, so that it is started again. Whatever another try cannot help is reported in
/// the condition `Recovered`, and ends the program with 0.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client: neither in a pod nor with a kubeconfig.
    #[error("failed to make a client for the Kubernetes API")]
    Client(#[from] kube::Error),
    /// The API server says no, or does not answer.
    #[error("failed to read or report about the restore")]
    Request(#[from] RequestError),
    /// The signal handler could not be set.
    #[error("failed to listen for SIGTERM")]
    Signal(#[source] std::io::Error),
    /// The controller starts recovery pods for restores with a plan only.
    #[error("the restore has no plan yet")]
    NoPlan,
    /// The path of this program is not known.
    #[error("failed to find this program's path")]
    Program(#[source] std::io::Error),
    /// SIGTERM.
    #[error("stopped before the end of recovery")]
    Terminated,
}

/// Recovers what the PgRestore says.
///
/// # Errors
/// See [`Error`].
pub async fn run(args: Args) -> Result<(), Error> {
    let mut stop = on_sigterm().map_err(Error::Signal)?;
    let began = micro_time(SystemClock.now());
    let client = Client::try_default().await?;
    let (reporter, restore) = Reporter::open(
        client,
        &args.namespace,
        &args.restore,
        Arc::new(SystemClock),
    )
    .await?;
    let status = restore.status.clone().unwrap_or_default();
    if conditions::find(&status.conditions, RECOVERED)
        .is_some_and(|c| c.status != Status::Unknown.as_str())
    {
        tracing::info!("the restore is decided: nothing to do");
        return Ok(());
    }
    let before = status.progress.unwrap_or_else(RestoreProgress::begun);
    let (progress, shown) = watch::channel(RestoreProgress {
        percent: "0%".to_owned(),
        segments: 0,
        remaining_seconds: None,
        started_at: before.started_at.clone().or(Some(began)),
        ..before
    });
    let outcome = tokio::select! {
        outcome = recover(&args, &reporter, &restore, &progress, &mut stop) => outcome,
        never = reporter.follow(shown) => match never {},
    };
    let last = RestoreProgress {
        remaining_seconds: None,
        ..progress.borrow().clone()
    };
    match outcome {
        Ok((result, pgdata)) => {
            let message = format!(
                "recovered, {}",
                result
                    .end_lsn
                    .map_or_else(String::new, |lsn| format!("up to {lsn}"))
            );
            reporter
                .write(&result, Status::True, "Recovered", &message)
                .await?;
            if let Err(error) = Marker::remove(&pgdata) {
                tracing::warn!(%error, "failed to remove the marker: it does no harm");
            }
            Ok(())
        }
        Err(Failure::Again(error)) => Err(error),
        Err(Failure::Final { reason, message }) => {
            tracing::error!(reason, "{message}");
            reporter
                .write(&last, Status::False, &reason, &message)
                .await?;
            Ok(())
        }
    }
}

/// How a recovery did not succeed.
enum Failure {
    /// Another try may help.
    Again(Error),
    /// It does not help.
    Final { reason: String, message: String },
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Again(error.into())
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Terminated => Self::Again(Error::Terminated),
            error => Self::Final {
                reason: error.reason().to_owned(),
                message: error.to_string(),
            },
        }
    }
}

async fn recover(
    args: &Args,
    reporter: &Reporter,
    restore: &PgRestore,
    progress: &watch::Sender<RestoreProgress>,
    stop: &mut watch::Receiver<bool>,
) -> Result<(RestoreProgress, PathBuf), Failure> {
    let plan = restore
        .status
        .as_ref()
        .and_then(|status| status.plan.clone());
    let plan = plan.ok_or(Failure::Again(Error::NoPlan))?;
    let archive = reporter.archive(&plan.archive).await?.spec;
    let mut base = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return Err(Failure::Again(Error::Terminated)),
        base = read_base(&archive, args, &plan) => base?,
    };
    if let Some(pgdata) = &args.pgdata {
        base.source.data_directory.clone_from(pgdata);
    }
    let pgdata = base.source.data_directory.clone();
    let job = Job {
        restore: reporter.uid().to_owned(),
        texts: base.texts,
        source: base.source,
        fetch: FetchConfig {
            archive,
            mounted: args.mounted.clone(),
            plan,
            line: base.line,
            segment_size: base.segment_size,
            deadline_seconds: ARCHIVE_DEADLINE.as_secs(),
            progress: args.work.join(settings::files::PROGRESS),
            socket: Some(args.work.join(settings::files::SOCKET)),
        },
        work: args.work.clone(),
        verify: restore.spec.verify.clone(),
        exchange: args.exchange.clone(),
        program: std::env::current_exe().map_err(|error| Failure::Again(Error::Program(error)))?,
    };
    let result = job::run(&job, progress, stop).await?;
    Ok((result, pgdata))
}

/// Reads the base backup; an outage is waited out.
async fn read_base(
    archive: &PgArchiveSpec,
    args: &Args,
    plan: &RestorePlan,
) -> Result<Base, Failure> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        match archive::base(archive, &args.mounted, plan).await {
            Ok(base) => return Ok(base),
            Err(error) if error.is_transient() && started.elapsed() < ARCHIVE_DEADLINE => {
                tracing::warn!(error = %Chain(&error), "trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            Err(error) => {
                return Err(Failure::Final {
                    reason: error.reason().to_owned(),
                    message: Chain(&error).to_string(),
                });
            }
        }
    }
}

/// As process 1 of a container, this program gets SIGTERM only if it asks for it.
///
/// # Errors
/// The handler could not be set.
pub fn on_sigterm() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        terminate.recv().await;
        sender.send_replace(true);
        // Held, so that waiting for a change of it never ends by itself.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
