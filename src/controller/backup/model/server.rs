//! What the API server does with a controller's writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::Value;

use super::{Mistake, Truth, World, object};
use crate::{
    api::conditions::{self, Status},
    controller::backup::{attempt::Content, build, observe::Observed, plan::Plan, report::Own},
    csi::{DeletionPolicy, VolumeSnapshot},
};

impl World {
    pub(super) fn patch(&mut self, observed: &Observed, uid: &str, policy: DeletionPolicy) {
        let status = observed.backup.status.as_ref();
        let number = status
            .and_then(|s| s.attempt.as_ref())
            .map_or(0, |a| a.number);
        let content = self
            .contents
            .iter()
            .find(|c| c.metadata.uid.as_deref() == Some(uid));
        let Some(content) = content.map(Content::of) else {
            return;
        };
        let marks = build::build_content_patch(&observed.backup, number, &content, policy);
        self.set_policy(uid, policy, Some(&marks));
    }

    pub(super) fn set_policy(&mut self, uid: &str, policy: DeletionPolicy, marks: Option<&Value>) {
        let content = self
            .contents
            .iter_mut()
            .find(|c| c.metadata.uid.as_deref() == Some(uid));
        if let Some(content) = content {
            content.spec.deletion_policy = policy;
            if let Some(marks) = marks {
                content.metadata.labels = Some(object(marks["metadata"]["labels"].clone()));
            }
        }
    }

    pub(super) fn finalizer(&mut self, observed: &Observed, present: bool) {
        let patch = build::build_finalizer_patch(&observed.backup, present);
        let Some(backup) = self.backup.as_mut() else {
            return;
        };
        if backup.metadata.resource_version != observed.backup.metadata.resource_version {
            return;
        }
        backup.metadata.finalizers = Some(object(patch["metadata"]["finalizers"].clone()));
        let gone = backup.metadata.deletion_timestamp.is_some() && !present;
        if gone {
            let left = self.left_over_of_deleted();
            self.require(
                self.scope_goes || left == 0,
                "a deleted backup left snapshots behind",
            );
            let labelled = self.groups.are_labelled();
            self.require(
                self.scope_goes || !labelled,
                "a deleted backup left its label on a claim",
            );
            let entry = self.in_catalog && !self.gave_up_the_entry();
            self.require(
                self.scope_goes || !entry,
                "a deleted backup left its entry in the catalog",
            );
            self.backup = None;
        } else {
            self.touch();
        }
    }

    pub(super) fn touch(&mut self) {
        if let Some(backup) = &mut self.backup {
            let version: u64 = backup.resource_version().unwrap().parse().unwrap();
            backup.metadata.resource_version = Some((version + 1).to_string());
        }
    }

    pub(super) fn apply(&mut self, observed: &Observed, plan: &Plan, own: Own) {
        let skips = self.skips_retain(plan);
        let Some(backup) = self.backup.as_mut() else {
            return;
        };
        let read = &observed.backup.metadata.resource_version;
        let before = backup.status.clone().unwrap_or_default();
        let changed = own != Own::of(&observed.backup.status.clone().unwrap_or_default());
        if backup.metadata.resource_version != *read || !(changed || skips) {
            return;
        }
        let mut status = own.into_status(&before);
        if self.mistake == Mistake::SameNumber
            && let (Some(new), Some(old)) = (&mut status.attempt, &before.attempt)
            && new.number > old.number
        {
            new.number = old.number;
            for (new, old) in status.volumes.iter_mut().zip(&before.volumes) {
                new.volume_snapshot.clone_from(&old.volume_snapshot);
            }
        }
        if skips {
            conditions::upsert(
                &mut status.conditions,
                conditions::COMPLETED,
                Status::True,
                "Completed",
                "",
                None,
                self.now,
            );
        }
        let was_running = before
            .attempt
            .as_ref()
            .map(|a| a.number)
            .filter(|_| conditions::is_true(&before.conditions, conditions::ACCEPTED));
        let is_running = status
            .attempt
            .as_ref()
            .map(|a| a.number)
            .filter(|_| conditions::is_true(&status.conditions, conditions::ACCEPTED));
        let began = is_running.filter(|_| {
            is_running != was_running
                || self.mistake == Mistake::SameNumber && status.attempt != before.attempt
        });
        backup.status = Some(status);
        self.touch();
        if let Some(number) = was_running.filter(|_| is_running != was_running) {
            self.void.insert(number);
        }
        if let Some(number) = began {
            self.require(!self.void.contains(&number), "a void attempt came back");
            self.check_choice(number);
        }
        self.check_terminal();
    }

    pub(super) fn create(&mut self, number: u32, mut snapshot: VolumeSnapshot) -> VolumeSnapshot {
        let name = snapshot.name_any();
        if let Some(there) = self.snapshots.iter().find(|s| s.name_any() == name) {
            return there.clone();
        }
        self.require(
            self.started.contains(&number),
            "a snapshot was made before its attempt's start returned",
        );
        self.check_wave(number, &snapshot);
        self.require(
            !self.groups.attempts.contains(&number),
            "a volume of a group was snapshotted by itself",
        );
        let owner = *self.names.entry(name).or_insert(number);
        self.require(owner == number, "a name was used by two attempts");
        self.uids += 1;
        let uid = format!("uid-{}", self.uids);
        snapshot.metadata.uid = Some(uid.clone());
        snapshot.metadata.creation_timestamp = Some(Time(self.now));
        self.truths.insert(
            uid,
            Truth {
                attempt: number,
                claim: snapshot.spec.source.persistent_volume_claim_name.clone(),
                cut: false,
                cut_in: None,
            },
        );
        self.snapshots.push(snapshot.clone());
        snapshot
    }
}
