//! The controller's part of a protection's status.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{Api, Resource, ResourceExt};

use super::{
    act::ActError,
    observe::{BackupSeen, Observed},
    plan::{Step, UNPROTECTED, leaving_since},
    retention,
    safe::{self, Word},
    schedule::{self, Dealt},
    validate::Judgement,
};
use crate::{
    api::{
        BackupReason, LastBackup, LastExpired, PgProtection, PgProtectionStatus, TimelineWindow,
        conditions::{self, ACTIVE, SAFE, SCHEDULED, Status, WITHIN_RETENTION},
        managers,
    },
    archive::LineageId,
    controller::{Class, Context, PassError, context::Chain},
    kubernetes::{RequestError, apply_status},
};

pub(super) const AGENT_STARTING: &str = "AgentStarting";
const AGENT_NOT_RUNNING: &str = "AgentNotRunning";
/// How long the agent may take to start: with the time after which a lost node counts as lost, less than two minutes.
const START: SignedDuration = SignedDuration::from_secs(60);

/// Applies the status if it changes, then says what changed.
pub async fn report(
    observed: &Observed,
    judgement: &Judgement,
    step: &Step,
    outcome: &Result<(), ActError>,
    now: Timestamp,
    ctx: &Context,
) -> Result<(), RequestError> {
    let protection = &observed.protection;
    let before = owned(protection);
    let after = status(observed, judgement, step, outcome, now);
    tell_metrics(observed, &after, step, now, ctx);
    // After its finalizer is gone the object may be gone too.
    if after == before || *step == Step::Release {
        return Ok(());
    }
    let namespace = protection.namespace().unwrap_or_default();
    let api: Api<PgProtection> = Api::namespaced(ctx.client.clone(), &namespace);
    apply_status(&api, &protection.name_any(), managers::CONTROLLER, &after).await?;
    let about = protection.object_ref(&());
    ctx.events
        .condition_changes(&about, &before.conditions, &after.conditions)
        .await;
    Ok(())
}

fn tell_metrics(
    observed: &Observed,
    after: &PgProtectionStatus,
    step: &Step,
    now: Timestamp,
    ctx: &Context,
) {
    let protection = &observed.protection;
    let (namespace, name) = (
        protection.namespace().unwrap_or_default(),
        protection.name_any(),
    );
    let running = running(observed, step, now);
    ctx.metrics.agent(&namespace, &name, running);
    let times = running.map_or((None, None), |_| times(after));
    let is_safe = conditions::find(&after.conditions, SAFE);
    let is_safe = is_safe.map(|safe| safe.status == Status::True.as_str());
    ctx.metrics.safe(&namespace, &name, is_safe);
    ctx.metrics.backups(&namespace, &name, times);
}

/// When the last backup was taken, and the next is due.
fn times(status: &PgProtectionStatus) -> (Option<Timestamp>, Option<Timestamp>) {
    let due = status.schedules.iter();
    let due = due.filter_map(|schedule| schedule.next_schedule_time.as_ref());
    let last = status.last_backup.as_ref().map(|last| last.at.0);
    (last, due.map(|next| next.0).min())
}

/// Whether the agent runs; `None` where there is to be none. One that cannot even be deployed does not run.
pub(super) fn running(observed: &Observed, step: &Step, now: Timestamp) -> Option<bool> {
    let leaving = leaving_since(observed, now).is_some();
    let wanted = !leaving || observed.agent.deployment.is_some() && *step != Step::Release;
    wanted.then_some(observed.agent.running)
}

/// What of the status is the controller's.
fn owned(protection: &PgProtection) -> PgProtectionStatus {
    let status = protection.status.clone().unwrap_or_default();
    PgProtectionStatus {
        observed_generation: status.observed_generation,
        archive_name: status.archive_name,
        members: status.members,
        last_backup: status.last_backup,
        last_expired: status.last_expired,
        schedules: status.schedules,
        verification: status.verification,
        backup_now: status.backup_now,
        conditions: conditions::owned(
            &status.conditions,
            &[ACTIVE, SAFE, SCHEDULED, WITHIN_RETENTION],
        ),
        ..PgProtectionStatus::default()
    }
}

pub(super) fn status(
    observed: &Observed,
    judgement: &Judgement,
    step: &Step,
    outcome: &Result<(), ActError>,
    now: Timestamp,
) -> PgProtectionStatus {
    let mut status = owned(&observed.protection);
    let generation = observed.protection.metadata.generation;
    status.observed_generation = generation;
    status.archive_name = Some(judgement.archive_name.clone());
    status.members.clone_from(&observed.members);
    let agents = observed.protection.status.as_ref();
    let lineage = agents.and_then(|status| status.lineage.as_ref());
    let window = agents.and_then(|status| status.recoverable.as_ref());
    let timelines = window.map_or(&[][..], |window| &window.timelines);
    status.last_backup = last_backup(&observed.backups, lineage, timelines);
    if let (
        Step::TakeBackup {
            annotation: Some(value),
            ..
        },
        Ok(()),
    ) = (step, outcome)
    {
        status.backup_now = Some(value.clone());
    }
    if let (Step::ExpireBackup(expired), Ok(())) = (step, outcome) {
        status.last_expired = Some(LastExpired {
            name: expired.name.clone(),
            at: MicroTime(now),
        });
    }
    let is_leaving = leaving_since(observed, now).is_some();
    report_retention(&mut status, observed, is_leaving, now);
    if is_leaving {
        // What is protected again counts anew.
        status.schedules = Vec::new();
        status.verification = None;
        status.conditions.retain(|it| it.type_ != SCHEDULED);
    } else if observed.policy.is_some() {
        let done = (dealt(step, outcome), drilled(step, outcome));
        report_schedules(&mut status, observed, done, now);
    }
    if let Some((value, reason, message)) = active(observed, judgement, step, outcome, now) {
        restart_clock(&mut status.conditions, reason);
        conditions::upsert(
            &mut status.conditions,
            ACTIVE,
            value,
            reason,
            message,
            generation,
            now,
        );
    }
    report_safe(&mut status, observed, is_leaving, now);
    status
}

/// In the end, as it sums up the rest.
fn report_safe(
    status: &mut PgProtectionStatus,
    observed: &Observed,
    is_leaving: bool,
    now: Timestamp,
) {
    if is_leaving {
        return status.conditions.retain(|it| it.type_ != SAFE);
    }
    let Word {
        status: value,
        reason,
        message,
    } = safe::judge(observed, status, now);
    let generation = status.observed_generation;
    let list = &mut status.conditions;
    conditions::upsert(list, SAFE, value, &reason, message, generation, now);
}

/// What this pass has done about the schedules.
fn dealt(step: &Step, outcome: &Result<(), ActError>) -> Option<Dealt> {
    let done = match step {
        Step::TakeBackup { reason, .. } => {
            (*reason == BackupReason::Scheduled).then_some(Dealt::Taken)
        }
        Step::SkipBackup { .. } => Some(Dealt::Skipped),
        Step::Drill { .. }
        | Step::SkipDrill { .. }
        | Step::DeleteDrill { .. }
        | Step::ExpireBackup(_)
        | Step::AddFinalizer
        | Step::DeployAgent(_)
        | Step::RemoveAgent { .. }
        | Step::Release
        | Step::AwaitSlots { .. }
        | Step::Rest(_) => None,
    };
    done.filter(|_| outcome.is_ok())
}

/// What this pass has done about the drill that was due.
fn drilled(step: &Step, outcome: &Result<(), ActError>) -> Option<Dealt> {
    let done = match step {
        Step::Drill { .. } => Some(Dealt::Taken),
        Step::SkipDrill { .. } => Some(Dealt::Skipped),
        Step::DeleteDrill { .. }
        | Step::ExpireBackup(_)
        | Step::TakeBackup { .. }
        | Step::SkipBackup { .. }
        | Step::AddFinalizer
        | Step::DeployAgent(_)
        | Step::RemoveAgent { .. }
        | Step::Release
        | Step::AwaitSlots { .. }
        | Step::Rest(_) => None,
    };
    done.filter(|_| outcome.is_ok())
}

/// Of the backups and of the drills; a `verify` that cannot be understood is told as a schedule that cannot.
fn report_schedules(
    status: &mut PgProtectionStatus,
    observed: &Observed,
    (dealt, drilled): (Option<Dealt>, Option<Dealt>),
    now: Timestamp,
) {
    let schedules = schedule::schedules(observed, now);
    let drills = schedule::drills(observed, now);
    let (value, reason, message) = match &drills {
        Some(Err(rejection)) => (Status::False, rejection.reason, rejection.message.clone()),
        Some(Ok(_)) | None => schedules.condition(),
    };
    let generation = status.observed_generation;
    conditions::upsert(
        &mut status.conditions,
        SCHEDULED,
        value,
        reason,
        message,
        generation,
        now,
    );
    status.schedules = schedules.told(dealt);
    let drills = drills.and_then(Result::ok);
    status.verification = drills.map(|standing| standing.told(drilled));
}

/// Absent where everything is kept.
fn report_retention(
    status: &mut PgProtectionStatus,
    observed: &Observed,
    is_leaving: bool,
    now: Timestamp,
) {
    let said = retention::condition(observed, now).filter(|_| !is_leaving);
    let Some((value, reason, message)) = said else {
        let others = |it: &Condition| it.type_ != WITHIN_RETENTION;
        return status.conditions.retain(others);
    };
    let generation = status.observed_generation;
    let list = &mut status.conditions;
    conditions::upsert(
        list,
        WITHIN_RETENTION,
        value,
        reason,
        message,
        generation,
        now,
    );
}

/// The time that the agent has to drop its slots counts from the word `Unprotected`, also where `Active` was `False`
/// before for another reason.
fn restart_clock(conditions: &mut Vec<Condition>, reason: &str) {
    if reason == UNPROTECTED {
        conditions.retain(|condition| condition.type_ != ACTIVE || condition.reason == UNPROTECTED);
    }
}

/// The newest of the lineage that WAL goes to now, and of its line: from another one, nothing of today can be restored.
fn last_backup(
    backups: &[BackupSeen],
    lineage: Option<&LineageId>,
    timelines: &[TimelineWindow],
) -> Option<LastBackup> {
    backups
        .iter()
        .filter(|backup| lineage.is_none() || backup.lineage.as_ref() == lineage)
        .filter(|backup| is_on_the_line(backup, timelines))
        .filter_map(|backup| Some((backup.completed?, &backup.name)))
        .max()
        .map(|(at, name)| LastBackup {
            name: name.clone(),
            at: MicroTime(at),
        })
}

/// Whether the newest timeline goes on from where the backup ended: it ended at or before every fork on the way there. What
/// the archive is not known to hold yet says nothing against it.
fn is_on_the_line(backup: &BackupSeen, timelines: &[TimelineWindow]) -> bool {
    let newest = timelines.iter().map(|timeline| timeline.id).max();
    let (Some((timeline, stop)), Some(mut at)) = (backup.stopped, newest) else {
        return true;
    };
    if at < timeline {
        return true;
    }
    while at > timeline {
        let known = timelines.iter().find(|known| known.id == at);
        match known.and_then(|known| known.began.as_ref()) {
            Some(fork) if fork.at >= stop && fork.timeline < at => at = fork.timeline,
            Some(_) | None => return false,
        }
    }
    at == timeline
}

/// `Active`; nothing where this pass learned nothing about it.
fn active(
    observed: &Observed,
    judgement: &Judgement,
    step: &Step,
    outcome: &Result<(), ActError>,
    now: Timestamp,
) -> Option<(Status, &'static str, String)> {
    if leaving_since(observed, now).is_some() {
        let message = match observed.agent.deployment {
            Some(_) => "not protected any more: the agent drops its replication slots",
            None => "not protected any more; archive and backups stay",
        };
        return Some((Status::False, UNPROTECTED, message.to_owned()));
    }
    if let Err(error) = outcome {
        return match error.class() {
            Class::Terminal => Some((Status::False, error.reason(), Chain(error).to_string())),
            Class::Transient => None,
        };
    }
    let rejection = judgement
        .agent
        .as_ref()
        .err()
        .or(judgement.backups.as_ref().err());
    if let Some(rejection) = rejection {
        return Some((Status::False, rejection.reason, rejection.message.clone()));
    }
    let starting = || {
        let message = "the agent starts".to_owned();
        Some((Status::Unknown, AGENT_STARTING, message))
    };
    if matches!(step, Step::DeployAgent(_) | Step::AddFinalizer) {
        return starting();
    }
    if observed.agent.running {
        return Some((Status::True, "AgentRunning", "the agent runs".to_owned()));
    }
    match &observed.agent.trouble {
        Some(trouble) => {
            let message = format!("the agent's pod does not run: {trouble}. {UNSHIPPED}");
            Some((Status::False, AGENT_NOT_RUNNING, message))
        }
        None if is_overdue(observed, now) => {
            let message = format!(
                "the agent's pod has not been ready for {} s. {UNSHIPPED}",
                START.as_secs()
            );
            Some((Status::False, AGENT_NOT_RUNNING, message))
        }
        None => starting(),
    }
}

/// What it means that no agent runs.
const UNSHIPPED: &str = "No WAL is shipped meanwhile, and nobody keeps the replication slot below its ceiling: watch the database's disk";

/// Whether the agent has had time enough to start, or was given up already.
fn is_overdue(observed: &Observed, now: Timestamp) -> bool {
    let status = observed.protection.status.as_ref();
    let said = status.and_then(|status| conditions::find(&status.conditions, ACTIVE));
    said.is_some_and(|said| match said.reason.as_str() {
        AGENT_NOT_RUNNING => true,
        AGENT_STARTING => now.duration_since(said.last_transition_time.0) >= START,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::RecoveryWindow,
        postgres::{Lsn, TimelineId},
    };

    /// A failover leaves what the old primary wrote behind the fork, and the backups of it, on a dead branch.
    #[test]
    fn the_last_backup_is_not_one_of_a_dead_branch() {
        let backup = |name: &str, timeline, stop, second| BackupSeen {
            name: name.into(),
            stopped: Some((TimelineId::new(timeline).unwrap(), Lsn::new(stop))),
            completed: Some(Timestamp::from_second(second).unwrap()),
            ..BackupSeen::default()
        };
        let before = backup("before", 1, 100, 1);
        let dead = backup("dead", 1, 101, 2);
        let after = backup("after", 2, 150, 3);
        let behind = backup("behind", 2, 201, 4);
        let newest = backup("newest", 3, 300, 5);
        let window = |forks: &[(u32, u32, u64)]| {
            let timeline = |id: u32, began: Value| json!({"id": id, "from": "0/0", "to": "0/FFFF", "began": began});
            let forked = forks.iter().map(|(id, of, at)| {
                timeline(
                    *id,
                    json!({"timeline": of, "at": Lsn::new(*at).to_string()}),
                )
            });
            let all: Vec<_> = std::iter::once(timeline(1, Value::Null))
                .chain(forked)
                .collect();
            serde_json::from_value::<RecoveryWindow>(json!({"timelines": all})).unwrap()
        };
        for (what, forks, backups, expected) in [
            ("no fork", &[][..], [&before, &dead], Some("dead")),
            (
                "one fork",
                &[(2, 1, 100)][..],
                [&before, &dead],
                Some("before"),
            ),
            (
                "nothing on the line",
                &[(2, 1, 99)][..],
                [&before, &dead],
                None,
            ),
            (
                "behind it",
                &[(2, 1, 100)][..],
                [&dead, &after],
                Some("after"),
            ),
            (
                "two forks",
                &[(2, 1, 100), (3, 2, 200)][..],
                [&behind, &after],
                Some("after"),
            ),
            (
                "past two forks",
                &[(2, 1, 100), (3, 2, 200)][..],
                [&behind, &before],
                Some("before"),
            ),
            (
                "a branch of the first",
                &[(2, 1, 100), (3, 1, 90)][..],
                [&after, &before],
                None,
            ),
            (
                "newer than the audit",
                &[][..],
                [&before, &newest],
                Some("newest"),
            ),
        ] {
            let backups = backups.map(Clone::clone);
            let last = last_backup(&backups, None, &window(forks).timelines);
            let last = last.map(|last| last.name);
            assert_eq!(last.as_deref(), expected, "{what}");
        }
    }
}
