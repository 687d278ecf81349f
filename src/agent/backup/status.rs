//! The agent's part of PgBackup.status. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::plan::{Loss, Ours, Void, read_back};
use crate::{
    api::{
        CatalogEntry, PgBackupStatus, Session,
        conditions::{self, CATALOGUED, SESSION, STOPPED, Status, WAL_ARCHIVED},
    },
    archive::LineageId,
    clock::micro_time,
    postgres::{
        Lsn,
        backup_mode::{Started, Stopped},
        server::ServerFacts,
    },
};

/// The conditions that the agent writes.
const OURS: [&str; 4] = [SESSION, STOPPED, WAL_ARCHIVED, CATALOGUED];

/// The agent's part of one backup's status: what it owns, whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    session: Option<Session>,
    catalog: Option<CatalogEntry>,
    conditions: Vec<Condition>,
    generation: Option<i64>,
}

impl Part {
    /// What an earlier process wrote.
    pub fn read_back(status: Option<&PgBackupStatus>, generation: Option<i64>) -> Self {
        let status = status.cloned().unwrap_or_default();
        Self {
            session: status.session,
            catalog: status.catalog,
            conditions: conditions::owned(&status.conditions, &OURS),
            generation,
        }
    }

    /// As it is applied.
    pub fn status(&self) -> PgBackupStatus {
        PgBackupStatus {
            session: self.session.clone(),
            catalog: self.catalog.clone(),
            conditions: self.conditions.clone(),
            ..PgBackupStatus::default()
        }
    }

    /// What it says for the next step.
    pub fn ours(&self) -> Ours {
        read_back(&self.status())
    }

    /// The conditions that are ours.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// The session.
    pub const fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// `pg_backup_start` of `attempt` returned: everything about an earlier attempt goes.
    pub fn started(
        &mut self,
        attempt: u32,
        lineage: &LineageId,
        facts: &ServerFacts,
        started: &Started,
        checkpoint: Duration,
        now: Timestamp,
    ) {
        let mut session = empty_session(attempt);
        session.lineage = Some(lineage.clone());
        session.system_identifier = Some(facts.system_identifier);
        session.major_version = i32::try_from(facts.major).ok();
        session.timeline = Some(started.timeline);
        session.start_lsn = Some(started.start_lsn);
        session.started_at = Some(micro_time(started.at));
        session.checkpoint_seconds = Some(seconds(checkpoint));
        self.begin(session);
        let message = format!("in backup mode from {}", started.start_lsn);
        self.set(SESSION, Status::True, "InBackupMode", message, now);
    }

    /// This attempt is void.
    pub fn failed(
        &mut self,
        attempt: u32,
        reason: &str,
        message: impl Into<String>,
        now: Timestamp,
    ) {
        if self.session.as_ref().map(|session| session.attempt) != Some(attempt) {
            self.begin(empty_session(attempt));
        }
        self.set(SESSION, Status::False, reason, message, now);
    }

    /// `pg_backup_stop` returned, and what it gave is in the archive.
    pub fn stopped(&mut self, stopped: &Stopped, backup_mode: Duration, now: Timestamp) {
        if let Some(session) = &mut self.session {
            session.stop_lsn = Some(stopped.stop_lsn);
            session.stopped_at = Some(micro_time(stopped.at));
            session.backup_mode_seconds = Some(seconds(backup_mode));
        }
        let message = format!("consistent from {}", stopped.stop_lsn);
        self.set(STOPPED, Status::True, "Stopped", message, now);
        let message = format!("WAL up to {} is on its way", stopped.stop_lsn);
        self.set(WAL_ARCHIVED, Status::Unknown, "Shipping", message, now);
    }

    /// Start to stop LSN is in the archive.
    pub fn wal_archived(&mut self, from: Lsn, to: Lsn, now: Timestamp) {
        let message = format!("{from} to {to} is in the archive");
        self.set(WAL_ARCHIVED, Status::True, "Archived", message, now);
    }

    /// The manifest is in the archive.
    pub fn catalogued(&mut self, entry: CatalogEntry, now: Timestamp) {
        let message = format!("the manifest is {}", entry.manifest);
        self.catalog = Some(entry);
        self.set(CATALOGUED, Status::True, "Catalogued", message, now);
    }

    /// The archive's catalog has no entry of it any more.
    pub fn uncatalogued(&mut self, now: Timestamp) {
        let message = "deleted from the archive's catalog";
        let reason = conditions::UNCATALOGUED;
        self.set(CATALOGUED, Status::False, reason, message, now);
    }

    /// A condition that waits, and what for.
    pub fn waits(&mut self, type_: &str, reason: &str, message: impl Into<String>, now: Timestamp) {
        self.set(type_, Status::Unknown, reason, message, now);
    }

    fn begin(&mut self, session: Session) {
        self.session = Some(session);
        self.catalog = None;
        self.conditions.clear();
    }

    fn set(
        &mut self,
        type_: &str,
        status: Status,
        reason: &str,
        message: impl Into<String>,
        now: Timestamp,
    ) {
        conditions::upsert(
            &mut self.conditions,
            type_,
            status,
            reason,
            message,
            self.generation,
            now,
        );
    }
}

/// The sentence that goes with a void attempt.
pub fn void_message(void: Void, ceiling: Option<Duration>) -> String {
    match void {
        Void::Lost(loss) => loss_message(loss).to_owned(),
        Void::AttemptChanged => {
            "the attempt is not the one that the session was opened for: a controller of another version works on it; let all replicas be of this one".to_owned()
        }
        Void::BackupModeTooLong => format!(
            "the snapshots were not cut within {} s of backup mode (the policy's deadlines.backupMode)",
            ceiling.unwrap_or_default().as_secs()
        ),
        Void::NotWanted => {
            "the database is not protected any more, or its PgBackupPolicy or PgArchive is gone: backup mode was ended".to_owned()
        }
    }
}

const fn loss_message(loss: Loss) -> &'static str {
    match loss {
        Loss::Session => {
            "the session in backup mode was lost: PostgreSQL has left backup mode, and what was cut is void"
        }
        Loss::Primary => {
            "the session with the primary was lost while its standby was backed up: who takes writes now is not known, and what was cut is void"
        }
        Loss::Promoted => {
            "the standby was promoted while it was backed up: what was cut is no copy of a standby any more, and is void"
        }
        Loss::OtherTimeline => {
            "the standby followed another timeline while it was backed up: what was cut belongs to two histories, and is void"
        }
    }
}

const fn empty_session(attempt: u32) -> Session {
    Session {
        attempt,
        lineage: None,
        system_identifier: None,
        major_version: None,
        timeline: None,
        start_lsn: None,
        started_at: None,
        checkpoint_seconds: None,
        stop_lsn: None,
        stopped_at: None,
        backup_mode_seconds: None,
    }
}

/// In milliseconds: more digits than that say nothing.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_new_attempt_forgets_the_old_one() {
        let mut part = Part::default();
        part.failed(1, "SessionLost", "", NOW);
        assert!(part.ours().failed);
        part.set(STOPPED, Status::True, "Stopped", "", NOW);
        part.failed(2, "NotPrimary", "", NOW);
        assert_eq!(part.ours().attempt, Some(2));
        assert!(conditions::find(&part.conditions, STOPPED).is_none());
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut part = Part::default();
        part.failed(1, "SessionLost", "gone", NOW);
        assert_eq!(Part::read_back(Some(&part.status()), None), part);
    }
}
