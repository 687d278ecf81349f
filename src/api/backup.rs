//! PgBackup: one backup.
//!
//! Written by the controller: `observedGeneration`, `attempt`, `volumes`, `group`, `statefulSet`, conditions `Accepted`, `Cut`,
//! `Ready`, `Completed`, `Verified`. Written by the agent: `session`, `catalog`, conditions `Session`, `Stopped`, `WalArchived`,
//! `Catalogued`.
//!
//! The agent's part is about the attempt that `session.attempt` names; the controller's about `attempt.number`. A reader
//! heeds the other's part only while the two numbers are the same: with attempt n+1 the controller sets `Cut` and `Ready`
//! back in the same apply, so `Cut=True` beside `attempt.number == n` always speaks of attempt n.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ReleaseAt, named};
use crate::{
    archive::LineageId,
    postgres::{Lsn, SystemIdentifier, TimelineId},
};

/// One backup.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "highwater.dev",
    version = "v1alpha1",
    kind = "PgBackup",
    namespaced,
    shortname = "pgb",
    category = "highwater",
    status = "PgBackupStatus",
    doc = "PgBackup is one backup: snapshots of every volume of a database, taken in PostgreSQL's backup mode. Deleting it deletes its snapshots and its catalog entry, and never WAL.",
    printcolumn(name = "Protection", type_ = "string", json_path = ".spec.protection"),
    printcolumn(
        name = "Completed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Completed")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Completed")].reason"#
    ),
    printcolumn(
        name = "Attempt",
        type_ = "integer",
        json_path = ".status.attempt.number"
    ),
    printcolumn(
        name = "StoppedAt",
        type_ = "date",
        json_path = ".status.session.stoppedAt"
    ),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Verified")].status"#,
        priority = 1
    ),
    printcolumn(
        name = "Start",
        type_ = "string",
        json_path = ".status.session.startLsn",
        priority = 1
    ),
    printcolumn(
        name = "Stop",
        type_ = "string",
        json_path = ".status.session.stopLsn",
        priority = 1
    ),
    printcolumn(
        name = "Timeline",
        type_ = "integer",
        json_path = ".status.session.timeline",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec is immutable: create a new PgBackup"))]
#[serde(rename_all = "camelCase")]
pub struct PgBackupSpec {
    /// The PgProtection to back up, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("protection")))]
    pub protection: String,
    /// Why this backup is taken.
    #[serde(default)]
    pub reason: BackupReason,
}

/// Why a backup is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupReason {
    /// Somebody created the object.
    #[default]
    Manual,
    /// A lineage begins.
    First,
    /// A schedule of the policy.
    Scheduled,
    /// The annotation `highwater.dev/backup-now` changed.
    Annotation,
    /// WAL is missing behind every backup: without a new one, nothing after the gap can be restored.
    Gap,
}

/// What was observed of one backup.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PgBackupStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The try under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// The snapshots of this attempt: written down before the first is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["claim".into()]))]
    pub volumes: Vec<VolumeStatus>,
    /// The VolumeGroupSnapshot, if an attempt was made by one: of this attempt, or of a void one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupStatus>,
    /// The StatefulSet's spec at the time, without literal values of environment variables: what a restore rebuilds it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub stateful_set: Option<serde_json::Value>,
    /// The session in PostgreSQL's backup mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// The entry in the archive's catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<CatalogEntry>,
    /// `Accepted`, `Cut`, `Ready`, `Completed`, `Verified`, `Discarded` (controller); `Session`, `Stopped`, `WalArchived`, `Catalogued` (agent).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One try at a backup. A failed one is void for ever; the next has another number, and so other names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When it began, by the controller's clock: deadlines count from here.
    pub started_at: MicroTime,
    /// The pod whose volumes are snapshotted.
    pub pod: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's IP address.
    pub address: String,
    /// The node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When backup mode may end, as the policy said when the attempt began.
    #[serde(default, skip_serializing_if = "ReleaseAt::is_cut")]
    pub release_at: ReleaseAt,
    /// Why the volumes are snapshotted one by one although the policy says `groupConsistency: Atomic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_by_one: Option<Instead>,
    /// Set if the pod is a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<StandbyAttempt>,
    /// Why the primary is backed up although the policy says `backupFrom: PreferStandby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_primary: Option<Instead>,
}

/// What an attempt of a standby must heed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StandbyAttempt {
    /// The PersistentVolumeClaim with pg_control, which says where the copy is whole: one by one, it is snapshotted when the
    /// cut of every other volume is written down here.
    pub control_claim: String,
}

/// Why an attempt is not made as the policy prefers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instead {
    /// The reason, as condition Accepted has it.
    pub reason: String,
    /// What is missing, and what to do about it.
    pub message: String,
}

/// The VolumeGroupSnapshot of one attempt: written down before it is made. It stays here when the attempt is void, until
/// all of it is removed; no later attempt of this backup is made by a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// The attempt that it is for.
    pub attempt: u32,
    /// The VolumeGroupSnapshot's name.
    pub volume_group_snapshot: String,
    /// Its class.
    pub class_name: String,
    /// The CSI handles of the volumes that it must hold, and no others.
    pub volume_handles: Vec<String>,
    /// Whether the claims have the label that it selects by. It is taken off after the cut; a backup is completed with
    /// `false` where that was seen.
    #[serde(default)]
    pub labelled: bool,
    /// The VolumeGroupSnapshot's UID, once it is made: the names of its members follow from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_group_snapshot_uid: Option<String>,
    /// The VolumeGroupSnapshotContent's name, once it is bound both ways and has exactly these volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The group snapshot's CSI handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Whether the content was seen with deletion policy Retain.
    #[serde(default)]
    pub retained: bool,
}

/// One volume of a backup and its snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// The PersistentVolumeClaim.
    pub claim: String,
    /// The volume's name in the pod; of a volumeClaimTemplate, the template's name.
    pub volume: String,
    /// Where PostgreSQL's container mounts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// The CSI driver.
    pub driver: String,
    /// The CSI handle of the volume that is snapshotted.
    pub volume_handle: String,
    /// The claim's capacity in bytes.
    pub capacity: i64,
    /// The claim's StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// The VolumeSnapshot's name; of a member of a group snapshot, empty until the group is made.
    pub volume_snapshot: String,
    /// The VolumeSnapshot's class; a member of a group snapshot is made without it.
    pub class_name: String,
    /// The VolumeSnapshot's UID, once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_uid: Option<String>,
    /// The VolumeSnapshotContent's name, once it is bound both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The snapshot's CSI handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// When the snapshot was cut, by the driver's clock: to display, never to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<MicroTime>,
    /// The least size of a volume restored from it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<i64>,
    /// Whether it is ready to use.
    #[serde(default)]
    pub ready: bool,
    /// Whether the content was seen with deletion policy Retain.
    #[serde(default)]
    pub retained: bool,
}

/// Where a volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The path in the container.
    pub path: String,
    /// The path in the volume, where that is not its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// The session in PostgreSQL's backup mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The attempt it belongs to.
    pub attempt: u32,
    /// Which history in the archive the backup belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<LineageId>,
    /// The identifier that initdb gave the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<SystemIdentifier>,
    /// PostgreSQL's major version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_version: Option<i32>,
    /// The timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// What `pg_backup_start` returned: replay begins here. On a standby it is its last restart point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_lsn: Option<Lsn>,
    /// When it returned, by the clock of the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// Seconds that `pg_backup_start` took: the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_seconds: Option<f64>,
    /// What `pg_backup_stop` returned: a restore is consistent from here. On a standby it is what must be replayed at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_lsn: Option<Lsn>,
    /// When it returned, by the clock of the primary: what restores compare with the times of commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<MicroTime>,
    /// Seconds from the return of `pg_backup_start` to the return of `pg_backup_stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_mode_seconds: Option<f64>,
}

/// The entry in the archive's catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogEntry {
    /// The manifest's key in the archive.
    pub manifest: String,
    /// SHA-256 of the manifest, hexadecimal.
    pub sha256: String,
}

pub(super) fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
