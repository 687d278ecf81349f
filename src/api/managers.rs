//! Field managers: one per writer, so that each owns its own fields.

/// The controller.
pub const CONTROLLER: &str = "highwater-controller";
/// The controller, of [`crate::api::PgProtectionStatus::turn`] alone: its other fields there are applied by another part of it.
pub const TURN: &str = "highwater-controller-turn";
/// The controller, of what came of drills: the condition `Verified` of PgBackup and `lastVerified` of PgProtection.
pub const VERIFICATION: &str = "highwater-controller-verification";
/// The controller, of `lastRestore` of PgProtection alone.
pub const LAST_RESTORE: &str = "highwater-controller-last-restore";
/// The agent of a protected database.
pub const AGENT: &str = "highwater-agent";
/// The planning pod of a restore from an archive.
pub const PLANNING: &str = "highwater-planning";
/// The recovery pod of a restore.
pub const RECOVERY: &str = "highwater-recovery";
