//! From what was read to what a decision rests on. Pure.

use jiff::Timestamp;

use super::{
    attempt::Running,
    door::door,
    group,
    observe::{Observed, is_finished},
    plan::{Last, Phase, State},
    sweep::{Keep, Removal, sweep},
};
use crate::api::{PgBackupStatus, annotations, conditions};

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

fn phase(observed: &Observed, now: Timestamp) -> Phase {
    let backup = &observed.backup;
    if backup.metadata.deletion_timestamp.is_some() {
        return Phase::Deleting {
            keep: observed.scope_goes,
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
