//! VolumeGroupSnapshots: types, names, classes, and whether a group holds what was asked for. Pure.
//!
//! The snapshot controller makes a VolumeSnapshot and a VolumeSnapshotContent for each volume once the driver has cut all of
//! them. Their names follow from the group's UID and the volume's handle, and they are read like any other
//! ([`super::reading()`]). What they are made of belongs to the group: only deleting that removes it from the storage.

mod types;

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use sha2::{Digest, Sha256};

pub use types::*;

use super::class::of_driver;

/// The API group of VolumeGroupSnapshots.
pub const API_GROUP: &str = "groupsnapshot.storage.k8s.io";
/// On a VolumeGroupSnapshotClass: `true` makes it the default of its driver.
pub const DEFAULT_GROUP_CLASS_ANNOTATION: &str =
    "groupsnapshot.storage.kubernetes.io/is-default-class";
/// On a VolumeSnapshotContent: it is of a member of a group. The sidecar then leaves its snapshot to the group.
pub const MEMBER_ANNOTATION: &str = "groupsnapshot.storage.k8s.io/volumeGroupSnapshotHandle";
/// On a VolumeGroupSnapshotContent: its group is deleted. Without it the sidecar does not let a deleted content go.
pub const GROUP_DELETED_ANNOTATION: &str =
    "groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-being-deleted";

fn member_hash(group_uid: &str, volume_handle: &str) -> String {
    hex::encode(Sha256::digest(format!("{group_uid}{volume_handle}")))
}

/// The name of a member's VolumeSnapshot.
pub fn member_name(group_uid: &str, volume_handle: &str) -> String {
    format!("snapshot-{}", member_hash(group_uid, volume_handle))
}

/// The name of a member's VolumeSnapshotContent.
pub fn member_content_name(group_uid: &str, volume_handle: &str) -> String {
    format!("snapcontent-{}", member_hash(group_uid, volume_handle))
}

/// The name of the content that the snapshot controller makes for a group. Where to look, not whom to trust.
pub fn group_content_name(group_uid: &str) -> String {
    format!("groupsnapcontent-{group_uid}")
}

/// Whether the content was made for the group: it has the name that only the group's UID gives, and points back by UID. The
/// group's own pointer comes later, and must then be the same.
pub fn is_group_content_of(
    group: &VolumeGroupSnapshot,
    content: &VolumeGroupSnapshotContent,
) -> bool {
    let Some(uid) = group.metadata.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return false;
    };
    let back = &content.spec.volume_group_snapshot_ref;
    let status = group.status.as_ref();
    let bound = status.and_then(|it| it.bound_volume_group_snapshot_content_name.as_ref());
    content.name_any() == group_content_name(uid)
        && bound.is_none_or(|bound| *bound == content.name_any())
        && back.uid.as_deref() == Some(uid)
        && back.name == group.metadata.name
        && back.namespace == group.metadata.namespace
}

/// Whether a group holds exactly the volumes that it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The driver has not answered yet.
    Awaited,
    /// Each volume's snapshot, by the volume's handle.
    Whole(BTreeMap<String, String>),
    /// It holds others, or not all, and never will: the list does not change any more.
    Differs(String),
}

/// Compares what a group's content holds with the volumes that are expected. What is asked of the driver is known before it
/// answers, and is compared first.
pub fn compare(expected: &[String], content: &VolumeGroupSnapshotContent) -> Compared {
    let asked = &content.spec.source.volume_handles;
    if let Some(why) = differs(expected, asked) {
        return Compared::Differs(why);
    }
    let status = content.status.as_ref();
    let list = status.map_or(&[][..], |it| it.volume_snapshot_info_list.as_slice());
    if list.is_empty() {
        return Compared::Awaited;
    }
    let volumes: Vec<String> = list.iter().map(|it| it.volume_handle.clone()).collect();
    if let Some(why) = differs(expected, &volumes) {
        return Compared::Differs(why);
    }
    let snapshots: BTreeSet<&str> = list.iter().map(|it| it.snapshot_handle.as_str()).collect();
    if snapshots.len() != list.len() || snapshots.contains("") {
        return Compared::Differs("its volumes do not have a snapshot each".to_owned());
    }
    let pairs = list
        .iter()
        .map(|it| (it.volume_handle.clone(), it.snapshot_handle.clone()));
    Compared::Whole(pairs.collect())
}

/// How the two lists differ, the order apart.
fn differs(expected: &[String], found: &[String]) -> Option<String> {
    let wanted: BTreeSet<&String> = expected.iter().collect();
    let there: BTreeSet<&String> = found.iter().collect();
    if let Some(missing) = wanted.difference(&there).next() {
        return Some(format!("volume {missing} is not in it"));
    }
    if let Some(more) = there.difference(&wanted).next() {
        return Some(format!("volume {more} is in it, and should not be"));
    }
    (found.len() != there.len()).then(|| "a volume is in it twice".to_owned())
}

/// Why there is no class for a group, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoGroupClass {
    #[error(
        "no VolumeGroupSnapshotClass is of driver {0}: install one, if the driver takes group snapshots"
    )]
    OfDriver(String),
    #[error(
        "several VolumeGroupSnapshotClasses are of driver {driver} ({classes}): mark one as default with the annotation groupsnapshot.storage.kubernetes.io/is-default-class, or name one in the PgBackupPolicy"
    )]
    Ambiguous { driver: String, classes: String },
    #[error(
        "there is no VolumeGroupSnapshotClass {0}: create it, or name another one in the PgBackupPolicy"
    )]
    NotFound(String),
    #[error(
        "VolumeGroupSnapshotClass {class} is of driver {of}, the volumes are on driver {driver}: name a class of that driver in the PgBackupPolicy, or none"
    )]
    DriverMismatch {
        class: String,
        of: String,
        driver: String,
    },
}

impl NoGroupClass {
    /// For conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::OfDriver(_) => "NoGroupClass",
            Self::Ambiguous { .. } => "GroupClassAmbiguous",
            Self::NotFound(_) => "GroupClassNotFound",
            Self::DriverMismatch { .. } => "GroupClassDriverMismatch",
        }
    }
}

/// The class for volumes of `driver`: the one that the policy names, the driver's default, or its only one.
///
/// # Errors
/// There is none, or more than one.
pub fn group_class_for<'a>(
    classes: &'a [VolumeGroupSnapshotClass],
    named: Option<&str>,
    driver: &str,
) -> Result<&'a VolumeGroupSnapshotClass, NoGroupClass> {
    if let Some(name) = named {
        let class = classes.iter().find(|class| class.name_any() == name);
        let class = class.ok_or_else(|| NoGroupClass::NotFound(name.to_owned()))?;
        if class.driver != driver {
            return Err(NoGroupClass::DriverMismatch {
                class: name.to_owned(),
                of: class.driver.clone(),
                driver: driver.to_owned(),
            });
        }
        return Ok(class);
    }
    let fits = |class: &VolumeGroupSnapshotClass| class.driver == driver;
    match of_driver(classes, fits, VolumeGroupSnapshotClass::is_default).as_slice() {
        [class] => Ok(class),
        [] => Err(NoGroupClass::OfDriver(driver.to_owned())),
        several => Err(NoGroupClass::Ambiguous {
            driver: driver.to_owned(),
            classes: super::class::names(several),
        }),
    }
}

#[cfg(test)]
mod tests;
