//! Ships WAL from one primary to one lineage, in order and without holes.

mod backlog;
mod entries;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    buffer::Buffer,
    clocks::Clocks,
    error::Error,
    others::{self, Found},
    plan::{Position, Situation, Step, begin, plan},
    route::{GapCause, Notice, Route, Signals},
    segment::{Damage, OnDamage, Sender},
    source::Source,
};
use crate::{
    buffers::Buffers,
    postgres::{
        Lsn, SegmentName, slot,
        wal_reader::{self, WalReadError},
    },
};

/// Between two polls of a database that writes.
const BUSY: Duration = Duration::from_millis(200);
/// The same of one that does not.
const IDLE: Duration = Duration::from_secs(1);
/// After this long without new WAL a database counts as idle, and its segment is not held in memory.
const IDLE_AFTER: Duration = Duration::from_secs(20);
/// How often the archive is told the time while nothing else is written.
const CLOCK: Duration = Duration::from_secs(60);
/// How long a member may take to answer before what only it may have counts as lost.
const OTHERS: Duration = Duration::from_secs(180);
/// Between two questions to it.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often a damaged segment is read before it is believed.
const READINGS: u32 = 3;
/// How long the last tail may take at the end of the process.
const LAST_TAIL: Duration = Duration::from_secs(15);

/// Ships until something ends it.
pub struct Shipper {
    route: Route,
    signals: Signals,
    source: Source,
    sender: Sender,
    position: Position,
    buffer: Option<Buffer>,
    /// Where WAL that is missing begins, until its end is known.
    gap: Option<Lsn>,
    /// How often in a row the unfinished segment was read and found damaged.
    damaged: u32,
    /// A whole segment that the archive has not taken yet: it may refuse many times.
    whole: Option<(Lsn, SegmentName, Bytes)>,
    /// Up to here the archive may hold another history: each segment is compared before the next one is put.
    compare_until: Lsn,
    /// The next segment goes alone: something is the matter with it, or with the archive.
    alone: bool,
    /// Archived segments without an index entry, once they were looked for.
    not_entered: Option<Vec<SegmentName>>,
    /// Memory for the next segment of a backlog.
    spare: Buffers,
    clocks: Clocks,
    last_tail: Option<Instant>,
    last_growth: Instant,
    last_clock: Option<Instant>,
    clock_demand: u64,
    flushed: Lsn,
}

impl Shipper {
    /// Begins where neither the slot nor the archive leaves a hole. `archived` is where the archive's whole segments end
    /// on the path to the current timeline; the slot must exist.
    ///
    /// # Errors
    /// The slot is gone, or the session is.
    pub async fn open(
        route: Route,
        signals: Signals,
        source: Source,
        epoch: String,
        archived: Option<Lsn>,
    ) -> Result<Self, Error> {
        let held = slot::create(&route.client, &route.slot).await?;
        let restart = match held.restart_lsn {
            Some(restart) => restart,
            None => wal_reader::flush_position(&route.client).await?.lsn,
        };
        let start = begin(restart, archived, route.size);
        tracing::info!(%restart, ?archived, %start, "shipping WAL");
        Ok(Self {
            route,
            signals,
            source,
            sender: Sender::new(epoch),
            position: Position {
                segment: start,
                durable: start,
            },
            buffer: None,
            gap: None,
            damaged: 0,
            whole: None,
            compare_until: archived.unwrap_or(start),
            alone: false,
            not_entered: None,
            spare: Buffers::kept(),
            clocks: Clocks::default(),
            last_tail: None,
            last_growth: Instant::now(),
            last_clock: None,
            clock_demand: 0,
            flushed: start,
        })
    }

    /// Ships until the session or the archive fails, or the process is to end, which is `Ok`. After a failure of the
    /// archive it can be called again. Calls `works` each time when the archive took everything that was due.
    ///
    /// # Errors
    /// What ended it; [`Error::is_archive`] says on which side.
    pub async fn run(&mut self, mut works: impl FnMut()) -> Result<(), Error> {
        self.history().await?;
        loop {
            let poll = self.poll().await?;
            self.ship(poll, false).await?;
            self.tell_time().await?;
            self.report();
            works();
            self.enter().await;
            self.rest().await?;
            if self.signals.stop.is_cancelled() {
                let last = self.last().await;
                self.source.rest().await;
                return last;
            }
        }
    }

    /// The history file of the timeline goes before its WAL.
    async fn history(&mut self) -> Result<(), Error> {
        let timeline = self.route.path.timeline;
        if let Some(text) = wal_reader::history_file(&self.route.client, timeline).await? {
            self.route.lineage.push_history(timeline, text).await?;
        }
        Ok(())
    }

    async fn poll(&mut self) -> Result<Lsn, Error> {
        let reading = self.route.poll().await?;
        if reading.lsn > self.flushed {
            self.last_growth = Instant::now();
            self.flushed = reading.lsn;
        }
        self.clocks.read(reading);
        Ok(reading.lsn)
    }

    /// Everything that is due now.
    async fn ship(&mut self, flushed: Lsn, ending: bool) -> Result<(), Error> {
        loop {
            if self.signals.stop.is_cancelled() && !ending {
                return Ok(());
            }
            let interval = *self.signals.tail_interval.borrow();
            let situation = Situation {
                position: self.position,
                flushed,
                tail_due: self.source.is_synchronous()
                    || self.last_tail.is_none_or(|at| at.elapsed() >= interval),
                demanded: self.signals.demand.borrow().lsn,
                ending,
            };
            match plan(&situation, self.route.size) {
                Step::Segment(start) if self.has_backlog(start, flushed) => {
                    let shipped = self.backlog(flushed, ending).await;
                    self.spare.free();
                    shipped?;
                }
                Step::Segment(start) => self.segment(start).await?,
                // The last thing there is: what it leaves is a part of a record.
                Step::Tail(from, to) => return self.tail(from, to).await,
                Step::Wait => return Ok(()),
            }
        }
    }

    async fn segment(&mut self, start: Lsn) -> Result<(), Error> {
        let size = self.route.size;
        let end = start.advance(size.get());
        match self.archive(start, end).await {
            Ok(()) => {}
            Err(Error::Read(WalReadError::Removed(name) | WalReadError::Recycled(name, _))) => {
                self.skip(name.start(size));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.whole = None;
        self.alone = false;
        self.archived(start, end).await
    }

    /// The segment from `start` to `end` is in the archive, as is everything before it.
    async fn archived(&mut self, start: Lsn, end: Lsn) -> Result<(), Error> {
        if let Some(from) = self.gap.take() {
            self.signals.tell(lost(from, start));
        }
        self.position = Position {
            segment: end,
            durable: end,
        };
        self.source.durable(end);
        self.last_tail = Some(Instant::now());
        self.signals.metrics.segments.inc();
        let bytes = end.bytes_since(start);
        self.signals.metrics.archived_bytes.inc_by(bytes);
        self.report();
        slot::advance(&self.route.client, &self.route.slot, end).await?;
        Ok(())
    }

    /// Archives the segment from `start` to `end`. One that is damaged is read again before that is believed.
    async fn archive(&mut self, start: Lsn, end: Lsn) -> Result<(), Error> {
        for _ in 1..READINGS {
            let (name, bytes) = self.whole(start, end).await?;
            let sent = self
                .sender
                .segment(&self.route, name, bytes, OnDamage::Refuse);
            match sent.await {
                Err(Error::Damaged(damage)) => tracing::warn!("{damage}; it is read again"),
                sent => return sent.map(drop),
            }
            self.signals.metrics.error("WalDamaged");
            self.whole = None;
            self.source.rest().await;
        }
        let (name, bytes) = self.whole(start, end).await?;
        let sent = self
            .sender
            .segment(&self.route, name, bytes, OnDamage::Archive);
        if let Some(damage) = sent.await? {
            self.signals.tell(Notice::Damaged(damage));
        }
        Ok(())
    }

    /// The segment from `start` to `end`, read once however often the archive refuses it.
    async fn whole(&mut self, start: Lsn, end: Lsn) -> Result<(SegmentName, Bytes), Error> {
        if let Some((at, name, bytes)) = &self.whole
            && *at == start
        {
            return Ok((*name, bytes.clone()));
        }
        let (name, bytes) = match self.read(start, end).await {
            Ok(buffer) => (buffer.name(), buffer.into_bytes()),
            Err(
                error @ Error::Read(WalReadError::Removed(name) | WalReadError::Recycled(name, _)),
            ) => (name, self.ask_others(name).await.ok_or(error)?),
            Err(error) => return Err(error),
        };
        self.whole = Some((start, name, bytes.clone()));
        Ok((name, bytes))
    }

    /// What the primary has removed, from another member. One that does not answer may be starting: it is asked again for
    /// a while before the segment counts as lost.
    async fn ask_others(&mut self, name: SegmentName) -> Option<Bytes> {
        let Route {
            size,
            system_identifier,
            ..
        } = self.route;
        let begin = Instant::now();
        loop {
            let others = self.route.others.borrow_and_update().clone();
            match others::segment(&others, name, size, system_identifier).await {
                Found::Whole(bytes) => return Some(bytes),
                Found::Nowhere => return None,
                Found::Unknown if begin.elapsed() >= OTHERS => return None,
                Found::Unknown => {}
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => {}
                _ = self.route.others.changed() => {}
                () = self.signals.stop.cancelled() => return None,
                () = self.route.client.ended() => return None,
            }
        }
    }

    async fn tail(&mut self, from: Lsn, to: Lsn) -> Result<(), Error> {
        let buffer = match self.read(self.position.segment, to).await {
            Ok(buffer) => buffer,
            Err(Error::Read(WalReadError::Removed(name) | WalReadError::Recycled(name, _))) => {
                return Err(Error::Unreadable(name));
            }
            Err(error) => return Err(error),
        };
        let offset = self.route.size.offset(from);
        let sent = self.sender.tail(&self.route, &buffer, offset).await;
        self.buffer = Some(buffer);
        // At most up to the end of the last whole record.
        let (end, damage) = sent?;
        if let Some(damage) = damage {
            return self.read_again(damage).await;
        }
        self.damaged = 0;
        if let Some(from) = self.gap.take() {
            let to = self.position.segment;
            self.signals.tell(lost(from, to));
        }
        self.position.durable = self.position.durable.max(end);
        self.source.durable(self.position.durable);
        self.last_tail = Some(Instant::now());
        self.signals.metrics.tails.inc();
        self.signals
            .metrics
            .archived_bytes
            .inc_by(end.bytes_since(from));
        // A record that is not whole yet was not acknowledged: the reading holds for what is whole.
        self.clocks.whole(to, end);
        let interval = *self.signals.tail_interval.borrow();
        let waits = self.source.is_synchronous()
            && self.last_clock.is_some_and(|at| at.elapsed() < interval);
        match waits {
            // Commits wait for the next tail.
            true => Ok(()),
            // The pair that was read with this tail's end says that the archive is complete up to then.
            false => self.write_clock().await,
        }
    }

    /// The unfinished segment is damaged, or was read wrongly: it is read anew, and after some readings it is believed.
    async fn read_again(&mut self, damage: Damage) -> Result<(), Error> {
        self.buffer = None;
        self.sender.forget();
        self.source.rest().await;
        self.damaged += 1;
        self.last_tail = Some(Instant::now());
        self.signals.metrics.error("WalDamaged");
        tracing::warn!("{damage}; it is read again");
        match self.damaged < READINGS {
            true => Ok(()),
            false => Err(Error::Damaged(damage)),
        }
    }

    /// The bytes from the start of the segment up to `to`.
    async fn read(&mut self, start: Lsn, to: Lsn) -> Result<Buffer, Error> {
        let name = self.route.path.segment(start, self.route.size);
        let mut buffer = match self.buffer.take() {
            Some(buffer) if buffer.name() == name => buffer,
            _ => Buffer::reusing(name, self.spare.take()),
        };
        let Route { client, size, .. } = &self.route;
        self.source.fill(&mut buffer, client, *size, to).await?;
        Ok(buffer)
    }

    /// The segment at `start` is gone, and nobody has it. The next one may still be there.
    fn skip(&mut self, start: Lsn) {
        let next = start.advance(self.route.size.get());
        if self.gap.is_none() {
            tracing::error!(from = %start, "WAL is missing: PostgreSQL removed it before it was shipped");
            self.signals.metrics.error("WalGap");
            self.gap = Some(start);
        }
        self.sender.forget();
        self.position = Position {
            segment: next,
            durable: next,
        };
    }

    /// Writes a clock pair when somebody waits for one, or when none was written for long.
    async fn tell_time(&mut self) -> Result<(), Error> {
        // A tail is of one segment: where whole ones are missing before it, no reading is true yet.
        if self.flushed >= self.position.segment.advance(self.route.size.get()) {
            return Ok(());
        }
        let demanded = self.signals.demand.borrow().clock;
        let due = self.last_clock.is_none_or(|at| at.elapsed() >= CLOCK);
        if !due && demanded <= self.clock_demand {
            return Ok(());
        }
        if demanded > self.clock_demand && self.position.durable < self.flushed {
            // Only the tail makes the newest reading true.
            self.tail(self.position.durable, self.flushed).await?;
        } else {
            self.write_clock().await?;
        }
        self.clock_demand = demanded;
        Ok(())
    }

    async fn write_clock(&mut self) -> Result<(), Error> {
        let Some(reading) = self.clocks.cover(self.position.durable) else {
            return Ok(());
        };
        self.route.write_clock(reading).await?;
        self.last_clock = Some(Instant::now());
        self.signals.covered(reading.at);
        Ok(())
    }

    fn report(&mut self) {
        self.signals.report(self.position.durable, self.flushed);
    }

    /// Until the next poll: soon if the database writes, at once if somebody waits.
    async fn rest(&mut self) -> Result<(), Error> {
        if self.source.is_synchronous() {
            return self.follow().await;
        }
        let idle = self.last_growth.elapsed() >= IDLE_AFTER;
        if idle {
            self.buffer = None;
            self.source.rest().await;
        }
        let pause = if idle { IDLE } else { BUSY };
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.signals.demand.changed() => Ok(()),
            () = self.signals.stop.cancelled() => Ok(()),
            () = self.route.client.ended() => Err(Error::SessionLost),
        }
    }

    /// As [`Self::rest`], while commits wait: what comes is shipped at once.
    async fn follow(&mut self) -> Result<(), Error> {
        // The stream must be there for commits to wait for it, also where there is nothing to ship.
        let buffer = self.read(self.position.segment, self.flushed).await?;
        self.buffer = Some(buffer);
        let poll = tokio::time::sleep(BUSY);
        let mut poll = std::pin::pin!(poll);
        loop {
            let come = tokio::select! {
                come = self.source.more() => come?,
                () = &mut poll => return Ok(()),
                _ = self.signals.demand.changed() => return Ok(()),
                () = self.signals.stop.cancelled() => return Ok(()),
                () = self.route.client.ended() => return Err(Error::SessionLost),
            };
            if come > self.flushed {
                self.last_growth = Instant::now();
                self.flushed = come;
            }
            self.ship(self.flushed, false).await?;
            self.report();
        }
    }

    async fn last(&mut self) -> Result<(), Error> {
        let flushed = self.poll().await?;
        match tokio::time::timeout(LAST_TAIL, self.ship(flushed, true)).await {
            Ok(shipped) => shipped,
            Err(_) => {
                tracing::warn!("the last tail was not shipped in time");
                Ok(())
            }
        }
    }
}

/// WAL that is nowhere.
const fn lost(from: Lsn, to: Lsn) -> Notice {
    let cause = GapCause::Removed;
    Notice::Gap { from, to, cause }
}
