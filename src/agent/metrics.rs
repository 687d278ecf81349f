//! The agent's numbers.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};
use tokio::time::Instant;

use super::wal::lag::{Lag, Waiting};
use crate::postgres::Lsn;

/// Counters and gauges of this process; cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Bytes flushed by PostgreSQL and not yet archived.
    pub lag_bytes: Gauge,
    /// Seconds that the oldest of them has been waiting.
    pub lag_seconds: Gauge<f64, AtomicU64>,
    /// How fast they grow in number: bytes per second, negative where they shrink.
    pub lag_slope: Gauge<f64, AtomicU64>,
    waiting: Arc<Mutex<Waiting>>,
    /// Whole segments archived.
    pub segments: Counter,
    /// Tails archived.
    pub tails: Counter,
    /// Bytes of WAL archived, before compression.
    pub archived_bytes: Counter,
    /// Lineages begun because the database did not go on with the one that it was known by.
    pub lineages: Counter,
    /// Whole segments deleted because nothing that is kept needs them.
    pub expired_segments: Counter,
    /// Objects in the archive's lineage that no restore reads.
    pub orphans: Gauge,
    slot_held: Family<Pod, Gauge>,
    /// Seconds in backup mode; 0 outside.
    pub session_age: Gauge<f64, AtomicU64>,
    /// Whether the primary answers.
    pub connected: Gauge,
    errors: Family<Errors, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Errors {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pod {
    pod: String,
}

impl Metrics {
    /// How much WAL the slot on a member holds back.
    pub fn slot(&self, pod: &str, bytes: u64) {
        let pod = pod.to_owned();
        let gauge = self.slot_held.get_or_create(&Pod { pod });
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A session begins with a server whose log ends at `end`.
    pub fn session(&self, end: Lsn) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.begin(end);
    }

    /// At `now` PostgreSQL has flushed up to `flushed`, and the archive has everything before `durable`.
    pub fn behind(&self, now: Instant, flushed: Lsn, durable: Lsn) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Lag {
            bytes,
            seconds,
            slope,
        } = waiting.observe(now, flushed, durable);
        self.lag_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.lag_seconds.set(seconds);
        self.lag_slope.set(slope);
    }

    /// Counts an error.
    pub fn error(&self, reason: &'static str) {
        self.errors.get_or_create(&Errors { reason }).inc();
    }

    /// Makes them part of `r`.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "highwater_wal_lag_bytes",
            "Bytes of WAL flushed and not yet archived",
            self.lag_bytes.clone(),
        );
        r.register(
            "highwater_wal_lag_seconds",
            "Seconds that the oldest flushed and not yet archived WAL has been waiting",
            self.lag_seconds.clone(),
        );
        r.register(
            "highwater_wal_lag_growth_bytes_per_second",
            "How fast highwater_wal_lag_bytes grew over the last 20 seconds, negative where it shrank",
            self.lag_slope.clone(),
        );
        r.register(
            "highwater_wal_segments",
            "Whole WAL segments archived",
            self.segments.clone(),
        );
        r.register(
            "highwater_wal_tails",
            "Tails of unfinished WAL segments archived",
            self.tails.clone(),
        );
        r.register(
            "highwater_wal_archived_bytes",
            "Bytes of WAL archived, before compression",
            self.archived_bytes.clone(),
        );
        r.register(
            "highwater_lineages_begun",
            "Lineages begun because the database did not go on with the one that its protection knew",
            self.lineages.clone(),
        );
        r.register(
            "highwater_wal_expired_segments",
            "Whole WAL segments deleted because nothing that is kept needs them",
            self.expired_segments.clone(),
        );
        r.register(
            "highwater_archive_orphans",
            "Objects among those of the lineage that no restore reads; counted when everything is listed, each hour",
            self.orphans.clone(),
        );
        r.register(
            "highwater_slot_held_bytes",
            "Bytes of WAL that Highwater's replication slot holds back, by pod",
            self.slot_held.clone(),
        );
        r.register(
            "highwater_backup_session_seconds",
            "Seconds in backup mode, 0 outside",
            self.session_age.clone(),
        );
        r.register(
            "highwater_database_connected",
            "1 while the primary answers",
            self.connected.clone(),
        );
        r.register(
            "highwater_agent_errors",
            "Errors by reason",
            self.errors.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("highwater_build", "The version of this program", build);
    }
}
