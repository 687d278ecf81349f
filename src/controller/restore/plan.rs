//! What to do next. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::Value as Json;

use super::{
    Rejection,
    act::Kind,
    claims, clone,
    drill::{self, Verdict},
    ending, in_place,
    observe::Observed,
    planning::PlanningPod,
    pod::RecoveryPod,
    references::References,
    running::{Trouble, has_ended, is_ready, phase, trouble},
    source::Source,
    validate::{self, Door, Ready},
};
use crate::{
    api::{
        InPlaceStatus, PgBackup, PgRestoreStatus, RestoredVolume, VolumeStatus, annotations,
        conditions::{self, COMPLETED, RECOVERED, Status},
        names,
    },
    controller::Image,
};

/// One step. `Make` and `Remove` hold several objects that do not depend on each other's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Everything is as it should be, for good.
    Rest,
    /// What a failed recovery left is kept for whoever looks into it, so long.
    Keep(Duration),
    /// Nothing to do until something changes.
    Wait(Waiting),
    /// Before the first object is made.
    AddFinalizer,
    /// Nothing is left to remove.
    RemoveFinalizer,
    /// It cannot be carried out.
    Fail(Rejection),
    /// What would be done, and nothing else is asked for.
    Show(String),
    /// What will be made.
    WriteDown(Vec<RestoredVolume>),
    /// What will be exchanged.
    WriteDownExchange(InPlaceStatus),
    /// Change these of the source's volumes and claims, in this order.
    Exchange(Vec<in_place::act::Effect>),
    /// Create these, in this order.
    Make(Phase, Vec<(Kind, Json)>),
    /// Delete these.
    Remove(Vec<(Kind, String)>),
    /// What came of a drill is told of the backup.
    Tell(Verdict),
    /// The result is handed over.
    Complete(String),
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In which part.
    pub phase: Phase,
    /// In a sentence.
    pub message: String,
    /// What was made before and is not needed any more.
    pub remove: Vec<(Kind, String)>,
}

/// The part of a restore that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The agent chooses backup and timeline.
    Planning,
    /// A pod waits for a Secret or ConfigMap that is not there.
    Missing,
    /// Claims are made and bound, WAL is replayed.
    Recovering,
    /// The clone starts.
    HandingOver,
    /// The source's claims get the new volumes.
    Exchanging,
}

impl Step {
    /// When to look again, even if nothing is heard.
    pub fn requeue(&self) -> Action {
        match self {
            Self::Rest => Action::await_change(),
            Self::Keep(time) => Action::requeue(*time),
            // Most of what is waited for is not watched, and the database is away meanwhile.
            Self::Exchange(_)
            | Self::Wait(Waiting {
                phase: Phase::Exchanging,
                ..
            }) => Action::requeue(Duration::from_millis(500)),
            Self::Wait(_) | Self::Make(..) | Self::Remove(_) => {
                Action::requeue(Duration::from_secs(15))
            }
            _ => Action::requeue(Duration::from_secs(60)),
        }
    }
}

/// Decides.
pub fn plan(observed: &Observed, image: &Image) -> Step {
    let status = observed.status();
    let completed = conditions::find(&status.conditions, COMPLETED).map(|c| c.status.as_str());
    let finalizer = observed
        .restore
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == annotations::RESTORE_FINALIZER);
    if observed.restore.metadata.deletion_timestamp.is_some() {
        return ending::deleted(observed, finalizer);
    }
    match completed {
        Some("True") => ending::completed(observed),
        Some("False") => ending::failed(observed),
        _ => under_way(observed, image, finalizer),
    }
}

fn under_way(observed: &Observed, image: &Image, finalizer: bool) -> Step {
    let status = observed.status();
    if status.volumes.is_empty() {
        return match validate::door(observed) {
            Door::Refused(refused) => Step::Fail(refused),
            Door::Planning(message) => planning(observed, image, message),
            Door::Open(ready) if observed.restore.spec.plan_only == Some(true) => {
                Step::Show(shown(observed, &status, &ready))
            }
            Door::Open(_) if !finalizer => Step::AddFinalizer,
            Door::Open(ready) => match drill::must_wait(observed, observed.drills_at_once) {
                Some(message) => Step::Wait(Waiting {
                    phase: Phase::Planning,
                    message,
                    remove: Vec::new(),
                }),
                None => Step::WriteDown(ready.volumes),
            },
        };
    }
    if let Some(verdict) = drill::verdict(observed) {
        return Step::Tell(verdict);
    }
    if conditions::is_true(&status.conditions, RECOVERED) {
        return hand_over(observed);
    }
    if let Some(recovered) = conditions::find(&status.conditions, RECOVERED)
        .filter(|recovered| recovered.status == Status::False.as_str())
    {
        let message = format!("{} ({})", recovered.message, ending::kept(observed));
        return Step::Fail(Rejection::new(recovered.reason.clone(), message));
    }
    recover(observed, image)
}

/// What a pod waits for: its own trouble first.
fn waits(observed: &Observed, phase: Phase, pod: Option<&Pod>, otherwise: String) -> Waiting {
    let found = pod.and_then(|pod| trouble(pod, &observed.failed_mounts));
    let (phase, message) = match found {
        None => (phase, otherwise),
        Some(Trouble {
            said,
            is_missing: false,
        }) => (phase, said),
        Some(Trouble {
            said,
            is_missing: true,
        }) => {
            let message = format!(
                "{said}: create it in this namespace, and the restore goes on by itself{}",
                named_by_the_clone(observed)
            );
            (Phase::Missing, message)
        }
    };
    Waiting {
        phase,
        message,
        remove: Vec::new(),
    }
}

/// Secrets and ConfigMaps that the clone's pods cannot start without, in a clause.
fn named_by_the_clone(observed: &Observed) -> String {
    let (Some(clone), Some(backup)) = (&observed.into.stateful_set, &observed.backup) else {
        return String::new();
    };
    let source = Source::of(observed.live.as_ref(), backup);
    let needs = source.as_ref().and_then(Source::pod).map(References::of);
    match needs.filter(|needs| !needs.is_empty()) {
        Some(needs) => format!("; the pods of {clone} need {needs} here"),
        None => String::new(),
    }
}

/// An agent plans by itself; where there is none, a pod is made for it.
fn planning(observed: &Observed, image: &Image, message: String) -> Step {
    let waits = |pod, message| Step::Wait(waits(observed, Phase::Planning, pod, message));
    let (Some(_), Some(archive)) = (&observed.restore.spec.source.archive, &observed.archive)
    else {
        return waits(None, message);
    };
    let [service_account, role_binding, pod] = PlanningPod {
        identity: &observed.identity,
        archive: &archive.spec,
        image,
    }
    .objects();
    let mut missing = vec![
        (Kind::ServiceAccount, service_account),
        (Kind::RoleBinding, role_binding),
        (Kind::Pod, pod),
    ];
    missing.retain(|(kind, object)| !observed.has(*kind, name_of(object)));
    if !missing.is_empty() {
        return Step::Make(Phase::Planning, missing);
    }
    match &observed.planning_pod {
        // An evicted pod never runs again.
        Some(pod) if phase(pod) == Some("Failed") => {
            Step::Remove(vec![(Kind::Pod, pod.name_any())])
        }
        pod => waits(pod.as_ref(), message),
    }
}

/// What a plan alone says.
fn shown(observed: &Observed, status: &PgRestoreStatus, ready: &Ready) -> String {
    let Some(plan) = &status.plan else {
        return String::new();
    };
    let volumes = ready.volumes.iter();
    let volumes: Vec<String> = volumes
        .map(|volume| format!("{} ({} bytes)", volume.volume, volume.size))
        .collect();
    format!(
        "nothing is made, as planOnly asks: it would be restored {} from backup {}, with {} bytes of WAL ({} to {}) into volumes of the size of {}{}",
        plan.summary,
        plan.backup,
        plan.bytes,
        plan.wal_from,
        plan.wal_to,
        volumes.join(", "),
        named_by_the_clone(observed),
    )
}

fn recover(observed: &Observed, image: &Image) -> Step {
    let recovery = names::recovery(&observed.identity.name);
    let claims = observed.status().volumes;
    let is_made = observed.has(Kind::Pod, &recovery)
        && claims
            .iter()
            .all(|volume| observed.has(Kind::Claim, &volume.claim));
    if !is_made {
        return make(observed, image);
    }
    match &observed.pod {
        // An evicted pod never runs again; the next one goes on where it was.
        Some(pod) if phase(pod) == Some("Failed") => Step::Remove(vec![(Kind::Pod, recovery)]),
        pod => {
            let meanwhile = meanwhile(observed);
            let waiting = waits(observed, Phase::Recovering, pod.as_ref(), meanwhile);
            Step::Wait(waiting)
        }
    }
}

/// Where the source's own pods run, what the clone's need is there.
fn meanwhile(observed: &Observed) -> String {
    let named = named_by_the_clone(observed);
    let is_lost = observed.live.is_none() || observed.restore.spec.source.archive.is_some();
    match is_lost && !named.is_empty() {
        true => format!("recovery is under way{named}: create what is missing"),
        false => String::new(),
    }
}

/// Everything is looked at once more, until all of it is made.
fn make(observed: &Observed, image: &Image) -> Step {
    match validate::door(observed) {
        Door::Refused(refused) => Step::Fail(refused),
        Door::Planning(message) => Step::Wait(Waiting {
            phase: Phase::Planning,
            message,
            remove: Vec::new(),
        }),
        Door::Open(ready) => {
            let mut missing = wanted(observed, &ready, image);
            missing.retain(|(kind, object)| !observed.has(*kind, name_of(object)));
            Step::Make(Phase::Recovering, missing)
        }
    }
}

/// Everything that recovery needs, in the order in which it is made.
fn wanted(observed: &Observed, ready: &Ready, image: &Image) -> Vec<(Kind, Json)> {
    let status = observed.status();
    let into = &observed.into;
    let volumes = volumes_of(&ready.backup);
    let mut objects = Vec::new();
    for restored in &status.volumes {
        let Some(volume) = volumes.iter().find(|v| v.volume == restored.volume) else {
            continue;
        };
        if restored.volume_snapshot == claims::import_name(&observed.identity, &volume.volume) {
            let (content, snapshot) = claims::import(&observed.identity, volume);
            objects.push((Kind::VolumeSnapshotContent, content));
            objects.push((Kind::VolumeSnapshot, snapshot));
        }
        let claim = claims::claim(&observed.identity, into, &ready.source, volume, restored);
        objects.push((Kind::Claim, claim));
    }
    let named = container_name(observed);
    let container = ready.source.container(named, volumes);
    if let (Some(container), Some(archive)) = (container, &observed.archive) {
        let [service_account, role_binding, pod] = RecoveryPod {
            identity: &observed.identity,
            source: &ready.source,
            into,
            container,
            archive: &archive.spec,
            decryption: observed.restore.spec.decryption.as_ref(),
            program: drill::program(&observed.restore),
            volumes,
            restored: &status.volumes,
            topology: &observed.topology,
            image,
        }
        .objects();
        objects.push((Kind::ServiceAccount, service_account));
        objects.push((Kind::RoleBinding, role_binding));
        objects.push((Kind::Pod, pod));
    }
    objects
}

fn volumes_of(backup: &PgBackup) -> &[VolumeStatus] {
    let status = backup.status.as_ref();
    status
        .map(|status| status.volumes.as_slice())
        .unwrap_or_default()
}

fn container_name(observed: &Observed) -> Option<&str> {
    let granting = observed.granting.as_ref();
    let there = granting.and_then(|granting| granting.protection.as_ref());
    let protection = observed.protection.as_ref().or(there)?;
    let connection = protection.spec.connection.as_ref()?;
    connection.container.as_deref()
}

fn name_of(object: &Json) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn hand_over(observed: &Observed) -> Step {
    let recovery = (Kind::Pod, names::recovery(&observed.identity.name));
    let pod_is_there = observed.made.contains(&recovery);
    if in_place::asked(&observed.restore).is_some() {
        return match pod_is_there {
            true => Step::Remove(vec![recovery]),
            false => in_place::exchange(observed),
        };
    }
    let Some(clone) = observed.into.stateful_set.as_deref() else {
        return match pod_is_there {
            true => Step::Remove(vec![recovery]),
            false if drill::is_one(&observed.restore) => {
                Step::Complete("nothing is kept of a drill that was passed".to_owned())
            }
            false => Step::Complete("the claims are free to use".to_owned()),
        };
    };
    // Two pods must never have the data directory open.
    if observed.pod.as_ref().is_some_and(|pod| !has_ended(pod)) {
        return Step::Wait(Waiting {
            phase: Phase::HandingOver,
            message: "waiting for the recovery pod to end".to_owned(),
            remove: Vec::new(),
        });
    }
    let has_set = observed.has(Kind::StatefulSet, clone);
    if !has_set || !observed.has(Kind::Service, clone) {
        return make_clone(observed, clone, has_set);
    }
    if observed.into.is_not_started() {
        return Step::Complete(format!(
            "StatefulSet {clone} is made and not started: kubectl scale statefulset {clone} --replicas=1"
        ));
    }
    match &observed.clone_pod {
        Some(pod) if is_ready(pod) => Step::Complete(format!("StatefulSet {clone} answers")),
        pod => {
            let otherwise = format!("waiting for pod {clone}-0 to be ready");
            let mut waiting = waits(observed, Phase::HandingOver, pod.as_ref(), otherwise);
            waiting.remove.extend(pod_is_there.then_some(recovery));
            Step::Wait(waiting)
        }
    }
}

fn make_clone(observed: &Observed, clone: &str, has_set: bool) -> Step {
    if let Some(refused) = validate::names_taken(observed) {
        return Step::Fail(refused);
    }
    let source = observed
        .backup
        .as_ref()
        .and_then(|backup| Some((backup, Source::of(observed.live.as_ref(), backup)?)));
    // What was recovered is kept, and goes on when the selector is narrowed or the source is there again.
    let by_others = validate::refuse_labels(observed, clone);
    let by_source = source
        .as_ref()
        .and_then(|(_, source)| source.refuse_clone());
    if let Some(refused) = by_others.or(by_source).filter(|_| !has_set) {
        return Step::Wait(Waiting {
            phase: Phase::HandingOver,
            message: refused.message,
            remove: Vec::new(),
        });
    }
    let Some((backup, source)) = source else {
        let message = "the backup and the source's StatefulSet went during the restore: use the new claims with a StatefulSet of your own";
        return Step::Fail(Rejection::new("StatefulSetUnknown", message));
    };
    let restored = observed.status().volumes;
    let container = source.container(container_name(observed), volumes_of(backup));
    let (identity, into) = (&observed.identity, &observed.into);
    let service = clone::service(identity, clone, into, container);
    let mut objects = vec![(Kind::Service, service)];
    if !has_set {
        let set = clone::stateful_set(identity, &source, clone, into, container, &restored);
        objects.push((Kind::StatefulSet, set));
    }
    objects.retain(|(kind, object)| !observed.has(*kind, name_of(object)));
    Step::Make(Phase::HandingOver, objects)
}

#[cfg(test)]
#[path = "plan_tests/mod.rs"]
mod tests;
