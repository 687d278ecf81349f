//! The contract: what admins write and read, and how controller, agent and recovery pod speak to each other.
//!
//! Types only. Each status field and each condition has exactly one writer, named in its module; a writer applies a
//! status that holds its own fields and nothing else (server-side apply, the field managers of [`managers`]).

pub mod annotations;
mod archive;
mod backup;
mod backup_policy;
mod borrowed;
pub mod conditions;
pub mod crds;
mod duration;
mod in_place;
mod into;
pub mod managers;
pub mod named;
pub mod names;
mod preflight;
mod progress;
mod protection;
mod restore;
mod retention;
mod schedule;
mod size;
mod store;
mod target;
mod verify;

pub use archive::*;
pub use backup::*;
pub use backup_policy::*;
pub use duration::{DurationParseError, DurationText};
pub use in_place::{ExchangedClaim, InPlaceStatus, IntoInPlace, KeptVolume, RecoveredVolume};
pub use into::*;
pub use preflight::{Preflight, Room};
pub use progress::{LastRestore, RestorePhases, RestoreProgress};
pub use protection::*;
pub use restore::*;
pub use retention::{
    DeletedWal, ExpiredBackup, ExpiredWal, Keep, KeptFor, LastExpired, Retention, RetentionStatus,
};
pub use schedule::{BackupSchedule, ScheduleStatus, VerificationSchedule};
pub use size::{SizeParseError, SizeText};
pub use store::*;
pub use target::{TargetTime, TargetTimeline, TargetXid};
pub use verify::{
    CheckName, LastVerified, PassedCheck, PullPolicy, Verify, VerifyCheck, VerifyProgram,
};

/// The API group of Highwater's kinds.
pub const GROUP: &str = "highwater.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";
