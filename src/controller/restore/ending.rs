//! What a restore that is over leaves, and what is removed. Pure.

use std::time::Duration;

use jiff::SignedDuration;

use super::{act::Kind, drill, in_place, observe::Observed, plan::Step};
use crate::api::{
    conditions::{self, COMPLETED, RECOVERED, Status},
    names,
};

/// How long the recovery pod of a recovery that failed is kept, for its log.
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// It is being deleted.
pub fn deleted(observed: &Observed, finalizer: bool) -> Step {
    let completed = conditions::is_true(&observed.status().conditions, COMPLETED);
    // What was handed over is its user's; of a drill nothing is.
    let handed_over = completed && !drill::is_one(&observed.restore);
    match finalizer {
        false => Step::Rest,
        true if !completed && in_place::must_go_on(observed) => in_place::exchange(observed),
        true if handed_over || observed.made.is_empty() => Step::RemoveFinalizer,
        true => {
            in_place::abandoned(observed).unwrap_or_else(|| Step::Remove(observed.made.clone()))
        }
    }
}

/// It is completed.
pub fn completed(observed: &Observed) -> Step {
    match drill::is_one(&observed.restore) {
        true => leftovers(observed.made.clone()),
        false => leftovers(scaffold(observed)),
    }
}

/// It failed. What a recovery that failed left is kept for whoever looks into it.
pub fn failed(observed: &Observed) -> Step {
    let status = observed.status();
    let recovered = conditions::find(&status.conditions, RECOVERED);
    let Some(since) = recovered
        .filter(|recovered| recovered.status == Status::False.as_str())
        .map(|recovered| recovered.last_transition_time.0)
    else {
        return leftovers(observed.made.clone());
    };
    let mut made = observed.made.clone();
    made.retain(|(kind, _)| *kind != Kind::Claim || !keeps_claims(observed));
    let left = KEPT - observed.now.duration_since(since);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() && !made.is_empty() => Step::Keep(left),
        Ok(_) | Err(_) => leftovers(made),
    }
}

/// What is kept of a recovery that failed, in a sentence.
pub fn kept(observed: &Observed) -> &'static str {
    match keeps_claims(observed) {
        true => {
            "the recovery pod is kept for an hour, and the new claims until this PgRestore is deleted"
        }
        false => {
            "the recovery pod and the new claims are kept for an hour; keepFailed: true would keep the claims"
        }
    }
}

fn keeps_claims(observed: &Observed) -> bool {
    observed.restore.spec.keep_failed == Some(true) || drill::is_one(&observed.restore)
}

fn leftovers(made: Vec<(Kind, String)>) -> Step {
    match made.is_empty() {
        true => Step::Rest,
        false => Step::Remove(made),
    }
}

/// What was only made to get there.
fn scaffold(observed: &Observed) -> Vec<(Kind, String)> {
    let name = &observed.identity.name;
    let pods = [names::recovery(name), names::planning(name)];
    let is_scaffold = |(kind, name): &&(Kind, String)| match kind {
        Kind::StatefulSet | Kind::Service | Kind::Claim => false,
        Kind::Pod => pods.contains(name),
        Kind::ServiceAccount
        | Kind::RoleBinding
        | Kind::VolumeSnapshot
        | Kind::VolumeSnapshotContent => true,
    };
    observed.made.iter().filter(is_scaffold).cloned().collect()
}
