//! What a controller does to the cluster, with what it has read, until it dies.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{Mistake, Watched, World, group};
use crate::controller::backup::{
    act::Acted,
    build,
    depth::Depth,
    group::recorded,
    observe::{Observed, Search, content_of, search},
    plan::{Entry, Phase, Plan, Step, plan},
    report::own_status,
    retained::go_on,
    sweep::{Removal, orphan_of},
    validate::validate,
};
use crate::{
    api::{PgBackup, VolumeStatus, annotations},
    csi::{self, DeletionPolicy, VolumeSnapshot, VolumeSnapshotContent},
};

impl World {
    pub(super) fn watch(&mut self, which: u8) {
        if which & 1 != 0 {
            self.told.backup.clone_from(&self.backup);
        }
        if which & 2 != 0 {
            // Those with our label: not the members of a group.
            let mut labelled = self.snapshots.clone();
            labelled.retain(|it| it.labels().contains_key(annotations::BACKUP_UID_LABEL));
            self.told.snapshots = labelled;
        }
        if which & 4 != 0 {
            self.told.contents.clone_from(&self.contents);
        }
    }

    /// As the product does: what the watches told, and what the plan must rest on is read.
    pub(super) fn pass_told(&mut self) {
        let told = self.told.backup.clone();
        let Some(told) = told.filter(|it| it.metadata.deletion_timestamp.is_none()) else {
            return self.pass(None);
        };
        if search(&told) != Search::Names || recorded(&told).is_some() {
            return self.pass(None);
        }
        let Watched {
            snapshots,
            contents,
            ..
        } = &self.told;
        let mut observed = self.observe_among(told, snapshots, contents);
        let trusts = self.mistake == Mistake::TrustWatches;
        for depth in [Depth::Told, Depth::Backup] {
            let plan = plan(&validate(&observed, self.now), self.now);
            let needs = plan.needs(&observed.backup);
            if needs <= depth || trusts {
                return self.act(observed, self.now, None);
            }
            let names_only = self.backup.as_ref().map(search) == Some(Search::Names);
            match self.backup.clone().filter(|_| names_only) {
                Some(live) if needs == Depth::Backup => {
                    observed = self.observe_among(live, snapshots, contents);
                }
                Some(_) | None => break,
            }
        }
        self.pass(None);
    }

    /// Reads what the product reads, and no more.
    pub(super) fn observe(&self) -> Option<Observed> {
        let backup = self.backup.clone()?;
        Some(self.observe_among(backup, &self.snapshots, &self.contents))
    }

    fn observe_among(
        &self,
        backup: PgBackup,
        snapshots: &[VolumeSnapshot],
        contents: &[VolumeSnapshotContent],
    ) -> Observed {
        let volumes = backup.status.clone().unwrap_or_default().volumes;
        let search = search(&backup);
        let labelled = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get(annotations::BACKUP_UID_LABEL) == backup.metadata.uid.as_ref()
        };
        let snapshots: Vec<_> = snapshots
            .iter()
            .filter(|snapshot| {
                volumes
                    .iter()
                    .any(|v| v.volume_snapshot == snapshot.name_any())
                    || search != Search::Names && labelled(snapshot.labels())
            })
            .cloned()
            .collect();
        let mut names: Vec<_> = snapshots.iter().filter_map(content_of).collect();
        names.extend(volumes.into_iter().filter_map(|volume| volume.content));
        let contents = contents.iter().filter(|content| {
            let found = match search {
                Search::Names => false,
                Search::Labels => labelled(content.labels()),
                Search::Everything if self.mistake == Mistake::LabelsOnly => {
                    labelled(content.labels())
                }
                Search::Everything => orphan_of(&backup, content).is_some(),
            };
            found || names.contains(&content.name_any())
        });
        let contents = contents.cloned().collect();
        let mut observed = Observed {
            snapshots,
            contents,
            scope_goes: self.scope_goes,
            backup,
            ..self.base.clone()
        };
        self.observe_groups(&mut observed);
        observed
    }

    pub(super) fn pass(&mut self, dies_after: Option<u8>) {
        if let Some(observed) = self.observe() {
            self.act(observed, self.now, dies_after);
        }
    }

    /// What a controller does with what it has read.
    pub(super) fn act(&mut self, mut observed: Observed, then: Timestamp, dies_after: Option<u8>) {
        self.mislead(&mut observed);
        let mut state = validate(&observed, then);
        match (&mut state.phase, self.mistake) {
            (Phase::Running(running), Mistake::PartialSet) => running.forget_missing(),
            (Phase::Running(running), Mistake::IgnoreLoss) => running.ignore_loss(then),
            (_, Mistake::NoJanitor) => state.leftovers.clear(),
            (Phase::Deleting { entry, .. }, Mistake::IgnoreCatalog) => *entry = Entry::Gone,
            (_, mistake) => state.leftovers.retain(|it| !group::forgets(mistake, it)),
        }
        let plan = plan(&state, then);
        let mut left = dies_after.unwrap_or(u8::MAX);
        let outcome = self.effects(&observed, &plan, &mut left);
        let (observed, state, plan) = go_on((observed, state, plan), &outcome.retained, then);
        if left == 0 {
            return;
        }
        left -= 1;
        let own = own_status(&observed, &state, &plan, &Ok(outcome), then);
        self.apply(&observed, &plan, own);
        if matches!(plan.step, Step::Complete(_)) || self.skips_retain(&plan) {
            self.check_complete();
        }
        self.tidy(&observed, &plan, &mut left);
    }

    pub(super) fn mislead(&self, observed: &mut Observed) {
        let status = observed.backup.status.as_mut();
        match (status, self.mistake) {
            (Some(status), Mistake::AnySession) => {
                let number = status.attempt.as_ref().map_or(0, |attempt| attempt.number);
                if let Some(session) = &mut status.session {
                    session.attempt = number;
                }
            }
            (Some(status), Mistake::AnyUid) => {
                for volume in &mut status.volumes {
                    let mut all = observed.snapshots.iter();
                    let Some(there) = all.find(|s| s.name_any() == volume.volume_snapshot) else {
                        continue;
                    };
                    let mut contents = observed.contents.iter();
                    let content = contents.find(|c| csi::is_content_of(there, c));
                    volume.volume_snapshot_uid = there.uid();
                    volume.content = content.map(ResourceExt::name_any);
                    volume.handle =
                        content.and_then(|c| c.status.as_ref()?.snapshot_handle.clone());
                }
            }
            (_, Mistake::IgnoreScope) => observed.scope_goes = false,
            (_, Mistake::AnyGroup) => group::hold_what_they_must(observed),
            (_, Mistake::GroupAgain) => self.forget_group(observed),
            _ => {}
        }
    }

    pub(super) fn skips_retain(&self, plan: &Plan) -> bool {
        match &plan.step {
            Step::Retain(_) => self.mistake == Mistake::SkipRetain,
            Step::RetainGroup(_) => self.mistake == Mistake::SkipRetainGroup,
            _ => false,
        }
    }

    /// One effect less until death.
    pub(super) fn effects(&mut self, observed: &Observed, plan: &Plan, left: &mut u8) -> Acted {
        let mut acted = Acted::default();
        match &plan.step {
            Step::AddFinalizer => self.finalizer(observed, true),
            Step::Release => self.finalizer(observed, false),
            Step::CreateSnapshots(set) => {
                let number = set.attempt().number;
                let due = |it: &&VolumeStatus| {
                    it.volume_snapshot_uid.is_none()
                        && (set.is_due(it) || self.mistake == Mistake::AllAtOnce)
                };
                let due: Vec<_> = set.members().iter().filter(due).collect();
                for member in due {
                    if *left == 0 {
                        break;
                    }
                    *left -= 1;
                    let snapshot = build::build_volume_snapshot(&observed.backup, number, member);
                    acted.snapshots.push(self.create(number, snapshot));
                }
            }
            Step::Retain(contents) if self.mistake != Mistake::SkipRetain => {
                for content in contents {
                    if *left == 0 {
                        break;
                    }
                    *left -= 1;
                    self.patch(observed, &content.uid, DeletionPolicy::Retain);
                    let mut all = self.contents.iter();
                    let patched = all.find(|it| it.metadata.uid.as_ref() == Some(&content.uid));
                    acted.retained.extend(patched.cloned());
                }
            }
            _ => self.group_effects(observed, plan, left, &mut acted),
        }
        acted
    }

    pub(super) fn tidy(&mut self, observed: &Observed, plan: &Plan, left: &mut u8) {
        for content in &plan.make_deletable {
            if *left == 0 {
                return;
            }
            *left -= 1;
            self.patch(observed, &content.uid, DeletionPolicy::Delete);
        }
        let time = Time(self.now);
        let goes = observed.backup.metadata.deletion_timestamp.is_some();
        self.require(
            !(goes && self.in_catalog) || plan.sweep.is_empty() || self.gave_up_the_entry(),
            "a snapshot went before the entry in the catalog",
        );
        for removal in &plan.sweep {
            if *left == 0 {
                return;
            }
            *left -= 1;
            match removal {
                Removal::MakeDeletable { content, attempt } => {
                    let marks = build::build_content_patch(
                        &observed.backup,
                        *attempt,
                        content,
                        DeletionPolicy::Delete,
                    );
                    self.set_policy(&content.uid, DeletionPolicy::Delete, Some(&marks));
                }
                Removal::DeleteSnapshot { uid, .. } => {
                    let mut all = self.snapshots.iter_mut();
                    if let Some(s) = all.find(|s| s.metadata.uid.as_ref() == Some(uid)) {
                        s.metadata.deletion_timestamp.get_or_insert(time.clone());
                    }
                }
                Removal::DeleteContent(content) => {
                    let mut all = self.contents.iter_mut();
                    if let Some(c) = all.find(|c| c.metadata.uid.as_ref() == Some(&content.uid)) {
                        c.metadata.deletion_timestamp.get_or_insert(time.clone());
                    }
                }
                Removal::Group(removal) => self.remove_of_group(observed, removal),
                Removal::Going => {}
            }
        }
    }
}
