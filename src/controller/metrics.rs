//! The controller's numbers.

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::api::RestorePhases;

/// From what a small restore's parts take to a day: seconds.
const BUCKETS: [f64; 15] = [
    0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10_800.0, 36_000.0,
    86_400.0,
];

/// Numbers of this process; cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    passes: Family<Pass, Counter>,
    /// Whether this replica holds the lease.
    pub leader: Gauge,
    agents: Family<Agent, Gauge>,
    safe: Family<Agent, Gauge>,
    last_backups: Family<Agent, Gauge>,
    next_backups: Family<Agent, Gauge>,
    skipped_backups: Family<Agent, Counter>,
    expired_backups: Family<Agent, Counter>,
    drills: Family<Drill, Counter>,
    undecodable: Family<Kind, Gauge>,
    restores: Family<Phase, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            passes: Family::default(),
            leader: Gauge::default(),
            agents: Family::default(),
            safe: Family::default(),
            last_backups: Family::default(),
            next_backups: Family::default(),
            skipped_backups: Family::default(),
            expired_backups: Family::default(),
            drills: Family::default(),
            undecodable: Family::default(),
            restores: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Agent {
    namespace: String,
    protection: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drill {
    namespace: String,
    protection: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pass {
    controller: &'static str,
    outcome: &'static str,
}

impl Metrics {
    /// Counts one pass; `outcome` is `Ok` or the error's reason.
    pub fn pass(&self, controller: &'static str, outcome: &'static str) {
        self.passes
            .get_or_create(&Pass {
                controller,
                outcome,
            })
            .inc();
    }

    /// Counts a drill that is decided; `outcome` is `Passed` or `Failed`.
    pub fn drill(&self, namespace: &str, protection: &str, outcome: &'static str) {
        let drill = Drill {
            namespace: namespace.to_owned(),
            protection: protection.to_owned(),
            outcome,
        };
        self.drills.get_or_create(&drill).inc();
    }

    /// Counts a restore that is completed.
    pub fn restored(&self, phases: &RestorePhases) {
        for (phase, seconds) in phases.named() {
            if let Some(seconds) = seconds {
                self.restores
                    .get_or_create(&Phase { phase })
                    .observe(seconds);
            }
        }
    }

    /// Says whether the agent of a protection runs; `None` where there is none to run.
    pub fn agent(&self, namespace: &str, protection: &str, running: Option<bool>) {
        let agent = Agent {
            namespace: namespace.to_owned(),
            protection: protection.to_owned(),
        };
        match running {
            Some(running) => drop(self.agents.get_or_create(&agent).set(running.into())),
            None => drop(self.agents.remove(&agent)),
        }
    }

    /// Says when the last backup of a protection was taken, and when the next is due.
    pub fn backups(
        &self,
        namespace: &str,
        protection: &str,
        (last, next): (Option<Timestamp>, Option<Timestamp>),
    ) {
        let about = Agent {
            namespace: namespace.to_owned(),
            protection: protection.to_owned(),
        };
        for (gauges, at) in [(&self.last_backups, last), (&self.next_backups, next)] {
            match at {
                Some(at) => drop(gauges.get_or_create(&about).set(at.as_second())),
                None => drop(gauges.remove(&about)),
            }
        }
    }

    /// Says whether a database is safe; `None`: it is not protected any more.
    pub fn safe(&self, namespace: &str, protection: &str, is_safe: Option<bool>) {
        let about = Agent {
            namespace: namespace.to_owned(),
            protection: protection.to_owned(),
        };
        match is_safe {
            Some(is_safe) => drop(self.safe.get_or_create(&about).set(i64::from(is_safe))),
            None => drop(self.safe.remove(&about)),
        }
    }

    /// Counts a backup that was due and left out.
    pub fn skipped(&self, namespace: &str, protection: &str) {
        let about = Agent {
            namespace: namespace.to_owned(),
            protection: protection.to_owned(),
        };
        self.skipped_backups.get_or_create(&about).inc();
    }

    /// Counts a backup that was deleted, as the policy's retention does not keep it.
    pub fn expired(&self, namespace: &str, protection: &str) {
        let about = Agent {
            namespace: namespace.to_owned(),
            protection: protection.to_owned(),
        };
        self.expired_backups.get_or_create(&about).inc();
    }

    /// Says how many objects of a kind cannot be decoded.
    pub fn undecodable(&self, kind: &str, count: usize) {
        let kind = kind.to_owned();
        let gauge = self.undecodable.get_or_create(&Kind { kind });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Makes them part of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "highwater_reconcile_passes",
            "Passes over one object, by controller and outcome",
            self.passes.clone(),
        );
        registry.register(
            "highwater_agent_running",
            "1 while the agent of a protection runs: without it no WAL is shipped, and no slot has a ceiling",
            self.agents.clone(),
        );
        registry.register(
            "highwater_protection_safe",
            "1 while condition Safe of a protection is True: all that is committed is archived, and can be recovered",
            self.safe.clone(),
        );
        registry.register(
            "highwater_last_backup_timestamp_seconds",
            "When the newest backup that counts was taken, by the database's clock",
            self.last_backups.clone(),
        );
        registry.register(
            "highwater_next_backup_timestamp_seconds",
            "When the next backup is due by the policy's schedules; in the past: it is due, and not taken",
            self.next_backups.clone(),
        );
        registry.register(
            "highwater_skipped_backups",
            "Backups that were due and left out, as another was not finished",
            self.skipped_backups.clone(),
        );
        registry.register(
            "highwater_expired_backups",
            "Backups that were deleted, as the policy's retention does not keep them",
            self.expired_backups.clone(),
        );
        registry.register(
            "highwater_drills",
            "Drills that were decided, by protection and outcome: Passed or Failed",
            self.drills.clone(),
        );
        registry.register(
            "highwater_undecodable_objects",
            "Objects that the API server has and this controller cannot decode: nothing is done about them",
            self.undecodable.clone(),
        );
        registry.register(
            "highwater_restore_phase_seconds",
            "What completed restores and drills took, by part; total is the sum to the first query",
            self.restores.clone(),
        );
        registry.register(
            "highwater_leader",
            "1 where this replica holds the lease",
            self.leader.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_schedule_asks_for_is_not_due() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        metrics.backups("shop", "orders", (at(100), at(200)));
        metrics.backups("shop", "billing", (None, at(300)));
        metrics.backups("shop", "billing", (at(150), None));
        metrics.skipped("shop", "orders");
        let mut told = String::new();
        prometheus_client::encoding::text::encode(&mut told, &registry).unwrap();
        let of = |protection: &str| format!("{{namespace=\"shop\",protection=\"{protection}\"}}");
        for (name, protection, value) in [
            (
                "highwater_last_backup_timestamp_seconds",
                "orders",
                Some(100),
            ),
            (
                "highwater_next_backup_timestamp_seconds",
                "orders",
                Some(200),
            ),
            (
                "highwater_last_backup_timestamp_seconds",
                "billing",
                Some(150),
            ),
            ("highwater_next_backup_timestamp_seconds", "billing", None),
            ("highwater_skipped_backups_total", "orders", Some(1)),
        ] {
            let begins = format!("{name}{} ", of(protection));
            let found = told.lines().find_map(|line| line.strip_prefix(&begins));
            assert_eq!(
                found.map(str::to_owned),
                value.map(|it: i32| it.to_string()),
                "{told}"
            );
        }
    }

    #[test]
    fn a_restore_counts_once_in_each_part_that_it_had() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.restored(&RestorePhases {
            plan_seconds: Some(0.5),
            total_seconds: Some(7.0),
            ..RestorePhases::default()
        });
        let mut told = String::new();
        prometheus_client::encoding::text::encode(&mut told, &registry).unwrap();
        for line in [
            "highwater_restore_phase_seconds_sum{phase=\"plan\"} 0.5",
            "highwater_restore_phase_seconds_count{phase=\"total\"} 1",
            "highwater_restore_phase_seconds_bucket{le=\"10.0\",phase=\"total\"} 1",
        ] {
            assert!(told.contains(line), "{line} in {told}");
        }
        assert!(!told.contains("queue"), "{told}");
    }
}
