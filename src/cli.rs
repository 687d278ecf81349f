//! Arguments, and which part of the program they start.

use std::{
    ffi::OsString,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::{
    agent,
    api::crds,
    archiver,
    controller::{self, context::Chain},
    planning, recovery,
    telemetry::{self, LogFormat},
    verify,
};

/// Fast physical backups, a WAL archive and point-in-time recovery for any PostgreSQL StatefulSet.
#[derive(Debug, Parser)]
#[command(name = "highwater", version)]
pub struct Cli {
    /// What to log, as in `info` or `info,highwater=debug`.
    #[arg(long, global = true, env = "HIGHWATER_LOG", default_value = "info")]
    log: String,
    /// How log lines look.
    #[arg(
        long,
        global = true,
        env = "HIGHWATER_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile Highwater's kinds: runs as a Deployment.
    Controller(controller::Args),
    /// Ship the WAL of one protected database and drive its backups: runs as a Deployment beside it.
    Agent(agent::Args),
    /// Recover restored volumes to the target of a PgRestore: runs in recovery pods, on the database's own image.
    Recover(recovery::Args),
    /// Choose the backup of a PgRestore from the catalog in its archive: runs in planning pods.
    Plan(planning::Args),
    /// What PostgreSQL calls for single files of WAL.
    #[command(subcommand)]
    Wal(Wal),
    /// What lies in an archive.
    #[command(subcommand)]
    Archive(Archive),
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
    /// Run the program of a drill whenever recovery asks for it: runs beside recovery, on the program's own image.
    #[command(hide = true)]
    CheckProgram(recovery::beside::Args),
    /// Copy this program to a path: runs as the init container of recovery pods.
    Install {
        /// Where to.
        destination: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Wal {
    /// Fetch one file from the archive: a `restore_command`. Exit code 1 is the end of the log, above 125 trouble.
    Fetch(recovery::fetch::Args),
    /// Archive one file, and the finished segments after it: an `archive_command`. Exit code 0 is durable in the archive.
    Push(archiver::PushArgs),
    /// Archive for `highwater wal push --socket`, as long as it runs.
    Daemon(archiver::DaemonArgs),
}

#[derive(Debug, Subcommand)]
enum Archive {
    /// Read every object and compare it with all that is known of it. Exit code 1: something is wrong; 200: the store did
    /// not answer, which says nothing. Never writes to the archive.
    Verify(verify::Args),
}

/// What ends a program with exit code 1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("failed to start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Controller(#[from] controller::Error),
    #[error(transparent)]
    Agent(#[from] agent::Error),
    #[error(transparent)]
    Plan(#[from] planning::Error),
    #[error(transparent)]
    Recover(#[from] recovery::Error),
    #[error(transparent)]
    CheckProgram(#[from] recovery::beside::Error),
    #[error(transparent)]
    Daemon(#[from] archiver::DaemonError),
    #[error("failed to print the CRDs: {0}")]
    Crds(#[from] crds::Error),
    #[error("failed to copy this program to {}: {cause}", path.display())]
    Install {
        path: PathBuf,
        cause: std::io::Error,
    },
}

impl Cli {
    /// From the process's arguments. `Err`: there is nothing to run, what there was to say is said, and the process is to
    /// end so.
    ///
    /// # Errors
    /// Help, a version, or a wrong argument.
    pub fn read<A: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, ExitCode> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let fetches = arguments.windows(2).any(|pair| pair == ["wal", "fetch"]);
        Self::try_parse_from(arguments).map_err(|error| {
            // Where it cannot be printed nobody listens.
            let _ = error.print();
            match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if fetches => ExitCode::from(recovery::fetch::USAGE),
                _ => ExitCode::from(2),
            }
        })
    }

    /// Runs to the end of the command.
    pub fn run(self) -> ExitCode {
        if !matches!(self.command, Command::Wal(Wal::Fetch(_))) {
            return self.run_to_the_end();
        }
        // PostgreSQL would take the exit code of a panic for the end of the log.
        let ended = catch_unwind(AssertUnwindSafe(|| self.run_to_the_end()));
        ended.unwrap_or_else(|_| ExitCode::from(recovery::fetch::PANICKED))
    }

    fn run_to_the_end(self) -> ExitCode {
        telemetry::init(&self.log, self.log_format);
        match self.command.run() {
            Ok(code) => code,
            Err(failure) => {
                tracing::error!("{}", Chain(&failure));
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Controller(args) => single_threaded()?.block_on(controller::run(args))?,
            Self::Agent(args) => single_threaded()?.block_on(agent::run(args))?,
            Self::Recover(args) => single_threaded()?.block_on(recovery::run(args))?,
            Self::Plan(args) => single_threaded()?.block_on(planning::run(args))?,
            Self::Wal(Wal::Fetch(args)) => return Ok(archiver::fetch::run(args)),
            Self::Wal(Wal::Push(args)) => return Ok(archiver::run_push(&args)),
            Self::Wal(Wal::Daemon(args)) => {
                single_threaded()?.block_on(archiver::run_daemon(args))?;
            }
            Self::Archive(Archive::Verify(args)) => return Ok(verify::run(&args)),
            Self::Crds => print!("{}", crds::yaml()?),
            Self::CheckProgram(args) => {
                single_threaded()?.block_on(recovery::beside::run(args))?;
            }
            Self::Install { destination } => {
                install(&destination).map_err(|cause| Failure::Install {
                    path: destination,
                    cause,
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn single_threaded() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
}

/// By a temporary name, so that nobody runs half a program.
fn install(destination: &Path) -> std::io::Result<()> {
    let partial = destination.with_extension("partial");
    std::fs::copy(std::env::current_exe()?, &partial)?;
    std::fs::set_permissions(&partial, Permissions::from_mode(0o755))?;
    std::fs::rename(&partial, destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_call_of_fetch_is_no_end_of_the_log() {
        let code = |arguments: &[&str]| Cli::read(arguments).err();
        let fetch = code(&["highwater", "wal", "fetch", "--no-such-option"]);
        assert_eq!(fetch, Some(ExitCode::from(recovery::fetch::USAGE)));
        let other = code(&["highwater", "controller", "--no-such-option"]);
        assert_eq!(other, Some(ExitCode::from(2)));
        assert_eq!(code(&["highwater", "--version"]), Some(ExitCode::SUCCESS));
    }
}
