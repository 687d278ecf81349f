//! VolumeSnapshots: types, and what they say. No client.
//!
//! The types hold what Highwater reads and the little that it writes, and drop the rest. So objects that others made are
//! never sent back whole: they are patched (merge), or applied field by field.

mod class;
pub mod group;
mod reading;
mod types;

pub use class::{NoClass, class_for};
pub use reading::{Cut, Reading, bound, content_name, is_content_of, reading};
pub use types::*;

/// The API group of VolumeSnapshots.
pub const GROUP: &str = "snapshot.storage.k8s.io";
/// On a VolumeSnapshotClass: `true` makes it the default of its driver.
pub const DEFAULT_CLASS_ANNOTATION: &str = "snapshot.storage.kubernetes.io/is-default-class";
