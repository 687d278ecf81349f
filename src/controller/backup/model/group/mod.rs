//! VolumeGroupSnapshots: what a controller reads and writes of them, and their truth.

mod checks;
mod driver;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{Mistake, World, object};
use crate::{
    api::{GroupStatus, annotations},
    controller::backup::{
        act::Acted,
        group::{
            GroupContent, GroupRemoval, Labelled, build_group, build_group_content_patch,
            build_group_label, content_names, is_made_for, member_names, recorded,
        },
        observe::{Observed, Search, is_accepted, merge, search},
        plan::{Plan, Step},
        sweep::Removal,
    },
    csi::{
        DeletionPolicy,
        group::{VolumeGroupSnapshot, VolumeGroupSnapshotContent, VolumeSnapshotInfo},
    },
};

/// Something that happens about a group.
#[derive(Clone, Copy, Debug)]
pub enum GroupEvent {
    /// Somebody puts the label on a claim that is not the database's, or takes it off one.
    Label(u8),
    /// What the driver will answer next.
    Answer(Answer),
    /// A user deletes the group.
    Delete,
}

/// A driver's answer that is not the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A volume is missing.
    Missing,
    /// One is in it that nobody asked for.
    More,
    /// None: it failed.
    Fails,
}

/// A claim of the namespace.
#[derive(Clone, Debug, Default)]
struct Claim {
    label: Option<String>,
    version: u64,
}

/// The truth about one group.
#[derive(Clone, Debug, Default)]
struct GroupTruth {
    attempt: u32,
    /// The session that was live at the moment of the cut.
    cut_in: Option<u32>,
    /// The volumes that it was cut of.
    volumes: Vec<String>,
    /// The storage has its snapshots.
    stored: bool,
}

/// What there is of groups.
#[derive(Default)]
pub struct Groups {
    pub snapshots: Vec<VolumeGroupSnapshot>,
    pub contents: Vec<VolumeGroupSnapshotContent>,
    /// The attempts that were to be by a group.
    pub attempts: BTreeSet<u32>,
    claims: BTreeMap<String, Claim>,
    truths: BTreeMap<String, GroupTruth>,
    answer: Option<Answer>,
}

/// The CSI handle of a claim's volume.
fn volume_of(claim: &str) -> String {
    format!("h-{claim}")
}

impl Groups {
    fn label(&mut self, claim: &str, label: Option<String>) {
        let claim = self.claims.entry(claim.to_owned()).or_default();
        claim.version += 1;
        claim.label = label;
    }

    fn labelled(&self, label: &str) -> Vec<Labelled> {
        let ours = |(_, claim): &(&String, &Claim)| claim.label.as_deref() == Some(label);
        let read = |(name, claim): (&String, &Claim)| Labelled {
            claim: name.clone(),
            uid: None,
            version: Some(claim.version.to_string()),
        };
        self.claims.iter().filter(ours).map(read).collect()
    }

    fn content(&mut self, uid: &str) -> Option<&mut VolumeGroupSnapshotContent> {
        let mut all = self.contents.iter_mut();
        all.find(|it| it.metadata.uid.as_deref() == Some(uid))
    }

    /// The namespace takes every VolumeGroupSnapshot in it.
    pub fn go(&mut self, time: &Time) {
        for group in &mut self.snapshots {
            let at = &mut group.metadata.deletion_timestamp;
            at.get_or_insert_with(|| time.clone());
        }
    }
}

/// A mistake to plant: what the janitor does not see.
pub(super) fn forgets(mistake: Mistake, removal: &Removal) -> bool {
    match removal {
        Removal::Group(GroupRemoval::Unlabel(_)) => mistake == Mistake::LabelsStay,
        Removal::Group(_) => mistake == Mistake::NoGroupJanitor,
        _ => false,
    }
}

/// A mistake to plant: a group is taken for one of the volumes that were written down.
pub(super) fn hold_what_they_must(observed: &mut Observed) {
    let Some(group) = recorded(&observed.backup).cloned() else {
        return;
    };
    for content in &mut observed.groups.contents {
        let expected = |it: &VolumeSnapshotInfo| group.volume_handles.contains(&it.volume_handle);
        content
            .spec
            .source
            .volume_handles
            .clone_from(&group.volume_handles);
        if let Some(status) = &mut content.status {
            status.volume_snapshot_info_list.retain(expected);
        }
    }
}

impl World {
    /// Adds what the product reads of groups, and no more.
    pub(super) fn observe_groups(&self, observed: &mut Observed) {
        let Some(group) = recorded(&observed.backup).cloned() else {
            return;
        };
        observed.groups.classes = None;
        let mut there = self.groups.snapshots.clone();
        there.retain(|it| it.name_any() == group.volume_group_snapshot);
        observed.groups.snapshots = there;
        let label = build_group_label(&observed.backup, &group);
        observed.groups.labelled = self.groups.labelled(&label);
        let how = search(&observed.backup);
        let mut contents = self.groups.contents.clone();
        if how != Search::Everything {
            let names = content_names(observed, &group);
            contents.retain(|it| names.contains(&it.name_any()));
        }
        contents.retain(|it| is_made_for(observed, &group, it));
        observed.groups.contents = contents;
        if how != Search::Names {
            let (snapshots, contents) = member_names(observed, &group);
            let named = self.snapshots.iter();
            let named = named.filter(|it| snapshots.contains(&it.name_any()));
            merge(&mut observed.snapshots, named.cloned().collect());
            let named = self.contents.iter();
            let named = named.filter(|it| contents.contains(&it.name_any()));
            merge(&mut observed.contents, named.cloned().collect());
        }
    }

    /// A mistake to plant: what was by a group is not remembered.
    pub(super) fn forget_group(&self, observed: &mut Observed) {
        if !is_accepted(&observed.backup)
            && let Some(status) = &mut observed.backup.status
        {
            status.group = None;
            observed.groups = self.base.groups.clone();
        }
    }

    pub(super) fn group_effects(
        &mut self,
        observed: &Observed,
        plan: &Plan,
        left: &mut u8,
        acted: &mut Acted,
    ) {
        match &plan.step {
            Step::LabelClaims(set) => {
                let Some(group) = set.group() else { return };
                let label = build_group_label(&observed.backup, group);
                for member in set.members() {
                    if *left == 0 {
                        return;
                    }
                    *left -= 1;
                    self.groups.label(&member.claim, Some(label.clone()));
                }
                acted.labelled = true;
            }
            Step::CreateGroup(set) if *left > 0 => {
                *left -= 1;
                let group = set.group();
                acted.group = group.map(|group| self.create_group(observed, group));
            }
            Step::RetainGroup(content) if *left > 0 && !self.skips_retain(plan) => {
                *left -= 1;
                let attempt = observed.backup.status.as_ref();
                let attempt = attempt.and_then(|it| Some(it.attempt.as_ref()?.number));
                let to = (attempt.unwrap_or_default(), DeletionPolicy::Retain);
                self.patch_group(observed, content, to, false);
            }
            _ => {}
        }
    }

    fn create_group(&mut self, observed: &Observed, group: &GroupStatus) -> VolumeGroupSnapshot {
        let mut made = build_group(&observed.backup, group);
        let name = made.name_any();
        let mut all = self.groups.snapshots.iter();
        if let Some(there) = all.find(|it| it.name_any() == name) {
            return there.clone();
        }
        let started = self.started.contains(&group.attempt);
        self.require(
            started,
            "a group was made before its attempt's start returned",
        );
        let owner = *self.names.entry(name).or_insert(group.attempt);
        self.require(owner == group.attempt, "a name was used by two attempts");
        self.uids += 1;
        let uid = format!("uid-{}", self.uids);
        made.metadata.uid = Some(uid.clone());
        made.metadata.creation_timestamp = Some(Time(self.now));
        let truth = GroupTruth {
            attempt: group.attempt,
            ..GroupTruth::default()
        };
        self.groups.truths.insert(uid, truth);
        self.groups.snapshots.push(made.clone());
        made
    }

    fn patch_group(
        &mut self,
        observed: &Observed,
        content: &GroupContent,
        (attempt, policy): (u32, DeletionPolicy),
        orphan: bool,
    ) {
        let patch = build_group_content_patch(&observed.backup, attempt, content, policy, orphan);
        let Some(there) = self.groups.content(&content.uid) else {
            return;
        };
        let metadata = &patch["metadata"];
        there.spec.deletion_policy = policy;
        there
            .labels_mut()
            .append(&mut object(metadata["labels"].clone()));
        if let Some(marks) = metadata.get("annotations") {
            there.annotations_mut().append(&mut object(marks.clone()));
        }
    }

    /// The janitor's part.
    pub(super) fn remove_of_group(&mut self, observed: &Observed, removal: &GroupRemoval) {
        let time = Time(self.now);
        match removal {
            GroupRemoval::Unlabel(read) => {
                let there = self.groups.claims.get(&read.claim);
                let version = there.map(|claim| claim.version.to_string());
                if version == read.version {
                    self.groups.label(&read.claim, None);
                }
            }
            GroupRemoval::MakeDeletable {
                content,
                attempt,
                orphan,
            } => {
                let tells = *orphan && self.mistake != Mistake::Untold;
                let to = (*attempt, DeletionPolicy::Delete);
                self.patch_group(observed, content, to, tells);
            }
            GroupRemoval::DeleteSnapshot { uid, .. } => {
                let mut all = self.groups.snapshots.iter_mut();
                if let Some(it) = all.find(|it| it.metadata.uid.as_ref() == Some(uid)) {
                    it.metadata.deletion_timestamp.get_or_insert(time);
                }
            }
            GroupRemoval::DeleteContent(content) => {
                if let Some(it) = self.groups.content(&content.uid) {
                    it.metadata.deletion_timestamp.get_or_insert(time);
                }
            }
        }
    }
}
