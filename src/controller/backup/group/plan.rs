//! What a group changes in the plan of an attempt. Pure.

use super::{GroupRemoval, GroupSeen};
use crate::{
    api::VolumeStatus,
    controller::backup::{
        attempt::{Running, Seen},
        plan::Step,
        sweep::Removal,
    },
    csi::DeletionPolicy,
};

/// What is to be made next of the attempt's snapshots. Claims may be labelled before backup mode begins; nothing else may
/// be made then.
pub fn creation(running: &Running, in_backup_mode: bool) -> Option<Step> {
    let set = || running.set.clone();
    match (running.set.group(), &running.group) {
        (Some(group), _) if !group.labelled => Some(Step::LabelClaims(set())),
        (Some(_), Some(GroupSeen::Missing)) if in_backup_mode => Some(Step::CreateGroup(set())),
        (Some(_), _) => None,
        (None, _) => {
            let due = |(member, seen): (&VolumeStatus, &Seen)| {
                *seen == Seen::Missing && running.set.is_due(member)
            };
            let any = in_backup_mode && running.members().any(due);
            any.then(|| Step::CreateSnapshots(set()))
        }
    }
}

/// The group's content, if it would outlive the attempt.
pub fn make_deletable(running: &Running) -> Option<Removal> {
    let content = running.group_content_not(DeletionPolicy::Delete)?;
    Some(Removal::Group(GroupRemoval::MakeDeletable {
        content,
        attempt: running.set.attempt().number,
        orphan: false,
    }))
}
