//! Field managers: one per writer, so that each owns its own fields.

/// The controller.
pub const CONTROLLER: &str = "highwater-controller";
/// The agent of a protected database.
pub const AGENT: &str = "highwater-agent";
/// The recovery pod of a restore.
pub const RECOVERY: &str = "highwater-recovery";
