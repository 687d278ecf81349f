//! The objects and patches of groups that the backup controller sends. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{GroupContent, Labelled};
use crate::{
    api::{GroupStatus, PgBackup, annotations, names},
    controller::backup::build::build_labels,
    csi::{
        DeletionPolicy,
        group::{
            GROUP_DELETED_ANNOTATION, VolumeGroupSnapshot, VolumeGroupSnapshotSource,
            VolumeGroupSnapshotSpec,
        },
    },
};

/// The value of the label on the group's claims.
pub fn build_group_label(backup: &PgBackup, group: &GroupStatus) -> String {
    names::group_label(&backup.uid().unwrap_or_default(), group.attempt)
}

/// The group. No owner: deleting a PgBackup decides itself what goes with it.
pub fn build_group(backup: &PgBackup, group: &GroupStatus) -> VolumeGroupSnapshot {
    let label = build_group_label(backup, group);
    let selector = LabelSelector {
        match_labels: Some([(annotations::GROUP_LABEL.to_owned(), label)].into()),
        match_expressions: None,
    };
    VolumeGroupSnapshot {
        metadata: ObjectMeta {
            name: Some(group.volume_group_snapshot.clone()),
            namespace: backup.namespace(),
            labels: Some(build_labels(backup, group.attempt)),
            // A label cannot hold every name.
            annotations: Some([(annotations::BACKUP_LABEL.to_owned(), backup.name_any())].into()),
            ..ObjectMeta::default()
        },
        spec: VolumeGroupSnapshotSpec {
            source: VolumeGroupSnapshotSource {
                selector: Some(selector),
            },
            volume_group_snapshot_class_name: Some(group.class_name.clone()),
        },
        status: None,
    }
}

/// Puts the label on a claim.
pub fn build_label_patch(backup: &PgBackup, group: &GroupStatus) -> Value {
    let label = build_group_label(backup, group);
    json!({ "metadata": { "labels": { annotations::GROUP_LABEL: label } } })
}

/// Takes the label off the claim as it was read, and off no later one.
pub fn build_unlabel_patch(claim: &Labelled) -> Value {
    json!({ "metadata": {
        "uid": claim.uid,
        "resourceVersion": claim.version,
        "labels": { annotations::GROUP_LABEL: null },
    }})
}

/// Sets a group content's deletion policy and our labels; the UID makes it a patch of this content and no other. To that of a
/// group that is gone it also says so, as the snapshot controller does only while the group is there.
pub fn build_group_content_patch(
    backup: &PgBackup,
    attempt: u32,
    content: &GroupContent,
    policy: DeletionPolicy,
    orphan: bool,
) -> Value {
    let mut patch = json!({
        "metadata": { "uid": content.uid, "labels": build_labels(backup, attempt) },
        "spec": { "deletionPolicy": policy },
    });
    if orphan {
        patch["metadata"]["annotations"] = json!({ GROUP_DELETED_ANNOTATION: "yes" });
    }
    patch
}
