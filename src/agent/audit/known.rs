//! What the Kubernetes API has beside the archive: backups and restores that are there, and what the controller says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::{ResourceExt, core::PartialObjectMeta};
use tokio::sync::watch;

use crate::{
    agent::{retention::is_to_any_time, watch::Objects},
    api::{
        PgBackup, PgProtection, PgRestore, PgRestoreStatus, RestorePlan, annotations,
        conditions::{self, COMPLETED, WITHIN_RETENTION},
    },
    archive::{
        Contents, LineageId,
        retention::{Holds, Pin},
    },
    postgres::Lsn,
};

/// A PgBackup of the namespace: that it is there is all that is asked.
pub type Existing = PartialObjectMeta<PgBackup>;

/// What the Kubernetes API has beside the archive.
pub struct Seen {
    /// The backups of the namespace: what is not among them any more counts no longer.
    pub backups: watch::Receiver<Objects<Existing>>,
    /// Those of the protection that are not over.
    pub open: watch::Receiver<Objects<PgBackup>>,
    /// The restores of the namespace that are not over.
    pub restores: watch::Receiver<Objects<PgRestore>>,
    /// The one protection.
    pub protections: watch::Receiver<Objects<PgProtection>>,
}

impl Seen {
    /// Waits until something is read anew. `false`: nothing will be any more.
    pub(super) async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.backups.changed() => changed,
            changed = self.open.changed() => changed,
            changed = self.restores.changed() => changed,
            changed = self.protections.changed() => changed,
        };
        changed.is_ok()
    }

    pub(super) fn read(&mut self) -> Known {
        let protections = self.protections.borrow_and_update();
        let protection = protections.iter().flat_map(BTreeMap::values).next();
        let status = protection.and_then(|it| it.status.as_ref());
        let verified = status.and_then(|status| status.last_verified.as_ref());
        let within = status.and_then(|it| conditions::find(&it.conditions, WITHIN_RETENTION));
        let backups = self.backups.borrow_and_update();
        let open = self.open.borrow_and_update();
        let restores = self.restores.borrow_and_update();
        Known {
            verified: verified.and_then(|last| backups.as_ref()?.get(&last.backup)?.uid()),
            backups: labels(backups.as_ref()),
            open: open
                .as_ref()
                .map(|open| open.values().filter_map(|it| begun(it)).collect()),
            restores: restores
                .as_ref()
                .map(|all| all.values().filter_map(|it| plan(it)).collect()),
            within: within.is_some_and(|it| AT_REST.contains(&it.reason.as_str())),
        }
    }
}

/// What condition `WithinRetention` says where no backup is to go, and none is kept from going.
const AT_REST: [&str; 2] = ["WithinRetention", "WalNotDeleted"];

/// What is known of backups and restores beside the archive.
#[derive(Default, PartialEq)]
pub(super) struct Known {
    /// The backups that are there by UID, each with what its label says that keeps it.
    backups: BTreeMap<String, Option<String>>,
    /// The UID of the last one that passed a drill.
    verified: Option<String>,
    /// What those need that are under way; `None` if nobody can say.
    open: Option<Vec<Begun>>,
    /// What restores read; `None` if nobody can say.
    restores: Option<Vec<RestorePlan>>,
    /// Whether the controller says that no backup is to go.
    within: bool,
}

/// A backup under way: with what it needs, once its backup mode has begun.
type Begun = Option<(LineageId, Pin)>;

impl Known {
    /// Of the backups that are there.
    pub(super) fn uids(&self) -> BTreeSet<String> {
        self.backups.keys().cloned().collect()
    }

    /// Whether WAL may be deleted: no backup is to go first, and what each that is under way needs is known.
    pub(super) fn may_delete(&self) -> bool {
        let open = self.open.as_ref();
        let is_known = open.is_some_and(|open| open.iter().all(Option::is_some));
        is_known && self.restores.is_some() && self.within
    }

    /// What is kept of the lineage whatever the rules say.
    pub(super) fn holds(&self, contents: &Contents, lineage: &LineageId) -> Holds {
        let labelled = self.backups.iter();
        let labelled = labelled.filter_map(|(uid, label)| {
            let is_to_any_time = is_to_any_time(label.as_ref()?);
            Some((uid.clone(), is_to_any_time))
        });
        let open = self.open.iter().flatten().flatten();
        let open = open
            .filter(|(of, _)| of == lineage)
            .map(|(_, pin)| pin.clone());
        let restores = self.restores.iter().flatten();
        let restores = restores.filter(|plan| plan.lineage == *lineage);
        Holds {
            backups: labelled.collect(),
            verified: self.verified.clone(),
            restores: restores
                .map(|plan| pin(plan, contents))
                .chain(open)
                .collect(),
        }
    }
}

fn pin(plan: &RestorePlan, contents: &Contents) -> Pin {
    let mut backups = contents.backups.iter();
    let its = backups.find(|(folder, _)| plan.backup_key.ends_with(folder.as_str()));
    Pin {
        backup: its
            .map(|(_, manifest)| manifest.uid.clone())
            .unwrap_or_default(),
        timeline: plan.timeline,
        wal_from: plan.wal_from,
        wal_to: plan.wal_to,
    }
}

/// By UID.
fn labels(backups: Option<&BTreeMap<String, Arc<Existing>>>) -> BTreeMap<String, Option<String>> {
    let backups = backups.into_iter().flat_map(BTreeMap::values);
    // One that goes is not chosen any more.
    backups
        .filter(|backup| backup.metadata.deletion_timestamp.is_none())
        .filter_map(|backup| {
            let label = backup.labels().get(annotations::KEEP_LABEL);
            Some((backup.uid()?, label.cloned()))
        })
        .collect()
}

/// All from its start on: where it stops is not known, and no WAL before its end may be missing. Nothing of one that goes.
fn begun(backup: &PgBackup) -> Option<Begun> {
    if backup.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let session = backup
        .status
        .as_ref()
        .and_then(|status| status.session.as_ref());
    let pin = session.and_then(|session| {
        let pin = Pin {
            backup: backup.uid()?,
            timeline: session.timeline?,
            wal_from: session.start_lsn?,
            wal_to: Lsn::new(u64::MAX),
        };
        Some((session.lineage.clone()?, pin))
    });
    Some(pin)
}

/// Whether a restore may read WAL, or will.
pub fn is_running(restore: &PgRestore) -> bool {
    let empty = PgRestoreStatus::default();
    let conditions = &restore.status.as_ref().unwrap_or(&empty).conditions;
    let is_over =
        conditions::is_true(conditions, COMPLETED) || conditions::is_false(conditions, COMPLETED);
    let only_planned = restore.spec.plan_only == Some(true);
    restore.metadata.deletion_timestamp.is_none() && !is_over && !only_planned
}

fn plan(restore: &PgRestore) -> Option<RestorePlan> {
    restore.status.as_ref()?.plan.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::archive::examples::*;

    fn backup(status: &Value) -> Arc<PgBackup> {
        let backup = json!({
            "metadata": {"name": "b", "uid": "b-uid"}, "spec": {"protection": "orders"}, "status": status,
        });
        Arc::new(serde_json::from_value(backup).unwrap())
    }

    fn restore(status: &Value, plan_only: bool) -> PgRestore {
        let restore = json!({
            "metadata": {"name": "r"}, "status": status,
            "spec": {"source": {"protection": "orders"}, "planOnly": plan_only},
        });
        serde_json::from_value(restore).unwrap()
    }

    fn protection(reason: &str) -> Arc<PgProtection> {
        let protection = json!({
            "metadata": {"name": "orders"}, "spec": {"statefulSet": "orders", "policy": "gold"},
            "status": {"conditions": [{
                "type": "WithinRetention", "status": "True", "reason": reason, "message": "",
                "lastTransitionTime": "2026-11-20T00:00:00Z",
            }]},
        });
        Arc::new(serde_json::from_value(protection).unwrap())
    }

    /// What the API server has, where everything is known and nothing is under way.
    struct Api {
        backups: Objects<Existing>,
        open: Objects<PgBackup>,
        restores: Objects<PgRestore>,
        protections: Objects<PgProtection>,
    }

    impl Default for Api {
        fn default() -> Self {
            let orders = ("orders".to_owned(), protection("WithinRetention"));
            Self {
                backups: Some(BTreeMap::new()),
                open: Some(BTreeMap::new()),
                restores: Some(BTreeMap::new()),
                protections: Some([orders].into()),
            }
        }
    }

    impl Api {
        fn known(self) -> Known {
            let mut seen = Seen {
                backups: watch::channel(self.backups).1,
                open: watch::channel(self.open).1,
                restores: watch::channel(self.restores).1,
                protections: watch::channel(self.protections).1,
            };
            seen.read()
        }
    }

    fn begun() -> Value {
        json!({"session": {"attempt": 1, "lineage": identity().lineage, "timeline": 1, "startLsn": lsn(3.5)}})
    }

    #[test]
    fn nothing_is_deleted_while_something_is_not_known() {
        assert!(Api::default().known().may_delete());
        let open = |status| Some([("b".to_owned(), backup(&status))].into());
        let says = |reason| Some([("orders".to_owned(), protection(reason))].into());
        let api = Api::default;
        for (what, api, expected) in [
            (
                "backups under way",
                Api {
                    open: None,
                    ..api()
                },
                false,
            ),
            (
                "one that has not begun",
                Api {
                    open: open(json!({})),
                    ..api()
                },
                false,
            ),
            (
                "one that has begun",
                Api {
                    open: open(begun()),
                    ..api()
                },
                true,
            ),
            (
                "restores",
                Api {
                    restores: None,
                    ..api()
                },
                false,
            ),
            (
                "the controller",
                Api {
                    protections: None,
                    ..api()
                },
                false,
            ),
            (
                "a backup is to go",
                Api {
                    protections: says("Expiring"),
                    ..api()
                },
                false,
            ),
            (
                "paused",
                Api {
                    protections: says("Paused"),
                    ..api()
                },
                false,
            ),
            (
                "refused before",
                Api {
                    protections: says("WalNotDeleted"),
                    ..api()
                },
                true,
            ),
        ] {
            assert_eq!(api.known().may_delete(), expected, "{what}");
        }
    }

    #[test]
    fn what_is_under_way_holds_what_it_reads() {
        let plan = json!({"plan": {
            "summary": "", "backup": "kept", "backupKey": "shop/0123456789/backups/kept-folder", "archive": "main",
            "archiveName": "shop", "lineage": identity().lineage, "timeline": 1, "walFrom": lsn(1.0), "walTo": lsn(2.5),
            "bytes": 1,
        }});
        let known = Api {
            open: Some([("b".to_owned(), backup(&begun()))].into()),
            restores: Some([("r".to_owned(), Arc::new(restore(&plan, false)))].into()),
            ..Api::default()
        }
        .known();
        let contents = with_backup(empty(), "kept", 1, 1.1, 1.5);
        let pins = known.holds(&contents, &identity().lineage).restores;
        let told = |pin: &Pin| (pin.backup.clone(), pin.wal_from, pin.wal_to);
        let pins: Vec<_> = pins.iter().map(told).collect();
        let expected = [
            ("kept-uid".to_owned(), lsn(1.0), lsn(2.5)),
            ("b-uid".to_owned(), lsn(3.5), Lsn::new(u64::MAX)),
        ];
        assert_eq!(pins, expected);
        let other = "9876543210".parse().unwrap();
        assert!(known.holds(&contents, &other).restores.is_empty());
    }

    #[test]
    fn what_is_over_reads_nothing() {
        let over = |status| {
            json!({"conditions": [{
                "type": "Completed", "status": status, "reason": "R", "message": "",
                "lastTransitionTime": "2026-11-20T00:00:00Z",
            }]})
        };
        assert!(is_running(&restore(&json!({}), false)));
        assert!(!is_running(&restore(&json!({}), true)));
        for status in ["True", "False"] {
            assert!(!is_running(&restore(&over(status), false)), "{status}");
        }
    }
}
