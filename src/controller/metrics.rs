//! The controller's numbers.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters and gauges of this process; cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    passes: Family<Pass, Counter>,
    /// Whether this replica holds the lease.
    pub leader: Gauge,
    agents: Family<Agent, Gauge>,
    drills: Family<Drill, Counter>,
    undecodable: Family<Kind, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
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
            "highwater_leader",
            "1 where this replica holds the lease",
            self.leader.clone(),
        );
    }
}
