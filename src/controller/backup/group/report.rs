//! A group in the status. Pure.

use kube::ResourceExt;

use super::{GroupSeen, Groups, seen::is_ours};
use crate::{
    api::{GroupStatus, VolumeStatus},
    controller::backup::{Error, act::Acted, attempt::Running, observe::Observed},
    csi::{DeletionPolicy, group::member_name},
};

/// The attempt's group with what is there of it; `None` where it has none. What is written down is never taken back.
pub fn group_progress(running: &Running, outcome: &Result<Acted, Error>) -> Option<GroupStatus> {
    let mut group = running.set.group()?.clone();
    let acted = outcome.as_ref().ok();
    group.labelled |= acted.is_some_and(|acted| acted.labelled);
    match &running.group {
        Some(GroupSeen::There(there)) => {
            group.volume_group_snapshot_uid = Some(there.uid.clone());
            if let Some(content) = there.content.as_ref().filter(|_| running.is_whole()) {
                group.content = Some(content.name.clone());
                group.handle.clone_from(&content.handle);
            }
            let policy = there.content.as_ref().map(|content| content.policy);
            group.retained = running.agent.catalogued && policy == Some(DeletionPolicy::Retain);
        }
        Some(GroupSeen::Missing) => {
            let made = acted.and_then(|acted| acted.group.as_ref());
            group.volume_group_snapshot_uid = made.and_then(ResourceExt::uid);
        }
        Some(GroupSeen::Lost(_)) | None => {}
    }
    Some(group)
}

/// The group of a backup that is completed: where no claim has its label any more, nothing of it is left to be looked after.
pub fn settled(group: Option<GroupStatus>, seen: &Groups) -> Option<GroupStatus> {
    group.map(|group| GroupStatus {
        labelled: group.labelled && !seen.labelled.is_empty(),
        ..group
    })
}

/// Writes down the UID of a group that was made for this attempt, also where it does not count: by it members are found when
/// the group is gone.
pub fn identify(observed: &Observed, group: &mut GroupStatus) {
    let (backup, name) = (&observed.backup, &group.volume_group_snapshot);
    let mut there = observed.groups.snapshots.iter();
    let ours = there.find(|it| it.name_any() == *name && is_ours(it, backup, group.attempt));
    if group.volume_group_snapshot_uid.is_none() {
        group.volume_group_snapshot_uid = ours.and_then(ResourceExt::uid);
    }
}

/// Once the group has a UID, its members' names are known.
pub fn name_members(group: &GroupStatus, volumes: &mut [VolumeStatus]) {
    let Some(uid) = &group.volume_group_snapshot_uid else {
        return;
    };
    for volume in volumes {
        volume.volume_snapshot = member_name(uid, &volume.volume_handle);
    }
}
