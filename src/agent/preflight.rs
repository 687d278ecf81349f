//! Tells in the status what the primary has left of what a backup needs. What it means the controller decides: an agent that
//! is connected is not asked before a backup begins.

use std::time::Duration;

use super::{primary::Answering, shared::Shared};
use crate::{
    api::{Preflight, Room},
    clock::micro_time,
    controller::context::Chain,
    postgres::{
        headroom::{self, Headroom, Used},
        session::QueryError,
    },
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);

/// Looks again and again, for ever: whoever ships notices a session that is lost.
pub async fn follow(shared: &Shared, answering: &Answering) {
    loop {
        tokio::time::sleep(EVERY).await;
        look(shared, answering).await;
    }
}

/// Looks once. What it does not find out keeps nobody from shipping, and is not told: what was seen before may be so no more.
pub async fn look(shared: &Shared, answering: &Answering) {
    if let Err(error) = try_look(shared, answering).await {
        tracing::debug!(pod = answering.member.pod, error = %Chain(&error), "failed to look what the primary has left");
        forget(shared);
    }
}

async fn try_look(shared: &Shared, answering: &Answering) -> Result<(), QueryError> {
    let seen = headroom::ask(&answering.client, &shared.slot).await?;
    let facts = facts(seen, &answering.member.pod, shared.clock.now());
    let reporter = &shared.reporter;
    reporter.edit(|report| report.preflight = Some(facts.since(report.preflight.as_ref())));
    Ok(())
}

/// What was told is of a primary that cannot be asked any more, or does not answer.
pub fn forget(shared: &Shared) {
    shared.reporter.edit(|report| report.preflight = None);
}

fn facts(seen: Headroom, pod: &str, now: jiff::Timestamp) -> Preflight {
    let Headroom {
        wal_level,
        has_slot,
        replication_slots,
        wal_senders,
        connections,
        role_connections,
        database_connections,
    } = seen;
    let room = |Used { maximum, used }: Used| Room::new(maximum, used);
    Preflight {
        observed_at: micro_time(now),
        pod: pod.to_owned(),
        wal_level,
        holds_slot: has_slot,
        replication_slots: room(replication_slots),
        wal_senders: room(wal_senders),
        connections: room(connections),
        role_connections: role_connections.map(room),
        database_connections: database_connections.map(room),
    }
}
