//! A cluster in memory for the tests of the decisions: API objects, an agent that keeps to the handshake, a CSI driver
//! that may fail and cut late, users who delete things, controllers that die between two requests or act on what they
//! read long ago. Beside the objects it keeps the truth that no controller sees, and checks it at every step.

mod agent;
pub mod base;
mod checks;
mod controller;
mod group;
mod others;
mod server;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::{
    observe::{Observed, is_finished},
    validate::ENTRY_DEADLINE,
};
use crate::{
    api::{PgBackup, conditions},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};
use base::{base, base_of_group, base_of_standby};
use group::Groups;
pub use group::{Answer, GroupEvent};

/// The claims of the database's pod.
pub const CLAIMS: [&str; 2] = ["data-orders-0", "wal-orders-0"];

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// A pass; the controller dies after so many writes, or lives.
    Pass(Option<u8>),
    /// The watches catch up: of the backup, its snapshots, their contents; each or not.
    Watch(u8),
    /// A pass that begins with what the watches told.
    PassTold,
    /// A controller reads, and is held up.
    Read,
    /// It goes on, with what it read then.
    ActLate,
    /// `pg_backup_start` returns, if an attempt asks for it.
    Start,
    /// The session is gone; the agent may not know it yet.
    Break,
    /// The agent notices.
    Notice,
    /// `pg_backup_stop` returns, if every cut is written down.
    Stop,
    /// WAL reaches the archive.
    Archive,
    /// The manifest reaches the archive.
    Catalogue,
    /// The same, and the agent dies before it says so.
    CatalogueUntold,
    /// The agent deletes the manifest, if it is to.
    Uncatalogue,
    /// The driver gets on with this snapshot: binds, cuts, makes ready.
    Driver(u8),
    /// The driver fails with this snapshot.
    Trouble(u8),
    /// A user deletes this snapshot.
    Delete(u8),
    /// The snapshot controller finishes deletions.
    Collect,
    /// Seconds pass.
    Tick(u16),
    /// The PgBackup is deleted; with its namespace?
    Remove(bool),
    /// Something about a group.
    Group(GroupEvent),
}

/// A mistake to plant, so that the checks are seen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// None.
    No,
    /// What the agent said of an earlier attempt counts for this one.
    AnySession,
    /// An attempt that was given up keeps its number, and so its names.
    SameNumber,
    /// A member that is not there is left out of the expected set.
    PartialSet,
    /// Complete without having seen Retain.
    SkipRetain,
    /// A deletion destroys data although the namespace goes.
    IgnoreScope,
    /// A lost session is not heeded.
    IgnoreLoss,
    /// The janitor does not sweep.
    NoJanitor,
    /// Contents are looked for by our label alone.
    LabelsOnly,
    /// What the watches told is enough for any step.
    TrustWatches,
    /// What has a recorded name counts, whatever was written down of it.
    AnyUid,
    /// Of a standby, too, all volumes are snapshotted at once.
    AllAtOnce,
    /// What else a group holds does not matter.
    AnyGroup,
    /// After a void attempt by a group the next one is by a group, too.
    GroupAgain,
    /// Complete without having seen Retain on the group's content.
    SkipRetainGroup,
    /// The janitor leaves groups alone.
    NoGroupJanitor,
    /// Of a group that is gone the janitor does not tell the sidecar.
    Untold,
    /// Labels stay on the claims.
    LabelsStay,
    /// What the archive's catalog has of it does not matter.
    IgnoreCatalog,
}

/// The truth about one snapshot.
#[derive(Clone, Debug, Default)]
struct Truth {
    attempt: u32,
    claim: Option<String>,
    cut: bool,
    /// The session that was live at the moment of the cut.
    cut_in: Option<u32>,
}

/// What the watches have told, each as of its own time.
#[derive(Clone, Debug, Default)]
struct Watched {
    backup: Option<PgBackup>,
    snapshots: Vec<VolumeSnapshot>,
    contents: Vec<VolumeSnapshotContent>,
}

/// The cluster.
pub struct World {
    /// None: it is gone.
    pub backup: Option<PgBackup>,
    base: Observed,
    snapshots: Vec<VolumeSnapshot>,
    contents: Vec<VolumeSnapshotContent>,
    now: Timestamp,
    uids: u32,
    held: Option<(Observed, Timestamp)>,
    told: Watched,
    mistake: Mistake,
    scope_goes: bool,
    // The truth.
    started: BTreeSet<u32>,
    live: Option<u32>,
    stopped: BTreeSet<u32>,
    truths: BTreeMap<String, Truth>,
    void: BTreeSet<u32>,
    names: BTreeMap<String, u32>,
    finished_as: Option<Value>,
    kept: Vec<String>,
    /// The archive's catalog has the backup.
    in_catalog: bool,
    groups: Groups,
    /// The first check that failed.
    pub violation: Option<String>,
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

impl World {
    /// A new PgBackup, and a database that can be backed up.
    pub fn new(mistake: Mistake) -> Self {
        Self::of(base(), mistake)
    }

    /// The same of a standby.
    pub fn of_standby(mistake: Mistake) -> Self {
        Self::of(base_of_standby(), mistake)
    }

    /// The same where the policy asks for a group.
    pub fn of_group(mistake: Mistake) -> Self {
        Self::of(base_of_group(), mistake)
    }

    fn of(base: Observed, mistake: Mistake) -> Self {
        Self {
            backup: Some(base.backup.clone()),
            now: base.backup.metadata.creation_timestamp.as_ref().unwrap().0,
            base,
            snapshots: Vec::new(),
            contents: Vec::new(),
            uids: 0,
            held: None,
            told: Watched::default(),
            mistake,
            scope_goes: false,
            started: BTreeSet::new(),
            live: None,
            stopped: BTreeSet::new(),
            truths: BTreeMap::new(),
            void: BTreeSet::new(),
            names: BTreeMap::new(),
            finished_as: None,
            kept: Vec::new(),
            in_catalog: false,
            groups: Groups::default(),
            violation: None,
        }
    }

    /// Whether the agent was told to delete the entry, and has had its time.
    fn gave_up_the_entry(&self) -> bool {
        let status = self.status();
        let told = conditions::find(&status.conditions, conditions::DISCARDED);
        told.is_some_and(|told| self.now >= told.last_transition_time.0 + ENTRY_DEADLINE)
    }

    /// Whether `Completed` is `True`.
    pub fn completed(&self) -> bool {
        let status = self
            .backup
            .as_ref()
            .and_then(|backup| backup.status.as_ref());
        status.is_some_and(|s| conditions::is_true(&s.conditions, conditions::COMPLETED))
    }

    /// Whether the last attempt was by a group.
    pub fn is_by_group(&self) -> bool {
        let number = self.number();
        number.is_some_and(|number| self.groups.attempts.contains(&number))
    }

    /// Whether `Completed` is decided, or the object gone.
    pub fn ended(&self) -> bool {
        self.backup
            .as_ref()
            .is_none_or(|b| b.metadata.deletion_timestamp.is_none() && is_finished(b))
    }

    /// How many attempts there were.
    pub fn number(&self) -> Option<u32> {
        let status = self.backup.as_ref()?.status.as_ref()?;
        Some(status.attempt.as_ref()?.number)
    }

    /// One thing happens, and the truth is checked.
    pub fn step(&mut self, action: Action) {
        match action {
            Action::Pass(dies_after) => self.pass(dies_after),
            Action::Watch(which) => self.watch(which),
            Action::PassTold => self.pass_told(),
            Action::Read => self.held = self.observe().map(|observed| (observed, self.now)),
            Action::ActLate => {
                if let Some((observed, then)) = self.held.take() {
                    self.act(observed, then, None);
                }
            }
            Action::Start => self.start(),
            Action::Break => self.live = None,
            Action::Notice => self.notice(),
            Action::Stop => self.stop(),
            Action::Archive => self.say(conditions::STOPPED, conditions::WAL_ARCHIVED),
            Action::Catalogue => self.catalogue(true),
            Action::CatalogueUntold => self.catalogue(false),
            Action::Uncatalogue => self.uncatalogue(),
            Action::Driver(n) => self.driver(n),
            Action::Trouble(n) => self.trouble(n),
            Action::Delete(n) => {
                let at = usize::from(n) % self.snapshots.len().max(1);
                let time = Time(self.now);
                if let Some(snapshot) = self.snapshots.get_mut(at) {
                    snapshot.metadata.deletion_timestamp.get_or_insert(time);
                }
            }
            Action::Collect => self.collect(),
            Action::Tick(seconds) => self.now += SignedDuration::from_secs(i64::from(seconds)),
            Action::Remove(with_scope) => self.remove(with_scope),
            Action::Group(event) => self.group_event(event),
        }
        self.check_scope();
    }
}
