//! PgProtection: one protected database.
//!
//! Written by the controller: `observedGeneration`, `archiveName`, `members`, `lastBackup`, `lastVerified`, `lastRestore`,
//! `lastExpired`, `schedules`, `verification`, `backupNow`, `turn`, conditions `Active`, `Safe`, `Scheduled`,
//! `WithinRetention`.
//! Written by the agent: `lineage`, `primary`, `standbys`, `database`, `wal`, `preflight`, `storeFindings`, `recoverable`,
//! `retention`, conditions `Connected`, `WalArchiving`, `SlotWithinCeiling`, `Recoverable`, `SlotsDropped`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    LastExpired, LastRestore, LastVerified, Preflight, RetentionStatus, ScheduleStatus,
    StoreFindings, Transport, named,
};
use crate::{
    archive::LineageId,
    postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId},
};

/// One protected database.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "highwater.dev",
    version = "v1alpha1",
    kind = "PgProtection",
    namespaced,
    shortname = "pgx",
    category = "highwater",
    status = "PgProtectionStatus",
    doc = "PgProtection is one protected database: made by hand, or by Highwater from a StatefulSet's annotation highwater.dev/policy. Its status says what can be recovered.",
    printcolumn(
        name = "StatefulSet",
        type_ = "string",
        json_path = ".spec.statefulSet"
    ),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policy"),
    printcolumn(
        name = "LastBackup",
        type_ = "date",
        json_path = ".status.lastBackup.at"
    ),
    printcolumn(
        name = "From",
        type_ = "string",
        json_path = ".status.recoverable.from"
    ),
    printcolumn(name = "To", type_ = "string", json_path = ".status.recoverable.to"),
    printcolumn(
        name = "LagBytes",
        type_ = "integer",
        json_path = ".status.wal.lagBytes"
    ),
    printcolumn(
        name = "Verified",
        type_ = "date",
        json_path = ".status.lastVerified.at"
    ),
    printcolumn(
        name = "Safe",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Safe")].status"#
    ),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Safe")].reason"#
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Safe")].message"#,
        priority = 1
    ),
    printcolumn(
        name = "Lineage",
        type_ = "string",
        json_path = ".status.lineage",
        priority = 1
    ),
    printcolumn(
        name = "Transport",
        type_ = "string",
        json_path = ".status.wal.transport",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = Rule::new("self.statefulSet == oldSelf.statefulSet").message("statefulSet cannot be changed: create a new PgProtection"))]
#[x_kube(validation = Rule::new("(has(self.archiveName) ? self.archiveName : '') == (has(oldSelf.archiveName) ? oldSelf.archiveName : '')").message("archiveName cannot be changed: create a new PgProtection"))]
#[serde(rename_all = "camelCase")]
pub struct PgProtectionSpec {
    /// The StatefulSet that runs PostgreSQL, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("statefulSet")))]
    pub stateful_set: String,
    /// The PgBackupPolicy, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("policy")))]
    pub policy: String,
    /// The database's name in the archive. Default: `<namespace>-<statefulset>`. Cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
        "message": "archiveName must begin and end with a letter or digit, and hold only a-z, 0-9, . and -: it is a folder in the bucket",
    }]))]
    pub archive_name: Option<String>,
    /// What cannot be found out from the pod template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Names of volumes of the pod that no backup needs. All other volumes with a claim are snapshotted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub exclude_volumes: Vec<String>,
    /// Namespaces whose PgRestores may restore this database (`spec.source.archive.grantedBy`). Whoever may create PgRestores there
    /// then has all of its data. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.all(name, name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'))",
        "message": "allowRestoreTo lists namespaces by their names, as in shop-test: there are no wildcards",
    }]))]
    pub allow_restore_to: Vec<String>,
}

/// How PostgreSQL is reached, where the pod template does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The container that runs PostgreSQL. Default: found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// The port. Default: the container's declared one, or 5432.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The database to connect to. Default: postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub database: Option<String>,
    /// The Secret with user and password. Default: what the pod template's environment names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<DatabaseCredentials>,
}

/// A Secret with user and password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseCredentials {
    /// The Secret's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("secretName")))]
    pub secret_name: String,
    /// The key with the user. Default: username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub user_key: Option<String>,
    /// The key with the password. Default: password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub password_key: Option<String>,
}

/// What was observed of a protected database.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PgProtectionStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The database's name in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_name: Option<String>,
    /// The pods of the StatefulSet that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub members: Vec<Member>,
    /// The newest completed backup of the lineage, on the branch that the database is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
    /// The last drill that one of its backups passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<LastVerified>,
    /// What the last completed restore of it took, a drill or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restore: Option<LastRestore>,
    /// The PgBackup that retention deleted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_expired: Option<LastExpired>,
    /// The policy's schedules, as they count for this database; those that are suspended or cannot be understood are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<ScheduleStatus>,
    /// The policy's `verify`, as it counts for this database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<ScheduleStatus>,
    /// The value of the StatefulSet's annotation highwater.dev/backup-now that a backup was made for last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_now: Option<String>,
    /// The backup whose turn it is, or was last: no other one of this database begins while that attempt goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// Which unbroken history in the archive is this database's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<LineageId>,
    /// The member that takes writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Primary>,
    /// Pods that stream from the primary, or from one that does, on its timeline: a backup may be of one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub standbys: Vec<String>,
    /// What PostgreSQL says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseFacts>,
    /// How WAL is shipped and how far it is. Positions are at most a minute old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalStatus>,
    /// What the primary has left of what a backup needs. Absent while it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// What the agent found out about the archive's store when it last began to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_findings: Option<StoreFindings>,
    /// From when to when the database can be recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoverable: Option<RecoveryWindow>,
    /// What the policy's `retention` keeps of the lineage's backups, and what goes; with `dryRun`, what would. Absent without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Box<RetentionStatus>>,
    /// `Active`, `Safe`, `Scheduled`, `WithinRetention` (controller); `Connected`, `WalArchiving`, `SlotWithinCeiling`, `Recoverable`, `SlotsDropped` (agent).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A pod of the StatefulSet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The pod's name.
    pub pod: String,
    /// The pod's UID: a pod that was replaced is another one.
    pub uid: String,
    /// The pod's IP address.
    pub address: String,
}

/// The newest completed backup of the lineage, on the branch that the database is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// The PgBackup's name.
    pub name: String,
    /// When its backup mode ended, by PostgreSQL's clock.
    pub at: MicroTime,
}

/// The backup whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Turn {
    /// The PgBackup's name.
    pub backup: String,
    /// The PgBackup's UID: one that was made anew is another one.
    pub uid: String,
    /// The attempt that begins now, or has begun.
    pub attempt: u32,
}

/// The member that takes writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Primary {
    /// The pod's name.
    pub pod: String,
    /// The timeline it writes.
    pub timeline: TimelineId,
}

/// What PostgreSQL says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseFacts {
    /// The identifier that initdb gave the cluster.
    pub system_identifier: SystemIdentifier,
    /// The major version, as in 15.
    pub major_version: i32,
    /// The size of a WAL segment in bytes.
    pub segment_size: SegmentSize,
    /// PGDATA, as the container sees it.
    pub data_directory: String,
    /// Where `pg_wal` lies if it is a link out of PGDATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_directory: Option<String>,
    /// Where tablespaces lie, as the container sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<String>,
}

/// How WAL is shipped and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WalStatus {
    /// The transport in use.
    pub transport: Transport,
    /// Why this one.
    pub reason: String,
    /// The replication slot that holds WAL for us. None with transport archive_command, once what it held is archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Whether commits can wait for the archive: PostgreSQL is told what the archive holds.
    #[serde(default)]
    pub synchronous: bool,
    /// Standbys that hold WAL for us too, in a slot of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub standby_slots: Vec<String>,
    /// The primary's setting `max_slot_wal_keep_size`: beyond it PostgreSQL itself gives up what slots hold; -1 is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_slot_wal_keep_size: Option<String>,
    /// Every byte up to here is durable in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_through: Option<Lsn>,
    /// Bytes that PostgreSQL has flushed and the archive does not have yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
}

/// From when to when a database can be recovered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryWindow {
    /// The earliest time: the end of the oldest usable backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<MicroTime>,
    /// The latest time: everything committed before it is in the archive. Told at most a minute late, and while nothing is
    /// written five; a restore plans with what is so then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MicroTime>,
    /// WAL from here on follows a gap, and no backup leads to it yet: Highwater takes one by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_needed_from: Option<Lsn>,
    /// The same by timeline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub timelines: Vec<TimelineWindow>,
}

/// What can be recovered on one timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelineWindow {
    /// The timeline.
    pub id: TimelineId,
    /// WAL is there from this position.
    pub from: Lsn,
    /// WAL is there up to this position.
    pub to: Lsn,
    /// Where it left the timeline that it came of. The first has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Fork>,
    /// Bytes of its own whole segments, as they lie in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,
    /// The latest commit time in its own WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<MicroTime>,
    /// Ranges in between that are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub gaps: Vec<Gap>,
}

/// Where a timeline left another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fork {
    /// The older timeline.
    pub timeline: TimelineId,
    /// Where it was left.
    pub at: Lsn,
}

/// A range of WAL that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// The first missing position.
    pub from: Lsn,
    /// The first position that is there again.
    pub to: Lsn,
}
