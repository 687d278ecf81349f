//! Which backup an event of another object is about. Only to be quick: every pass reads for itself, and repeats.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::observe::{is_accepted, is_finished};
use crate::{
    api::{PgBackup, PgProtection, annotations},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};

/// Namespace and name.
type Key = (String, String);

/// Unfinished backups, by what they wait for.
#[derive(Default)]
pub struct Wake(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// By VolumeSnapshot.
    snapshots: HashMap<Key, String>,
    /// By PgProtection.
    waiting: HashMap<Key, BTreeSet<String>>,
}

impl Wake {
    /// To be called with what is known of a backup before its snapshots are read.
    pub fn note(&self, backup: &PgBackup) {
        let (namespace, name) = key(backup);
        let mut inner = self.lock();
        let status = backup.status.as_ref();
        let volumes = status.into_iter().flat_map(|status| &status.volumes);
        for volume in volumes.filter(|volume| !volume.volume_snapshot.is_empty()) {
            let snapshot = (namespace.clone(), volume.volume_snapshot.clone());
            inner.snapshots.insert(snapshot, name.clone());
        }
        let waiting = inner
            .waiting
            .entry((namespace, backup.spec.protection.clone()));
        let waiting = waiting.or_default();
        if is_accepted(backup) || is_finished(backup) {
            waiting.remove(&name);
        } else {
            waiting.insert(name);
        }
    }

    /// To be called when nothing is left to do.
    pub fn forget(&self, backup: &PgBackup) {
        let (namespace, name) = key(backup);
        let mut inner = self.lock();
        inner
            .snapshots
            .retain(|(ns, _), backup| *ns != namespace || *backup != name);
        let protection = (namespace, backup.spec.protection.clone());
        if let Some(waiting) = inner.waiting.get_mut(&protection) {
            waiting.remove(&name);
            if waiting.is_empty() {
                inner.waiting.remove(&protection);
            }
        }
    }

    /// The backup of a snapshot: we wrote it on it.
    pub fn of_snapshot(snapshot: &VolumeSnapshot) -> Option<ObjectRef<PgBackup>> {
        let name = snapshot.annotations().get(annotations::BACKUP_LABEL)?;
        Some(ObjectRef::new(name).within(&snapshot.namespace()?))
    }

    /// The backup of a content: by the snapshot's name, or by our label on it.
    pub fn of_content(&self, content: &VolumeSnapshotContent) -> Option<ObjectRef<PgBackup>> {
        let reference = &content.spec.volume_snapshot_ref;
        let namespace = reference.namespace.clone()?;
        let known = self
            .lock()
            .snapshots
            .get(&(namespace.clone(), reference.name.clone()?))
            .cloned();
        let name = known.or_else(|| content.labels().get(annotations::BACKUP_LABEL).cloned())?;
        Some(ObjectRef::new(&name).within(&namespace))
    }

    /// The backups of a protection that have not begun.
    pub fn of_protection(&self, protection: &PgProtection) -> Vec<ObjectRef<PgBackup>> {
        let namespace = protection.namespace().unwrap_or_default();
        let inner = self.lock();
        let waiting = inner
            .waiting
            .get(&(namespace.clone(), protection.name_any()));
        waiting
            .into_iter()
            .flatten()
            .map(|name| ObjectRef::new(name).within(&namespace))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(backup: &PgBackup) -> Key {
    (backup.namespace().unwrap_or_default(), backup.name_any())
}
