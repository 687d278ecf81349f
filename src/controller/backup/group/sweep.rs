//! What is left of a void attempt's group, and the next removal of each part. Pure.
//!
//! What the members are made of goes with the group's content and with nothing else: a member's own content, deleted alone,
//! leaves its snapshot behind in the storage. So all contents become deletable first, then the group goes and takes them
//! along, and only what it has not taken is deleted by itself.

use kube::ResourceExt;

use super::{
    GroupContent, Groups, Labelled,
    observe::is_content_of_member,
    recorded,
    seen::{is_member, is_ours},
};
use crate::{
    api::{GroupStatus, annotations, conditions},
    controller::backup::{
        attempt::Content,
        observe::Observed,
        sweep::{Keep, Removal},
    },
    csi::{
        DeletionPolicy, VolumeSnapshot, VolumeSnapshotContent,
        group::{
            GROUP_DELETED_ANNOTATION, MEMBER_ANNOTATION, VolumeGroupSnapshot,
            VolumeGroupSnapshotContent,
        },
    },
};

/// The next thing to do about a part of a group that is left over.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRemoval {
    /// Take the label off a claim.
    Unlabel(Labelled),
    /// Make the content go with its group.
    MakeDeletable {
        /// The content.
        content: GroupContent,
        /// The attempt that it was made for.
        attempt: u32,
        /// Its group is gone: the sidecar has to be told.
        orphan: bool,
    },
    /// Delete the VolumeGroupSnapshot.
    DeleteSnapshot {
        /// Its name.
        name: String,
        /// Its UID: another one of that name stays.
        uid: String,
    },
    /// Delete a content whose VolumeGroupSnapshot is gone.
    DeleteContent(GroupContent),
}

/// The next removals. Empty when nothing is left.
pub fn sweep(observed: &Observed, keep: Keep) -> Vec<Removal> {
    let backup = &observed.backup;
    let Some(group) = recorded(backup) else {
        return Vec::new();
    };
    let void = match keep {
        Keep::None => true,
        Keep::Attempt(kept) => kept != group.attempt,
    };
    // From the cut on the group's volumes are fixed.
    let status = backup.status.as_ref();
    let cut = status.is_some_and(|it| conditions::is_true(&it.conditions, conditions::CUT));
    let mut removals = Vec::new();
    if void || cut {
        let labelled = observed.groups.labelled.iter().cloned();
        removals.extend(labelled.map(GroupRemoval::Unlabel).map(Removal::Group));
    }
    if void {
        removals.extend(Left::of(observed, group).removals());
    }
    removals
}

/// What is there of a void group.
struct Left<'a> {
    attempt: u32,
    groups: Vec<&'a VolumeGroupSnapshot>,
    contents: &'a [VolumeGroupSnapshotContent],
    members: Vec<&'a VolumeSnapshot>,
    member_contents: Vec<&'a VolumeSnapshotContent>,
}

impl<'a> Left<'a> {
    fn of(observed: &'a Observed, group: &GroupStatus) -> Self {
        let Observed {
            backup,
            snapshots,
            contents,
            groups,
            protection: _,
            policy: _,
            ahead: _,
            source: _,
            scope_goes: _,
            read_by: _,
            full: _,
            replaced: _,
        } = observed;
        let Groups {
            classes: _,
            snapshots: group_snapshots,
            contents: group_contents,
            labelled: _,
        } = groups;
        let ours = |it: &&VolumeGroupSnapshot| is_ours(it, backup, group.attempt);
        let of_group = |it: &&VolumeSnapshot| is_member(backup, it);
        Self {
            attempt: group.attempt,
            groups: group_snapshots.iter().filter(ours).collect(),
            contents: group_contents,
            members: snapshots.iter().filter(of_group).collect(),
            member_contents: contents
                .iter()
                .filter(is_member_content)
                .filter(|content| is_content_of_member(observed, group, content))
                .collect(),
        }
    }

    fn removals(&self) -> Vec<Removal> {
        let policies = self.policies();
        if !policies.is_empty() {
            return policies;
        }
        if !self.groups.is_empty() {
            return self.groups.iter().copied().map(remove_group).collect();
        }
        if !self.contents.is_empty() {
            return self.contents.iter().map(remove_content).collect();
        }
        let members = self.members.iter().copied().map(remove_member);
        let alone = self.member_contents.iter().copied();
        let alone = alone.filter(|content| !self.has_member(content));
        members.chain(alone.map(remove_member_content)).collect()
    }

    /// What would keep a content, or its snapshot, when the group goes.
    fn policies(&self) -> Vec<Removal> {
        let deletable = |content: &'a VolumeGroupSnapshotContent| {
            let orphan = self.is_orphan(content);
            let told = content.annotations().contains_key(GROUP_DELETED_ANNOTATION);
            let stays = content.spec.deletion_policy != DeletionPolicy::Delete;
            (stays || orphan && !told).then(|| {
                Removal::Group(GroupRemoval::MakeDeletable {
                    content: GroupContent::of(content),
                    attempt: self.attempt,
                    orphan,
                })
            })
        };
        let member = |content: &&'a VolumeSnapshotContent| {
            let labelled = content.labels().contains_key(annotations::BACKUP_UID_LABEL);
            let stays = content.spec.deletion_policy != DeletionPolicy::Delete;
            (stays || !labelled).then(|| Removal::MakeDeletable {
                content: Content::of(content),
                attempt: self.attempt,
            })
        };
        let groups = self.contents.iter().filter_map(deletable);
        groups
            .chain(self.member_contents.iter().filter_map(member))
            .collect()
    }

    fn is_orphan(&self, content: &VolumeGroupSnapshotContent) -> bool {
        let of = &content.spec.volume_group_snapshot_ref.uid;
        self.groups.iter().all(|group| group.metadata.uid != *of)
    }

    fn has_member(&self, content: &VolumeSnapshotContent) -> bool {
        let of = &content.spec.volume_snapshot_ref.name;
        self.members.iter().any(|it| it.metadata.name == *of)
    }
}

/// Whether it is of a member of a group; only those of this backup are read.
pub fn is_member_content(content: &&VolumeSnapshotContent) -> bool {
    content.annotations().contains_key(MEMBER_ANNOTATION)
}

fn remove_group(group: &VolumeGroupSnapshot) -> Removal {
    if group.metadata.deletion_timestamp.is_some() {
        return Removal::Going;
    }
    Removal::Group(GroupRemoval::DeleteSnapshot {
        name: group.name_any(),
        uid: group.uid().unwrap_or_default(),
    })
}

fn remove_content(content: &VolumeGroupSnapshotContent) -> Removal {
    if content.metadata.deletion_timestamp.is_some() {
        return Removal::Going;
    }
    Removal::Group(GroupRemoval::DeleteContent(GroupContent::of(content)))
}

fn remove_member(snapshot: &VolumeSnapshot) -> Removal {
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Removal::Going;
    }
    Removal::DeleteSnapshot {
        name: snapshot.name_any(),
        uid: snapshot.uid().unwrap_or_default(),
    }
}

fn remove_member_content(content: &VolumeSnapshotContent) -> Removal {
    if content.metadata.deletion_timestamp.is_some() {
        return Removal::Going;
    }
    Removal::DeleteContent(Content::of(content))
}
