//! The controller's part of the status: computed without I/O, applied whole, and only if it changed.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;

use super::{
    Error,
    act::Acted,
    attempt::{Running, Seen, Session, clip},
    group::{self, group_progress, identify, name_members},
    observe::Observed,
    plan::{Entry, Phase, Plan, Proposal, State, Step},
    setback::Setback,
};
use crate::{
    api::{
        Attempt, GroupStatus, PgBackup, PgBackupStatus, ReleaseAt, VolumeStatus,
        conditions::{
            ACCEPTED, COMPLETED, CREATE_FAILED, CUT, DISCARDED, READY, Status, owned, upsert,
        },
        managers,
    },
    clock::micro_time,
    controller::{Context, context::Chain},
    csi::{DeletionPolicy, Reading},
    kubernetes::apply_status_unchanged,
};

/// The conditions that the controller writes, beside those of drills.
const OURS: [&str; 5] = [ACCEPTED, CUT, READY, COMPLETED, DISCARDED];
/// After how long nobody is known to act on a VolumeSnapshot.
pub const SILENT: SignedDuration = SignedDuration::from_secs(30);

/// The fields that the controller owns; an apply holds all of them, or those it leaves out are removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Own {
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<Attempt>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<VolumeStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stateful_set: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
}

impl Own {
    /// The controller's part of a status. Exhaustive: a new field does not compile until somebody says whose it is.
    pub fn of(status: &PgBackupStatus) -> Self {
        let PgBackupStatus {
            observed_generation,
            attempt,
            volumes,
            group,
            stateful_set,
            session: _,
            catalog: _,
            conditions,
        } = status.clone();
        Self {
            observed_generation,
            attempt,
            volumes,
            group,
            stateful_set,
            conditions: owned(&conditions, &OURS),
        }
    }

    /// The status after an apply: what is not the controller's stays.
    #[cfg(test)]
    pub fn into_status(self, before: &PgBackupStatus) -> PgBackupStatus {
        let theirs = |condition: &Condition| !OURS.contains(&condition.type_.as_str());
        let mut conditions = self.conditions;
        let kept = before.conditions.iter().filter(|it| theirs(it));
        conditions.extend(kept.cloned());
        PgBackupStatus {
            observed_generation: self.observed_generation,
            attempt: self.attempt,
            volumes: self.volumes,
            group: self.group,
            stateful_set: self.stateful_set,
            session: before.session.clone(),
            catalog: before.catalog.clone(),
            conditions,
        }
    }
}

/// Sets conditions of one pass.
struct Writer<'a> {
    list: &'a mut Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Writer<'_> {
    fn set(&mut self, type_: &str, status: Status, reason: &str, message: impl Into<String>) {
        upsert(
            self.list,
            type_,
            status,
            reason,
            message,
            self.generation,
            self.now,
        );
    }
}

/// What the controller's part is after this pass. A finished backup, and one that goes, keep what they have.
pub fn own_status(
    observed: &Observed,
    state: &State,
    plan: &Plan,
    outcome: &Result<Acted, Error>,
    now: Timestamp,
) -> Own {
    let before = observed.backup.status.clone().unwrap_or_default();
    let mut own = Own::of(&before);
    let generation = observed.backup.metadata.generation;
    match (&state.phase, &plan.step) {
        (_, Step::Discard) => {
            let message = "deleted: its entry in the archive's catalog goes, then its snapshots";
            let (on, at) = (Status::True, now);
            upsert(
                &mut own.conditions,
                DISCARDED,
                on,
                "Deleted",
                message,
                generation,
                at,
            );
            return own;
        }
        (
            Phase::Deleting {
                read_by: Some(restore),
                ..
            },
            Step::Await { .. },
        ) => {
            let message = format!(
                "deleted: PgRestore {restore} begins with it; its data goes when that is over"
            );
            let (off, at) = (Status::Unknown, now);
            upsert(
                &mut own.conditions,
                DISCARDED,
                off,
                "BeingRestored",
                message,
                generation,
                at,
            );
            return own;
        }
        (_, Step::AddFinalizer | Step::Release | Step::Done)
        | (Phase::Finished | Phase::Deleting { .. }, _) => return own,
        (Phase::Waiting { .. } | Phase::Running(_), _) => own.observed_generation = generation,
    }
    let mut conditions = std::mem::take(&mut own.conditions);
    let mut writer = Writer {
        list: &mut conditions,
        generation,
        now,
    };
    if let Phase::Running(running) = &state.phase {
        own.volumes = progress(running, outcome);
        if let Some(group) = group_progress(running, outcome) {
            name_members(&group, &mut own.volumes);
            own.group = Some(group);
        }
    }
    if let Some(group) = &mut own.group {
        identify(observed, group);
    }
    match &plan.step {
        Step::Hold(rejection) => {
            writer.set(
                ACCEPTED,
                Status::False,
                rejection.reason(),
                rejection.to_string(),
            );
            writer.set(
                COMPLETED,
                Status::Unknown,
                rejection.reason(),
                rejection.to_string(),
            );
        }
        Step::Accept(proposal) => {
            let mut attempt = proposal.set.attempt().clone();
            attempt.started_at = micro_time(attempt.started_at.0);
            accepted(&mut writer, &attempt, proposal);
            // That of a void attempt stays until it is swept.
            own.group = proposal.set.group().cloned().or(own.group);
            own.attempt = Some(attempt);
            own.volumes = proposal.set.members().to_vec();
            own.stateful_set = Some(proposal.stateful_set.clone());
        }
        Step::Abandon(setback) => given_up(&mut writer, state, setback, Status::Unknown),
        Step::Fail(setback) => given_up(&mut writer, state, setback, Status::False),
        Step::CreateSnapshots(_)
        | Step::LabelClaims(_)
        | Step::CreateGroup(_)
        | Step::Await { .. }
        | Step::Retain(_)
        | Step::RetainGroup(_)
        | Step::Complete(_) => {
            if let Phase::Running(running) = &state.phase {
                ran(&mut writer, running, outcome);
            }
            if let Step::Complete(evidence) = &plan.step {
                let count = evidence.snapshots();
                let message = format!("{count} snapshots, their WAL and the manifest are safe");
                writer.set(COMPLETED, Status::True, "Completed", message);
                own.group = group::settled(own.group.take(), &observed.groups);
            }
        }
        Step::AddFinalizer | Step::Discard | Step::Release | Step::Done => {}
    }
    own.conditions = conditions;
    own
}

fn accepted(writer: &mut Writer, attempt: &Attempt, proposal: &Proposal) {
    let Attempt { number, pod, .. } = attempt;
    let volumes = proposal.set.members().len();
    let mut message = format!("attempt {number}: pod {pod}, {volumes} volumes");
    let mut reason = "Resolved";
    if attempt.standby.is_some() {
        message += ", of a standby";
    }
    if proposal.set.group().is_some() {
        message += ", as one group";
    }
    if let Some(why) = &attempt.one_by_one {
        message += &format!(", one by one: {}", why.message);
        reason = &why.reason;
    }
    if let Some(why) = &attempt.of_primary {
        message += &format!(", of the primary: {}", why.message);
        reason = &why.reason;
    }
    writer.set(ACCEPTED, Status::True, reason, message);
    writer.set(CUT, Status::Unknown, "WaitingForSession", "");
    writer.set(READY, Status::Unknown, "WaitingForCut", "");
    writer.set(COMPLETED, Status::Unknown, "InProgress", "");
}

fn given_up(writer: &mut Writer, state: &State, setback: &Setback, completed: Status) {
    let reason = setback.reason();
    let message = setback.to_string();
    writer.set(ACCEPTED, Status::False, reason, message.clone());
    if matches!(state.phase, Phase::Running(_)) {
        writer.set(CUT, Status::Unknown, "Abandoned", "");
        writer.set(READY, Status::Unknown, "Abandoned", "");
    }
    writer.set(COMPLETED, completed, reason, message);
}

/// `Cut` and `Ready` of the running attempt. `Cut` becomes `True` only beside an open session, and stays.
fn ran(writer: &mut Writer, running: &Running, outcome: &Result<Acted, Error>) {
    let whole = running.set.members().len();
    let open = matches!(running.agent.session, Session::Open { .. });
    let cut = running.cut_since.is_some() || (open && running.all_cut());
    if running.cut_since.is_none() {
        let (count, what) = (running.released(), released(running));
        let message = format!("{count} of {whole} volumes {what}{}", running.trouble());
        match outcome {
            _ if cut => writer.set(
                CUT,
                Status::True,
                "Cut",
                format!("{whole} of {whole} volumes {what}"),
            ),
            Err(error) => writer.set(
                CUT,
                Status::Unknown,
                CREATE_FAILED,
                clip(&Chain(error).to_string()),
            ),
            Ok(_) if open => match ignored(running, writer.now) {
                None => writer.set(CUT, Status::Unknown, "Snapshotting", message),
                Some(name) => writer.set(
                    CUT,
                    Status::Unknown,
                    "SnapshotControllerSilent",
                    format!(
                        "{message}; nobody acts on VolumeSnapshot {name}: see whether the snapshot controller runs, and its log"
                    ),
                ),
            },
            Ok(_) => writer.set(CUT, Status::Unknown, "WaitingForSession", ""),
        }
    }
    let count = running.count(|reading| matches!(reading, Reading::Ready(_)));
    let message = format!("{count} of {whole} volumes ready");
    match (cut, running.all_ready()) {
        (true, true) => writer.set(READY, Status::True, "Ready", message),
        (true, false) => {
            let message = format!("{message}{}", running.trouble());
            writer.set(READY, Status::Unknown, "WaitingForDriver", message);
        }
        (false, _) => writer.set(READY, Status::Unknown, "WaitingForCut", ""),
    }
}

/// A VolumeSnapshot that the snapshot controller has not looked at, in a time in which it makes a content for it, or says why
/// not.
fn ignored(running: &Running, now: Timestamp) -> Option<&str> {
    let is_ignored = |seen: &Seen| match seen {
        Seen::There(there) => {
            let late = |made: Timestamp| now.duration_since(made) >= SILENT;
            matches!(there.reading, Reading::Pending)
                && there.content.is_none()
                && there.made_at.is_some_and(late)
        }
        Seen::Missing | Seen::Lost(_) => false,
    };
    let mut members = running.members();
    let (member, _) = members.find(|(_, seen)| is_ignored(seen))?;
    Some(member.volume_snapshot.as_str())
}

/// What backup mode lasts until, of one volume.
fn released(running: &Running) -> &'static str {
    match running.set.attempt().release_at {
        ReleaseAt::Cut => "cut",
        ReleaseAt::Ready => "cut and ready, as snapshot.releaseAt wants it",
    }
}

/// The volumes with what is there of each. What is written down is never taken back: see `Seen::Lost`.
fn progress(running: &Running, outcome: &Result<Acted, Error>) -> Vec<VolumeStatus> {
    let made = outcome.as_ref().map_or(&[][..], |acted| &acted.snapshots);
    let volume = |(member, seen): (&VolumeStatus, &Seen)| {
        let mut member = member.clone();
        match seen {
            Seen::There(there) => {
                member.volume_snapshot_uid = Some(there.uid.clone());
                if let Some(cut) = there.reading.cut() {
                    member.content = Some(cut.content.clone());
                    member.handle = Some(cut.handle.clone());
                    member.cut_at = Some(micro_time(cut.at));
                    member.restore_size = cut.restore_size;
                }
                member.ready = matches!(there.reading, Reading::Ready(_));
                let policy = there.content.as_ref().map(|content| content.policy);
                member.retained =
                    running.agent.catalogued && policy == Some(DeletionPolicy::Retain);
            }
            Seen::Missing => {
                let made = made.iter().find(|s| s.name_any() == member.volume_snapshot);
                member.volume_snapshot_uid = made.and_then(ResourceExt::uid);
            }
            Seen::Lost(_) => {}
        }
        member
    };
    running.members().map(volume).collect()
}

/// Applies the controller's part if it changed, and tells of it in events. `None`: nothing changed.
pub async fn report(
    ctx: &Context,
    observed: &Observed,
    own: &Own,
) -> Result<Option<PgBackup>, Error> {
    let backup = &observed.backup;
    let before = Own::of(&backup.status.clone().unwrap_or_default());
    if *own == before {
        return Ok(None);
    }
    let namespace = backup.namespace().unwrap_or_default();
    let api = Api::<PgBackup>::namespaced(ctx.client.clone(), &namespace);
    let applied = apply_status_unchanged(&api, &backup.metadata, managers::CONTROLLER, own)
        .await
        .map_err(|source| Error::Report {
            name: backup.name_any(),
            source,
        })?;
    let about = backup.object_ref(&());
    ctx.events
        .condition_changes(&about, &before.conditions, &own.conditions)
        .await;
    Ok(Some(applied))
}

/// Says so where the backup goes and nobody was there to delete its entry in the catalog.
pub async fn tell_of_left(ctx: &Context, observed: &Observed, state: &State, plan: &Plan) {
    let left = match &state.phase {
        Phase::Deleting { keep, entry, .. } => !keep && *entry == Entry::Left,
        Phase::Finished | Phase::Waiting { .. } | Phase::Running(_) => false,
    };
    if !left || plan.step != Step::Release {
        return;
    }
    let status = observed.backup.status.as_ref();
    let Some(entry) = status.and_then(|it| it.catalog.as_ref()) else {
        return;
    };
    let manifest = &entry.manifest;
    let note = format!(
        "its snapshots are gone, and its entry in the archive's catalog may still be there, as no agent has deleted it: no restore can use it. Delete the folder of {manifest} in the bucket"
    );
    let about = observed.backup.object_ref(&());
    ctx.events.warning(&about, "CatalogEntryLeft", note).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::conditions::{STOPPED, find},
        controller::backup::{model::base::proved, plan::plan, validate::validate},
    };

    /// What is said of the cut at this second after the snapshots were made.
    fn cut_at(observed: &Observed, second: i64) -> String {
        let made: Timestamp = "2026-01-01T00:01:10Z".parse().unwrap();
        let now = made + SignedDuration::from_secs(second);
        let state = validate(observed, now);
        let plan = plan(&state, now);
        let own = own_status(observed, &state, &plan, &Ok(Acted::default()), now);
        find(&own.conditions, CUT).unwrap().reason.clone()
    }

    #[test]
    fn a_snapshot_controller_that_does_nothing_is_told() {
        let mut observed = proved();
        let contents = std::mem::take(&mut observed.contents);
        for snapshot in &mut observed.snapshots {
            snapshot.status = None;
        }
        let status = observed.backup.status.as_mut().unwrap();
        status
            .conditions
            .retain(|it| ![CUT, STOPPED].contains(&it.type_.as_str()));
        for volume in &mut status.volumes {
            (volume.content, volume.handle) = (None, None);
        }
        assert_eq!(cut_at(&observed, 29), "Snapshotting");
        assert_eq!(cut_at(&observed, 30), "SnapshotControllerSilent");
        observed.contents = contents;
        for content in &mut observed.contents {
            content.status = None;
        }
        assert_eq!(cut_at(&observed, 300), "Snapshotting", "it is the driver's");
    }
}
