//! PgBackupPolicy: how a kind of database is protected.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackupSchedule, DurationText, Retention, SizeText, VerificationSchedule, named};

/// How a kind of database is protected.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "highwater.dev",
    version = "v1alpha1",
    kind = "PgBackupPolicy",
    namespaced,
    shortname = "pgp",
    category = "highwater",
    doc = "PgBackupPolicy says how a kind of database is protected: the archive, the snapshots, the deadlines, the WAL.",
    printcolumn(name = "Archive", type_ = "string", json_path = ".spec.archive"),
    printcolumn(
        name = "Schedules",
        type_ = "string",
        json_path = ".spec.schedules[*].cron"
    ),
    printcolumn(
        name = "SnapshotClass",
        type_ = "string",
        json_path = ".spec.snapshot.className"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PgBackupPolicySpec {
    /// The PgArchive, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("archive")))]
    pub archive: String,
    /// When backups are taken by themselves. One backup serves all that are due; what was missed is caught up once; a backup that
    /// is due while another of the database is not finished is left out, and an Event says so. Without schedules, the first of
    /// a lineage, those after a gap, and those that are asked for are all. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<BackupSchedule>,
    /// Which backups are kept; those that are kept by nothing are deleted, one a minute at most for each database. Default: all
    /// are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// When the newest backup is restored beside the database, looked at, and deleted again: a PgRestore with `verify` is made by
    /// itself, and one that has ended stays until three newer ones have. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerificationSchedule>,
    /// How volumes are snapshotted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotPolicy>,
    /// Which member of the database is backed up. `Primary` (default): the one that takes writes. `PreferStandby`: a standby that
    /// streams on the primary's timeline; the primary where there is none, or where the attempt before was of a standby and is
    /// void, and condition Accepted of the PgBackup says why. `Standby`: a standby alone, and the backup waits for one. The
    /// primary takes part all the same: it makes a checkpoint, as `checkpoint` says, and its WAL is what is shipped. Volumes of
    /// a standby are snapshotted one by one with that of pg_control last, when all the others are cut, or by one group.
    #[serde(default)]
    pub backup_from: BackupSource,
    /// `fast` starts a backup with an immediate checkpoint, `spread` spreads the checkpoint's I/O and takes longer.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// How long each part of a backup may take.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// How WAL is shipped.
    #[serde(default)]
    pub wal: WalPolicy,
}

/// How volumes are snapshotted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotPolicy {
    /// The VolumeSnapshotClass. Default: the default class of each volume's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("className")))]
    pub class_name: Option<String>,
    /// When backup mode may end: at the `Cut` of every snapshot (default), or when every snapshot is `Ready`. `Ready` is for
    /// drivers that name a creation time before they have cut; on many clouds it keeps the database in backup mode for the
    /// whole upload, and `deadlines.cut` and `deadlines.backupMode` must allow for that.
    #[serde(default)]
    pub release_at: ReleaseAt,
    /// What a group snapshot of the volumes' driver promises. `Atomic`: it holds all of its volumes as they were at one moment,
    /// so a database on several volumes is backed up by one VolumeGroupSnapshot. Where that cannot be, the volumes are
    /// snapshotted one by one, and condition Accepted of the PgBackup says why. `None` (default): one by one. Say `Atomic`
    /// only if the driver's documentation does.
    #[serde(default)]
    pub group_consistency: GroupConsistency,
    /// The VolumeGroupSnapshotClass. Default: the default class of the volumes' driver, or its only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("groupClassName")))]
    pub group_class_name: Option<String>,
}

/// What a group snapshot of a driver promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupConsistency {
    /// Nothing that a backup could rest on.
    #[default]
    None,
    /// All of its volumes as they were at one moment.
    Atomic,
}

/// What ends backup mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleaseAt {
    /// Every VolumeSnapshotContent has a creation time.
    #[default]
    Cut,
    /// Every VolumeSnapshot is ready to use.
    Ready,
}

impl ReleaseAt {
    /// Whether it is what nobody has to say.
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is serde's"
    )]
    pub(super) const fn is_cut(&self) -> bool {
        matches!(self, Self::Cut)
    }
}

/// Which member of a database is backed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupSource {
    /// The one that takes writes.
    #[default]
    Primary,
    /// A standby, or the primary where there is none.
    PreferStandby,
    /// A standby alone.
    Standby,
}

/// How the checkpoint at the start of a backup is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Checkpoint {
    /// Immediately.
    #[default]
    Fast,
    /// Spread over PostgreSQL's checkpoint interval.
    Spread,
}

/// How long each part of a backup may take: a whole number and one of s, m, h, d.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Deadlines {
    /// From the object's creation to the last snapshot's cut, over all attempts. Default: 1h.
    pub backup: DurationText,
    /// The longest time in backup mode; the agent itself ends it then. Default: 15m.
    pub backup_mode: DurationText,
    /// From the creation of an attempt's snapshots to the cut of the last one. Default: 10m.
    pub cut: DurationText,
    /// From the cut to the moment when every snapshot is ready to use. Default: 24h.
    pub ready: DurationText,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            backup: DurationText::seconds(3600),
            backup_mode: DurationText::seconds(15 * 60),
            cut: DurationText::seconds(10 * 60),
            ready: DurationText::seconds(24 * 3600),
        }
    }
}

/// How WAL is shipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.synchronous) || !self.synchronous || !has(self.transport) || !(self.transport in ['sql', 'archive_command'])",
    "message": "synchronous needs streaming: set transport to Auto or streaming",
}]))]
#[serde(rename_all = "camelCase", default)]
pub struct WalPolicy {
    /// How WAL comes to the archive. `Auto` takes the best that the database allows of streaming and sql, and status says
    /// which and why.
    pub transport: Transport,
    /// How often the unfinished segment's new bytes are shipped. Default: 5s.
    pub tail_interval: DurationText,
    /// Tells PostgreSQL what the archive holds, so that commits can wait for it: name `highwater` in
    /// `synchronous_standby_names`. An acknowledged commit is then in the archive, and commits wait while the archive cannot
    /// be written. Needs streaming. Default: false.
    pub synchronous: bool,
    /// The most WAL that Highwater's replication slot may hold back on a member, where WAL cannot be archived. At half of it
    /// condition SlotWithinCeiling of the PgProtection turns False. Default: 50Gi.
    pub slot_ceiling: SizeText,
    /// What goes first when the ceiling is reached. Default: ProtectDatabase.
    pub on_slot_limit: OnSlotLimit,
    /// Whether standbys hold back WAL too, so that nothing is missing after a failover. Default: WhereBounded.
    pub standby_slots: StandbySlots,
}

impl Default for WalPolicy {
    fn default() -> Self {
        Self {
            transport: Transport::Auto,
            tail_interval: DurationText::seconds(5),
            synchronous: false,
            slot_ceiling: SizeText::bytes(50 << 30),
            on_slot_limit: OnSlotLimit::ProtectDatabase,
            standby_slots: StandbySlots::WhereBounded,
        }
    }
}

/// What goes first when a replication slot holds back as much WAL as it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnSlotLimit {
    /// The archive: the slot lets go of what it holds, WAL may be missing from the archive, and a new backup is taken as soon as WAL is
    /// archived again.
    #[default]
    ProtectDatabase,
    /// The database: the slot stays, and the disk may fill up.
    ProtectArchive,
}

/// Which standbys hold back WAL for the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StandbySlots {
    /// Those whose `max_slot_wal_keep_size` bounds what slots can hold.
    #[default]
    WhereBounded,
    /// All.
    Always,
    /// None: after a failover WAL may be missing that was not shipped before.
    Never,
}

/// How WAL comes to the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Transport {
    /// The best that the database allows.
    #[default]
    Auto,
    /// Sent by the server to a replication connection, which `pg_hba.conf` must allow.
    #[serde(rename = "streaming")]
    Streaming,
    /// Read by SQL over an ordinary connection, held by a physical replication slot.
    #[serde(rename = "sql")]
    Sql,
    /// Archived by PostgreSQL itself, whose `archive_command` is `highwater wal push`; spelled as PostgreSQL's setting. The agent
    /// ships no WAL, holds no slot, and watches what comes into the archive: whole segments only. `Auto` never takes it.
    #[serde(rename = "archive_command")]
    ArchiveCommand,
}
