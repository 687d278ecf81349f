//! What a shipper is given: where WAL comes from and goes to, and what it hears and says.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{clocks::Reading, error::Error, others::Other, plan::Path, segment::Damage};
use crate::{
    agent::{
        metrics::Metrics,
        shared::{Demand, Progress},
    },
    archive::{ClockPair, Lineage},
    postgres::{
        Lsn, SegmentName, SegmentSize, SystemIdentifier,
        session::Client,
        wal_reader::{self, FlushPosition},
    },
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

impl Route {
    /// How far PostgreSQL has flushed, and its clock.
    ///
    /// # Errors
    /// The session is lost, or it writes another timeline.
    pub async fn poll(&self) -> Result<Reading, Error> {
        let FlushPosition { lsn, at, timeline } = wal_reader::flush_position(&self.client).await?;
        match timeline == self.path.timeline {
            true => Ok(Reading { lsn, at }),
            false => Err(Error::TimelineChanged(timeline)),
        }
    }

    /// Says in the archive that it holds everything that was acknowledged by then.
    ///
    /// # Errors
    /// The archive refuses.
    pub async fn write_clock(&self, Reading { lsn, at }: Reading) -> Result<(), Error> {
        let timeline = self.path.timeline;
        let pair = ClockPair { lsn, at, timeline };
        Ok(self.lineage.write_clock(pair).await?)
    }
}

/// What an admin must know, and no later state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// WAL is missing from the archive.
    Gap {
        /// The first byte that is missing.
        from: Lsn,
        /// The first that is there again.
        to: Lsn,
        /// Why.
        cause: GapCause,
    },
    /// A segment can be replayed only up to there.
    Damaged(Damage),
    /// The slot has lost its WAL, and was dropped.
    SlotLost,
}

/// Why WAL is missing from the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// PostgreSQL removed it before it was shipped, and no member has it.
    Removed,
    /// PostgreSQL calls it archived, this segment first, and it is not in the lineage.
    Elsewhere(SegmentName),
    /// PostgreSQL was to archive it, and does not have it any more.
    Unarchived,
}

impl GapCause {
    /// What happened and what to do.
    pub fn message(&self) -> String {
        match self {
            Self::Removed => "PostgreSQL removed it before it was shipped, and no member has it. \
                              Highwater takes a new backup; no restore can pass the gap"
                .to_owned(),
            Self::Elsewhere(name) => format!(
                "PostgreSQL calls it archived, and archive_command did not bring it into this lineage. While pg_wal still has {name}, \
                 renaming pg_wal/archive_status/{name}.done to {name}.ready has it archived again, and so on for those behind it: that \
                 closes the gap. Highwater takes a new backup; no restore can pass the gap"
            ),
            Self::Unarchived => "archive_command did not bring it into this lineage, and PostgreSQL does not have it any more. \
                                 Highwater takes a new backup; no restore can pass the gap"
                .to_owned(),
        }
    }
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

impl Signals {
    /// PostgreSQL has flushed up to `flushed`, and the archive has everything before `durable`.
    pub fn report(&self, durable: Lsn, flushed: Lsn) {
        self.metrics.behind(Instant::now(), flushed, durable);
        self.progress.send_if_modified(|progress| {
            let changed = (progress.durable, progress.flushed) != (Some(durable), Some(flushed));
            progress.durable = Some(durable);
            progress.flushed = Some(flushed);
            changed
        });
    }

    /// The archive holds everything that was acknowledged by then.
    pub fn covered(&self, at: jiff::Timestamp) {
        self.progress
            .send_modify(|progress| progress.covered = Some(at));
    }

    /// Says what an admin must know.
    pub fn tell(&self, notice: Notice) {
        // Nobody listens any more only where everything ends.
        let _ = self.notices.send(notice);
    }
}
