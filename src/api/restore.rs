//! PgRestore: one restore.
//!
//! Written by the agent of the source: `plan`, condition `Planned`; where the source is an archive, by the planning pod, and
//! `base` too. Written by the recovery pod: `progress`, condition `Recovered`. Written by the controller: everything else.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    InPlaceStatus, Mount, RestoreInto, RestorePhases, RestoreProgress, TargetTime, TargetTimeline,
    TargetXid, Verify, backup::any_object, named,
};
use crate::{
    archive::LineageId,
    postgres::{Lsn, TimelineId},
};

/// One restore.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "highwater.dev",
    version = "v1alpha1",
    kind = "PgRestore",
    namespaced,
    shortname = "pgr",
    category = "highwater",
    status = "PgRestoreStatus",
    doc = "PgRestore is one restore: volumes made from a backup's snapshots, WAL replayed to the target, handed over as a new StatefulSet, as claims, or in the place of the source's. Otherwise the source is never touched.",
    printcolumn(name = "Into", type_ = "string", json_path = ".status.into"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.plan.backup"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.plan.summary"),
    printcolumn(
        name = "Replayed",
        type_ = "string",
        json_path = ".status.progress.percent"
    ),
    printcolumn(
        name = "Replayed to",
        type_ = "string",
        json_path = ".status.progress.replayedTo",
        priority = 1
    ),
    printcolumn(
        name = "Seconds left",
        type_ = "integer",
        json_path = ".status.progress.remainingSeconds",
        priority = 1
    ),
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
        name = "Timeline",
        type_ = "integer",
        json_path = ".status.plan.timeline",
        priority = 1
    ),
    printcolumn(
        name = "WAL from",
        type_ = "string",
        json_path = ".status.plan.walFrom",
        priority = 1
    ),
    printcolumn(
        name = "WAL to",
        type_ = "string",
        json_path = ".status.plan.walTo",
        priority = 1
    ),
    printcolumn(
        name = "WAL bytes",
        type_ = "integer",
        json_path = ".status.plan.bytes",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec is immutable: create a new PgRestore"))]
#[x_kube(validation = Rule::new("has(self.into) || has(self.verify) || (has(self.planOnly) && self.planOnly)").message("into is missing: give statefulSet, volumes or inPlace, or planOnly: true to see only what would be done"))]
#[x_kube(validation = Rule::new("!has(self.into) || !has(self.verify)").message("into and verify: a drill makes claims of its own and deletes them; leave one of the two out"))]
#[x_kube(validation = Rule::new("!has(self.into) || !has(self.into.inPlace) || !has(self.source.archive)").message("into.inPlace goes with source.protection or source.backup: what is only in an archive has no StatefulSet here"))]
#[serde(rename_all = "camelCase")]
pub struct PgRestoreSpec {
    /// What to restore from.
    pub source: RestoreSource,
    /// Where in time to stop. Default: latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
    /// Where to. A plan alone needs none.
    #[serde(default, skip_serializing_if = "RestoreInto::is_empty")]
    pub into: RestoreInto,
    /// A drill: restore into claims of its own, look at the result, and delete all that was made. Where it fails it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Stop when it is known what would be done: `status.plan` says it, and nothing is made. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_only: Option<bool>,
    /// Keep the new claims of a recovery that failed until this PgRestore is deleted; otherwise they go with the recovery pod, an hour
    /// after it failed. A drill's are kept anyway. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_failed: Option<bool>,
    /// The private key for encrypted WAL. Only recovery reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<Decryption>,
}

/// A file of private keys in a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decryption {
    /// The Secret's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("secretName")))]
    pub secret_name: String,
    /// The key in it whose value is a file as age -i takes it: age identities one a line, SSH private keys without a
    /// passphrase, or both. After a rotation it holds the keys of every generation that is read.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What to restore from, in this namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.protection), has(self.backup), has(self.archive)].filter(x, x).size() == 1").message("give exactly one of protection, backup and archive"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// A PgProtection: the best of its backups is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("protection")))]
    pub protection: Option<String>,
    /// A PgBackup: this one, with the WAL of its lineage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("backup")))]
    pub backup: Option<String>,
    /// A database in an archive, where PgProtection and PgBackup are gone or in another cluster: the best of the backups that its
    /// catalog lists is chosen. Volumes are made only where a cluster admin has put the annotation `highwater.dev/import-from`
    /// with the PgArchive's name on this Namespace, or where a PgProtection allows it (`grantedBy`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSource>,
}

/// A database in an archive.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveSource {
    /// The PgArchive, in this namespace. Credentials that may only read are enough.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("archive")))]
    pub archive: String,
    /// The database's name in the archive: its folder below the prefix, `status.archiveName` of the PgProtection that was.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
        "message": "name must begin and end with a letter or digit, and hold only a-z, 0-9, . and -: it is a folder in the bucket",
    }]))]
    pub name: String,
    /// Which history of it. Needed only where several have backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<LineageId>,
    /// The PgProtection of it in another namespace, which names this one in its `allowRestoreTo`: its backups' snapshots are
    /// restored from without a word of a cluster admin. A plan alone needs it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_by: Option<Grant>,
}

/// A PgProtection in another namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
        "message": "namespace must begin and end with a letter or digit, and hold only a-z, 0-9 and -",
    }]))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("protection")))]
    pub protection: String,
}

/// Where in time to stop: exactly one of latest, time, lsn, xid, name and immediate; none of them, beside timeline, is latest.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.latest), has(self.time), has(self.lsn), has(self.xid), has(self.name), has(self.immediate)].filter(x, x).size() == 1 || (has(self.timeline) && ![has(self.latest), has(self.time), has(self.lsn), has(self.xid), has(self.name), has(self.immediate)].exists(x, x))").message("give exactly one of latest, time, lsn, xid, name and immediate"))]
#[x_kube(validation = Rule::new("!has(self.inclusive) || has(self.time) || has(self.lsn) || has(self.xid)").message("inclusive goes with time, lsn or xid"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreTarget {
    /// Everything the archive has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Latest>,
    /// Everything that was committed by this time, with its time zone: RFC 3339 or as PostgreSQL writes it, as in
    /// 2026-11-20T14:03:12.5Z, 2026-11-20 15:03:12.5+01 or 2026-11-20 14:03:12 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TargetTime>,
    /// Everything up to this position in the WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// Everything up to the commit or the rollback of this transaction. Of a 64-bit id, as `pg_current_xact_id()` gives it, the
    /// epoch is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<TargetXid>,
    /// Everything up to the restore point of this name, as `pg_create_restore_point` made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Nothing beyond the backup itself: the first moment at which it is consistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immediate: Option<Immediate>,
    /// Whether what lies exactly at the target belongs to it. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inclusive: Option<bool>,
    /// The timeline to follow: `Latest`, which is the default, `Current`, which is that of the backup, or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TargetTimeline>,
}

/// No fields: `latest: {}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latest {}

/// No fields: `immediate: {}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Immediate {}

/// What was observed of one restore.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PgRestoreStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is made, as in `statefulset/orders-restored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
    /// What will be done: chosen once, and held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RestorePlan>,
    /// The plan's backup as the archive's catalog describes it, where the source is an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<RestoreBase>,
    /// The new claims: written down before the first is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["claim".into()]))]
    pub volumes: Vec<RestoredVolume>,
    /// What of the source's is exchanged, where it is restored in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlaceStatus>,
    /// How far the replay is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RestoreProgress>,
    /// Seconds that each part took; where the backup's database is still protected, also in its PgProtection, `status.lastRestore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<RestorePhases>,
    /// `Planned` (agent); where the source is an archive, `Planned` (planning pod); `Recovered` (recovery pod); `VolumesReady`, `HandedOver`, `Verified`, `Completed` (controller).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What a restore will do: chosen once from the archive, and held to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePlan {
    /// In a sentence, as in `to 2026-11-20T14:03:12Z on timeline 1`.
    pub summary: String,
    /// The base backup's name.
    pub backup: String,
    /// The key prefix of that backup in the archive: manifest, backup label and tablespace map lie under it.
    pub backup_key: String,
    /// The archive, a PgArchive in this namespace.
    pub archive: String,
    /// The database's name in the archive.
    pub archive_name: String,
    /// The lineage that WAL is read from.
    pub lineage: LineageId,
    /// The timeline to follow: `recovery_target_timeline`.
    pub timeline: TimelineId,
    /// The first WAL that is replayed.
    pub wal_from: Lsn,
    /// Fetch serves nothing beyond this position, whatever the archive gets meanwhile.
    pub wal_to: Lsn,
    /// Where PostgreSQL stops before `walTo`; absent: it replays everything up to `walTo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<StopAt>,
    /// Bytes of WAL to replay.
    pub bytes: i64,
}

/// A backup as an archive's catalog describes it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreBase {
    /// The PgBackup's name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// The StatefulSet that was backed up. One of that name in the restore's namespace counts in place of the recorded spec.
    pub stateful_set_name: String,
    /// The volumes.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["volume".into()]))]
    pub volumes: Vec<BaseVolume>,
    /// The StatefulSet's spec, without literal values of environment variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub stateful_set: Option<serde_json::Value>,
}

/// One volume of a backup as an archive's catalog describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaseVolume {
    /// The PersistentVolumeClaim.
    pub claim: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// Where PostgreSQL's container mounted it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// The CSI driver.
    pub driver: String,
    /// The snapshot's CSI handle.
    pub handle: String,
    /// The claim's capacity in bytes.
    pub capacity: i64,
    /// The least size of a volume made from it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<i64>,
    /// The claim's StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
}

/// A recovery target that PostgreSQL itself stops at: exactly one of `time`, `lsn` and `xid`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StopAt {
    /// `recovery_target_time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<MicroTime>,
    /// `recovery_target_lsn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// `recovery_target_xid`: where WAL is encrypted, so that only recovery can look the transaction up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    /// `recovery_target_inclusive`.
    pub inclusive: bool,
}

/// One claim of a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredVolume {
    /// The new claim.
    pub claim: String,
    /// The volume's name in the source's pod.
    pub volume: String,
    /// The VolumeSnapshot it is made from.
    pub volume_snapshot: String,
    /// Its size in bytes.
    pub size: i64,
}
