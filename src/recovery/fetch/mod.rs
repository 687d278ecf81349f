//! `highwater wal fetch`: the `restore_command` of a recovery.
//!
//! PostgreSQL takes exit codes 1 to 125 for the end of the log and promotes; above 125 it stops and nothing is lost. So 1
//! is for a definite end only: the plan's. A hole before it, an outage, a broken object end recovery loudly.
//!
//! A segment that the recovery program's prefetcher has is taken from there: this program then opens no archive. Whatever
//! it does not give is asked of the archive itself, as if there were no prefetcher.

mod decide;
mod prefetched;
mod progress;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Builder, time::Instant};

pub use decide::{Part, Stretch, Wanted, ahead, before, must_exist, next, part, reached, width};
pub use progress::{FetchFailure, FetchProgress};

use super::{archive, files};
use crate::{
    api::{PgArchiveSpec, RestorePlan},
    archive::{KEY_MISSING, KEY_WRONG, OpenError},
    postgres::{Lsn, SegmentName, SegmentSize, TimelineId},
    telemetry::say,
};

/// Arguments of `highwater wal fetch`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The file that the recovery program wrote, or a configuration as in docs/archive-command.md.
    #[arg(long)]
    pub config: PathBuf,
    /// The file that PostgreSQL asks for (%f).
    pub file: String,
    /// Where PostgreSQL wants it (%p).
    pub destination: PathBuf,
}

/// What a fetch must know: written by the recovery program, read by each fetch. Paths of secrets, no secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchConfig {
    /// The archive.
    pub archive: PgArchiveSpec,
    /// Where its Secrets and its directory are mounted.
    pub mounted: MountedPaths,
    /// What is restored.
    pub plan: RestorePlan,
    /// The timelines on the way to the plan's end.
    pub line: Vec<Stretch>,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
    /// Seconds after which an outage ends recovery.
    pub deadline_seconds: u64,
    /// Where progress is written.
    pub progress: PathBuf,
    /// Where the prefetcher listens, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// Where the Secrets and the directory of an archive are mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct MountedPaths {
    /// A directory with the archive's credentials, one file per key.
    #[arg(long = "archive-credentials")]
    pub credentials: Option<PathBuf>,
    /// A PEM file with the certificate authority of the archive's endpoint.
    #[arg(long = "archive-ca")]
    pub ca: Option<PathBuf>,
    /// A file with the private keys for encrypted WAL, as age -i takes it.
    #[arg(long = "decryption-identity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<PathBuf>,
    /// Where the volume of a directory archive is mounted.
    #[arg(
        long = "archive-directory",
        default_value = "/var/lib/highwater/archive"
    )]
    pub directory: PathBuf,
}

/// What an archive answers instead of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A definite "no such object", in an archive whose identity could be read.
    #[error("no such object in the archive")]
    NotFound,
    /// No definite answer.
    #[error("{0}")]
    Unavailable(String),
    /// It is there and it is not what was archived.
    #[error("{0}")]
    Corrupt(String),
    /// It is encrypted, and no key was given.
    #[error("{0}")]
    KeyMissing(String),
    /// It is encrypted, and the keys that were given do not fit.
    #[error("{0}")]
    KeyWrong(String),
}

/// An archive to read WAL from.
#[async_trait]
pub trait WalSource: Send + Sync {
    /// A whole segment, with zeros from `up_to` on.
    async fn segment(&self, name: SegmentName, up_to: Lsn) -> Result<Vec<u8>, SourceError>;
    /// A timeline history file.
    async fn history(&self, timeline: TimelineId) -> Result<Vec<u8>, SourceError>;
}

/// Why a fetch cannot hand out what PostgreSQL asks for.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A definite end of the log.
    #[error("{0} is past the end of this restore")]
    End(String),
    /// Only for history files and such: PostgreSQL only wants to know whether it exists.
    #[error("{0} is not in the archive")]
    Absent(String),
    /// WAL that the plan needs is missing.
    #[error(
        "failed to fetch WAL segment {0}: it is not in the archive, and the restore needs it: restore to a target before it, or from a backup after it"
    )]
    Gap(SegmentName),
    /// PostgreSQL asks for what the plan does not lead to.
    #[error("failed to fetch WAL segment {0}: its timeline is not on the way of this restore")]
    OffPlan(SegmentName),
    /// No answer until the deadline.
    #[error("failed to fetch {file} from the archive within {seconds} s: {cause}")]
    Unavailable {
        /// What was asked for.
        file: String,
        /// The deadline.
        seconds: u64,
        /// The last answer.
        cause: String,
    },
    /// What the archive holds is broken.
    #[error("failed to fetch {file}: {cause}")]
    Corrupt {
        /// What was asked for.
        file: String,
        /// How it is broken.
        cause: String,
    },
    /// What the archive holds is encrypted, and no key was given.
    #[error("failed to fetch {file}: {cause}")]
    KeyMissing {
        /// What was asked for.
        file: String,
        /// What is encrypted, and what to do.
        cause: String,
    },
    /// What the archive holds is encrypted, and the keys that were given do not fit.
    #[error("failed to fetch {file}: {cause}")]
    KeyWrong {
        /// What was asked for.
        file: String,
        /// What is encrypted, and what to do.
        cause: String,
    },
    /// The file cannot be written.
    #[error("failed to write {}: {cause}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The archive cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The recovery program's file cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A bug of ours.
    #[error("failed to fetch: this program panicked: {0}")]
    Panicked(tokio::task::JoinError),
    /// No memory, no file descriptors.
    #[error("failed to start the runtime: {0}")]
    Runtime(io::Error),
}

impl FetchError {
    /// What PostgreSQL is told: 1 is "there is no such file", above 125 stops recovery.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::End(_) | Self::Absent(_) => 1,
            Self::Unavailable { .. } => 200,
            Self::Gap(_) => 201,
            Self::Corrupt { .. } => 202,
            Self::OffPlan(_) => 203,
            Self::Write { .. } => 204,
            Self::Config { .. } => 205,
            Self::Open(_) => 206,
            Self::Panicked(_) => PANICKED,
            Self::Runtime(_) => 208,
            // 209 is USAGE.
            Self::KeyMissing { .. } => 210,
            Self::KeyWrong { .. } => 211,
        }
    }

    const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::End(_) | Self::Absent(_) => None,
            Self::Unavailable { .. } => Some("ArchiveUnavailable"),
            Self::Gap(_) => Some("Gap"),
            Self::Corrupt { .. } => Some("ArchiveCorrupt"),
            Self::KeyMissing { .. } => Some(KEY_MISSING),
            Self::KeyWrong { .. } => Some(KEY_WRONG),
            Self::OffPlan(_) => Some("OffPlan"),
            Self::Write { .. } | Self::Config { .. } => Some("DiskFailed"),
            Self::Open(error) => Some(error.reason()),
            Self::Panicked(_) => Some("Panicked"),
            Self::Runtime(_) => Some("OutOfResources"),
        }
    }
}

/// The exit code of a panic; without one PostgreSQL would be told 101.
pub const PANICKED: u8 = 207;
/// The exit code of a wrong call; without one PostgreSQL would be told 2.
pub const USAGE: u8 = 209;

/// Runs one fetch. Errors go to stderr, which is PostgreSQL's log, and to the progress file.
pub fn run(args: &Args) -> ExitCode {
    match fetch_with_config(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.exit_code() > 1 {
                say(format_args!("{error}"));
            }
            // A standby would be killed by more than 125; with 1 it asks again.
            let standby = Path::new("standby.signal").exists();
            ExitCode::from(if standby { 1 } else { error.exit_code() })
        }
    }
}

fn fetch_with_config(args: &Args) -> Result<(), FetchError> {
    let started = Instant::now();
    let config = read_config(&args.config)?;
    let mut progress = FetchProgress::read(&config.progress);
    let before = progress.clone();
    let outcome = match prefetched::take(&config, args) {
        Some(name) => {
            handed_out(&config, name, &mut progress);
            Ok(())
        }
        None => from_archive(&config, args, started, &mut progress),
    };
    progress.failure = outcome.as_ref().err().and_then(|error| {
        error.reason().map(|reason| FetchFailure {
            reason: reason.to_owned(),
            message: error.to_string(),
        })
    });
    if progress != before
        && let Err(cause) = progress.write(&config.progress)
    {
        // How far WAL was handed out decides whether the recovery is whole.
        return outcome.and(Err(FetchError::Write {
            path: config.progress,
            cause,
        }));
    }
    outcome
}

fn from_archive(
    config: &FetchConfig,
    args: &Args,
    started: Instant,
    progress: &mut FetchProgress,
) -> Result<(), FetchError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(FetchError::Runtime)?;
    let (config, args, mut reached) = (config.clone(), args.clone(), progress.clone());
    let outcome = runtime.block_on(guarded(async move {
        let source = archive::open(&config, None)?;
        fetch(&*source, &config, &args, started, &mut reached).await?;
        Ok(reached)
    }));
    // A name server that does not answer holds a thread: it is not waited for.
    runtime.shutdown_background();
    *progress = outcome?;
    Ok(())
}

/// A program that panics exits with 101: PostgreSQL would take that for the end of the log.
async fn guarded<T: Send + 'static>(
    fetch: impl Future<Output = Result<T, FetchError>> + Send + 'static,
) -> Result<T, FetchError> {
    let outcome = tokio::spawn(fetch).await;
    outcome.unwrap_or_else(|panic| Err(FetchError::Panicked(panic)))
}

fn read_config(path: &Path) -> Result<FetchConfig, FetchError> {
    let read = || serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::from);
    read().map_err(|cause| FetchError::Config {
        path: path.to_owned(),
        cause,
    })
}

/// Hands out what `args` asks for, or says why not. The deadline counts from `started`.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(
    source: &dyn WalSource,
    config: &FetchConfig,
    args: &Args,
    started: Instant,
    progress: &mut FetchProgress,
) -> Result<(), FetchError> {
    let deadline = Deadline {
        started,
        seconds: config.deadline_seconds,
    };
    match Wanted::parse(&args.file) {
        Wanted::Other => Err(FetchError::Absent(args.file.clone())),
        Wanted::History(timeline) => {
            let content = until(deadline, &args.file, || source.history(timeline)).await?;
            let content = content.ok_or_else(|| FetchError::Absent(args.file.clone()))?;
            write(&args.destination, &content)
        }
        Wanted::Segment(name) => {
            let content = segment(source, config, name, deadline).await?;
            write(&args.destination, &content)?;
            handed_out(config, name, progress);
            Ok(())
        }
    }
}

fn handed_out(config: &FetchConfig, name: SegmentName, progress: &mut FetchProgress) {
    let reached = reached(name, config.segment_size, &config.line);
    progress.reached = progress.reached.max(reached);
    progress.segments += 1;
}

async fn segment(
    source: &dyn WalSource,
    config: &FetchConfig,
    name: SegmentName,
    deadline: Deadline,
) -> Result<Vec<u8>, FetchError> {
    let up_to = match part(name, config.segment_size, &config.line) {
        Part::Foreign => return Err(FetchError::OffPlan(name)),
        Part::Ended => return Err(FetchError::End(name.to_string())),
        Part::UpTo(lsn) => lsn,
    };
    let file = name.to_string();
    let mut content = until(deadline, &file, || source.segment(name, up_to)).await?;
    // A segment that becomes whole while its tails are read may seem absent for a moment.
    for _ in 0..2 {
        if content.is_none() && must_exist(name, config.segment_size, &config.line) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            content = until(deadline.anew(), &file, || source.segment(name, up_to)).await?;
        }
    }
    match content {
        Some(content) if content.len() as u64 == config.segment_size.get() => Ok(content),
        Some(content) => Err(FetchError::Corrupt {
            file,
            cause: format!(
                "it has {} bytes, want {}",
                content.len(),
                config.segment_size.get()
            ),
        }),
        None if must_exist(name, config.segment_size, &config.line) => Err(FetchError::Gap(name)),
        None => Err(FetchError::End(file)),
    }
}

/// How long an outage is waited out.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    started: Instant,
    seconds: u64,
}

impl Deadline {
    fn at(self) -> Instant {
        self.started + Duration::from_secs(self.seconds)
    }

    fn anew(self) -> Self {
        Self {
            started: Instant::now(),
            ..self
        }
    }
}

/// Asks until there is a definite answer: `None` for "no such object".
async fn until<F>(
    deadline: Deadline,
    file: &str,
    ask: impl Fn() -> F,
) -> Result<Option<Vec<u8>>, FetchError>
where
    F: Future<Output = Result<Vec<u8>, SourceError>>,
{
    let mut pause = Duration::from_millis(100);
    let mut said = false;
    loop {
        let answer = tokio::time::timeout_at(deadline.at(), ask()).await;
        let cause = match answer {
            Ok(Ok(content)) => return Ok(Some(content)),
            Ok(Err(SourceError::NotFound)) => return Ok(None),
            Ok(Err(SourceError::Corrupt(cause))) => {
                let file = file.to_owned();
                return Err(FetchError::Corrupt { file, cause });
            }
            Ok(Err(SourceError::KeyMissing(cause))) => {
                let file = file.to_owned();
                return Err(FetchError::KeyMissing { file, cause });
            }
            Ok(Err(SourceError::KeyWrong(cause))) => {
                let file = file.to_owned();
                return Err(FetchError::KeyWrong { file, cause });
            }
            Ok(Err(SourceError::Unavailable(cause))) => cause,
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + pause >= deadline.at() {
            return Err(FetchError::Unavailable {
                file: file.to_owned(),
                seconds: deadline.seconds,
                cause,
            });
        }
        if !said {
            say(format_args!("trying again to fetch {file}: {cause}"));
            said = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// A partial file never has the name that PostgreSQL wants.
fn write(path: &Path, content: &[u8]) -> Result<(), FetchError> {
    files::replace(path, content).map_err(|cause| FetchError::Write {
        path: path.to_owned(),
        cause,
    })
}

#[cfg(test)]
mod tests;
