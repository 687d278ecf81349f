//! `highwater wal fetch` on its own: a `restore_command` for people who recover by hand, or keep a standby.
//!
//! PostgreSQL takes exit codes 1 to 125 for the end of the log and promotes. So 1 is for what is definitely not there, in
//! an archive whose identity object can be read, with nothing after it. Everything else is above 125, after a deadline;
//! on a standby, which that would end, it is 1: a standby asks again.

mod decide;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio::{runtime::Builder, time::Instant};

use super::{
    Config, ConfigError, cluster,
    home::{HomeError, Homes},
    name::WalFile,
};
use crate::{
    archive::{Archive, Lineage, OpenError, ReadError, YOUNG},
    clock::{Clock, SystemClock},
    postgres::{
        SegmentName, SegmentSize, SystemIdentifier, TimelineHistory,
        wal::{self, Origin},
    },
    recovery,
    telemetry::say,
};

/// A standby has a primary to stream from: it must not wait here.
const STANDBY_DEADLINE: Duration = Duration::from_secs(10);
const FIRST_PAGE: usize = 8192;

/// Why a fetch hands nothing out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0} is not in the archive")]
    Absent(String),
    #[error(
        "failed to fetch {0}: it is not in the archive, and WAL after it is: recover to a target before it, or from a base backup after it"
    )]
    Gap(String),
    #[error("failed to fetch {file} within {seconds} s: {cause}")]
    Unavailable {
        file: String,
        seconds: u64,
        cause: String,
    },
    #[error("failed to fetch {file}: {cause}")]
    Corrupt { file: String, cause: String },
    #[error(
        "failed to fetch {file}: it is WAL of cluster {found}, the data directory is of {want}"
    )]
    OtherCluster {
        file: String,
        found: SystemIdentifier,
        want: SystemIdentifier,
    },
    #[error(
        "failed to read {0}: it is encrypted, and the configuration names no file of keys: set decryption"
    )]
    KeyMissing(String),
    #[error(
        "failed to read {0}: it is encrypted, and no key in the file that decryption names fits"
    )]
    KeyWrong(String),
    #[error("failed to write {}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Home(HomeError),
    #[error("failed to start the runtime: {0}")]
    Runtime(io::Error),
}

impl Failure {
    /// As those of a recovery's fetch.
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Absent(_) => 1,
            Self::Unavailable { .. } => 200,
            Self::Gap(_) => 201,
            Self::Corrupt { .. } => 202,
            Self::Write { .. } => 204,
            Self::Config(_) => 205,
            Self::Open(_) => 206,
            Self::Runtime(_) => 208,
            Self::KeyMissing(_) => 210,
            Self::KeyWrong(_) => 211,
            Self::Home(_) => 212,
            Self::OtherCluster { .. } => 213,
        }
    }
}

/// Runs one fetch: as the configuration of a recovery says, or on its own.
pub fn run(args: recovery::fetch::Args) -> ExitCode {
    if is_a_recoverys(&args.config) {
        return recovery::fetch::run(&args);
    }
    let standby = Path::new("standby.signal").exists();
    match fetch_alone(&args, standby) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.exit_code() > 1 {
                say(&failure);
            }
            ExitCode::from(if standby { 1 } else { failure.exit_code() })
        }
    }
}

/// The recovery program writes JSON with a plan in it; a configuration of ours has none.
fn is_a_recoverys(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let value = serde_json::from_slice::<serde_json::Value>(&text);
    value.is_ok_and(|value| value.get("plan").is_some())
}

fn fetch_alone(args: &recovery::fetch::Args, standby: bool) -> Result<(), Failure> {
    let config = Config::read(&args.config)?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::Runtime)?;
    let given = Duration::from_secs(config.fetch_deadline_seconds);
    let fetch = Fetch {
        archive: config.open()?,
        config,
        origin: cluster::of_directory(Path::new(".")),
        standby,
        deadline: match standby {
            true => given.min(STANDBY_DEADLINE),
            false => given,
        },
    };
    let content = runtime.block_on(fetch.until_answered(&args.file));
    // A name server or a directory that does not answer must not hold up the answer.
    runtime.shutdown_background();
    let content = content?;
    let written = recovery::replace_file(&args.destination, &content);
    written.map_err(|cause| Failure::Write {
        path: args.destination.clone(),
        cause,
    })
}

struct Fetch {
    archive: Archive,
    config: Config,
    origin: Option<Origin>,
    standby: bool,
    deadline: Duration,
}

/// Why one try brought nothing.
enum Missed {
    /// Another try may.
    Again(String),
    For(Failure),
}

impl From<ReadError> for Missed {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound { key } => Self::For(Failure::Absent(key)),
            ReadError::Unavailable { .. } => Self::Again(error.to_string()),
            ReadError::KeyMissing { key } => Self::For(Failure::KeyMissing(key)),
            ReadError::KeyWrong { key } => Self::For(Failure::KeyWrong(key)),
            ReadError::Corrupt { ref key, .. } => Self::For(Failure::Corrupt {
                file: key.clone(),
                cause: error.to_string(),
            }),
        }
    }
}

impl From<HomeError> for Missed {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::Read(ReadError::Unavailable { .. }) => Self::Again(error.to_string()),
            other => Self::For(Failure::Home(other)),
        }
    }
}

impl Fetch {
    async fn until_answered(&self, file: &str) -> Result<Vec<u8>, Failure> {
        let wanted = WalFile::parse(file).ok_or_else(|| Failure::Absent(file.to_owned()))?;
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let tried = tokio::time::timeout_at(started + self.deadline, self.once(&wanted)).await;
            let cause = match tried {
                Ok(Ok(content)) => return Ok(content),
                Ok(Err(Missed::For(failure))) => return Err(failure),
                Ok(Err(Missed::Again(cause))) => cause,
                Err(_) => "no answer".to_owned(),
            };
            if started.elapsed() + pause >= self.deadline {
                return Err(Failure::Unavailable {
                    file: file.to_owned(),
                    seconds: self.deadline.as_secs(),
                    cause,
                });
            }
            if pause == Duration::from_millis(100) {
                say(format_args!("trying again to fetch {file}: {cause}"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn once(&self, wanted: &WalFile) -> Result<Vec<u8>, Missed> {
        let homes = Homes::new(&self.archive, &self.config);
        let cluster = self.origin.map(|origin| origin.system_identifier);
        let Some(lineage) = homes.to_read(cluster)? else {
            return self.from(&homes.look_for(cluster).await?, wanted).await;
        };
        let answer = self.from(&lineage, wanted).await;
        match (&answer, &self.config.lineage) {
            // What is remembered may be of another time, what is configured of another cluster: no absence there counts.
            (Err(Missed::For(_)), _) if homes.is_of(&lineage, cluster).await? => answer,
            (Err(Missed::For(Failure::OtherCluster { .. })), Some(_)) => answer,
            (Err(Missed::For(_)), Some(_)) => Err(homes.none(cluster).into()),
            (Err(Missed::For(_)), None) => self.from(&homes.look_for(cluster).await?, wanted).await,
            (Ok(_) | Err(Missed::Again(_)), _) => answer,
        }
    }

    async fn from(&self, lineage: &Lineage, wanted: &WalFile) -> Result<Vec<u8>, Missed> {
        match wanted {
            WalFile::Segment(name) => self.segment(lineage, *name).await,
            WalFile::History(timeline) => {
                let text = lineage.fetch_history(*timeline).await?;
                let parsed = TimelineHistory::parse(*timeline, &text);
                parsed.map_err(|error| {
                    Missed::For(Failure::Corrupt {
                        file: TimelineHistory::file_name(*timeline),
                        cause: error.to_string(),
                    })
                })?;
                Ok(text.into_bytes())
            }
            WalFile::BackupHistory(name) => Ok(lineage.fetch_backup_history(name).await?.to_vec()),
            // A tail; it is handed out under the name of its segment.
            WalFile::Partial(name) => Err(Missed::For(Failure::Absent(format!("{name}.partial")))),
        }
    }

    async fn segment(&self, lineage: &Lineage, name: SegmentName) -> Result<Vec<u8>, Missed> {
        let size = match self.origin {
            Some(origin) => origin.segment_size,
            None => lineage.identity().await?.segment_size,
        };
        let content = match lineage.fetch_segment(name, size, name.end(size)).await {
            Ok(content) => content,
            Err(ReadError::NotFound { .. }) => self.absent(lineage, name, size).await?,
            Err(error) => return Err(error.into()),
        };
        self.check(name, size, content)
    }

    /// There is no whole segment: the log ends in it or before it, or it is missing.
    async fn absent(
        &self,
        lineage: &Lineage,
        name: SegmentName,
        size: SegmentSize,
    ) -> Result<Vec<u8>, Missed> {
        // A standby is told 1 in any case, again and again: it is not worth a list of everything.
        let (end, reaches) = match self.standby {
            true => (decide::Absence::Tail, None),
            false => {
                let outline = lineage.outline().await?;
                let reaches = outline.tails.get(&name).map(|tail| tail.end);
                (decide::end(&outline, name), reaches)
            }
        };
        let again = || Missed::Again(format!("{name} is being archived"));
        match end {
            decide::Absence::Whole => Err(again()),
            decide::Absence::Awaited(last) if SystemClock.now() < last + YOUNG => Err(again()),
            decide::Absence::Awaited(_) | decide::Absence::Gap => {
                Err(Missed::For(Failure::Gap(name.to_string())))
            }
            decide::Absence::End => Err(Missed::For(Failure::Absent(name.to_string()))),
            decide::Absence::Tail => match lineage.fetch_tail(name, size).await? {
                // Less than was listed: it has become whole since, or some of it cannot be had.
                Some((_, known)) if reaches > Some(name.start(size).advance(known)) => Err(again()),
                None if reaches.is_some() => Err(again()),
                Some((content, _)) => Ok(content),
                None => Err(Missed::For(Failure::Absent(name.to_string()))),
            },
        }
    }

    /// Whether it is that segment, and this cluster's.
    fn check(
        &self,
        name: SegmentName,
        size: SegmentSize,
        content: Vec<u8>,
    ) -> Result<Vec<u8>, Missed> {
        let corrupt = |cause: String| {
            Missed::For(Failure::Corrupt {
                file: name.to_string(),
                cause,
            })
        };
        let page = content.get(..FIRST_PAGE).unwrap_or(&content);
        wal::scan(page, name, size, None, None).map_err(|error| corrupt(error.to_string()))?;
        let found = Origin::read(page).ok_or_else(|| corrupt("it is no WAL".to_owned()))?;
        match self.origin {
            Some(want) if want.system_identifier != found.system_identifier => {
                Err(Missed::For(Failure::OtherCluster {
                    file: name.to_string(),
                    found: found.system_identifier,
                    want: want.system_identifier,
                }))
            }
            Some(_) | None => Ok(content),
        }
    }
}
