//! What is there of an attempt's group. Pure.

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::{
    api::{GroupStatus, PgBackup, VolumeStatus, annotations},
    controller::backup::attempt::Seen,
    csi::{
        DeletionPolicy, VolumeSnapshot,
        group::{
            Compared, VolumeGroupSnapshot, VolumeGroupSnapshotContent, compare, is_group_content_of,
        },
    },
};

use super::{Groups, recorded};

/// What is there of the group.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupSeen {
    /// Not made yet.
    Missing,
    /// It was there and is not, or is going, or does not hold what was written down. It can never count again.
    Lost(String),
    /// It is there.
    There(Box<GroupThere>),
}

/// A VolumeGroupSnapshot that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupThere {
    /// Its UID.
    pub uid: String,
    /// When the API server made it.
    pub made_at: Option<Timestamp>,
    /// What driver, sidecar or controller say.
    pub trouble: Option<String>,
    /// Its content.
    pub content: Option<GroupContent>,
    /// Whether it holds what it must.
    pub compared: Compared,
}

/// A VolumeGroupSnapshotContent, as far as it is patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupContent {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What happens to the snapshots with it.
    pub policy: DeletionPolicy,
    /// The group snapshot's CSI handle.
    pub handle: Option<String>,
}

impl GroupContent {
    /// Of this object.
    pub fn of(content: &VolumeGroupSnapshotContent) -> Self {
        let status = content.status.as_ref();
        Self {
            name: content.name_any(),
            uid: content.uid().unwrap_or_default(),
            policy: content.spec.deletion_policy,
            handle: status.and_then(|status| status.volume_group_snapshot_handle.clone()),
        }
    }
}

impl GroupSeen {
    /// Whether the driver has answered with exactly the volumes that were written down.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::There(there) if matches!(there.compared, Compared::Whole(_)))
    }

    /// Its content.
    pub fn content(&self) -> Option<&GroupContent> {
        match self {
            Self::There(there) => there.content.as_ref(),
            Self::Missing | Self::Lost(_) => None,
        }
    }
}

/// Whether the labels say that the group was made for this attempt of this backup.
pub(super) fn is_ours(group: &VolumeGroupSnapshot, backup: &PgBackup, attempt: u32) -> bool {
    let labels = group.labels();
    backup.metadata.uid.is_some()
        && labels.get(annotations::BACKUP_UID_LABEL) == backup.metadata.uid.as_ref()
        && labels.get(annotations::ATTEMPT_LABEL) == Some(&attempt.to_string())
}

/// Whether the snapshot belongs to the group that is written down: the snapshot controller has made the group its owner.
pub fn is_member(backup: &PgBackup, snapshot: &VolumeSnapshot) -> bool {
    let Some(group) = recorded(backup) else {
        return false;
    };
    let uid = group.volume_group_snapshot_uid.as_ref();
    snapshot.owner_references().iter().any(|owner| {
        owner.kind == VolumeGroupSnapshot::kind(&())
            && owner.name == group.volume_group_snapshot
            && uid.is_none_or(|uid| owner.uid == *uid)
    })
}

/// What is there of `group`. Once a UID, a content or a handle is written down, nothing else counts.
pub fn see(backup: &PgBackup, group: &GroupStatus, groups: &Groups) -> GroupSeen {
    let name = &group.volume_group_snapshot;
    let Some(snapshot) = groups.snapshots.iter().find(|it| it.name_any() == *name) else {
        return match &group.volume_group_snapshot_uid {
            None => GroupSeen::Missing,
            Some(_) => GroupSeen::Lost(format!("VolumeGroupSnapshot {name} is gone")),
        };
    };
    let content = groups
        .contents
        .iter()
        .find(|content| is_group_content_of(snapshot, content));
    let compared = content.map_or(Compared::Awaited, |content| {
        compare(&group.volume_handles, content)
    });
    if let Some(why) = lost(backup, group, snapshot, content, &compared) {
        return GroupSeen::Lost(why);
    }
    GroupSeen::There(Box::new(GroupThere {
        uid: snapshot.uid().unwrap_or_default(),
        made_at: snapshot.creation_timestamp().map(|time| time.0),
        trouble: trouble(snapshot, content),
        content: content.map(GroupContent::of),
        compared,
    }))
}

/// Why what is there is not, or not for long, what was written down.
fn lost(
    backup: &PgBackup,
    group: &GroupStatus,
    snapshot: &VolumeGroupSnapshot,
    content: Option<&VolumeGroupSnapshotContent>,
    compared: &Compared,
) -> Option<String> {
    let name = &group.volume_group_snapshot;
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Some(format!("VolumeGroupSnapshot {name} is being deleted"));
    }
    match &group.volume_group_snapshot_uid {
        Some(uid) if snapshot.metadata.uid.as_ref() != Some(uid) => {
            return Some(format!(
                "VolumeGroupSnapshot {name} was replaced by another one"
            ));
        }
        None if !is_ours(snapshot, backup, group.attempt) => {
            return Some(format!(
                "there is a VolumeGroupSnapshot {name} that Highwater did not make: delete it"
            ));
        }
        Some(_) | None => {}
    }
    if let Compared::Differs(why) = compared {
        return Some(format!(
            "VolumeGroupSnapshot {name} does not hold the volumes that were written down ({why}): look for who changes the labels of the claims"
        ));
    }
    if let Some(content) = content.filter(|it| it.metadata.deletion_timestamp.is_some()) {
        let name = content.name_any();
        return Some(format!(
            "VolumeGroupSnapshotContent {name} is being deleted"
        ));
    }
    let recorded = group.content.as_ref()?;
    let Some(content) = content.map(GroupContent::of) else {
        return Some(format!("VolumeGroupSnapshotContent {recorded} is gone"));
    };
    (group.handle.is_some() && group.handle != content.handle)
        .then(|| format!("VolumeGroupSnapshotContent {recorded} has another snapshot"))
}

fn trouble(
    snapshot: &VolumeGroupSnapshot,
    content: Option<&VolumeGroupSnapshotContent>,
) -> Option<String> {
    let of_content = content.and_then(|it| it.status.as_ref()?.error.as_ref());
    let of_group = snapshot.status.as_ref().and_then(|it| it.error.as_ref());
    of_content.or(of_group)?.message.clone()
}

/// A member whose content has another snapshot than the driver answered with is lost, too.
pub fn check_members(group: &GroupSeen, members: &[VolumeStatus], seen: &mut [Seen]) {
    let GroupSeen::There(there) = group else {
        return;
    };
    let Compared::Whole(snapshots) = &there.compared else {
        return;
    };
    for (member, seen) in members.iter().zip(seen) {
        let cut = match seen {
            Seen::There(there) => there.reading.cut(),
            Seen::Missing | Seen::Lost(_) => None,
        };
        let other = cut.filter(|cut| snapshots.get(&member.volume_handle) != Some(&cut.handle));
        if let Some(cut) = other {
            *seen = Seen::Lost(format!(
                "VolumeSnapshotContent {} has another snapshot than its group",
                cut.content
            ));
        }
    }
}
