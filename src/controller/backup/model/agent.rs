//! An agent that keeps to the handshake.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;

use super::{World, object};
use crate::{
    api::{
        CatalogEntry, PgBackupStatus, Session,
        conditions::{self, Status},
    },
    controller::backup::observe::is_finished,
};

impl World {
    pub(super) fn start(&mut self) {
        let Some(number) = self.running() else {
            return;
        };
        let status = self.status();
        let known = status
            .session
            .as_ref()
            .is_some_and(|session| session.attempt == number);
        if known || self.live.is_some() {
            return;
        }
        self.live = Some(number);
        self.started.insert(number);
        let now = self.now;
        self.write(|status| {
            status.session = Some(object(
                json!({"attempt": number, "startLsn": "0/2000028", "timeline": 1}),
            ));
            status.catalog = None;
            for type_ in [
                conditions::STOPPED,
                conditions::WAL_ARCHIVED,
                conditions::CATALOGUED,
            ] {
                status.conditions.retain(|c| c.type_ != type_);
            }
            // The time in it moves with the attempt, too.
            status.conditions.retain(|c| c.type_ != conditions::SESSION);
            conditions::upsert(
                &mut status.conditions,
                conditions::SESSION,
                Status::True,
                "Started",
                "",
                None,
                now,
            );
        });
    }

    pub(super) fn running(&self) -> Option<u32> {
        let backup = self.backup.as_ref()?;
        let goes = backup.metadata.deletion_timestamp.is_some() || is_finished(backup);
        let status = backup.status.as_ref()?;
        let accepted = conditions::is_true(&status.conditions, conditions::ACCEPTED);
        let number = status.attempt.as_ref()?.number;
        (accepted && !goes).then_some(number)
    }

    pub(super) fn status(&self) -> PgBackupStatus {
        self.backup
            .as_ref()
            .and_then(|b| b.status.clone())
            .unwrap_or_default()
    }

    pub(super) fn session(&self) -> Option<Session> {
        self.status()
            .session
            .filter(|s| Some(s.attempt) == self.running())
    }

    pub(super) fn write(&mut self, change: impl FnOnce(&mut PgBackupStatus)) {
        if let Some(backup) = &mut self.backup {
            change(backup.status.get_or_insert_default());
            self.touch();
        }
    }

    pub(super) fn notice(&mut self) {
        // An agent ends a session that nobody wants any more.
        if self.live.is_some() && self.live != self.running() {
            self.live = None;
        }
        let now = self.now;
        let stopped = conditions::is_true(&self.status().conditions, conditions::STOPPED);
        if self.live.is_none() && !stopped && self.session().is_some() {
            self.write(|status| {
                conditions::upsert(
                    &mut status.conditions,
                    conditions::SESSION,
                    Status::False,
                    "SessionLost",
                    "",
                    None,
                    now,
                );
            });
        }
    }

    pub(super) fn stop(&mut self) {
        let status = self.status();
        let cut = conditions::is_true(&status.conditions, conditions::CUT);
        let Some(number) = self
            .session()
            .map(|s| s.attempt)
            .filter(|n| cut && self.live == Some(*n))
        else {
            return;
        };
        self.live = None;
        self.stopped.insert(number);
        self.check_stop(number);
        let now = self.now;
        self.write(|status| {
            if let Some(session) = &mut status.session {
                session.stop_lsn = Some("0/2000138".parse().unwrap());
                session.stopped_at = Some(MicroTime(now));
            }
            conditions::upsert(
                &mut status.conditions,
                conditions::STOPPED,
                Status::True,
                "Stopped",
                "",
                None,
                now,
            );
        });
    }

    pub(super) fn say(&mut self, after: &str, type_: &str) {
        let now = self.now;
        if self.session().is_some() && conditions::is_true(&self.status().conditions, after) {
            self.write(|status| {
                conditions::upsert(
                    &mut status.conditions,
                    type_,
                    Status::True,
                    "Done",
                    "",
                    None,
                    now,
                )
            });
        }
    }

    pub(super) fn catalogue(&mut self, tells: bool) {
        let list = self.status().conditions;
        let due = [conditions::WAL_ARCHIVED, conditions::READY]
            .iter()
            .all(|t| conditions::is_true(&list, t));
        if !due || self.session().is_none() {
            return;
        }
        self.in_catalog = true;
        if tells {
            let entry = CatalogEntry {
                manifest: "k".into(),
                sha256: "s".into(),
            };
            self.write(|status| status.catalog = Some(entry));
            self.say(conditions::WAL_ARCHIVED, conditions::CATALOGUED);
        }
    }

    pub(super) fn uncatalogue(&mut self) {
        let status = self.status();
        let holds = |type_| conditions::is_true(&status.conditions, type_);
        if status.session.is_none() || !holds(conditions::DISCARDED) {
            return;
        }
        self.in_catalog = false;
        let now = self.now;
        self.write(|status| {
            conditions::upsert(
                &mut status.conditions,
                conditions::CATALOGUED,
                Status::False,
                conditions::UNCATALOGUED,
                "",
                None,
                now,
            );
        });
    }
}
