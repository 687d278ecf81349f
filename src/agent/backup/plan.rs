//! What to do next for a backup. Pure.

use std::time::Duration;

use crate::{
    api::{PgBackup, PgBackupStatus, conditions},
    postgres::Lsn,
};

/// What the API server says of a backup, and what this process has reported of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The object is going, or it is completed: nothing more is done for it.
    pub over: bool,
    /// Its data is to go.
    pub discarded: bool,
    /// The controller's attempt, once it is accepted.
    pub attempt: Option<u32>,
    /// It is of a standby.
    pub of_standby: bool,
    /// Every snapshot of that attempt is cut.
    pub cut: bool,
    /// Every snapshot of that attempt is ready.
    pub ready: bool,
    /// Our own part.
    pub ours: Ours,
}

/// The agent's part of a backup's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ours {
    /// The attempt it is about.
    pub attempt: Option<u32>,
    /// `Session` was set to `False`: this attempt is void.
    pub failed: bool,
    /// `pg_backup_stop` returned, label and map are in the archive: up to here WAL is needed.
    pub stopped: Option<Lsn>,
    /// Start to stop LSN is in the archive.
    pub wal_archived: bool,
    /// The manifest is in the archive.
    pub catalogued: bool,
    /// The archive's catalog has no entry of it any more, and gets none.
    pub uncatalogued: bool,
}

/// The session that this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of this attempt.
    pub attempt: u32,
    /// It was opened for a standby.
    pub of_standby: bool,
    /// What has become of it.
    pub state: HeldState,
    /// Since `pg_backup_start` returned, on the monotonic clock.
    pub open_for: Duration,
}

/// What has become of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// In backup mode, and it answers.
    Alive,
    /// PostgreSQL has left backup mode by itself, or what was cut is worth nothing.
    Lost(Loss),
    /// `pg_backup_stop` returned; label and map are in memory.
    Ended,
}

/// What a session was lost by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection broke, or the agent was restarted.
    Session,
    /// Of a standby's backup: the connection to the primary broke.
    Primary,
    /// Of a standby's backup: it is no standby any more.
    Promoted,
    /// Of a standby's backup: it follows another timeline than the one that it began on.
    OtherTimeline,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until the object changes.
    Wait,
    /// End the session that is held: its attempt does not count any more.
    Release,
    /// Open a session for this attempt.
    Start(u32),
    /// Say that this attempt is void.
    Fail(u32, Void),
    /// Keep the session open until the cut.
    Hold,
    /// The cut was seen: end backup mode.
    Stop,
    /// Backup mode has ended: put label and map into the archive.
    Keep,
    /// Have WAL shipped up to here.
    ShipWal(Lsn),
    /// Write the manifest.
    Catalogue,
    /// Delete the manifest.
    Uncatalogue,
}

/// Why an attempt is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// PostgreSQL has left backup mode, or replays another history.
    Lost(Loss),
    /// The attempt is not what the session was opened for.
    AttemptChanged,
    /// Backup mode reached its ceiling.
    BackupModeTooLong,
    /// Nobody wants a backup any more: the protection ended, or its policy or archive is gone.
    NotWanted,
}

impl Void {
    /// The reason for the condition.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Lost(Loss::Session) => "SessionLost",
            Self::Lost(Loss::Primary) => "PrimaryLost",
            Self::Lost(Loss::Promoted) => "StandbyPromoted",
            Self::Lost(Loss::OtherTimeline) => "TimelineChanged",
            Self::AttemptChanged => "AttemptChanged",
            Self::BackupModeTooLong => "BackupModeTooLong",
            Self::NotWanted => "ProtectionEnded",
        }
    }
}

/// The controller's part of `backup`, beside `ours`.
pub fn observe(backup: &PgBackup, ours: Ours) -> Observed {
    let empty = PgBackupStatus::default();
    let status = backup.status.as_ref().unwrap_or(&empty);
    let holds = |type_| conditions::is_true(&status.conditions, type_);
    let attempt = status.attempt.as_ref();
    let accepted = attempt.filter(|_| holds(conditions::ACCEPTED));
    Observed {
        over: backup.metadata.deletion_timestamp.is_some() || is_decided(status),
        discarded: is_discarded(backup),
        attempt: accepted.map(|attempt| attempt.number),
        of_standby: accepted.is_some_and(|attempt| attempt.standby.is_some()),
        cut: holds(conditions::CUT),
        ready: holds(conditions::READY),
        ours,
    }
}

/// Whether there may be something to do for it.
pub fn is_open(backup: &PgBackup) -> bool {
    !backup.status.as_ref().is_some_and(is_decided) || is_discarded(backup)
}

/// Whether its data is to go.
fn is_discarded(backup: &PgBackup) -> bool {
    let status = backup.status.as_ref();
    backup.metadata.deletion_timestamp.is_some()
        && status.is_some_and(|it| conditions::is_true(&it.conditions, conditions::DISCARDED))
}

/// Whether the backup is completed or failed for good.
fn is_decided(status: &PgBackupStatus) -> bool {
    conditions::is_true(&status.conditions, conditions::COMPLETED)
        || conditions::is_false(&status.conditions, conditions::COMPLETED)
}

/// Our part as an earlier process of ours left it.
pub fn read_back(status: &PgBackupStatus) -> Ours {
    let holds = |type_| conditions::is_true(&status.conditions, type_);
    let session = status.session.as_ref();
    Ours {
        attempt: session.map(|session| session.attempt),
        failed: conditions::is_false(&status.conditions, conditions::SESSION),
        stopped: match holds(conditions::STOPPED) {
            true => session.and_then(|session| session.stop_lsn),
            false => None,
        },
        wal_archived: holds(conditions::WAL_ARCHIVED),
        catalogued: holds(conditions::CATALOGUED),
        uncatalogued: conditions::is_false(&status.conditions, conditions::CATALOGUED),
    }
}

/// One step at a time, in the order of the design: session, cut, stop, WAL, ready, catalogue. `ceiling` bounds backup
/// mode; `None` where nobody wants a backup any more.
pub fn plan(observed: &Observed, held: Option<Held>, ceiling: Option<Duration>) -> Step {
    let attempt = match observed.attempt {
        Some(attempt) if !observed.over => attempt,
        Some(_) | None => return held.map_or(when_over(observed), |_| Step::Release),
    };
    if held.is_some_and(|held| held.attempt != attempt) {
        return Step::Release;
    }
    let ours = &observed.ours;
    if ours.attempt != Some(attempt) {
        return Step::Start(attempt);
    }
    if ours.failed {
        return held.map_or(Step::Wait, |_| Step::Release);
    }
    let Some(stop_lsn) = ours.stopped else {
        return in_backup_mode(attempt, observed, held, ceiling);
    };
    if held.is_some() {
        return Step::Release;
    }
    match (ours.wal_archived, observed.ready, ours.catalogued) {
        (false, _, _) => Step::ShipWal(stop_lsn),
        (true, true, false) => Step::Catalogue,
        (true, false, _) | (true, true, true) => Step::Wait,
    }
}

/// What is still to be done for a backup that is over.
const fn when_over(observed: &Observed) -> Step {
    let ours = &observed.ours;
    match observed.discarded && ours.attempt.is_some() && !ours.uncatalogued {
        true => Step::Uncatalogue,
        false => Step::Wait,
    }
}

fn in_backup_mode(
    attempt: u32,
    observed: &Observed,
    held: Option<Held>,
    ceiling: Option<Duration>,
) -> Step {
    let Some(held) = held else {
        return Step::Fail(attempt, Void::Lost(Loss::Session));
    };
    // A controller that knows no standbys took that away with its first word, and cuts in any order.
    if held.of_standby != observed.of_standby {
        return Step::Fail(attempt, Void::AttemptChanged);
    }
    match held.state {
        HeldState::Lost(loss) => Step::Fail(attempt, Void::Lost(loss)),
        // Nobody would take the label: the protection, its policy or its archive is gone.
        HeldState::Ended if ceiling.is_none() => Step::Fail(attempt, Void::NotWanted),
        HeldState::Ended => Step::Keep,
        HeldState::Alive if observed.cut => Step::Stop,
        HeldState::Alive => match ceiling {
            None => Step::Fail(attempt, Void::NotWanted),
            Some(ceiling) if held.open_for >= ceiling => {
                Step::Fail(attempt, Void::BackupModeTooLong)
            }
            Some(_) => Step::Hold,
        },
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
