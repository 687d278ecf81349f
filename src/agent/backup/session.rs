//! One session in backup mode: a connection of its own, from `pg_backup_start` to `pg_backup_stop`.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Held, HeldState};
use crate::{
    agent::{primary::Login, shared::Link},
    api::{Attempt, Checkpoint},
    controller::context::Chain,
    postgres::{
        backup_mode::{self, Started, Stopped},
        server,
        session::{Client, QueryError},
    },
};

/// How often PostgreSQL is asked whether the session still lives.
pub const PING: Duration = Duration::from_secs(3);
/// How long a ping may take.
const PING_ANSWER: Duration = Duration::from_secs(5);
/// What the session is called in `pg_stat_activity`.
pub const APPLICATION: &str = "highwater-backup";
/// How long `pg_backup_stop` may take: it writes a record and switches the segment.
const STOP: Duration = Duration::from_secs(60);

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// For the condition.
    pub reason: &'static str,
    message: String,
}

impl StartError {
    fn new(reason: &'static str, message: impl ToString) -> Self {
        let message = message.to_string();
        Self { reason, message }
    }

    /// Whether the database may let us in a moment later.
    pub fn may_pass(&self) -> bool {
        ["DatabaseUnreachable", "DatabaseNotAccepting"].contains(&self.reason)
    }

    /// `pg_backup_start` did not return.
    fn too_long(patience: Duration) -> Self {
        let seconds = patience.as_secs();
        let message = format!(
            "the checkpoint that backup mode begins with was not done within {seconds} s (the policy's deadlines.backup): see whether the disk keeps up, or set checkpoint: fast in the policy"
        );
        Self::new("StartTooLong", message)
    }

    /// The agent has no connection to ship WAL over.
    pub fn not_connected(why: &str) -> Self {
        Self::new("NotConnected", format!("no WAL can be shipped: {why}"))
    }
}

/// A session in backup mode, or just out of it.
pub struct Session {
    attempt: u32,
    client: Client,
    since: Instant,
    lost: bool,
    stopped: Option<(Stopped, Duration)>,
}

/// What `pg_backup_start` said, and how long it took.
pub struct Opened {
    /// The session.
    pub session: Session,
    /// What it returned.
    pub started: Started,
    /// How long it took.
    pub checkpoint: Duration,
}

impl Session {
    /// Connects to the pod of `attempt`, makes sure that it is the primary whose WAL is shipped, and begins backup mode.
    ///
    /// # Errors
    /// Why not.
    pub async fn open(
        login: &Login,
        link: &Link,
        attempt: &Attempt,
        label: &str,
        checkpoint: Checkpoint,
        patience: Duration,
    ) -> Result<Opened, StartError> {
        let failed = |error: QueryError| StartError::new("StartFailed", Chain(&error));
        let client = login
            .connect_as(APPLICATION, &attempt.address)
            .await
            .map_err(|error| StartError::new(error.reason(), Chain(&error)))?;
        let facts = server::facts(&client).await.map_err(failed)?;
        check(&facts, link, attempt)?;
        let asked = Instant::now();
        let fast = checkpoint == Checkpoint::Fast;
        let started = backup_mode::start(&client, label, fast);
        // The server ends the call when it sees that nobody waits for it any more.
        let started = tokio::time::timeout(patience, started).await;
        let started = started.map_err(|_| StartError::too_long(patience))?;
        let started = started.map_err(failed)?;
        let since = Instant::now();
        let session = Self {
            attempt: attempt.number,
            client,
            since,
            lost: false,
            stopped: None,
        };
        Ok(Opened {
            session,
            started,
            checkpoint: since - asked,
        })
    }

    /// What `plan` decides by.
    pub fn held(&self) -> Held {
        Held {
            attempt: self.attempt,
            state: match (&self.stopped, self.lost) {
                (Some(_), _) => HeldState::Ended,
                (None, true) => HeldState::Lost,
                (None, false) => HeldState::Alive,
            },
            open_for: self.since.elapsed(),
        }
    }

    /// When backup mode began.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Waits until the session is lost; never, once backup mode has ended.
    pub async fn lost(&self) {
        match (&self.stopped, self.lost) {
            (None, false) => self.client.ended().await,
            _ => std::future::pending().await,
        }
    }

    /// The session was seen to be lost.
    pub const fn set_lost(&mut self) {
        self.lost = true;
    }

    /// Asks for a sign of life.
    pub async fn ping(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        let answer = tokio::time::timeout(PING_ANSWER, self.client.ping()).await;
        self.lost |= !matches!(answer, Ok(Ok(())));
    }

    /// Ends backup mode.
    pub async fn stop(&mut self) {
        match tokio::time::timeout(STOP, backup_mode::stop(&self.client)).await {
            Ok(Ok(stopped)) => self.stopped = Some((stopped, self.since.elapsed())),
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "failed to end backup mode");
                self.lost = true;
            }
            Err(_) => {
                tracing::warn!("failed to end backup mode: no answer");
                self.lost = true;
            }
        }
    }

    /// What `pg_backup_stop` returned, and how long backup mode was.
    pub const fn stopped(&self) -> Option<&(Stopped, Duration)> {
        self.stopped.as_ref()
    }
}

fn check(facts: &server::ServerFacts, link: &Link, attempt: &Attempt) -> Result<(), StartError> {
    let pod = &attempt.pod;
    if facts.system_identifier != link.facts.system_identifier {
        return Err(StartError::new(
            "OtherCluster",
            format!(
                "{pod} is another cluster (system identifier {}) than the one whose WAL is shipped ({})",
                facts.system_identifier, link.facts.system_identifier
            ),
        ));
    }
    if facts.in_recovery {
        return Err(StartError::new(
            "NotPrimary",
            format!("{pod} is in recovery"),
        ));
    }
    if facts.timeline != link.facts.timeline {
        return Err(StartError::new(
            "NotPrimary",
            format!(
                "{pod} is on timeline {}, WAL is shipped from timeline {}",
                facts.timeline, link.facts.timeline
            ),
        ));
    }
    Ok(())
}
