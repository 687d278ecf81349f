//! Watches what PostgreSQL's own archiver brings into one lineage. Whole segments only: what is expected next is asked for by
//! name once PostgreSQL is done with it, and the lineage is listed only where that did not come.

mod begin;
mod expected;

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use self::expected::Expected;
use super::{
    archiver::{ArchiverTrouble, Watched, judge},
    clocks::{Clocks, Reading},
    error::Error,
    route::{Notice, Route, Signals},
};
use crate::postgres::{
    Lsn, SegmentName,
    archiver::{self, Archiver, Fate},
    session::Client,
    slot::{self, WalStatus},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// The same while somebody waits, and as long as [`HURRY`] after something came.
const SOON: Duration = Duration::from_millis(200);
/// What comes later than this is not seen sooner.
const HURRY: Duration = Duration::from_secs(30);
/// How often the archive is told the time while nothing new comes.
const CLOCK: Duration = Duration::from_secs(60);

/// How long the archiver may take before something is done about it.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// A segment that is in the lineage, and that PostgreSQL still wants to have archived, is compared: a push is at its end, or
    /// cannot replace what another writer put there.
    pub compare: Duration,
    /// A segment that waits although no call fails is told.
    pub stalled: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            compare: Duration::from_secs(10),
            stalled: Duration::from_secs(60),
        }
    }
}

/// Watches until something ends it.
pub struct Watcher {
    route: Route,
    signals: Signals,
    delays: Delays,
    /// Where the archive's whole segments end without a hole.
    durable: Lsn,
    flushed: Lsn,
    /// There is WAL before `durable`.
    any: bool,
    /// A segment came since this began: the command brings WAL into this lineage.
    comes: bool,
    holds_slot: bool,
    /// What becomes of the segment at `durable`.
    expected: Expected,
    /// Where the whole segments from `durable` on begin, as the last list said.
    listed: BTreeSet<Lsn>,
    trouble: Option<ArchiverTrouble>,
    /// When something came, or somebody began to wait.
    moved: Instant,
    /// Failed calls that were counted.
    failures: i64,
    clocks: Clocks,
    /// The clock that was written last, and when.
    told: Option<(Instant, Lsn)>,
    clock_demand: u64,
}

/// Whether PostgreSQL archives by itself.
///
/// # Errors
/// It does not, or the session is lost.
pub async fn archives(client: &Client) -> Result<(), Error> {
    Ok(judge(&archiver::ask(client).await?)?)
}

impl Watcher {
    /// Begins where the archive's whole segments end without a hole; `archived` is where the last of them ends, on the path to
    /// the current timeline. A lineage that has none begins with the segment that is written now.
    ///
    /// # Errors
    /// PostgreSQL archives nothing by itself, the last segment is another writer's, or the session or the archive fails.
    pub async fn open(
        route: Route,
        signals: Signals,
        archived: Option<Lsn>,
        delays: Delays,
    ) -> Result<Self, Error> {
        let archiver = archiver::ask(&route.client).await?;
        judge(&archiver)?;
        let flushed = route.poll().await?.lsn;
        let held = slot::find(&route.client, &route.slot).await?;
        let restart = held.as_ref().and_then(|held| held.restart_lsn);
        let durable = match archived {
            Some(end) => begin::unbroken_end(&route, end, restart).await?,
            None => Lsn::new(flushed.get() - route.size.offset(flushed)),
        };
        if archived.is_some() {
            begin::is_own(&route, durable).await?;
        }
        let next = route.path.segment(durable, route.size);
        tracing::info!(?archived, %durable, slot = held.is_some(), "watching what PostgreSQL archives");
        Ok(Self {
            route,
            signals,
            delays,
            durable,
            flushed,
            any: archived.is_some(),
            comes: false,
            holds_slot: held.is_some(),
            expected: Expected::new(next, Fate::Waits),
            listed: BTreeSet::new(),
            trouble: None,
            moved: Instant::now(),
            failures: archiver.failing.map_or(0, |failing| failing.count),
            clocks: Clocks::default(),
            told: None,
            clock_demand: 0,
        })
    }

    /// Watches until the session or the archive fails, another writer's WAL lies where this database's belongs, or the process
    /// is to end, which is `Ok`. After a failure of the archive it can be called again. `seen` is told what each look says.
    ///
    /// # Errors
    /// What ended it; [`Error::is_archiving`] says whether the session is sound.
    pub async fn run(&mut self, mut seen: impl FnMut(&Watched)) -> Result<(), Error> {
        while !self.signals.stop.is_cancelled() {
            let archiver = self.ask().await?;
            let reading = self.route.poll().await?;
            self.flushed = self.flushed.max(reading.lsn);
            self.clocks.read(reading);
            self.follow(&archiver).await?;
            self.tell_time().await?;
            self.let_go().await?;
            self.signals.report(self.durable, self.flushed);
            seen(&self.watched(archiver));
            self.rest().await?;
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<Archiver, Error> {
        let archiver = archiver::ask(&self.route.client).await?;
        judge(&archiver)?;
        if let Some(failing) = &archiver.failing
            && failing.count != self.failures
        {
            self.failures = failing.count;
            let trouble = ArchiverTrouble::Fails(failing.clone());
            self.signals.metrics.error(trouble.reason());
        }
        Ok(archiver)
    }

    fn watched(&self, archiver: Archiver) -> Watched {
        let fails = archiver.failing.map(ArchiverTrouble::Fails);
        Watched {
            trouble: fails.or(self.trouble.clone()),
            timeout: archiver.timeout,
            holds_slot: self.holds_slot,
        }
    }

    /// Says why the next segment does not come, if something is the matter.
    fn say(&mut self, trouble: Option<ArchiverTrouble>) {
        if self.trouble != trouble
            && let Some(trouble) = &trouble
        {
            self.signals.metrics.error(trouble.reason());
        }
        self.trouble = trouble;
    }

    /// The segment that is expected next.
    fn next(&self) -> SegmentName {
        self.route.path.segment(self.durable, self.route.size)
    }

    /// Goes on at `durable`.
    fn move_to(&mut self, durable: Lsn) {
        self.durable = durable;
        self.listed = self.listed.split_off(&durable);
        self.trouble = None;
        self.moved = Instant::now();
    }

    /// Writes a clock pair when somebody waits for one, when more is covered, or when none was written for long.
    async fn tell_time(&mut self) -> Result<(), Error> {
        let demanded = self.signals.demand.borrow().clock;
        let covered = self.clocks.cover(self.durable).filter(|_| self.any);
        let Some(reading @ Reading { lsn, at }) = covered else {
            return Ok(());
        };
        let interval = *self.signals.tail_interval.borrow();
        let is_due = |(told, before): &(Instant, Lsn)| {
            let every = if lsn > *before { interval } else { CLOCK };
            told.elapsed() >= every
        };
        if self.told.as_ref().is_none_or(is_due) || demanded > self.clock_demand {
            self.route.write_clock(reading).await?;
            self.told = Some((Instant::now(), lsn));
            self.clock_demand = demanded;
            self.signals.covered(at);
        }
        Ok(())
    }

    /// Drops the slot of another transport, once the archive goes up to where it begins and the command is seen to bring WAL:
    /// from then on PostgreSQL removes nothing that is not archived. One that has lost its WAL holds nothing.
    async fn let_go(&mut self) -> Result<(), Error> {
        let Route { client, slot, .. } = &self.route;
        if !self.holds_slot {
            return Ok(());
        }
        let Some(held) = slot::find(client, slot).await? else {
            self.holds_slot = false;
            return Ok(());
        };
        let lost = held.wal_status == WalStatus::Lost;
        let covered = held.restart_lsn.is_none_or(|lsn| lsn <= self.durable);
        if lost || (self.comes && covered) {
            slot::drop(client, slot).await?;
            tracing::info!(slot, lost, restart = ?held.restart_lsn, "the slot is dropped: PostgreSQL's archiver keeps WAL");
            self.holds_slot = false;
        }
        if lost {
            tracing::error!("the slot has lost its WAL (max_slot_wal_keep_size)");
            self.signals.metrics.error("SlotLost");
            self.signals.tell(Notice::SlotLost);
        }
        Ok(())
    }

    /// Until the next look: at once if somebody begins to wait.
    async fn rest(&mut self) -> Result<(), Error> {
        let demanded = self.signals.demand.borrow().lsn;
        let pause = match demanded {
            Some(lsn) if self.durable < lsn && self.moved.elapsed() < HURRY => SOON,
            Some(_) | None => LOOK,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.signals.demand.changed() => {
                self.moved = Instant::now();
                Ok(())
            }
            () = self.signals.stop.cancelled() => Ok(()),
            () = self.route.client.ended() => Err(Error::SessionLost),
        }
    }
}
