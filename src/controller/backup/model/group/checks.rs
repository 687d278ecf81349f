//! The promises about groups, against the truth.

use std::collections::BTreeSet;

use kube::ResourceExt;

use super::{
    super::{CLAIMS, World},
    GroupTruth, Groups, volume_of,
};
use crate::csi::{DeletionPolicy, group::MEMBER_ANNOTATION};

impl GroupTruth {
    /// Cut in this attempt's session, of exactly the database's volumes.
    fn is_whole(&self, attempt: u32) -> bool {
        let volumes: BTreeSet<&String> = self.volumes.iter().collect();
        let expected = CLAIMS.map(volume_of);
        let same = volumes == expected.iter().collect() && self.volumes.len() == CLAIMS.len();
        same && self.attempt == attempt && self.cut_in == Some(attempt)
    }
}

impl Groups {
    /// Whether a claim still has the label of a group.
    pub fn are_labelled(&self) -> bool {
        self.claims.values().any(|claim| claim.label.is_some())
    }

    /// The contents that stay when their group goes.
    pub fn retained(&self) -> impl Iterator<Item = String> {
        let stays = self.contents.iter().filter(|it| {
            it.spec.deletion_policy == DeletionPolicy::Retain
                && it.metadata.deletion_timestamp.is_none()
        });
        stays.map(ResourceExt::name_any)
    }
}

impl World {
    /// How many parts there are of the groups of these attempts, their members' objects apart.
    pub(in super::super) fn groups_left(&self, of: impl Fn(u32) -> bool) -> usize {
        let parts = |uid: &String| {
            let is_group = self.groups.snapshots.iter();
            let is_group = is_group.filter(|it| it.metadata.uid.as_ref() == Some(uid));
            let contents = self.groups.contents.iter();
            let contents =
                contents.filter(|it| it.spec.volume_group_snapshot_ref.uid.as_ref() == Some(uid));
            let handle = format!("g-{uid}");
            let members = self.contents.iter();
            let members =
                members.filter(|it| it.annotations().get(MEMBER_ANNOTATION) == Some(&handle));
            is_group.count() + contents.count() + members.count()
        };
        let left = self.groups.truths.iter();
        let left = left.filter(|(_, truth)| of(truth.attempt));
        left.map(|(uid, truth)| parts(uid) + usize::from(truth.stored))
            .sum()
    }

    /// A backup has one attempt by a group, and it is the first one.
    pub(in super::super) fn check_choice(&mut self, number: u32) {
        if self.base.groups.classes.is_none() {
            return;
        }
        let status = self.status();
        let is_first = self.groups.attempts.is_empty();
        if status.group.is_some_and(|group| group.attempt == number) {
            self.require(is_first, "a second attempt was by a group");
            self.groups.attempts.insert(number);
            return;
        }
        self.require(!is_first, "an attempt was not by a group");
        let why = status.attempt.and_then(|attempt| attempt.one_by_one);
        let is_told = why.is_some_and(|why| why.reason == "GroupGivenUp");
        self.require(is_told, "volumes went one by one, and it is not said why");
    }

    fn recorded_truth(&self) -> Option<GroupTruth> {
        let uid = self.status().group?.volume_group_snapshot_uid?;
        self.groups.truths.get(&uid).cloned()
    }

    /// Backup mode ends.
    pub(in super::super) fn check_stop(&mut self, number: u32) {
        if self.groups.attempts.contains(&number) {
            let truth = self.recorded_truth();
            let is_whole = truth.is_some_and(|truth| truth.is_whole(number));
            self.require(is_whole, "backup mode ended with a group of other volumes");
        }
    }

    /// The promise of `Completed`, of an attempt by a group.
    pub(in super::super) fn check_complete_group(&mut self, number: u32) {
        if !self.groups.attempts.contains(&number) {
            return;
        }
        let status = self.status();
        let truth = self.recorded_truth();
        let is_whole = truth.is_some_and(|truth| truth.is_whole(number));
        self.require(is_whole, "completed with a group of other volumes");
        let Some(group) = status.group.filter(|it| it.attempt == number) else {
            return self.violated("completed without its group");
        };
        let uid = group.volume_group_snapshot_uid.unwrap_or_default();
        let of_group = status.volumes.iter().all(|it| {
            let handle = format!("cut-{uid}-{}", it.volume_handle);
            it.handle.as_ref() == Some(&handle)
        });
        self.require(
            of_group,
            "completed with a snapshot of no member of its group",
        );
        let mut retained = self.groups.retained();
        let is_retained = retained.any(|name| group.content.as_ref() == Some(&name));
        drop(retained);
        self.require(is_retained, "completed before its group was retained");
        self.require(group.retained, "completed, and the group does not say so");
    }
}
