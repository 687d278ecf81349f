//! How WAL comes from the primary: what the policy asks for, or the best that the database allows.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::wal::{Server, Source, TapError};
use crate::{
    api::Transport,
    controller::context::Chain,
    postgres::{
        replication::Replication,
        session::{ConnectError, QueryError},
    },
};

/// How often a server that keeps replication out is asked again: it writes each time to its log.
const AGAIN: Duration = Duration::from_secs(3600);
/// How often one whose refusal may pass by itself.
const SOON: Duration = Duration::from_secs(300);
/// After this many streams in a row that broke off, another way is taken where there is one.
const BROKEN: u32 = 5;

/// How WAL comes.
#[derive(Clone)]
enum Way {
    /// This server gives a stream.
    Streaming(Box<Server>),
    Sql,
    /// PostgreSQL itself brings it into the archive.
    ArchiveCommand,
}

/// How WAL comes, and why so.
#[derive(Clone)]
pub struct Choice {
    way: Way,
    /// One word for status.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Choice {
    fn streaming(server: Server, reason: &'static str) -> Self {
        Self {
            way: Way::Streaming(Box::new(server)),
            reason,
            message: "WAL is streamed".to_owned(),
        }
    }

    fn sql(reason: &'static str, why: impl std::fmt::Display) -> Self {
        Self {
            way: Way::Sql,
            reason,
            message: format!("WAL is read by SQL over an ordinary connection: {why}"),
        }
    }

    fn archive_command() -> Self {
        Self {
            way: Way::ArchiveCommand,
            reason: "Requested",
            message: "WAL is brought by PostgreSQL's archive_command".to_owned(),
        }
    }

    /// For status.
    pub const fn transport(&self) -> Transport {
        match self.way {
            Way::Streaming(_) => Transport::Streaming,
            Way::Sql => Transport::Sql,
            Way::ArchiveCommand => Transport::ArchiveCommand,
        }
    }

    /// Where the agent reads WAL: a new one each time. `None`: it does not.
    pub fn source(&self, synchronous: bool) -> Option<Source> {
        match &self.way {
            Way::Streaming(server) => Some(Source::streaming((**server).clone(), synchronous)),
            Way::Sql => Some(Source::Sql),
            Way::ArchiveCommand => None,
        }
    }
}

/// The policy asks for streaming, and there is none.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StreamingRefused {
    message: String,
}

/// Why there is no stream.
#[derive(Clone, Debug)]
struct Refusal {
    reason: &'static str,
    message: String,
    until: Instant,
}

/// Remembers what servers have refused, so that they are not asked at each try.
#[derive(Default)]
pub struct Transports(Mutex<HashMap<String, Refusal>>, Mutex<u32>);

impl Transports {
    /// Tries what the policy asks for; `Auto` takes streaming, or else SQL.
    ///
    /// # Errors
    /// The policy asks for streaming, and the server refuses it.
    pub async fn choose(
        &self,
        wanted: Transport,
        synchronous: bool,
        server: &Server,
        pod: &str,
    ) -> Result<Choice, StreamingRefused> {
        let reason = match wanted {
            Transport::Sql => return Ok(Choice::sql("Requested", "the policy asks for it")),
            Transport::ArchiveCommand => return Ok(Choice::archive_command()),
            Transport::Streaming => "Requested",
            Transport::Auto => "ReplicationAllowed",
        };
        let refusal = match self.remembered(pod) {
            // Where commits wait for the stream, no refusal is old enough.
            Some(refusal) if wanted == Transport::Auto && !synchronous => Some(refusal),
            _ => match probe(server).await {
                Ok(()) => None,
                Err(refused) => Some(self.remember(pod, &refused)),
            },
        };
        match (refusal, wanted) {
            (None, _) => {
                self.forget(pod);
                Ok(Choice::streaming(server.clone(), reason))
            }
            (Some(refusal), Transport::Auto) => Ok(Choice::sql(refusal.reason, refusal.message)),
            (Some(refusal), Transport::Streaming | Transport::Sql | Transport::ArchiveCommand) => {
                Err(StreamingRefused {
                    message: refusal.message,
                })
            }
        }
    }

    /// Returns once the server lets the role replicate, where that would be better than what there is.
    /// It is asked again after `longest` at the latest.
    pub async fn better(
        &self,
        wanted: Transport,
        longest: Duration,
        choice: &Choice,
        server: &Server,
        pod: &str,
    ) {
        if wanted != Transport::Auto || choice.transport() != Transport::Sql {
            return std::future::pending().await;
        }
        loop {
            let until = self.remembered(pod).map(|refusal| refusal.until);
            let until = until.unwrap_or_else(|| Instant::now() + SOON);
            let pause = until.duration_since(Instant::now()).min(longest);
            tokio::time::sleep(pause).await;
            match probe(server).await {
                Ok(()) => return self.forget(pod),
                Err(refused) => drop(self.remember(pod, &refused)),
            }
        }
    }

    /// A stream broke off. Where that goes on, `Auto` takes SQL for a while.
    pub fn broken(&self, pod: &str, error: &TapError) {
        let mut broken = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        *broken += 1;
        if *broken < BROKEN {
            return;
        }
        *broken = 0;
        let refusal = Refusal {
            reason: error.reason(),
            message: Chain(error).to_string(),
            until: Instant::now() + AGAIN,
        };
        self.lock().insert(pod.to_owned(), refusal);
    }

    /// WAL came through.
    pub fn works(&self) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    fn remembered(&self, pod: &str) -> Option<Refusal> {
        let refusal = self.lock().get(pod).cloned();
        refusal.filter(|refusal| Instant::now() < refusal.until)
    }

    fn remember(&self, pod: &str, refused: &Refused) -> Refusal {
        let refusal = refused.explain();
        self.lock().insert(pod.to_owned(), refusal.clone());
        refusal
    }

    fn forget(&self, pod: &str) {
        self.lock().remove(pod);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a server gives no stream.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("another server answers there")]
    Stranger,
}

impl Refused {
    fn explain(&self) -> Refusal {
        let (reason, remedy, again) = match self {
            Self::Connect(ConnectError::AccessRefused { .. }) => (
                "NoReplicationAccess",
                ". To stream, give the role REPLICATION and add a line `host replication` to pg_hba.conf",
                AGAIN,
            ),
            Self::Connect(ConnectError::TooManyConnections { .. }) => (
                "TooManyWalSenders",
                ". To stream, raise max_wal_senders",
                SOON,
            ),
            Self::Connect(error) => (error.reason(), "", SOON),
            Self::Query(error) => (error.reason(), "", SOON),
            Self::Stranger => ("AnotherServer", "", SOON),
        };
        let cause = match self {
            // What to do about an ordinary login does not help here.
            Self::Connect(ConnectError::AccessRefused { cause, .. })
            | Self::Connect(ConnectError::TooManyConnections { cause, .. }) => cause.clone(),
            other => Chain(other).to_string(),
        };
        Refusal {
            reason,
            message: format!("{cause}{remedy}"),
            until: Instant::now() + again,
        }
    }
}

/// Whether the server lets the role replicate.
async fn probe(server: &Server) -> Result<(), Refused> {
    let mut replication = Replication::connect(&server.options).await?;
    let identity = replication.identify().await;
    replication.close().await;
    match identity?.system_identifier == server.system_identifier {
        true => Ok(()),
        false => Err(Refused::Stranger),
    }
}
