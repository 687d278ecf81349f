//! One attempt as the status and the snapshots show it. Pure.

use std::marker::PhantomData;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::group::{self, GroupContent, GroupSeen, Groups};
use crate::{
    api::{
        Attempt, GroupStatus, PgBackup, PgBackupStatus, ReleaseAt, VolumeStatus, annotations,
        conditions,
    },
    csi::{self, DeletionPolicy, Reading, VolumeSnapshot, VolumeSnapshotContent},
};

/// The longest text of another system that is shown.
const LONGEST_TEXT: usize = 300;

/// Decided, known to this process only.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned;
/// Written down: the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded;

/// The VolumeSnapshots of one attempt; `S` says whether the API server has the list.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotSet<S> {
    attempt: Attempt,
    members: Vec<VolumeStatus>,
    group: Option<GroupStatus>,
    state: PhantomData<S>,
}

impl SnapshotSet<Planned> {
    /// What an attempt will consist of.
    pub fn new(attempt: Attempt, members: Vec<VolumeStatus>, group: Option<GroupStatus>) -> Self {
        Self {
            attempt,
            members,
            group,
            state: PhantomData,
        }
    }
}

impl SnapshotSet<Recorded> {
    /// The only constructor: attempt and volumes as the API server returned them. An empty set is none.
    pub fn read_back(status: &PgBackupStatus) -> Option<Self> {
        let attempt = status.attempt.clone()?;
        let group = status.group.clone();
        Some(Self {
            members: Some(status.volumes.clone()).filter(|volumes| !volumes.is_empty())?,
            group: group.filter(|group| group.attempt == attempt.number),
            attempt,
            state: PhantomData,
        })
    }
}

impl<S> SnapshotSet<S> {
    /// The attempt.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// One for each volume.
    pub fn members(&self) -> &[VolumeStatus] {
        &self.members
    }

    /// The VolumeGroupSnapshot that makes them; `None`: each is made by itself.
    pub fn group(&self) -> Option<&GroupStatus> {
        self.group.as_ref()
    }
}

/// A running attempt: what was written down, and what is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// What was written down.
    pub set: SnapshotSet<Recorded>,
    /// In the order of the set.
    pub seen: Vec<Seen>,
    /// What is there of the group, if the set has one.
    pub group: Option<GroupSeen>,
    /// What the agent says of this attempt.
    pub agent: AgentPart,
    /// Since when `Cut=True` is written down for this attempt.
    pub cut_since: Option<Timestamp>,
    /// Its pod, a standby, is not the one that was accepted.
    pub replaced: bool,
}

/// What is there of one member.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// Not made yet.
    Missing,
    /// It was there and is not, or is going, or is not what was written down. It can never count again.
    Lost(String),
    /// It is there.
    There(Box<There>),
}

/// A VolumeSnapshot that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct There {
    /// Its UID.
    pub uid: String,
    /// When the API server made it.
    pub made_at: Option<Timestamp>,
    /// How far it is.
    pub reading: Reading,
    /// Its content.
    pub content: Option<Content>,
}

/// A content, as far as it is patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What happens to the snapshot with it.
    pub policy: DeletionPolicy,
}

impl Running {
    /// The attempt that runs: accepted, not given up.
    pub fn read(
        backup: &PgBackup,
        snapshots: &[VolumeSnapshot],
        contents: &[VolumeSnapshotContent],
        groups: &Groups,
    ) -> Option<Self> {
        let status = backup.status.as_ref()?;
        if !conditions::is_true(&status.conditions, conditions::ACCEPTED) {
            return None;
        }
        let set = SnapshotSet::read_back(status)?;
        let mut seen: Vec<Seen> = set
            .members()
            .iter()
            .map(|member| see(backup, set.attempt(), member, snapshots, contents))
            .collect();
        let group = set.group().map(|group| group::see(backup, group, groups));
        if let Some(group) = &group {
            group::check_members(group, set.members(), &mut seen);
        }
        let cut_since = since(&status.conditions, conditions::CUT);
        let agent = AgentPart::read(status, set.attempt().number);
        Some(Self {
            set,
            seen,
            group,
            agent,
            cut_since,
            replaced: false,
        })
    }

    /// A mistake to plant: the expected set is what happens to be cut.
    #[cfg(test)]
    pub fn forget_missing(&mut self) {
        let cut: Vec<bool> = self
            .seen
            .iter()
            .map(|seen| matches!(seen, Seen::There(there) if there.reading.cut().is_some()))
            .collect();
        if cut.contains(&true) {
            let mut keep = cut.iter();
            self.set.members.retain(|_| *keep.next().unwrap_or(&true));
            let mut keep = cut.iter();
            self.seen.retain(|_| *keep.next().unwrap_or(&true));
        }
    }

    /// A mistake to plant: a session never ends.
    #[cfg(test)]
    pub fn ignore_loss(&mut self, since: Timestamp) {
        if matches!(self.agent.session, Session::Lost { .. }) {
            self.agent.session = Session::Open { since };
        }
    }

    /// Each member with what is there of it.
    pub fn members(&self) -> impl Iterator<Item = (&VolumeStatus, &Seen)> {
        self.set.members().iter().zip(&self.seen)
    }

    /// How many members the test holds for.
    pub fn count(&self, holds: impl Fn(&Reading) -> bool) -> usize {
        let there = |seen: &&Seen| matches!(seen, Seen::There(there) if holds(&there.reading));
        self.seen.iter().filter(there).count()
    }

    /// How many members are cut as the policy wants it: backup mode may end for them.
    pub fn released(&self) -> usize {
        match self.set.attempt().release_at {
            ReleaseAt::Cut => self.count(|reading| reading.cut().is_some()),
            ReleaseAt::Ready => self.count(|reading| matches!(reading, Reading::Ready(_))),
        }
    }

    /// Whether the attempt's group, if it has one, holds exactly what was written down.
    pub fn is_whole(&self) -> bool {
        self.group.as_ref().is_none_or(GroupSeen::is_whole)
    }

    /// Whether every member is there, and cut as the policy wants it.
    pub fn all_cut(&self) -> bool {
        self.is_whole() && self.released() == self.set.members().len()
    }

    /// Whether every member is there and ready.
    pub fn all_ready(&self) -> bool {
        let ready = self.count(|reading| matches!(reading, Reading::Ready(_)));
        self.is_whole() && ready == self.set.members().len()
    }

    /// The first trouble that a member tells of, to be put behind a sentence; empty where there is none. It ends nothing,
    /// but an admin wants to see it.
    pub fn trouble(&self) -> String {
        let of = |(member, seen): (&VolumeStatus, &Seen)| {
            let Seen::There(there) = seen else {
                return None;
            };
            let text = match &there.reading {
                Reading::Failed { message } => Some(message),
                Reading::Cut(cut) => cut.trouble.as_ref(),
                Reading::Pending | Reading::Ready(_) => None,
            };
            text.map(|text| format!("; {}: {}", member.volume_snapshot, clip(text)))
        };
        let of_group = || match (self.set.group(), &self.group) {
            (Some(group), Some(GroupSeen::There(there))) => {
                let text = there.trouble.as_ref()?;
                Some(format!("; {}: {}", group.volume_group_snapshot, clip(text)))
            }
            _ => None,
        };
        self.members()
            .find_map(of)
            .or_else(of_group)
            .unwrap_or_default()
    }

    /// When the first of its snapshots, or their group, was made.
    pub fn first_made_at(&self) -> Option<Timestamp> {
        let made = |seen: &Seen| match seen {
            Seen::There(there) => there.made_at,
            Seen::Missing | Seen::Lost(_) => None,
        };
        let group = match &self.group {
            Some(GroupSeen::There(there)) => there.made_at,
            Some(GroupSeen::Missing | GroupSeen::Lost(_)) | None => None,
        };
        self.seen.iter().filter_map(made).chain(group).min()
    }

    /// The group's content, if its deletion policy is another one.
    pub fn group_content_not(&self, policy: DeletionPolicy) -> Option<GroupContent> {
        let content = self.group.as_ref().and_then(GroupSeen::content);
        content.filter(|content| content.policy != policy).cloned()
    }

    /// The contents whose deletion policy is another one.
    pub fn contents_not(&self, policy: DeletionPolicy) -> Vec<Content> {
        let content = |seen: &Seen| match seen {
            Seen::There(there) => there.content.clone(),
            Seen::Missing | Seen::Lost(_) => None,
        };
        let contents = self.seen.iter().filter_map(content);
        contents
            .filter(|content| content.policy != policy)
            .collect()
    }
}

/// What is there of `member`. Once a UID, a content or a handle is written down, nothing else counts.
fn see(
    backup: &PgBackup,
    attempt: &Attempt,
    member: &VolumeStatus,
    snapshots: &[VolumeSnapshot],
    contents: &[VolumeSnapshotContent],
) -> Seen {
    let name = &member.volume_snapshot;
    let Some(snapshot) = snapshots.iter().find(|s| s.name_any() == *name) else {
        return match &member.volume_snapshot_uid {
            None => Seen::Missing,
            Some(_) => Seen::Lost(format!("VolumeSnapshot {name} is gone")),
        };
    };
    match lost(backup, attempt, member, snapshot, contents) {
        Some(why) => Seen::Lost(why),
        None => {
            let content = contents
                .iter()
                .find(|content| csi::is_content_of(snapshot, content));
            Seen::There(Box::new(There {
                uid: snapshot.uid().unwrap_or_default(),
                made_at: snapshot.creation_timestamp().map(|time| time.0),
                reading: csi::reading(snapshot, content),
                content: content.map(Content::of),
            }))
        }
    }
}

impl Content {
    /// Of this object.
    pub fn of(content: &VolumeSnapshotContent) -> Self {
        Self {
            name: content.name_any(),
            uid: content.uid().unwrap_or_default(),
            policy: content.spec.deletion_policy,
        }
    }
}

/// Why what is there is not, or not for long, what was written down.
fn lost(
    backup: &PgBackup,
    attempt: &Attempt,
    member: &VolumeStatus,
    snapshot: &VolumeSnapshot,
    contents: &[VolumeSnapshotContent],
) -> Option<String> {
    let name = &member.volume_snapshot;
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Some(format!("VolumeSnapshot {name} is being deleted"));
    }
    match &member.volume_snapshot_uid {
        Some(uid) if snapshot.metadata.uid.as_ref() != Some(uid) => {
            return Some(format!("VolumeSnapshot {name} was replaced by another one"));
        }
        None if !is_of(snapshot, backup, attempt.number) && !group::is_member(backup, snapshot) => {
            return Some(format!(
                "there is a VolumeSnapshot {name} that Highwater did not make: delete it"
            ));
        }
        Some(_) | None => {}
    }
    if snapshot.spec.source.persistent_volume_claim_name.as_ref() != Some(&member.claim) {
        return Some(format!("VolumeSnapshot {name} is of another claim"));
    }
    lost_content(member, snapshot, contents)
}

fn lost_content(
    member: &VolumeStatus,
    snapshot: &VolumeSnapshot,
    contents: &[VolumeSnapshotContent],
) -> Option<String> {
    let content = contents
        .iter()
        .find(|content| csi::is_content_of(snapshot, content));
    if let Some(content) = content.filter(|c| c.metadata.deletion_timestamp.is_some()) {
        let name = content.name_any();
        return Some(format!("VolumeSnapshotContent {name} is being deleted"));
    }
    // The claim may be another one of the same name than the one that was written down.
    let of = content.and_then(|content| content.spec.source.volume_handle.as_ref());
    if let Some(of) = of.filter(|of| **of != member.volume_handle) {
        let VolumeStatus {
            claim,
            volume_handle,
            ..
        } = member;
        return Some(format!(
            "the snapshot of claim {claim} is of volume {of}, not of {volume_handle}: the claim was made anew"
        ));
    }
    let recorded = member.content.as_ref()?;
    if content.map(ResourceExt::name_any).as_ref() != Some(recorded) {
        return Some(format!("VolumeSnapshotContent {recorded} is gone"));
    }
    let reading = csi::reading(snapshot, content);
    let handle = reading.cut().map(|cut| &cut.handle);
    (member.handle.is_some() && member.handle.as_ref() != handle)
        .then(|| format!("VolumeSnapshotContent {recorded} has another snapshot"))
}

/// Whether the labels say that the snapshot was made for this attempt of this backup.
pub fn is_of(snapshot: &VolumeSnapshot, backup: &PgBackup, attempt: u32) -> bool {
    let labels = snapshot.labels();
    labels.get(annotations::BACKUP_UID_LABEL) == backup.metadata.uid.as_ref()
        && backup.metadata.uid.is_some()
        && labels.get(annotations::ATTEMPT_LABEL) == Some(&attempt.to_string())
}

/// What the agent says of an attempt. What it says of another one is not read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentPart {
    /// The session in backup mode.
    pub session: Session,
    /// Since when `pg_backup_stop` has returned.
    pub stopped_since: Option<Timestamp>,
    /// Every byte from start to stop is in the archive.
    pub archived: bool,
    /// The manifest is in the archive.
    pub catalogued: bool,
    /// `pg_backup_stop` has returned, and the archive does not take what it gave yet.
    pub keeping: bool,
}

/// The session in backup mode.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Session {
    /// Not opened yet.
    #[default]
    Awaited,
    /// `pg_backup_start` returned, and the session lives.
    Open {
        /// Since when.
        since: Timestamp,
    },
    /// It ended, or never came about.
    Lost {
        /// Why.
        why: String,
    },
}

impl AgentPart {
    /// What the status says of attempt number `attempt`.
    pub fn read(status: &PgBackupStatus, attempt: u32) -> Self {
        let heeded = status.session.as_ref().filter(|s| s.attempt == attempt);
        let Some(session) = heeded else {
            return Self::default();
        };
        let list = &status.conditions;
        let started = session.start_lsn.is_some();
        let lost = conditions::find(list, conditions::SESSION)
            .filter(|_| conditions::is_false(list, conditions::SESSION));
        let open = since(list, conditions::SESSION).filter(|_| started);
        Self {
            session: match (open, lost) {
                (Some(since), _) => Session::Open { since },
                (None, Some(condition)) => Session::Lost {
                    why: sentence(condition),
                },
                (None, None) => Session::Awaited,
            },
            keeping: started && waits(list, conditions::STOPPED),
            stopped_since: since(list, conditions::STOPPED).filter(|_| session.stop_lsn.is_some()),
            archived: conditions::is_true(list, conditions::WAL_ARCHIVED),
            catalogued: conditions::is_true(list, conditions::CATALOGUED)
                && status.catalog.is_some(),
        }
    }
}

/// Whether a condition is there, and neither `True` nor `False`.
fn waits(list: &[Condition], type_: &str) -> bool {
    conditions::find(list, type_)
        .is_some_and(|it| it.status == conditions::Status::Unknown.as_str())
}

/// Since when a condition is `True`.
fn since(list: &[Condition], type_: &str) -> Option<Timestamp> {
    conditions::find(list, type_)
        .filter(|_| conditions::is_true(list, type_))
        .map(|condition| condition.last_transition_time.0)
}

/// A text of another system, as much of it as is shown.
pub fn clip(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

fn sentence(condition: &Condition) -> String {
    if condition.message.is_empty() {
        condition.reason.clone()
    } else {
        format!("{}: {}", condition.reason, condition.message)
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
