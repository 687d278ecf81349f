//! The controller: reconciles Highwater's kinds, through the Kubernetes API only.
//!
//! Every controller has the same five files: `observe` (reads), `validate` and `plan` (pure), `act` (one effect),
//! `report` (one status apply, skipped when nothing changed). Each exports `run(ctx)`, which ends only when its watch
//! does; [`run`] joins them, and the first to end ends the process.

pub mod context;
pub mod events;
pub mod metrics;

pub use context::{Class, Context, Image, PassError, drive, error_policy};
pub use events::Events;
