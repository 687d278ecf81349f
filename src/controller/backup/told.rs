//! What the watches have told of backups and what they rest on: enough to see that nothing is to be done.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use super::group::{self, Groups};
use super::observe::{Observed, Search, content_of, first, is_accepted, is_finished, search};
use super::turn::{self, Place};
use crate::{
    api::{PgBackup, PgBackupPolicy, PgProtection},
    controller::is_ready,
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};

/// The stores of the watches.
pub struct Told {
    pub backups: Store<PgBackup>,
    pub protections: Store<PgProtection>,
    pub policies: Store<PgBackupPolicy>,
    /// Those with the label of a backup.
    pub snapshots: Store<VolumeSnapshot>,
    pub contents: Store<VolumeSnapshotContent>,
    pub written: Written,
    pub trust: Trust,
}

impl Told {
    /// What is known of `backup`, without its database. `None`: too little to judge it by.
    pub fn observe(&self, backup: &PgBackup, now: Timestamp) -> Option<Observed> {
        if !self.trust.holds(backup, now) {
            return None;
        }
        let backup = self.written.newest(backup);
        // Groups are not watched: few databases are backed up by one.
        if backup.metadata.deletion_timestamp.is_some() || group::recorded(&backup).is_some() {
            return None;
        }
        let (snapshots, contents) = self.snapshots(&backup)?;
        let namespace = backup.namespace().unwrap_or_default();
        let mut observed = Observed {
            protection: None,
            policy: None,
            ahead: None,
            full: None,
            source: None,
            replaced: false,
            snapshots,
            contents,
            groups: Groups::default(),
            scope_goes: false,
            read_by: None,
            backup,
        };
        if !is_finished(&observed.backup) {
            (observed.protection, observed.policy) =
                self.surroundings(&namespace, &observed.backup.spec.protection)?;
            if !is_accepted(&observed.backup) {
                observed.ahead = self.ahead(&observed.backup, observed.protection.as_ref())?;
            }
        }
        Some(observed)
    }

    /// The protection and its policy. `None`: the watches have not begun.
    pub fn surroundings(
        &self,
        namespace: &str,
        protection: &str,
    ) -> Option<(Option<PgProtection>, Option<PgBackupPolicy>)> {
        let protection = get(&self.protections, protection, Some(namespace))?;
        let policy = protection
            .as_ref()
            .map(|protection| &protection.spec.policy);
        let policy = match policy {
            Some(name) => get(&self.policies, name, Some(namespace))?,
            None => None,
        };
        Some((protection, policy))
    }

    /// The backup that `backup` has to wait for. `None`: the watch has not begun.
    fn ahead(
        &self,
        backup: &PgBackup,
        protection: Option<&PgProtection>,
    ) -> Option<Option<String>> {
        let place = protection.map_or(Place::Free, |protection| {
            turn::place(protection, backup, |turn| self.backup(backup, &turn.backup))
        });
        match place {
            Place::Ours => Some(None),
            Place::Taken(holder) => Some(Some(holder.to_owned())),
            Place::Free | Place::Unknown(_) => self.first(backup),
        }
    }

    /// The unfinished backup of the same protection that comes first. `None`: the watch has not begun.
    pub fn first(&self, backup: &PgBackup) -> Option<Option<String>> {
        let all = is_ready(&self.backups).then(|| self.backups.state())?;
        let all = all.iter().map(Arc::as_ref);
        Some(first(all, backup).map(ResourceExt::name_any))
    }

    /// Another backup of the namespace of `backup`, if the watch has told of it.
    pub fn backup(&self, backup: &PgBackup, name: &str) -> Option<PgBackup> {
        get(&self.backups, name, backup.namespace().as_deref())?
    }

    /// The snapshots of `backup` and their contents. `None`: they must be read.
    pub fn snapshots(
        &self,
        backup: &PgBackup,
    ) -> Option<(Vec<VolumeSnapshot>, Vec<VolumeSnapshotContent>)> {
        let Some(status) = backup.status.as_ref().filter(|it| it.attempt.is_some()) else {
            return Some((Vec::new(), Vec::new()));
        };
        match search(backup) {
            Search::Names => {}
            // Also what has lost its label: that must be read.
            Search::Labels | Search::Everything => return None,
        }
        let namespace = backup.namespace().unwrap_or_default();
        let mut snapshots = Vec::new();
        for volume in &status.volumes {
            snapshots.extend(get(
                &self.snapshots,
                &volume.volume_snapshot,
                Some(&namespace),
            )?);
        }
        let written = status.volumes.iter().filter_map(|it| it.content.clone());
        let mut names: Vec<String> = written
            .chain(snapshots.iter().filter_map(content_of))
            .collect();
        names.sort();
        names.dedup();
        let mut contents = Vec::new();
        for name in names {
            contents.extend(get(&self.contents, &name, None)?);
        }
        Some((snapshots, contents))
    }
}

fn get<K>(store: &Store<K>, name: &str, namespace: Option<&str>) -> Option<Option<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut reference = ObjectRef::new(name);
    reference.namespace = namespace.map(str::to_owned);
    is_ready(store).then(|| store.get(&reference).map(|object| (*object).clone()))
}

/// How long nothing is read for an unfinished backup.
const TRUST: SignedDuration = SignedDuration::from_secs(60);
/// The same while no attempt runs: a watch that is silent may make it begin later, and nothing else.
const TRUST_WAITING: SignedDuration = SignedDuration::from_secs(300);

/// What this program wrote itself, until the watch tells of it: or the next pass would do it once more.
#[derive(Default)]
pub struct Written(Mutex<HashMap<Key, Newest>>);

/// Namespace and name.
type Key = (String, String);

struct Newest {
    backup: PgBackup,
    /// Resource versions that it replaced.
    replaced: Vec<String>,
}

impl Written {
    /// `written` is what came of a write to what was `read`, when the watch told of `told`.
    pub fn note(&self, told: &PgBackup, read: &PgBackup, mut written: PgBackup) {
        written.metadata.managed_fields = None;
        let key = key(&written);
        let mut all = self.lock();
        let before = all
            .remove(&key)
            .filter(|before| version(&before.backup) == version(read));
        let mut replaced = before.map(|before| before.replaced).unwrap_or_default();
        replaced.extend(
            [told, read]
                .iter()
                .filter_map(|backup| backup.resource_version()),
        );
        let backup = written;
        all.insert(key, Newest { backup, replaced });
    }

    /// Nothing more will be written.
    pub fn forget(&self, backup: &PgBackup) {
        self.lock().remove(&key(backup));
    }

    /// `told`, or what is known to have replaced it.
    pub fn newest(&self, told: &PgBackup) -> PgBackup {
        let mut all = self.lock();
        let key = key(told);
        let version = told.resource_version();
        let known = all.get(&key).filter(|newest| {
            newest.backup.metadata.uid == told.metadata.uid
                && version.is_some_and(|version| newest.replaced.contains(&version))
        });
        match known {
            Some(newest) => newest.backup.clone(),
            None => {
                all.remove(&key);
                told.clone()
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Newest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when the watches are believed about a backup: one may be silent for minutes before it is known to be broken.
#[derive(Default)]
pub struct Trust(Mutex<HashMap<Key, Timestamp>>);

impl Trust {
    /// Whether they are at `now`. They are for the first time when they are asked first.
    fn holds(&self, backup: &PgBackup, now: Timestamp) -> bool {
        let mut all = self.lock();
        let read = *all.entry(key(backup)).or_insert(now);
        let trust = match is_accepted(backup) {
            true => TRUST,
            false => TRUST_WAITING,
        };
        now.duration_since(read) < trust
    }

    /// The backup is read at `now`.
    pub fn read(&self, backup: &PgBackup, now: Timestamp) {
        self.lock().insert(key(backup), now);
    }

    /// What they told is old.
    pub fn lose(&self, backup: &PgBackup) {
        self.lock().insert(key(backup), Timestamp::MIN);
    }

    /// Whether what they told is known to be old, and nothing was read since.
    pub fn is_lost(&self, backup: &PgBackup) -> bool {
        self.lock().get(&key(backup)) == Some(&Timestamp::MIN)
    }

    /// Nothing more will be asked.
    pub fn forget(&self, backup: &PgBackup) {
        self.lock().remove(&key(backup));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without what no pass looks at.
pub fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// A cluster may hold many contents that are none of ours.
pub fn slim_content(content: &mut VolumeSnapshotContent) {
    let metadata = &mut content.metadata;
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.owner_references = None;
}

fn version(backup: &PgBackup) -> Option<&str> {
    backup.metadata.resource_version.as_deref()
}

fn key(backup: &PgBackup) -> Key {
    (backup.namespace().unwrap_or_default(), backup.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(version: &str) -> PgBackup {
        let spec = serde_json::from_value(serde_json::json!({"protection": "orders"})).unwrap();
        let mut backup = PgBackup::new("nightly", spec);
        backup.metadata.uid = Some("u".to_owned());
        backup.metadata.resource_version = Some(version.to_owned());
        backup
    }

    #[test]
    fn what_was_written_counts_until_the_watch_tells_of_it() {
        let written = Written::default();
        let newest = |told: &str| written.newest(&backup(told)).resource_version().unwrap();
        assert_eq!(newest("1"), "1");
        written.note(&backup("1"), &backup("3"), backup("4"));
        assert_eq!(newest("1"), "4", "older than what was read");
        written.note(&backup("1"), &backup("4"), backup("5"));
        assert_eq!([newest("1"), newest("3"), newest("4")], ["5", "5", "5"]);
        assert_eq!(newest("6"), "6", "somebody wrote after that");
        assert_eq!(newest("1"), "1", "and then nothing is known any more");
    }

    #[test]
    fn the_watches_are_believed_for_a_while() {
        let trust = Trust::default();
        let (waiting, mut backup) = (backup("1"), backup("1"));
        let accepted = serde_json::json!({"type": "Accepted", "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = serde_json::json!({"conditions": [accepted]});
        backup.status = serde_json::from_value(status).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let holds = |second| trust.holds(&backup, at(second));
        assert!(holds(0) && holds(59) && !holds(60));
        trust.read(&backup, at(60));
        assert!(holds(119));
        trust.lose(&backup);
        assert!(!holds(61), "a conflict was told");
        assert!(trust.is_lost(&backup));
        trust.read(&backup, at(61));
        assert!(holds(62) && !trust.is_lost(&backup));
        let waits = |second| trust.holds(&waiting, at(second));
        assert!(waits(360) && !waits(361), "no attempt runs");
    }

    #[test]
    fn another_of_the_name_is_another() {
        let written = Written::default();
        written.note(&backup("1"), &backup("1"), backup("2"));
        let mut other = backup("1");
        other.metadata.uid = Some("v".to_owned());
        assert_eq!(written.newest(&other).resource_version().unwrap(), "1");
        written.note(&backup("1"), &backup("1"), backup("2"));
        written.forget(&backup("1"));
        assert_eq!(
            written.newest(&backup("1")).resource_version().unwrap(),
            "1"
        );
    }
}
