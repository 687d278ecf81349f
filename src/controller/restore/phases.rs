//! What each part of a restore took. Pure.
//!
//! Each part is measured once, when its end is known, from the end of the part before it. So what the controller saw needs no
//! field of its own beside the seconds, and the parts make up the whole also where clocks differ, or an end was not seen.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{drill, in_place, observe::Observed, plan::Step};
use crate::{
    api::{
        LastRestore, RestorePhases,
        conditions::{self, COMPLETED, PLANNED, Status},
    },
    clock::micro_time,
};

/// How fine conditions and `creationTimestamp` are, which cut the rest off.
const COARSE: SignedDuration = SignedDuration::from_secs(1);

/// When each part ended; absent: it has not, or nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ends {
    plan: Option<Timestamp>,
    queue: Option<Timestamp>,
    volumes: Option<Timestamp>,
    pod: Option<Timestamp>,
    prepare: Option<Timestamp>,
    replay: Option<Timestamp>,
    first_query: Option<Timestamp>,
}

/// The phases after this pass. Once the restore is decided nothing is measured any more.
pub fn measured(observed: &Observed, step: &Step) -> Option<RestorePhases> {
    let created = observed.restore.metadata.creation_timestamp.as_ref()?.0;
    let status = observed.status();
    let completed = conditions::find(&status.conditions, COMPLETED);
    if completed.is_some_and(|it| it.status != Status::Unknown.as_str()) {
        return status.phases;
    }
    let before = status.phases.unwrap_or_default();
    let began = before.began_at.as_ref().map(|began| began.0);
    let began = began.unwrap_or_else(|| within_its_second(created, observed.now));
    let mut phases = parts(&before, began, &ends(observed, step));
    if matches!(step, Step::Complete(_)) {
        phases.total_seconds = total(&phases);
    }
    Some(phases)
}

/// What the restore tells its protection, once it is completed.
pub fn last_restore(observed: &Observed, step: &Step) -> Option<LastRestore> {
    let phases = measured(observed, step)?;
    let plan = observed.status().plan?;
    Some(LastRestore {
        restore: observed.identity.name.clone(),
        drill: drill::is_one(&observed.restore),
        at: micro_time(observed.now),
        seconds: phases.total_seconds?,
        bytes: plan.bytes,
        phases: RestorePhases {
            began_at: None,
            total_seconds: None,
            ..phases
        },
    })
}

fn ends(observed: &Observed, step: &Step) -> Ends {
    let status = observed.status();
    let planned = conditions::find(&status.conditions, PLANNED)
        .filter(|planned| planned.status == Status::True.as_str())
        .map(|planned| planned.last_transition_time.0);
    let progress = status.progress.as_ref();
    let time = |time: Option<&MicroTime>| time.map(|time| time.0);
    // One that is not started answers nobody but recovery, as claims alone.
    let clone = observed.into.stateful_set.is_some() && !observed.into.is_not_started();
    let of_clone = clone || in_place::scales(observed);
    let bound = observed.unbound().is_some_and(|names| names.is_empty());
    let begins = matches!(step, Step::WriteDown(_)) && drill::is_one(&observed.restore);
    Ends {
        plan: planned.map(|at| within_its_second(at, observed.now)),
        queue: begins.then_some(observed.now),
        volumes: bound.then_some(observed.now),
        pod: progress.and_then(|it| time(it.started_at.as_ref())),
        prepare: progress.and_then(|it| time(it.replay_started_at.as_ref())),
        replay: progress.and_then(|it| time(it.promoted_at.as_ref())),
        first_query: match of_clone {
            true => ready(observed, step).map(|at| within_its_second(at, observed.now)),
            false => progress.and_then(|it| time(it.answered_at.as_ref())),
        },
    }
}

/// When the clone's pod became ready, once that is what completes the restore.
fn ready(observed: &Observed, step: &Step) -> Option<Timestamp> {
    let status = observed.clone_pod.as_ref()?.status.as_ref()?;
    let conditions = status.conditions.as_ref()?;
    let ready = conditions.iter().find(|it| it.type_ == "Ready")?;
    let since = ready.last_transition_time.as_ref()?.0;
    matches!(step, Step::Complete(_)).then_some(since)
}

/// The moment that `at`, which is cut off to its second, stands for: now, if this is still that second, and else its end.
fn within_its_second(at: Timestamp, now: Timestamp) -> Timestamp {
    let end = at.checked_add(COARSE).unwrap_or(at);
    now.clamp(at, end)
}

/// Of `before` all is kept; what ended since is measured from the end of what is known before it.
fn parts(before: &RestorePhases, began: Timestamp, ends: &Ends) -> RestorePhases {
    let mut reached = began;
    let mut part = |known: Option<f64>, end: Option<Timestamp>| {
        let seconds = known.or_else(|| Some(seconds_since(reached, end?)))?;
        let took = SignedDuration::try_from_secs_f64(seconds).unwrap_or_default();
        reached = reached.checked_add(took).unwrap_or(reached);
        Some(seconds)
    };
    let Ends {
        plan,
        queue,
        volumes,
        pod,
        prepare,
        replay,
        first_query,
    } = *ends;
    RestorePhases {
        began_at: Some(micro_time(began)),
        plan_seconds: part(before.plan_seconds, plan),
        queue_seconds: part(before.queue_seconds, queue),
        volumes_seconds: part(before.volumes_seconds, volumes),
        pod_seconds: part(before.pod_seconds, pod),
        prepare_seconds: part(before.prepare_seconds, prepare),
        replay_seconds: part(before.replay_seconds, replay),
        first_query_seconds: part(before.first_query_seconds, first_query),
        total_seconds: before.total_seconds,
    }
}

/// To the millisecond. Clocks of two nodes differ: what seems to have ended before it began took no time.
fn seconds_since(from: Timestamp, to: Timestamp) -> f64 {
    let millis = to.duration_since(from).as_millis().max(0);
    millis as f64 / 1000.0
}

/// Known when the first query was.
fn total(phases: &RestorePhases) -> Option<f64> {
    let RestorePhases {
        began_at: _,
        plan_seconds,
        queue_seconds: _,
        volumes_seconds,
        pod_seconds,
        prepare_seconds,
        replay_seconds,
        first_query_seconds,
        total_seconds: _,
    } = *phases;
    let parts = [
        plan_seconds,
        volumes_seconds,
        pod_seconds,
        prepare_seconds,
        replay_seconds,
        Some(first_query_seconds?),
    ];
    let sum: f64 = parts.into_iter().flatten().sum();
    Some((sum * 1000.0).round() / 1000.0)
}

#[cfg(test)]
#[path = "phases_tests.rs"]
mod tests;
