//! One session in backup mode: a connection of its own, from `pg_backup_start` to `pg_backup_stop`.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    plan::{Held, HeldState, Loss},
    standby::Primary,
};
use crate::{
    agent::{primary::Login, shared::Link},
    api::Attempt,
    controller::context::Chain,
    postgres::{
        backup_mode::{self, Started, Stopped},
        server::{self, ServerFacts},
        session::{Client, QueryError},
        wal_reader,
    },
};

/// How often PostgreSQL is asked whether the session still lives.
pub const PING: Duration = Duration::from_secs(3);
/// How long a ping may take.
pub const PING_ANSWER: Duration = Duration::from_secs(5);
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
    /// For this reason.
    pub fn new(reason: &'static str, message: impl ToString) -> Self {
        let message = message.to_string();
        Self { reason, message }
    }

    /// Whether the database may let us in a moment later.
    pub fn may_pass(&self) -> bool {
        ["DatabaseUnreachable", "DatabaseNotAccepting"].contains(&self.reason)
    }

    /// PostgreSQL says no, or is gone.
    pub fn failed(error: impl std::error::Error) -> Self {
        Self::new("StartFailed", Chain(&error))
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
    /// Where the client's server is a standby.
    primary: Option<Primary>,
    since: Instant,
    lost: Option<Loss>,
    stopped: Option<(Stopped, Duration)>,
}

/// How backup mode is to begin.
pub struct Terms<'a> {
    /// What the backup is called.
    pub label: &'a str,
    /// The checkpoint is made at once, and not spread out.
    pub fast: bool,
    /// The longest that it may take to begin.
    pub patience: Duration,
    /// The longest that it may last.
    pub ceiling: Duration,
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
    /// Connects to the pod of `attempt`, makes sure that it is the primary whose WAL is shipped, or a standby of that if the
    /// attempt is of one, and begins backup mode.
    ///
    /// # Errors
    /// Why not.
    pub async fn open(
        login: &Login,
        link: &Link,
        attempt: &Attempt,
        terms: &Terms<'_>,
    ) -> Result<Opened, StartError> {
        let client = login
            .connect_as(APPLICATION, &attempt.address)
            .await
            .map_err(|error| StartError::new(error.reason(), Chain(&error)))?;
        let facts = server::facts(&client).await.map_err(StartError::failed)?;
        check(&facts, link, attempt)?;
        let asked = Instant::now();
        let (primary, started) = match &attempt.standby {
            None => (None, begin(&client, terms).await?),
            Some(_) => {
                let (primary, started) = Primary::begin(login, link, &client, terms).await?;
                (Some(primary), started)
            }
        };
        let since = primary.as_ref().map_or_else(Instant::now, Primary::since);
        let session = Self {
            attempt: attempt.number,
            client,
            primary,
            since,
            lost: None,
            stopped: None,
        };
        Ok(Opened {
            session,
            started,
            checkpoint: asked.elapsed(),
        })
    }

    /// What `plan` decides by.
    pub fn held(&self) -> Held {
        Held {
            attempt: self.attempt,
            of_standby: self.primary.is_some(),
            state: match (&self.stopped, self.lost) {
                (Some(_), _) => HeldState::Ended,
                (None, Some(loss)) => HeldState::Lost(loss),
                (None, None) => HeldState::Alive,
            },
            open_for: self.since.elapsed(),
        }
    }

    /// When backup mode began.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Waits until the session is lost, and how; never, once backup mode has ended.
    pub async fn lost(&self) -> Loss {
        let primary = async {
            match &self.primary {
                Some(primary) => primary.ended().await,
                None => std::future::pending().await,
            }
        };
        match (&self.stopped, self.lost) {
            (None, None) => tokio::select! {
                () = self.client.ended() => Loss::Session,
                () = primary => Loss::Primary,
            },
            _ => std::future::pending().await,
        }
    }

    /// The session was seen to be lost.
    pub const fn set_lost(&mut self, loss: Loss) {
        self.lost = Some(loss);
    }

    /// Asks for a sign of life; a standby, whether it is one still.
    pub async fn ping(&mut self) {
        if self.stopped.is_none() && self.lost.is_none() {
            self.lost = self.answers().await.err();
        }
    }

    async fn answers(&self) -> Result<(), Loss> {
        answer(self.client.ping(), Loss::Session).await?;
        match &self.primary {
            None => Ok(()),
            Some(primary) => {
                answer(primary.ping(), Loss::Primary).await?;
                self.is_standby().await
            }
        }
    }

    /// What was a standby is one still.
    async fn is_standby(&self) -> Result<(), Loss> {
        let end = answer(wal_reader::end(&self.client), Loss::Session).await?;
        match end.in_recovery {
            true => Ok(()),
            false => Err(Loss::Promoted),
        }
    }

    /// Ends backup mode.
    pub async fn stop(&mut self) {
        let ended = tokio::time::timeout(STOP, self.end()).await;
        let ended = ended.unwrap_or_else(|_| {
            tracing::warn!("failed to end backup mode: no answer");
            Err(Loss::Session)
        });
        match ended {
            Ok(stopped) => self.stopped = Some((stopped, self.since.elapsed())),
            Err(loss) => self.lost = Some(loss),
        }
    }

    async fn end(&self) -> Result<Stopped, Loss> {
        match (backup_mode::stop(&self.client).await, &self.primary) {
            (Ok(stopped), None) => Ok(stopped),
            (Ok(stopped), Some(primary)) => primary.end(&self.client, stopped).await,
            (Err(error), primary) => {
                tracing::warn!(error = %Chain(&error), "failed to end backup mode");
                if primary.is_some() {
                    self.is_standby().await?;
                }
                Err(Loss::Session)
            }
        }
    }

    /// What `pg_backup_stop` returned, and how long backup mode was.
    pub const fn stopped(&self) -> Option<&(Stopped, Duration)> {
        self.stopped.as_ref()
    }
}

/// Begins backup mode on a primary.
pub async fn begin(client: &Client, terms: &Terms<'_>) -> Result<Started, StartError> {
    let started = backup_mode::start(client, terms.label, terms.fast);
    // The server ends the call when it sees that nobody waits for it any more.
    let started = tokio::time::timeout(terms.patience, started).await;
    let started = started.map_err(|_| StartError::too_long(terms.patience))?;
    started.map_err(StartError::failed)
}

/// What is said in time, or how the session is `lost`.
async fn answer<T>(
    asked: impl Future<Output = Result<T, QueryError>>,
    lost: Loss,
) -> Result<T, Loss> {
    match tokio::time::timeout(PING_ANSWER, asked).await {
        Ok(Ok(said)) => Ok(said),
        Ok(Err(_)) | Err(_) => Err(lost),
    }
}

fn check(facts: &ServerFacts, link: &Link, attempt: &Attempt) -> Result<(), StartError> {
    match &attempt.standby {
        Some(_) => check_standby(facts, link, &attempt.pod),
        None => check_primary(facts, link, &attempt.pod),
    }
}

fn check_cluster(facts: &ServerFacts, link: &Link, pod: &str) -> Result<(), StartError> {
    if facts.system_identifier != link.facts.system_identifier {
        return Err(StartError::new(
            "OtherCluster",
            format!(
                "{pod} is another cluster (system identifier {}) than the one whose WAL is shipped ({})",
                facts.system_identifier, link.facts.system_identifier
            ),
        ));
    }
    Ok(())
}

/// It is the server whose WAL is shipped, by what it says of itself.
pub fn check_primary(facts: &ServerFacts, link: &Link, pod: &str) -> Result<(), StartError> {
    check_cluster(facts, link, pod)?;
    if facts.in_recovery {
        let message = format!("{pod} is in recovery");
        return Err(StartError::new("NotPrimary", message));
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

/// Its timeline is told by its restart point, later. On which volume pg_control lies was found out of the primary.
fn check_standby(facts: &ServerFacts, link: &Link, pod: &str) -> Result<(), StartError> {
    check_cluster(facts, link, pod)?;
    if !facts.in_recovery {
        let message = format!("{pod} is no standby any more");
        return Err(StartError::new("NotStandby", message));
    }
    let (own, primary) = (&facts.data_directory, &link.facts.data_directory);
    if own != primary {
        let message = format!(
            "{pod} has its data directory at {}, the primary at {}: let them have the same, or set backupFrom: Primary in the policy",
            own.display(),
            primary.display()
        );
        return Err(StartError::new("StandbyDiffers", message));
    }
    Ok(())
}
