//! An attempt by one VolumeGroupSnapshot instead of a VolumeSnapshot per volume.
//!
//! Which volumes a group holds, its selector decides when the snapshot controller reads it: the claims get a label that no
//! other attempt has ([`act`]), and what the group holds is compared with what was written down before backup mode may end
//! ([`seen`]). Members are read like any other VolumeSnapshot; their names are known once the group has a UID. A backup
//! has one attempt by a group at most: if that is void, the next ones go volume by volume.

pub mod act;
mod build;
mod choose;
mod observe;
mod plan;
mod report;
mod seen;
mod sweep;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use crate::{
    api::{GroupStatus, PgBackup},
    csi::group::{VolumeGroupSnapshot, VolumeGroupSnapshotClass, VolumeGroupSnapshotContent},
};

pub use choose::choose;
pub use observe::{attempt_of_member, observe};
pub use plan::{creation, make_deletable};
pub use report::{group_progress, identify, name_members, settled};
pub use seen::{GroupContent, GroupSeen, check_members, is_member, see};
pub use sweep::{GroupRemoval, is_member_content, sweep};
#[cfg(test)]
pub use {
    build::{build_group, build_group_content_patch, build_group_label},
    observe::{content_names, is_made_for, member_names},
};

/// What a pass has read of groups.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Every class of the cluster, read where the next attempt may be by a group. `None`: the API server does not know the
    /// kind, or nobody asked.
    pub classes: Option<Vec<VolumeGroupSnapshotClass>>,
    /// The VolumeGroupSnapshot of the name that is written down.
    pub snapshots: Vec<VolumeGroupSnapshot>,
    /// Contents that were made for it.
    pub contents: Vec<VolumeGroupSnapshotContent>,
    /// Claims with the label that it selects by.
    pub labelled: Vec<Labelled>,
}

/// A claim with our label, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// Its name.
    pub claim: String,
    /// Its UID.
    pub uid: Option<String>,
    /// Its version: a later one may have another attempt's label.
    pub version: Option<String>,
}

impl Labelled {
    fn of(claim: &PersistentVolumeClaim) -> Self {
        Self {
            claim: claim.name_any(),
            uid: claim.uid(),
            version: claim.resource_version(),
        }
    }
}

/// The group that is written down, of this attempt or of a void one.
pub fn recorded(backup: &PgBackup) -> Option<&GroupStatus> {
    backup.status.as_ref()?.group.as_ref()
}

#[cfg(test)]
mod choose_tests;
#[cfg(test)]
pub mod tests;
