//! Whether the next attempt is made by a group. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::{
    api::{GroupConsistency, GroupStatus, Instead, SnapshotPolicy, VolumeStatus, names},
    controller::backup::observe::Observed,
    csi::group::{NoGroupClass, group_class_for},
};

use super::recorded;

/// Why the volumes are snapshotted one by one although the policy asks for a group, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoGroup {
    #[error(
        "the API server has no VolumeGroupSnapshots (groupsnapshot.storage.k8s.io/v1): install the CRDs of external-snapshotter 8.6 or later, and set the feature gate CSIVolumeGroupSnapshot of snapshot-controller and csi-snapshotter where it is off"
    )]
    NotServed,
    #[error(
        "the volumes are of several drivers ({0}), and a group has one: put them on one StorageClass"
    )]
    SeveralDrivers(String),
    #[error(transparent)]
    NoClass(#[from] NoGroupClass),
    #[error(
        "attempt {0} was made by a group and is void; the others of this backup are not: the reason was in condition Accepted, and is in its Events"
    )]
    GivenUp(u32),
}

impl NoGroup {
    /// For conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotServed => "GroupSnapshotsNotServed",
            Self::SeveralDrivers(_) => "GroupOfSeveralDrivers",
            Self::NoClass(none) => none.reason(),
            Self::GivenUp(_) => "GroupGivenUp",
        }
    }

    /// As it is written down.
    pub fn told(&self) -> Instead {
        Instead {
            reason: self.reason().to_owned(),
            message: self.to_string(),
        }
    }
}

/// Whether the policy asks for groups.
pub(super) fn wanted(policy: Option<&SnapshotPolicy>) -> bool {
    match policy.map(|policy| policy.group_consistency) {
        Some(GroupConsistency::Atomic) => true,
        Some(GroupConsistency::None) | None => false,
    }
}

/// The group of the next attempt; `None` where nobody asks for one, or one volume is the whole.
///
/// # Errors
/// The policy asks for a group, and there can be none.
pub fn choose(
    observed: &Observed,
    members: &[VolumeStatus],
    attempt: u32,
) -> Result<Option<GroupStatus>, NoGroup> {
    let policy = observed.policy.as_ref();
    let policy = policy.and_then(|policy| policy.spec.snapshot.as_ref());
    if !wanted(policy) || members.len() < 2 {
        return Ok(None);
    }
    let backup = &observed.backup;
    if let Some(before) = recorded(backup) {
        return Err(NoGroup::GivenUp(before.attempt));
    }
    let classes = observed.groups.classes.as_ref();
    let classes = classes.ok_or(NoGroup::NotServed)?;
    let drivers: BTreeSet<&str> = members.iter().map(|it| it.driver.as_str()).collect();
    let mut drivers = drivers.into_iter();
    let driver = match (drivers.next(), drivers.next()) {
        (Some(driver), None) => driver,
        (first, second) => {
            let all = first.into_iter().chain(second).chain(drivers);
            let all: Vec<&str> = all.collect();
            return Err(NoGroup::SeveralDrivers(all.join(", ")));
        }
    };
    let named = policy.and_then(|policy| policy.group_class_name.as_deref());
    let uid = backup.uid().unwrap_or_default();
    Ok(Some(GroupStatus {
        attempt,
        volume_group_snapshot: names::volume_group_snapshot(&backup.name_any(), &uid, attempt),
        class_name: group_class_for(classes, named, driver)?.name_any(),
        volume_handles: members.iter().map(|it| it.volume_handle.clone()).collect(),
        labelled: false,
        volume_group_snapshot_uid: None,
        content: None,
        handle: None,
        retained: false,
    }))
}
