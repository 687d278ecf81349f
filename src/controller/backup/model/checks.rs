//! The promises, against the truth.

use std::collections::BTreeSet;

use kube::ResourceExt;

use super::{Action, CLAIMS, World};
use crate::{
    api::PgBackup,
    controller::backup::{observe::is_finished, report::Own},
    csi::{DeletionPolicy, VolumeSnapshot},
};

impl World {
    pub(super) fn violated(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    pub(super) fn require(&mut self, holds: bool, what: &str) {
        if !holds {
            self.violated(what);
        }
    }

    /// Of a standby the volume with pg_control is snapshotted when every other one of the attempt is cut.
    pub(super) fn check_wave(&mut self, number: u32, snapshot: &VolumeSnapshot) {
        let claim = snapshot.spec.source.persistent_volume_claim_name.as_deref();
        let attempt = self.status().attempt;
        let control = attempt.and_then(|attempt| Some(attempt.standby?.control_claim));
        if control.is_none() || control.as_deref() != claim {
            return;
        }
        let is_cut = |of: &str| {
            let mut truths = self.truths.values();
            truths.any(|it| it.attempt == number && it.cut && it.claim.as_deref() == Some(of))
        };
        let mut others = CLAIMS.iter().filter(|it| claim != Some(**it));
        let all = others.all(|it| is_cut(it));
        self.require(all, "pg_control of a standby was not the last to be cut");
    }

    /// What is left of void attempts.
    pub fn left_over(&self) -> usize {
        let number = self.number();
        let is_void = |attempt: u32| !self.completed() || Some(attempt) != number;
        self.truths
            .iter()
            .filter(|(uid, truth)| is_void(truth.attempt) && self.exists(uid))
            .count()
            + self.groups_left(is_void)
    }

    pub(super) fn left_over_of_deleted(&self) -> usize {
        let snapshots = self.truths.keys().filter(|uid| self.exists(uid)).count();
        snapshots + self.groups_left(|_| true)
    }

    /// The snapshot or its content is there.
    pub(super) fn exists(&self, uid: &str) -> bool {
        self.snapshots
            .iter()
            .any(|s| s.metadata.uid.as_deref() == Some(uid))
            || self
                .contents
                .iter()
                .any(|c| c.spec.volume_snapshot_ref.uid.as_deref() == Some(uid))
    }

    /// The promise of `Completed`, against the truth.
    pub(super) fn check_complete(&mut self) {
        if !self.completed() || self.finished_as.is_some() && self.violation.is_some() {
            return;
        }
        let status = self.status();
        let number = self.number().unwrap_or_default();
        let claims: BTreeSet<&str> = status.volumes.iter().map(|v| v.claim.as_str()).collect();
        self.require(
            claims == CLAIMS.into(),
            "a partial set was taken for a whole one",
        );
        self.require(self.stopped.contains(&number), "completed without a stop");
        self.require(status.catalog.is_some(), "completed without a manifest");
        for volume in &status.volumes {
            let truth = volume
                .volume_snapshot_uid
                .as_ref()
                .and_then(|uid| self.truths.get(uid))
                .cloned();
            let content = self
                .contents
                .iter()
                .find(|c| {
                    Some(c.name_any()) == volume.content
                        && c.spec.volume_snapshot_ref.uid == volume.volume_snapshot_uid
                })
                .cloned();
            self.require(
                truth.is_some_and(|t| t.attempt == number && t.cut_in == Some(number)),
                "completed with a cut outside its session",
            );
            let content_status = content.as_ref().and_then(|c| c.status.as_ref());
            self.require(
                content_status.is_some_and(|s| s.ready_to_use == Some(true)),
                "completed before ready",
            );
            self.require(
                content.is_some_and(|c| c.spec.deletion_policy == DeletionPolicy::Retain),
                "completed before retained",
            );
            self.require(
                volume.retained && volume.ready,
                "completed, and the volumes do not say so",
            );
        }
        self.check_complete_group(number);
    }

    pub(super) fn check_terminal(&mut self) {
        let stays = |b: &&PgBackup| b.metadata.deletion_timestamp.is_none();
        let Some(backup) = self
            .backup
            .as_ref()
            .filter(stays)
            .filter(|b| is_finished(b))
        else {
            return;
        };
        let status =
            serde_json::to_value(Own::of(&backup.status.clone().unwrap_or_default())).unwrap();
        match &self.finished_as {
            Some(first) if *first != status => self.violated("a terminal status changed"),
            Some(_) => {}
            None => self.finished_as = Some(status),
        }
    }

    pub(super) fn check_scope(&mut self) {
        let there: BTreeSet<String> = self
            .contents
            .iter()
            .filter(|c| {
                c.spec.deletion_policy == DeletionPolicy::Retain
                    && c.metadata.deletion_timestamp.is_none()
            })
            .map(ResourceExt::name_any)
            .chain(self.groups.retained())
            .collect();
        let all = self.kept.iter().all(|name| there.contains(name));
        self.require(all, "a namespace that went took the backup with it");
    }

    /// From here on nothing goes wrong any more: everybody does what is asked of them until it is over.
    pub fn settle(&mut self) {
        for round in 0..400u16 {
            self.held = None;
            for action in [
                Action::Pass(None),
                Action::Notice,
                Action::Start,
                Action::Stop,
                Action::Archive,
                Action::Catalogue,
                Action::Uncatalogue,
                Action::Collect,
            ] {
                self.step(action);
            }
            let driven = self.groups.snapshots.len() + self.snapshots.len();
            for n in 0..u8::try_from(driven).unwrap_or(u8::MAX) {
                self.step(Action::Driver(n));
            }
            self.step(Action::Tick(if round < 40 { 1 } else { 600 }));
            let removed = self
                .backup
                .as_ref()
                .is_none_or(|b| b.metadata.deletion_timestamp.is_some());
            if (removed && self.backup.is_none())
                || (!removed
                    && self.ended()
                    && self.left_over() == 0
                    && !self.groups.are_labelled())
            {
                return;
            }
        }
        self.violated(match (self.ended(), self.left_over()) {
            (true, 0) => "a group left its label on a claim",
            (true, _) => "a void attempt left snapshots behind",
            (false, _) => "it does not come to an end",
        });
    }
}
