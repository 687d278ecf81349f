//! Writes the controller's part of PgRestore.status, if it changed.

use jiff::Timestamp;
use kube::{Api, Resource};

use super::{
    act::ActError,
    in_place,
    observe::Observed,
    phases,
    plan::{Phase, Step},
};
use crate::{
    api::{
        IntoVolumes, PgRestore, PgRestoreStatus,
        conditions::{self, COMPLETED, HANDED_OVER, Status, VERIFIED, VOLUMES_READY},
        managers,
    },
    controller::Context,
    kubernetes::{RequestError, apply_status},
};

const OURS: [&str; 4] = [COMPLETED, HANDED_OVER, VERIFIED, VOLUMES_READY];

/// Writes it.
///
/// # Errors
/// As any request.
pub async fn report(
    observed: &Observed,
    step: &Step,
    failure: Option<&ActError>,
    now: Timestamp,
    ctx: &Context,
) -> Result<(), RequestError> {
    let before = observed.status();
    let owned_before = part(&before);
    let after = next(observed, step, failure, now);
    if after == owned_before || matches!(step, Step::RemoveFinalizer) {
        return Ok(());
    }
    let api: Api<PgRestore> = Api::namespaced(ctx.client.clone(), &observed.identity.namespace);
    let name = &observed.identity.name;
    match apply_status(&api, name, managers::CONTROLLER, &after).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    }
    if let (Step::Complete(_), None, Some(phases)) = (step, failure, &after.phases) {
        ctx.metrics.restored(phases);
    }
    let about = observed.restore.object_ref(&());
    ctx.events
        .condition_changes(&about, &owned_before.conditions, &after.conditions)
        .await;
    Ok(())
}

/// What the controller owns of `status`.
fn part(status: &PgRestoreStatus) -> PgRestoreStatus {
    PgRestoreStatus {
        observed_generation: status.observed_generation,
        into: status.into.clone(),
        volumes: status.volumes.clone(),
        in_place: status.in_place.clone(),
        phases: status.phases.clone(),
        conditions: conditions::owned(&status.conditions, &OURS),
        ..PgRestoreStatus::default()
    }
}

/// The controller's part after `step`. Pure.
fn next(
    observed: &Observed,
    step: &Step,
    failure: Option<&ActError>,
    now: Timestamp,
) -> PgRestoreStatus {
    let before = observed.status();
    let mut after = part(&before);
    let generation = observed.restore.metadata.generation;
    after.observed_generation = generation;
    after.into = into(observed, &before);
    if let Step::WriteDown(volumes) = step {
        after.volumes.clone_from(volumes);
    }
    if let Step::WriteDownExchange(written) = step {
        after.in_place = Some(written.clone());
    }
    let mut set = |type_: &str, status: Status, reason: &str, message: &str| {
        conditions::upsert(
            &mut after.conditions,
            type_,
            status,
            reason,
            message,
            generation,
            now,
        );
    };
    volumes_ready(observed, &mut set);
    match step {
        Step::Fail(refused) => set(COMPLETED, Status::False, &refused.reason, &refused.message),
        Step::Show(message) => set(COMPLETED, Status::True, "PlanOnly", message),
        // What was not told is told again.
        Step::Tell(_) | Step::Complete(_) if failure.is_some() => {}
        Step::Tell(verdict) => set(
            VERIFIED,
            verdict.status(),
            &verdict.reason,
            &verdict.message,
        ),
        Step::Complete(message) => {
            set(HANDED_OVER, Status::True, "HandedOver", message);
            set(COMPLETED, Status::True, "Completed", &summary(&before));
        }
        Step::Rest | Step::Keep(_) | Step::Remove(_) | Step::RemoveFinalizer => {}
        _ => {
            let (reason, message) = word(step, failure);
            set(COMPLETED, Status::Unknown, reason, &message);
        }
    }
    after.phases = phases::measured(observed, step).or(after.phases);
    after
}

fn word(step: &Step, failure: Option<&ActError>) -> (&'static str, String) {
    let phase = match step {
        Step::Wait(waiting) => waiting.phase,
        Step::Make(phase, _) => *phase,
        Step::Exchange(_) | Step::WriteDownExchange(_) => Phase::Exchanging,
        _ => Phase::Planning,
    };
    let reason = match phase {
        Phase::Planning => "Planning",
        Phase::Missing => "MissingReference",
        Phase::Recovering => "Recovering",
        Phase::HandingOver => "HandingOver",
        Phase::Exchanging => "Exchanging",
    };
    let message = match (failure.and_then(ActError::refused), step) {
        (Some(refused), _) => refused,
        (None, Step::Wait(waiting)) => waiting.message.clone(),
        (None, _) => doing(phase).to_owned(),
    };
    (reason, message)
}

/// What is done where nothing is waited for.
const fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Planning => "the plan is looked at",
        Phase::Missing => "a Secret or ConfigMap is missing",
        Phase::Recovering => "claims and recovery pod are made",
        Phase::HandingOver => "what was recovered is handed over",
        Phase::Exchanging => "claims are exchanged",
    }
}

fn volumes_ready(observed: &Observed, set: &mut impl FnMut(&str, Status, &str, &str)) {
    let Some(waiting) = observed.unbound() else {
        return;
    };
    if waiting.is_empty() {
        set(VOLUMES_READY, Status::True, "Bound", "every claim is bound");
    } else if !conditions::is_true(&observed.status().conditions, VOLUMES_READY) {
        let message = format!("waiting for {} to be bound", waiting.join(", "));
        set(VOLUMES_READY, Status::Unknown, "Pending", &message);
    }
}

fn into(observed: &Observed, status: &PgRestoreStatus) -> Option<String> {
    if let Some(set) = in_place::set_name(observed, status) {
        return Some(format!("statefulset/{set}, in place"));
    }
    if in_place::asked(&observed.restore).is_some() {
        return status.into.clone();
    }
    let into = &observed.into;
    match (&into.stateful_set, &into.volumes) {
        (Some(set), _) => Some(format!("statefulset/{set}")),
        (None, Some(IntoVolumes { name_prefix, names })) => match name_prefix {
            Some(prefix) => Some(format!("volumes/{prefix}-*")),
            None => {
                let claims: Vec<&str> = names.iter().map(|named| named.claim.as_str()).collect();
                Some(format!("volumes/{}", claims.join(",")))
            }
        },
        (None, None) => None,
    }
}

fn summary(status: &PgRestoreStatus) -> String {
    let plan = status.plan.as_ref().map(|plan| plan.summary.as_str());
    format!("restored {}", plan.unwrap_or_default())
}
