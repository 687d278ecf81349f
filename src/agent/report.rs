//! The agent's part of PgProtection.status: what is known, and when it is written.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::{sync::watch, time::Instant};

use super::{shared::Shared, watch::Objects};
use crate::{
    api::{
        DatabaseFacts, PgBackup, PgProtection, PgProtectionStatus, PgRestore, Preflight, Primary,
        RecoveryWindow, RetentionStatus, StoreFindings, WalStatus,
        conditions::{
            self, CONNECTED, RECOVERABLE, SLOT_WITHIN_CEILING, SLOTS_DROPPED, Status, WAL_ARCHIVING,
        },
        managers,
    },
    archive::LineageId,
    clock::Clock,
    controller::context::Chain,
    kubernetes::{RequestError, apply_status},
};

/// The conditions that the agent writes.
const OURS: [&str; 5] = [
    CONNECTED,
    WAL_ARCHIVING,
    SLOT_WITHIN_CEILING,
    RECOVERABLE,
    SLOTS_DROPPED,
];

/// What the agent knows of its protection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Which unbroken history in the archive is this database's.
    pub lineage: Option<LineageId>,
    /// The member that takes writes.
    pub primary: Option<Primary>,
    /// Who streams from it.
    pub standbys: Vec<String>,
    /// What PostgreSQL says of itself.
    pub database: Option<DatabaseFacts>,
    /// How WAL is shipped and how far it is.
    pub wal: Option<WalStatus>,
    /// What the primary has left of what a backup needs.
    pub preflight: Option<Preflight>,
    /// What the store is like.
    pub store_findings: Option<StoreFindings>,
    /// What can be recovered.
    pub recoverable: Option<RecoveryWindow>,
    /// What of the backups is kept.
    pub retention: Option<Box<RetentionStatus>>,
    /// The agent's conditions.
    pub conditions: Vec<Condition>,
}

impl Report {
    /// The agent's part of `status`: what an earlier process wrote stays until it is known better. That slots were
    /// dropped does not: an agent that starts will make its slot again, and a later end must not rest on the old word.
    pub fn read_back(status: &PgProtectionStatus) -> Self {
        let mut conditions = conditions::owned(&status.conditions, &OURS);
        conditions.retain(|condition| condition.type_ != SLOTS_DROPPED);
        Self {
            lineage: status.lineage.clone(),
            primary: status.primary.clone(),
            standbys: status.standbys.clone(),
            database: status.database.clone(),
            wal: status.wal.clone(),
            preflight: status.preflight.clone(),
            store_findings: status.store_findings.clone(),
            recoverable: status.recoverable.clone(),
            retention: status.retention.clone(),
            conditions,
        }
    }

    fn status(&self, generation: Option<i64>) -> PgProtectionStatus {
        let conditions = self.conditions.iter().map(|condition| Condition {
            observed_generation: generation,
            ..condition.clone()
        });
        PgProtectionStatus {
            lineage: self.lineage.clone(),
            primary: self.primary.clone(),
            standbys: self.standbys.clone(),
            database: self.database.clone(),
            wal: self.wal.clone(),
            preflight: self.preflight.clone(),
            store_findings: self.store_findings.clone(),
            recoverable: self.recoverable.clone(),
            retention: self.retention.clone(),
            conditions: conditions.collect(),
            ..PgProtectionStatus::default()
        }
    }

    /// Without the time up to which can be recovered: it moves while nothing else does.
    fn timeless(&self) -> Self {
        let mut timeless = self.clone();
        if let Some(window) = &mut timeless.recoverable {
            window.to = None;
        }
        timeless
    }

    /// Without what moves all the time.
    fn substance(&self) -> Self {
        let mut substance = self.timeless();
        if let Some(wal) = &mut substance.wal {
            wal.archived_through = None;
            wal.lag_bytes = None;
        }
        if let Some(window) = &mut substance.recoverable {
            for timeline in &mut window.timelines {
                timeline.to = timeline.from;
                (timeline.stored_bytes, timeline.last_commit) = (None, None);
            }
        }
        substance
    }
}

/// Takes what the tasks learn.
#[derive(Clone)]
pub struct Reporter {
    report: Arc<watch::Sender<Report>>,
    clock: Arc<dyn Clock>,
}

impl Reporter {
    /// Starts from `report`.
    pub fn new(report: Report, clock: Arc<dyn Clock>) -> Self {
        Self {
            report: Arc::new(watch::Sender::new(report)),
            clock,
        }
    }

    /// Changes the report.
    pub fn edit(&self, edit: impl FnOnce(&mut Report)) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            edit(report);
            *report != before
        });
    }

    /// Sets one of the agent's conditions.
    pub fn condition(&self, type_: &str, status: Status, reason: &str, message: impl Into<String>) {
        let now = self.clock.now();
        self.edit(|report| {
            conditions::upsert(
                &mut report.conditions,
                type_,
                status,
                reason,
                message,
                None,
                now,
            );
        });
    }

    /// What is known now.
    pub fn read(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Sees every change.
    pub fn subscribe(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }
}

/// How long positions alone may wait.
const POSITIONS: Duration = Duration::from_secs(60);
/// The same of time alone, while the database writes nothing. As rarely as the kubelet tells that a node is as it was: a
/// thousand idle databases must be nothing to the API server.
const TIME: Duration = Duration::from_secs(300);
/// The same while a backup or a restore waits for them.
const POSITIONS_WAITED_FOR: Duration = Duration::from_secs(3);
/// The pause after a status that could not be written.
const RETRY: Duration = Duration::from_secs(2);

/// When a status that differs from the applied one is to be written, counted from the last write.
fn due(applied: Option<&Report>, report: &Report, waited_for: bool) -> Option<Duration> {
    match applied {
        Some(applied) if applied == report => None,
        Some(applied) if applied.substance() == report.substance() => Some(match waited_for {
            true => POSITIONS_WAITED_FOR,
            false if applied.timeless() == report.timeless() => TIME,
            false => POSITIONS,
        }),
        Some(_) | None => Some(Duration::ZERO),
    }
}

/// Writes the report to the API server.
pub struct Publisher {
    /// The report, and where the applied one is told.
    pub shared: Arc<Shared>,
    /// The protection, for its generation.
    pub protections: watch::Receiver<Objects<PgProtection>>,
    /// Backups that are not over: they wait for positions.
    pub backups: watch::Receiver<Objects<PgBackup>>,
    /// Restores without a plan: likewise.
    pub restores: watch::Receiver<Objects<PgRestore>>,
}

impl Publisher {
    /// Writes for ever: at once when the substance changes, now and then when only positions do.
    pub async fn run(mut self, applied: Report) {
        let mut reports = self.shared.reporter.subscribe();
        let mut applied = Some(applied);
        let mut last = Instant::now();
        loop {
            let report = reports.borrow_and_update().clone();
            let pause = due(applied.as_ref(), &report, self.waited_for());
            let at = pause.map(|pause| last + pause);
            if at.is_some_and(|at| at <= Instant::now()) {
                last = Instant::now();
                match self.apply(applied.as_ref(), &report).await {
                    Ok(()) => applied = Some(report),
                    // Nothing is left to report about; the process is ended from outside.
                    Err(error) if error.is_not_found() => applied = Some(report),
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), "failed to apply the status of the protection");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            }
            let wait = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = reports.changed() => changed,
                changed = self.backups.changed() => changed,
                changed = self.restores.changed() => changed,
                () = wait => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn waited_for(&mut self) -> bool {
        fn any<K>(objects: &mut watch::Receiver<Objects<K>>) -> bool {
            let objects = objects.borrow_and_update();
            objects.as_ref().is_some_and(|objects| !objects.is_empty())
        }
        let (backups, restores) = (any(&mut self.backups), any(&mut self.restores));
        backups || restores
    }

    fn generation(&self) -> Option<i64> {
        let protections = self.protections.borrow();
        let protection = protections.as_ref()?.values().next()?;
        protection.metadata.generation
    }

    async fn apply(&self, before: Option<&Report>, report: &Report) -> Result<(), RequestError> {
        let status = report.status(self.generation());
        let Shared {
            protection,
            events,
            about,
            applied,
            ..
        } = &*self.shared;
        let api = self.shared.api::<PgProtection>();
        apply_status(&api, protection, managers::AGENT, &status).await?;
        applied.send_replace(report.clone());
        let before = before.map_or(&[][..], |before| &before.conditions);
        events
            .condition_changes(about, before, &report.conditions)
            .await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Transport, clock::micro_time, postgres::Lsn};

    fn report(archived: u64, slot: &str) -> Report {
        Report {
            wal: Some(WalStatus {
                transport: Transport::Sql,
                reason: "Configured".into(),
                slot: Some(slot.into()),
                synchronous: false,
                standby_slots: Vec::new(),
                max_slot_wal_keep_size: None,
                archived_through: Some(Lsn::new(archived)),
                lag_bytes: Some(0),
            }),
            ..Report::default()
        }
    }

    #[test]
    fn positions_wait_and_everything_else_does_not() {
        let known = report(1, "highwater_a");
        let at = |seconds, report: Report| Report {
            recoverable: Some(RecoveryWindow {
                from: None,
                to: Some(micro_time(jiff::Timestamp::new(seconds, 0).unwrap())),
                backup_needed_from: None,
                timelines: Vec::new(),
            }),
            ..report
        };
        let timed = at(60, known.clone());
        for (name, new, waited_for, expected) in [
            ("later", at(120, known.clone()), false, TIME),
            (
                "later, waited for",
                at(120, known.clone()),
                true,
                POSITIONS_WAITED_FOR,
            ),
            (
                "later and moved",
                at(120, report(2, "highwater_a")),
                false,
                POSITIONS,
            ),
            (
                "a window that was not known",
                known.clone(),
                false,
                Duration::ZERO,
            ),
        ] {
            assert_eq!(
                due(Some(&timed), &new, waited_for),
                Some(expected),
                "{name}"
            );
        }
        for (name, new, waited_for, expected) in [
            ("the same", report(1, "highwater_a"), true, None),
            ("moved", report(2, "highwater_a"), false, Some(POSITIONS)),
            (
                "moved, waited for",
                report(2, "highwater_a"),
                true,
                Some(POSITIONS_WAITED_FOR),
            ),
            (
                "another slot",
                report(1, "highwater_b"),
                false,
                Some(Duration::ZERO),
            ),
        ] {
            assert_eq!(due(Some(&known), &new, waited_for), expected, "{name}");
        }
        assert_eq!(due(None, &known, false), Some(Duration::ZERO));
    }

    #[test]
    fn the_controllers_part_is_neither_read_back_nor_written() {
        let mut status = PgProtectionStatus {
            archive_name: Some("shop-orders-db".into()),
            lineage: "k3v9q2abcd".parse().ok(),
            ..PgProtectionStatus::default()
        };
        for type_ in [conditions::ACTIVE, CONNECTED] {
            let now = jiff::Timestamp::UNIX_EPOCH;
            conditions::upsert(
                &mut status.conditions,
                type_,
                Status::True,
                "X",
                "",
                None,
                now,
            );
        }
        let written = Report::read_back(&status).status(Some(3));
        assert_eq!(written.archive_name, None);
        assert_eq!(written.lineage, status.lineage);
        assert_eq!(written.conditions.len(), 1);
        assert_eq!(written.conditions[0].type_, CONNECTED);
        assert_eq!(written.conditions[0].observed_generation, Some(3));
    }
}
