//! One backup that is driven, and what goes with it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};
use tokio::{sync::watch, time::Instant};

use super::{
    plan::{Observed, Step, observe},
    session::{Opened, Session, StartError, Terms},
    status::Part,
};
use crate::{
    agent::{
        config::Config,
        pause::Pause,
        shared::{Link, Shared},
        watch::Objects,
    },
    api::{Attempt, Checkpoint, PgBackup, conditions, managers},
    controller::context::Chain,
    kubernetes::apply_status,
    postgres::Lsn,
};

/// How long what is done may wait to be told together with what comes of the next step.
const TOGETHER: Duration = Duration::from_secs(1);

/// One backup that is not over.
pub struct Backup {
    /// As it was seen last.
    pub object: Arc<PgBackup>,
    /// The agent's part: what is known here counts, not what the watch returns late.
    pub part: Part,
    /// The conditions of which an event tells.
    told: Vec<Condition>,
    /// The server that is, or was, in backup mode, as it was then.
    pub server: Option<Arc<Link>>,
    /// The part is not written yet.
    pub dirty: bool,
    /// When the next step is tried again after a failure.
    pub step: Retry,
    /// The same of the part that is not written. That it was says nothing of the step: one that fails is told each time.
    pub status: Retry,
    /// Waits for the link since.
    pub waits_for_link: Option<Instant>,
}

impl Backup {
    /// Nothing is known of it but what the API server has.
    pub fn new(object: &Arc<PgBackup>) -> Self {
        let part = Part::read_back(object.status.as_ref(), object.metadata.generation);
        Self {
            object: object.clone(),
            told: part.conditions().to_vec(),
            part,
            server: None,
            dirty: false,
            step: Retry::new(),
            status: Retry::new(),
            waits_for_link: None,
        }
    }

    /// What the next step is decided by.
    pub fn observed(&self) -> Observed {
        observe(&self.object, self.part.ours())
    }

    /// The controller's attempt.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.object.status.as_ref()?.attempt.as_ref()
    }

    /// The attempt whose WAL no shipper will complete: the protection has gone on to another lineage.
    pub fn lineage_ended(&self, shared: &Shared) -> Option<u32> {
        let session = self.part.session()?;
        let current = shared.reporter.read().lineage;
        (current.is_some() && session.lineage != current).then_some(session.attempt)
    }

    /// Applies the agent's part of the status.
    pub async fn write(&mut self, shared: &Shared) {
        let (api, name) = (shared.api::<PgBackup>(), self.object.name_any());
        match apply_status(&api, &name, managers::AGENT, &self.part.status()).await {
            Ok(_) => {
                self.dirty = false;
                self.status.settled();
                self.tell(shared);
            }
            Err(error) if error.is_not_found() => self.dirty = false,
            Err(error) => {
                tracing::warn!(backup = name, error = %Chain(&error), "failed to apply the status of the backup");
                self.status.failed();
            }
        }
    }

    /// It is not written yet, and does not wait after a failure.
    pub fn is_to_write(&self, now: Instant) -> bool {
        self.dirty && self.status.is_due(now)
    }

    /// An event for each condition that has changed since the last.
    fn tell(&mut self, shared: &Shared) {
        let after = self.part.conditions().to_vec();
        let before = std::mem::replace(&mut self.told, after.clone());
        let (about, events) = (self.object.object_ref(&()), shared.events.clone());
        // What ends backup mode must not wait for it.
        tokio::spawn(async move { events.condition_changes(&about, &before, &after).await });
    }

    /// Whether it has not waited so long for the database yet. It waits from now on at the latest.
    pub fn waits_less_than(&mut self, patience: Duration) -> bool {
        let since = self.waits_for_link.get_or_insert_with(Instant::now);
        since.elapsed() < patience
    }
}

/// What failed and is tried again, after pauses that grow.
pub struct Retry {
    pause: Pause,
    not_before: Option<Instant>,
}

impl Retry {
    const fn new() -> Self {
        let (first, longest) = (Duration::from_millis(300), Duration::from_secs(20));
        Self {
            pause: Pause::new(first, longest),
            not_before: None,
        }
    }

    /// It waits for a while.
    pub fn failed(&mut self) {
        self.not_before = Some(Instant::now() + self.pause.next());
    }

    /// It succeeded.
    pub const fn settled(&mut self) {
        self.pause.reset();
        self.not_before = None;
    }

    /// It does not wait after a failure.
    pub fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Since or until when it is due, if it failed the last time.
    pub const fn due_at(&self) -> Option<Instant> {
        self.not_before
    }
}

/// What ends backup mode goes first.
pub const fn urgency(step: Step) -> u8 {
    match step {
        Step::Release => 0,
        Step::Stop => 1,
        Step::Fail(..) => 2,
        Step::Keep => 3,
        Step::ShipWal(_) => 4,
        Step::Catalogue => 5,
        Step::Uncatalogue => 6,
        // It may wait for a checkpoint.
        Step::Start(_) => 7,
        Step::Wait | Step::Hold => 8,
    }
}

/// What no failure of another request may hold up.
pub const fn ends_backup_mode(step: Step) -> bool {
    match step {
        Step::Release | Step::Stop | Step::Fail(..) => true,
        Step::Keep
        | Step::ShipWal(_)
        | Step::Catalogue
        | Step::Uncatalogue
        | Step::Start(_)
        | Step::Wait
        | Step::Hold => false,
    }
}

/// What comes of `work`. Where that takes longer than [`TOGETHER`], `late` is done beside it.
pub async fn unless_late<T>(work: impl Future<Output = T>, late: impl Future<Output = ()>) -> T {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(TOGETHER, &mut work).await {
        Ok(done) => done,
        Err(_) => tokio::join!(work, late).0,
    }
}

/// Has WAL shipped up to `lsn` at once.
pub fn demand(shared: &Shared, lsn: Lsn) {
    shared.demand.send_if_modified(|demand| {
        let news = demand.lsn < Some(lsn);
        if news {
            demand.lsn = Some(lsn);
        }
        news
    });
}

/// Why the agent has no connection.
pub fn connected_message(shared: &Shared) -> String {
    let report = shared.reporter.read();
    let mut failing = report
        .conditions
        .iter()
        .filter(|c| c.type_ == conditions::CONNECTED || c.type_ == conditions::WAL_ARCHIVING)
        .filter(|c| c.status != conditions::Status::True.as_str());
    failing.next().map_or_else(
        || "no connection to the primary yet".into(),
        |c| c.message.clone(),
    )
}

/// Opens the session, unless the attempt is given up meanwhile (a checkpoint may take minutes).
pub async fn open(
    shared: &Shared,
    objects: &mut watch::Receiver<Objects<PgBackup>>,
    config: &Config,
    link: &Link,
    attempt: &Attempt,
    uid: &str,
    backup: &Backup,
) -> Option<Result<Opened, StartError>> {
    let label = backup.object.name_any();
    let given_up = objects.wait_for(|objects| {
        let Some(objects) = objects else { return false };
        let object = objects
            .values()
            .find(|object| object.uid().as_deref() == Some(uid));
        object.is_none_or(|object| {
            let observed = observe(object, backup.part.ours());
            observed.over || observed.attempt != Some(attempt.number)
        })
    });
    let terms = Terms {
        label: &label,
        fast: config.checkpoint == Checkpoint::Fast,
        patience: config.backup,
        ceiling: config.backup_mode,
    };
    tokio::select! {
        opened = Session::open(&shared.login, link, attempt, &terms) => Some(opened),
        _ = given_up => None,
        () = shared.stop.cancelled() => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::{sync::Notify, time::sleep};

    use super::*;

    #[tokio::test]
    async fn what_is_done_is_told_with_the_next_step_unless_that_takes_long() {
        let told = Cell::new(0);
        let tell = async || told.set(told.get() + 1);
        let quick = async {
            sleep(Duration::from_millis(20)).await;
            "quick"
        };
        assert_eq!(unless_late(quick, tell()).await, "quick");
        assert_eq!(told.get(), 0, "by one request");

        // It ends only after that is told, as an outage would that outlasts it.
        let heard = Notify::new();
        let slow = async {
            heard.notified().await;
            "slow"
        };
        let tell_late = async {
            tell().await;
            heard.notify_one();
        };
        assert_eq!(unless_late(slow, tell_late).await, "slow");
        assert_eq!(told.get(), 1);
    }
}
