//! Annotations, labels and finalizers.

/// On a StatefulSet: the name of the PgBackupPolicy that protects it.
pub const POLICY: &str = "highwater.dev/policy";
/// On a StatefulSet: any new value takes one backup.
pub const BACKUP_NOW: &str = "highwater.dev/backup-now";
/// On a StatefulSet: with the value `true` no backup is taken by itself, while WAL goes on to be shipped.
pub const PAUSED: &str = "highwater.dev/paused";
/// On a StatefulSet: the Secret with the keys `username` and `password`, where the pod template does not tell.
pub const CREDENTIALS: &str = "highwater.dev/credentials";
/// On a StatefulSet: the container that runs PostgreSQL, where there are several.
pub const CONTAINER: &str = "highwater.dev/container";
/// On a StatefulSet: PostgreSQL's port, where the container declares none and it is not 5432.
pub const PORT: &str = "highwater.dev/port";
/// On a Namespace, where a cluster admin alone writes: the PgArchive in it whose catalogs may choose CSI snapshots to import.
pub const IMPORT_FROM: &str = "highwater.dev/import-from";

/// Label on everything made for a protection: its name.
pub const PROTECTION_LABEL: &str = "highwater.dev/protection";
/// Label on everything made for a backup: its name.
pub const BACKUP_LABEL: &str = "highwater.dev/backup";
/// Label on VolumeSnapshots: the UID of the PgBackup.
pub const BACKUP_UID_LABEL: &str = "highwater.dev/backup-uid";
/// Label on VolumeSnapshots: the attempt they belong to.
pub const ATTEMPT_LABEL: &str = "highwater.dev/attempt";
/// Label on the claims that one VolumeGroupSnapshot selects, while it is made: the UID of the PgBackup, and the attempt.
pub const GROUP_LABEL: &str = "highwater.dev/group-snapshot";
/// Label on everything made for a restore: its name.
pub const RESTORE_LABEL: &str = "highwater.dev/restore";
/// Label on everything made for a restore: the UID of the PgRestore.
pub const RESTORE_UID_LABEL: &str = "highwater.dev/restore-uid";
/// Label on the pods of a StatefulSet made by a restore: its name. Its Service selects by it.
pub const CLONE_LABEL: &str = "highwater.dev/clone";
/// Label on a PgRestore that a policy's `verify` asked for: the name of the protection.
pub const DRILL_LABEL: &str = "highwater.dev/drill-of";
/// Label on a PgProtection that the controller made from a StatefulSet's annotation.
pub const FROM_ANNOTATION_LABEL: &str = "highwater.dev/from-annotation";
/// Label on pods that mount the claim of a `directory` archive: its name.
pub const ARCHIVE_CLAIM_LABEL: &str = "highwater.dev/archive-claim";
/// Label on a PgBackup: retention does not delete it. With the value [`KEEP_POINT_IN_TIME`] every moment since is kept, too; with any
/// other it is kept to its own end.
pub const KEEP_LABEL: &str = "highwater.dev/keep";
/// A value of [`KEEP_LABEL`].
pub const KEEP_POINT_IN_TIME: &str = "point-in-time";
/// The usual label of what made an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "highwater";

/// Finalizer of PgProtection: the agent drops its slots first.
pub const PROTECTION_FINALIZER: &str = "highwater.dev/protection";
/// Finalizer of PgBackup: its snapshots go first, if they may.
pub const BACKUP_FINALIZER: &str = "highwater.dev/backup";
/// Finalizer of PgRestore: what an unfinished restore made goes first.
pub const RESTORE_FINALIZER: &str = "highwater.dev/restore";
