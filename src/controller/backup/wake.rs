//! Which backup an event of another object is about. Only to be quick: every pass reads for itself, and repeats.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::observe::{is_accepted, is_finished};
use crate::{
    api::{PgBackup, PgBackupPolicy, PgProtection, annotations},
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
        self.waiting(&namespace, &protection.name_any())
    }

    /// The backups that have not begun of those among `protections` that name the policy.
    pub fn of_policy(
        &self,
        policy: &PgBackupPolicy,
        protections: &[Arc<PgProtection>],
    ) -> Vec<ObjectRef<PgBackup>> {
        let names_it = |protection: &&Arc<PgProtection>| {
            protection.namespace() == policy.namespace()
                && protection.spec.policy == policy.name_any()
        };
        let concerned = protections.iter().filter(names_it);
        concerned.flat_map(|it| self.of_protection(it)).collect()
    }

    /// The backups of the same protection that have not begun, if `backup` does not keep them from it any more.
    pub fn of_backup(&self, backup: &PgBackup) -> Vec<ObjectRef<PgBackup>> {
        let goes = backup.metadata.deletion_timestamp.is_some();
        match is_accepted(backup) && !is_finished(backup) && !goes {
            true => Vec::new(),
            false => self.behind(backup),
        }
    }

    /// The other backups of the same protection that have not begun.
    pub fn behind(&self, backup: &PgBackup) -> Vec<ObjectRef<PgBackup>> {
        let namespace = backup.namespace().unwrap_or_default();
        let mut waiting = self.waiting(&namespace, &backup.spec.protection);
        waiting.retain(|other| other.name != backup.name_any());
        waiting
    }

    fn waiting(&self, namespace: &str, protection: &str) -> Vec<ObjectRef<PgBackup>> {
        let inner = self.lock();
        let waiting = inner
            .waiting
            .get(&(namespace.to_owned(), protection.to_owned()));
        let names = waiting.into_iter().flatten();
        names
            .map(|name| ObjectRef::new(name).within(namespace))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(backup: &PgBackup) -> Key {
    (backup.namespace().unwrap_or_default(), backup.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn backup(name: &str, protection: &str, accepted: bool, finished: bool) -> PgBackup {
        let condition = |type_: &str, holds: bool| {
            let status = if holds { "True" } else { "Unknown" };
            json!({"type": type_, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"protection": protection},
            "status": {"conditions": [condition("Accepted", accepted), condition("Completed", finished)]},
        }))
        .unwrap()
    }

    fn names(woken: Vec<ObjectRef<PgBackup>>) -> Vec<String> {
        woken.into_iter().map(|about| about.name).collect()
    }

    #[test]
    fn who_waits_is_woken_by_what_it_waits_for() {
        let wake = Wake::default();
        for (name, protection) in [("b", "orders"), ("c", "orders"), ("d", "billing")] {
            wake.note(&backup(name, protection, false, false));
        }
        let by =
            |accepted, finished| names(wake.of_backup(&backup("a", "orders", accepted, finished)));
        assert_eq!(by(true, true), ["b", "c"], "it is over");
        assert!(by(true, false).is_empty(), "it runs");
        let by_itself = wake.of_backup(&backup("b", "orders", false, false));
        assert_eq!(names(by_itself), ["c"]);

        let protection = |name: &str, policy: &str| -> Arc<PgProtection> {
            let value = json!({"metadata": {"name": name, "namespace": "shop"},
                "spec": {"statefulSet": name, "policy": policy}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let protections = [protection("orders", "gold"), protection("billing", "iron")];
        let policy = |name: &str| -> PgBackupPolicy {
            let value = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"archive": "main"}});
            serde_json::from_value(value).unwrap()
        };
        let by_policy = |name| names(wake.of_policy(&policy(name), &protections));
        assert_eq!(by_policy("gold"), ["b", "c"]);
        assert_eq!(by_policy("iron"), ["d"]);
        assert!(by_policy("tin").is_empty());
        wake.note(&backup("b", "orders", true, false));
        assert_eq!(names(wake.of_protection(&protections[0])), ["c"], "b began");
    }
}
