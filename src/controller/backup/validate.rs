//! From what was read to what a decision rests on. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    attempt::Running,
    door::door,
    group,
    observe::{Observed, is_finished},
    plan::{Entry, Last, Phase, State},
    sweep::{Keep, Removal, sweep},
};
use crate::api::{PgBackupStatus, PgProtection, annotations, conditions};

/// Parses one observation.
pub fn validate(observed: &Observed, now: Timestamp) -> State {
    let backup = &observed.backup;
    let phase = phase(observed, now);
    let status = backup.status.as_ref();
    let number = status
        .and_then(|status| status.attempt.as_ref())
        .map(|attempt| attempt.number);
    let completed =
        status.is_some_and(|s| conditions::is_true(&s.conditions, conditions::COMPLETED));
    let keep = match (&phase, number) {
        (Phase::Running(_), Some(number)) => Keep::Attempt(number),
        (Phase::Finished, Some(number)) if completed => Keep::Attempt(number),
        _ => Keep::None,
    };
    let marks = backup.metadata.finalizers.iter().flatten();
    State {
        created: backup
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(now, |time| time.0),
        deadlines: observed
            .policy
            .as_ref()
            .map(|policy| policy.spec.deadlines.clone())
            .unwrap_or_default(),
        finalizer: marks
            .into_iter()
            .any(|mark| mark == annotations::BACKUP_FINALIZER),
        leftovers: leftovers(observed, keep),
        said: status.and_then(said),
        phase,
    }
}

/// Why no attempt begins, as `Accepted` says it.
pub fn said(status: &PgBackupStatus) -> Option<(String, String)> {
    let accepted = conditions::find(&status.conditions, conditions::ACCEPTED);
    let held = accepted.filter(|_| conditions::is_false(&status.conditions, conditions::ACCEPTED));
    held.map(|held| (held.reason.clone(), held.message.clone()))
}

/// What is left of void attempts.
fn leftovers(observed: &Observed, keep: Keep) -> Vec<Removal> {
    let Observed {
        backup,
        snapshots,
        contents,
        ..
    } = observed;
    let mut left = sweep(backup, keep, snapshots, contents);
    left.extend(group::sweep(observed, keep));
    left
}

/// The last attempt, none of which runs.
fn last(status: &PgBackupStatus) -> Option<Last> {
    let attempt = status.attempt.as_ref()?;
    let accepted = conditions::find(&status.conditions, conditions::ACCEPTED);
    Some(Last {
        number: attempt.number,
        began: attempt.started_at.0,
        why: accepted.map(|it| it.message.clone()).unwrap_or_default(),
    })
}

/// How long a deletion waits for the agent to delete the entry: a finalizer that waits for a bucket may wait for ever.
pub const ENTRY_DEADLINE: SignedDuration = SignedDuration::from_mins(2);

/// What the archive's catalog may have of it: where no session ever began, nothing.
fn entry(observed: &Observed, now: Timestamp) -> Entry {
    let empty = PgBackupStatus::default();
    let status = observed.backup.status.as_ref().unwrap_or(&empty);
    let told = conditions::find(&status.conditions, conditions::DISCARDED);
    let told = told.filter(|told| told.status == conditions::Status::True.as_str());
    if status.session.is_none() || conditions::is_false(&status.conditions, conditions::CATALOGUED)
    {
        return Entry::Gone;
    }
    if !observed.protection.as_ref().is_some_and(has_agent) {
        return Entry::Left;
    }
    match told.map(|told| told.last_transition_time.0 + ENTRY_DEADLINE) {
        None => Entry::There,
        Some(until) if now < until => Entry::Going,
        Some(_) => Entry::Left,
    }
}

/// Whether an agent of the protection is there to delete it, or will be again.
fn has_agent(protection: &PgProtection) -> bool {
    const ENDED: [&str; 3] = ["Unprotected", "PolicyNotFound", "ArchiveNotFound"];
    let status = protection.status.as_ref();
    let active = status.and_then(|it| conditions::find(&it.conditions, conditions::ACTIVE));
    protection.metadata.deletion_timestamp.is_none()
        && active.is_some_and(|active| !ENDED.contains(&active.reason.as_str()))
}

fn phase(observed: &Observed, now: Timestamp) -> Phase {
    let backup = &observed.backup;
    if backup.metadata.deletion_timestamp.is_some() {
        return Phase::Deleting {
            keep: observed.scope_goes,
            entry: entry(observed, now),
            read_by: observed.read_by.clone(),
        };
    }
    if is_finished(backup) {
        return Phase::Finished;
    }
    let Observed {
        snapshots,
        contents,
        groups,
        ..
    } = observed;
    if let Some(running) = Running::read(backup, snapshots, contents, groups) {
        return Phase::Running(Running {
            replaced: observed.replaced,
            ..running
        });
    }
    let last = backup.status.as_ref().and_then(last);
    let number = last.as_ref().map(|last| last.number);
    let next = number.map_or(1, |number| number.saturating_add(1));
    Phase::Waiting {
        last,
        door: door(observed, next, now),
    }
}
