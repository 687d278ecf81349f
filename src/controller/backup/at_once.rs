//! How many backups may be on their way into backup mode, or in it, at once: in all, of one CSI driver, on one node. More
//! would not be done sooner, as a driver cuts and a node's disks take checkpoints one after the other; each would only be
//! in backup mode for longer. A courtesy and no promise: while two controllers work for a moment there may be more.
//!
//! Whoever finds no place waits in the order of creation, those who try again behind the others, and is woken when there is
//! one. A place is held for ten minutes at most. So databases whose backups hang, or fail and begin again, keep no others from
//! theirs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{
    attempt::{AgentPart, SnapshotSet},
    observe::{is_accepted, is_finished},
};
use crate::api::{Attempt, PgBackup, VolumeStatus};

/// Others leave it no place.
pub const WAITS_FOR_OTHERS: &str = "WaitsForOthers";

/// How many backups may be between their beginning and the end of backup mode at once; what waits says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Limits {
    /// How many backups may be on their way into backup mode, or in it, at once, in all that this controller serves.
    #[arg(long = "backups-at-once", env = "HIGHWATER_BACKUPS_AT_ONCE", default_value_t = TOTAL,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub total: u16,
    /// The same of databases with a volume of the same CSI driver.
    #[arg(long = "backups-at-once-per-driver", env = "HIGHWATER_BACKUPS_AT_ONCE_PER_DRIVER", default_value_t = PER_DRIVER,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub per_driver: u16,
    /// The same of databases on the same node.
    #[arg(long = "backups-at-once-per-node", env = "HIGHWATER_BACKUPS_AT_ONCE_PER_NODE", default_value_t = PER_NODE,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub per_node: u16,
}

const TOTAL: u16 = 50;
const PER_DRIVER: u16 = 20;
const PER_NODE: u16 = 4;

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: TOTAL,
            per_driver: PER_DRIVER,
            per_node: PER_NODE,
        }
    }
}

/// Why a backup has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Full {
    /// So many are there in all.
    Total(u16),
    /// So many of this driver.
    Driver(String, u16),
    /// So many on this node.
    Node(String, u16),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at_once, option) = match self {
            Self::Total(most) => (format!("{most} at once"), "--backups-at-once"),
            Self::Driver(driver, most) => (
                format!("{most} at once of CSI driver {driver}"),
                "--backups-at-once-per-driver",
            ),
            Self::Node(node, most) => (
                format!("{most} at once on node {node}"),
                "--backups-at-once-per-node",
            ),
        };
        write!(f, "{at_once}, as {option} of the controller says")
    }
}

/// How long an attempt keeps others waiting. A checkpoint that is spread, or a driver whose snapshots must be ready before
/// backup mode ends, may take longer, and counts no more then.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// What an attempt takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    attempt: u32,
    began: Timestamp,
    node: Option<String>,
    drivers: BTreeSet<String>,
}

impl Place {
    fn of(attempt: &Attempt, volumes: &[VolumeStatus]) -> Self {
        Self {
            attempt: attempt.number,
            began: attempt.started_at.0,
            node: attempt.node.clone(),
            drivers: volumes.iter().map(|it| it.driver.clone()).collect(),
        }
    }

    fn lapses(&self) -> Timestamp {
        self.began.checked_add(LONGEST).unwrap_or(Timestamp::MAX)
    }
}

/// How many places are taken.
#[derive(Default)]
struct Taken<'a> {
    total: u64,
    drivers: HashMap<&'a str, u64>,
    nodes: HashMap<&'a str, u64>,
}

impl<'a> Taken<'a> {
    fn at(now: Timestamp, running: &'a HashMap<Key, Place>) -> Self {
        let mut taken = Self::default();
        let counts = |place: &&Place| now < place.lapses();
        running.values().filter(counts).for_each(|it| taken.add(it));
        taken
    }

    fn add(&mut self, place: &'a Place) {
        self.total += 1;
        for driver in &place.drivers {
            *self.drivers.entry(driver).or_default() += 1;
        }
        if let Some(node) = &place.node {
            *self.nodes.entry(node).or_default() += 1;
        }
    }

    /// Whether there is one for `place`.
    fn leaves(&self, place: &Place, limits: Limits) -> Result<(), Full> {
        let Limits {
            total,
            per_driver,
            per_node,
        } = limits;
        let is_full = |taken: &HashMap<&str, u64>, name: &str, most: u16| {
            taken.get(name).is_some_and(|count| *count >= most.into())
        };
        if self.total >= total.into() {
            return Err(Full::Total(total));
        }
        let mut drivers = place.drivers.iter();
        if let Some(driver) = drivers.find(|it| is_full(&self.drivers, it, per_driver)) {
            return Err(Full::Driver(driver.clone(), per_driver));
        }
        let node = place.node.as_ref();
        match node.filter(|it| is_full(&self.nodes, it, per_node)) {
            Some(node) => Err(Full::Node(node.clone(), per_node)),
            None => Ok(()),
        }
    }
}

/// Namespace and name.
type Key = (String, String);
/// The number of the attempt, when the backup was created, and the key.
type Order = (u32, Option<Timestamp>, Key);

/// The backups of this controller that have a place, and those that wait for one.
pub struct AtOnce {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    running: HashMap<Key, Place>,
    waiting: BTreeMap<Order, Place>,
}

impl AtOnce {
    /// Nobody is there yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
        }
    }

    /// Takes a place for the attempt that would begin, unless those that came before leave none.
    ///
    /// # Errors
    /// It has to wait, and is noted to do so.
    pub fn enter<S>(
        &self,
        backup: &PgBackup,
        set: &SnapshotSet<S>,
        now: Timestamp,
    ) -> Result<(), Full> {
        let place = Place::of(set.attempt(), set.members());
        let (key, order) = (key(backup), order(backup, place.attempt));
        let mut inner = self.lock();
        inner.wait_no_more(&key);
        // Asked again after a write that failed: it keeps what it has, and not for longer.
        let before = inner.running.get(&key);
        if before.is_some_and(|before| before.attempt == place.attempt) {
            return Ok(());
        }
        match inner.left(&place, &order, (self.limits, now)) {
            Ok(()) => {
                inner.running.insert(key, place);
                Ok(())
            }
            Err(full) => {
                inner.waiting.insert(order, place);
                Err(full)
            }
        }
    }

    /// To be called with what is told or known of a backup, however old.
    pub fn note(&self, backup: &PgBackup) {
        let key = key(backup);
        let mut inner = self.lock();
        let running = inner.running.get(&key);
        if let Some(place) = in_or_before_backup_mode(backup) {
            // Of an earlier attempt it was told late.
            if running.is_none_or(|running| running.attempt <= place.attempt) {
                inner.wait_no_more(&key);
                inner.running.insert(key, place);
            }
            return;
        }
        if running.is_some_and(|place| is_over(backup, place.attempt)) {
            inner.running.remove(&key);
        }
        if is_finished(backup) || backup.metadata.deletion_timestamp.is_some() {
            inner.wait_no_more(&key);
        }
    }

    /// The backup is not about to begin: for another reason than that others run.
    pub fn leave(&self, backup: &PgBackup) {
        if in_or_before_backup_mode(backup).is_none() {
            self.forget(backup);
        }
    }

    /// Nobody knows whether the backup is about to begin: what it waited for is not kept for it.
    pub fn doubt(&self, backup: &PgBackup) {
        self.lock().wait_no_more(&key(backup));
    }

    /// The backup is gone, or over.
    pub fn forget(&self, backup: &PgBackup) {
        let (key, mut inner) = (key(backup), self.lock());
        inner.running.remove(&key);
        inner.wait_no_more(&key);
    }

    /// When the next of those that run keeps nobody waiting any more.
    pub fn next_lapse(&self, now: Timestamp) -> Option<Timestamp> {
        let inner = self.lock();
        let lapses = inner.running.values().map(Place::lapses);
        lapses.filter(|lapse| now < *lapse).min()
    }

    /// To be called when all backups were listed anew: of those that went meanwhile nothing was told.
    pub fn keep(&self, is_there: impl Fn(&ObjectRef<PgBackup>) -> bool) {
        let mut inner = self.lock();
        inner.running.retain(|key, _| is_there(&reference(key)));
        inner
            .waiting
            .retain(|(_, _, key), _| is_there(&reference(key)));
    }

    /// Those that wait and could begin now.
    pub fn next(&self, now: Timestamp) -> Vec<ObjectRef<PgBackup>> {
        let inner = self.lock();
        let next = inner.next((self.limits, now)).into_iter();
        next.map(|(_, _, key)| reference(key)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wait_no_more(&mut self, key: &Key) {
        self.waiting.retain(|(_, _, waits), _| waits != key);
    }

    /// Whether those that run, and those that come before and have a place, leave one.
    fn left(
        &self,
        place: &Place,
        order: &Order,
        (limits, now): (Limits, Timestamp),
    ) -> Result<(), Full> {
        let mut taken = Taken::at(now, &self.running);
        for (_, before) in self.waiting.range(..order) {
            if taken.leaves(before, limits).is_ok() {
                taken.add(before);
            }
        }
        taken.leaves(place, limits)
    }

    fn next(&self, (limits, now): (Limits, Timestamp)) -> Vec<&Order> {
        let mut taken = Taken::at(now, &self.running);
        let mut next = Vec::new();
        for (order, place) in &self.waiting {
            if taken.leaves(place, limits).is_ok() {
                taken.add(place);
                next.push(order);
            }
        }
        next
    }
}

/// What its attempt takes up, if one runs that has not left backup mode.
fn in_or_before_backup_mode(backup: &PgBackup) -> Option<Place> {
    let status = backup.status.as_ref()?;
    let attempt = status.attempt.as_ref()?;
    let over = is_over(backup, attempt.number);
    (!over).then(|| Place::of(attempt, &status.volumes))
}

/// Whether attempt `number` has left backup mode, or never gets there. Once it is so it stays so.
fn is_over(backup: &PgBackup, number: u32) -> bool {
    if is_finished(backup) || backup.metadata.deletion_timestamp.is_some() {
        return true;
    }
    let status = backup.status.as_ref();
    let Some((status, last)) = status.and_then(|it| Some((it, it.attempt.as_ref()?.number))) else {
        return false;
    };
    let stopped = || AgentPart::read(status, number).stopped_since.is_some();
    last > number || last == number && (!is_accepted(backup) || stopped())
}

fn key(backup: &PgBackup) -> Key {
    (backup.namespace().unwrap_or_default(), backup.name_any())
}

fn order(backup: &PgBackup, attempt: u32) -> Order {
    let created = backup.metadata.creation_timestamp.as_ref();
    (attempt, created.map(|time| time.0), key(backup))
}

fn reference((namespace, name): &Key) -> ObjectRef<PgBackup> {
    ObjectRef::new(name).within(namespace)
}

#[cfg(test)]
#[path = "at_once_tests.rs"]
mod tests;
