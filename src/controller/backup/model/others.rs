//! Driver, snapshot controller and users.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::{World, object};
use crate::csi::{DeletionPolicy, VolumeSnapshot};

fn pointed(snapshot: &VolumeSnapshot) -> bool {
    let status = snapshot.status.as_ref();
    status.is_some_and(|status| status.bound_volume_snapshot_content_name.is_some())
}

fn point(snapshot: &mut VolumeSnapshot, content: &str) {
    let status = snapshot.status.get_or_insert_default();
    status.bound_volume_snapshot_content_name = Some(content.to_owned());
}

impl World {
    /// Also of a snapshot that is being deleted, or of an attempt that is void: a driver knows of neither.
    pub(super) fn driver(&mut self, n: u8) {
        let groups = self.groups.snapshots.len();
        let at = usize::from(n) % (groups + self.snapshots.len()).max(1);
        let Some(at) = at.checked_sub(groups) else {
            return self.drive_group(at, n);
        };
        let Some(snapshot) = self.snapshots.get_mut(at) else {
            return;
        };
        if !snapshot.owner_references().is_empty() {
            return self.drive_member(at);
        }
        let uid = snapshot.uid().unwrap();
        let name = format!("snapcontent-{uid}");
        let content = self.contents.iter_mut().find(|c| c.name_any() == name);
        let Some(content) = content else {
            if snapshot.metadata.deletion_timestamp.is_none() {
                // The snapshot controller writes the snapshot's own pointer when it comes to it.
                if n >= 128 {
                    point(snapshot, &name);
                }
                let claim = snapshot.spec.source.persistent_volume_claim_name.as_deref();
                let handle = format!("h-{}", claim.unwrap());
                self.contents.push(object(json!({
                    "metadata": {"name": name, "uid": format!("content-{uid}")},
                    "spec": {"driver": "cow.example", "deletionPolicy": "Retain", "source": {"volumeHandle": handle},
                        "volumeSnapshotRef": {"name": snapshot.name_any(), "namespace": "shop", "uid": uid}},
                })));
            }
            return;
        };
        let status = content.status.get_or_insert_default();
        if status.creation_time.is_none() {
            status.creation_time = Some(self.now.as_nanosecond().try_into().unwrap());
            status.snapshot_handle = Some(format!("cut-{uid}"));
            let truth = self.truths.get_mut(&uid).unwrap();
            (truth.cut, truth.cut_in) = (true, self.live);
        } else if pointed(snapshot) {
            status.ready_to_use = Some(true);
            status.error = None;
        } else {
            // Ready for the driver, and not yet for who may read it only when bound.
            status.ready_to_use = Some(n >= 128);
            point(snapshot, &name);
        }
    }

    pub(super) fn trouble(&mut self, n: u8) {
        let groups = self.groups.contents.len();
        let at = usize::from(n) % (groups + self.contents.len()).max(1);
        let error = Some(object(json!({"message": "busy"})));
        if let Some(content) = self.groups.contents.get_mut(at) {
            content.status.get_or_insert_default().error = error;
        } else if let Some(content) = self.contents.get_mut(at - groups) {
            content.status.get_or_insert_default().error = error;
        }
    }

    pub(super) fn collect(&mut self) {
        self.collect_groups();
        let going = |uid: Option<&String>, all: &[VolumeSnapshot]| {
            all.iter()
                .all(|s| s.metadata.uid.as_ref() != uid || s.metadata.deletion_timestamp.is_some())
        };
        let (snapshots, groups) = (self.snapshots.clone(), &self.groups);
        self.contents.retain(|content| {
            let delete = content.spec.deletion_policy == DeletionPolicy::Delete;
            let owner_goes = going(content.spec.volume_snapshot_ref.uid.as_ref(), &snapshots);
            let asked = content.metadata.deletion_timestamp.is_some();
            let owner = snapshots
                .iter()
                .find(|s| s.metadata.uid == content.spec.volume_snapshot_ref.uid);
            let held = owner.is_some_and(|s| groups.hold(s));
            !(delete && owner_goes && !held && (asked || owner.is_some()))
        });
        let (contents, groups) = (&self.contents, &self.groups);
        self.snapshots.retain(|snapshot| {
            let held = contents.iter().any(|c| {
                c.spec.volume_snapshot_ref.uid == snapshot.metadata.uid
                    && c.spec.deletion_policy == DeletionPolicy::Delete
            });
            snapshot.metadata.deletion_timestamp.is_none() || held || groups.hold(snapshot)
        });
    }

    pub(super) fn remove(&mut self, with_scope: bool) {
        let time = Time(self.now);
        let completed = self.completed();
        let Some(backup) = &mut self.backup else {
            return;
        };
        if backup.metadata.deletion_timestamp.is_some() {
            return;
        }
        if backup.finalizers().is_empty() {
            self.backup = None;
            return;
        }
        backup.metadata.deletion_timestamp = Some(time.clone());
        if with_scope {
            self.scope_goes = true;
            // The namespace takes every VolumeSnapshot in it.
            for snapshot in &mut self.snapshots {
                snapshot
                    .metadata
                    .deletion_timestamp
                    .get_or_insert(time.clone());
            }
            self.groups.go(&time);
            if completed {
                self.kept = self
                    .contents
                    .iter()
                    .filter(|c| c.spec.deletion_policy == DeletionPolicy::Retain)
                    .map(ResourceExt::name_any)
                    .chain(self.groups.retained())
                    .collect();
            }
        }
        self.touch();
    }
}
