//! What a shipper is given: where WAL comes from and goes to, and what it hears and says.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{others::Other, plan::Path, segment::Damage};
use crate::{
    agent::{
        metrics::Metrics,
        shared::{Demand, Progress},
    },
    archive::Lineage,
    postgres::{Lsn, SegmentSize, SystemIdentifier, session::Client},
};

/// Where WAL comes from and goes to.
pub struct Route {
    /// The session with the primary.
    pub client: Arc<Client>,
    /// The replication slot.
    pub slot: String,
    /// The size of segments.
    pub size: SegmentSize,
    /// The timeline and its ancestors.
    pub path: Path,
    /// Where it goes.
    pub lineage: Lineage,
    /// Whose WAL it is.
    pub system_identifier: SystemIdentifier,
    /// How many segments of a backlog may be on their way at once.
    pub parallel: usize,
    /// The other members, as they come and go.
    pub others: watch::Receiver<Vec<Other>>,
}

/// What an admin must know, and no later state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// PostgreSQL removed WAL before it was shipped, and no member has it.
    Gap {
        /// The first byte that is missing.
        from: Lsn,
        /// The first that is there again.
        to: Lsn,
    },
    /// A segment can be replayed only up to there.
    Damaged(Damage),
}

/// What the rest of the agent says and hears.
pub struct Signals {
    /// How often the tail is shipped.
    pub tail_interval: watch::Receiver<Duration>,
    /// What somebody waits for.
    pub demand: watch::Receiver<Demand>,
    /// How far it is.
    pub progress: watch::Sender<Progress>,
    /// The process is to end.
    pub stop: CancellationToken,
    /// The numbers.
    pub metrics: Metrics,
    /// What an admin must know.
    pub notices: mpsc::UnboundedSender<Notice>,
}
