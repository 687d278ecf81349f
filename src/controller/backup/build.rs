//! The objects and patches that the backup controller sends. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::attempt::Content;
use crate::{
    api::{PgBackup, VolumeStatus, annotations, names},
    csi::{DeletionPolicy, VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
};

/// What marks everything of one attempt.
pub fn build_labels(backup: &PgBackup, attempt: u32) -> BTreeMap<String, String> {
    [
        (
            annotations::MANAGED_BY_LABEL,
            annotations::MANAGED_BY.to_owned(),
        ),
        (
            annotations::PROTECTION_LABEL,
            names::label(&backup.spec.protection),
        ),
        (annotations::BACKUP_LABEL, names::label(&backup.name_any())),
        (
            annotations::BACKUP_UID_LABEL,
            backup.uid().unwrap_or_default(),
        ),
        (annotations::ATTEMPT_LABEL, attempt.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// One member's VolumeSnapshot. No owner: deleting a PgBackup decides itself what goes with it.
pub fn build_volume_snapshot(
    backup: &PgBackup,
    attempt: u32,
    member: &VolumeStatus,
) -> VolumeSnapshot {
    VolumeSnapshot {
        metadata: ObjectMeta {
            name: Some(member.volume_snapshot.clone()),
            namespace: backup.namespace(),
            labels: Some(build_labels(backup, attempt)),
            // A label cannot hold every name.
            annotations: Some([(annotations::BACKUP_LABEL.to_owned(), backup.name_any())].into()),
            ..ObjectMeta::default()
        },
        spec: VolumeSnapshotSpec {
            source: VolumeSnapshotSource {
                persistent_volume_claim_name: Some(member.claim.clone()),
                volume_snapshot_content_name: None,
            },
            volume_snapshot_class_name: Some(member.class_name.clone()),
        },
        status: None,
    }
}

/// Sets a content's deletion policy and our labels; the UID makes it a patch of this content and no other.
pub fn build_content_patch(
    backup: &PgBackup,
    attempt: u32,
    content: &Content,
    policy: DeletionPolicy,
) -> Value {
    json!({
        "metadata": { "uid": content.uid, "labels": build_labels(backup, attempt) },
        "spec": { "deletionPolicy": policy },
    })
}

/// Sets the finalizers of the PgBackup as it was read, and of no later one.
pub fn build_finalizer_patch(backup: &PgBackup, present: bool) -> Value {
    let mut marks = backup.metadata.finalizers.clone().unwrap_or_default();
    marks.retain(|mark| mark != annotations::BACKUP_FINALIZER);
    if present {
        marks.push(annotations::BACKUP_FINALIZER.to_owned());
    }
    json!({ "metadata": {
        "finalizers": marks,
        "resourceVersion": backup.metadata.resource_version,
        "uid": backup.metadata.uid,
    }})
}
