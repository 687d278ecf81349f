//! A backlog: several segments are on their way at once, and count in their order.
//!
//! They are read, scanned and compressed one after the other, and only put in parallel: so memory holds one as PostgreSQL
//! wrote it, and the others as they lie in the archive. A segment's index entry follows when all before it are durable. What
//! goes wrong is left to the way that takes one segment at a time: it reads again, compares, asks other members, or fails.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{CLOCK, Shipper};
use crate::{
    agent::wal::Error,
    archive::{IndexEntry, Lineage, PushError, SegmentEncoded},
    postgres::{Lsn, SegmentSize, wal_reader::WalReadError},
};

/// What segments on their way may take in memory: two of the usual size, and always two.
const MEMORY: u64 = 2 * SegmentSize::DEFAULT.get();
/// It is counted in units of so many bytes.
const UNIT: u64 = 1024;

impl Shipper {
    /// Whether from `start` to `flushed` more than one segment can go at once.
    pub(super) fn has_backlog(&self, start: Lsn, flushed: Lsn) -> bool {
        let size = self.route.size.get();
        self.route.parallel > 1
            && !self.alone
            && self.whole.is_none()
            && start >= self.compare_until
            && start.advance(size).advance(size) <= flushed
    }

    /// Ships whole segments before `flushed`, several at once, until none is left or one must go alone. What is flushed
    /// meanwhile is for the next time: whoever calls has more to do.
    pub(super) async fn backlog(&mut self, flushed: Lsn, ending: bool) -> Result<(), Error> {
        let size = self.route.size.get();
        let mut flights = Flights::new(self.route.parallel, self.route.size);
        let mut next = self.position.segment;
        let mut stopped = None;
        loop {
            let due = stopped.is_none()
                && next.advance(size) <= flushed
                && (ending || !self.signals.stop.is_cancelled());
            let landed = match flights.room().filter(|_| due) {
                Some(room) => {
                    match self.begin(next, room, &mut flights).await {
                        Ok(()) => next = next.advance(size),
                        Err(error) => stopped = Some(error),
                    }
                    flights.landed_already().await
                }
                None => match flights.first().await {
                    None => break,
                    landed => landed,
                },
            };
            if let Some((start, landed)) = landed
                && !self.land(start, landed).await?
            {
                return Ok(());
            }
        }
        self.stopped(stopped)
    }

    /// Reads and compresses the segment at `start`, and lets it go.
    async fn begin(
        &mut self,
        start: Lsn,
        room: OwnedSemaphorePermit,
        flights: &mut Flights,
    ) -> Result<(), Error> {
        let end = start.advance(self.route.size.get());
        let buffer = self.read(start, end).await?;
        let (name, bytes) = (buffer.name(), self.spare.lend(buffer.into_vec()));
        let encoded = self.sender.encode(&self.route, name, bytes).await;
        let (encoded, entry) = encoded?;
        flights.begin(start, self.route.lineage.clone(), encoded, entry, room);
        Ok(())
    }

    /// Counts the first segment, or not. `false`: it must go alone.
    async fn land(&mut self, start: Lsn, landed: Landed) -> Result<bool, Error> {
        match landed {
            Ok(true) => {}
            Ok(false) | Err(PushError::Conflict { .. }) => {
                self.alone = true;
                return Ok(false);
            }
            Err(error) => {
                self.alone = true;
                return Err(error.into());
            }
        }
        let end = start.advance(self.route.size.get());
        self.archived(start, end).await?;
        self.poll().await?;
        if self.last_clock.is_none_or(|at| at.elapsed() >= CLOCK) {
            self.write_clock().await?;
        }
        self.report();
        Ok(true)
    }

    /// Why no more were begun; all that were begun are archived.
    fn stopped(&mut self, why: Option<Error>) -> Result<(), Error> {
        match why {
            None => Ok(()),
            Some(
                Error::Damaged(_)
                | Error::Conflict(_)
                | Error::Read(WalReadError::Removed(_) | WalReadError::Recycled(..)),
            ) => {
                self.alone = true;
                Ok(())
            }
            Some(error) => {
                self.alone = true;
                Err(error)
            }
        }
    }
}

/// What became of a segment: `false` if one before it did not get there.
type Landed = Result<bool, PushError>;

/// A segment on its way.
struct Flight {
    start: Lsn,
    landed: AbortOnDropHandle<Landed>,
}

/// Segments on their way, in their order.
struct Flights {
    most: usize,
    size: SegmentSize,
    memory: Arc<Semaphore>,
    flying: VecDeque<Flight>,
    /// Says that the last one that was begun, and all before it, are durable.
    before: Option<oneshot::Receiver<()>>,
}

impl Flights {
    fn new(most: usize, size: SegmentSize) -> Self {
        let memory = MEMORY.max(2 * size.get());
        let units = usize::try_from(memory / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            most,
            size,
            memory: Arc::new(Semaphore::new(units)),
            flying: VecDeque::new(),
            before: None,
        }
    }

    /// For one more, at its largest. There is always room for one.
    fn room(&self) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(self.size.get() / UNIT).unwrap_or(u32::MAX);
        let free = self.flying.len() < self.most;
        let memory = self.memory.clone().try_acquire_many_owned(units);
        memory.ok().filter(|_| free)
    }

    fn begin(
        &mut self,
        start: Lsn,
        lineage: Lineage,
        encoded: SegmentEncoded,
        entry: IndexEntry,
        mut room: OwnedSemaphorePermit,
    ) {
        // What compression has saved is free for others.
        let taken = encoded.size().div_ceil(usize::try_from(UNIT).unwrap_or(1));
        drop(room.split(room.num_permits().saturating_sub(taken)));
        let (durable, next) = oneshot::channel();
        let before = self.before.replace(next);
        let task = async move {
            let put = lineage.put_encoded(encoded).await?;
            drop(room);
            if let Some(before) = before
                && before.await.is_err()
            {
                return Ok(false);
            }
            // Nobody listens where this is the last.
            let _ = durable.send(());
            lineage.finish_segment(put, &entry).await?;
            Ok(true)
        };
        let landed = AbortOnDropHandle::new(tokio::spawn(task));
        self.flying.push_back(Flight { start, landed });
    }

    /// What became of the first one; waits for it. `None` if there is none.
    async fn first(&mut self) -> Option<(Lsn, Landed)> {
        let Flight { start, landed } = self.flying.pop_front()?;
        match landed.await {
            Ok(landed) => Some((start, landed)),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// As [`Self::first`], if it is there already.
    async fn landed_already(&mut self) -> Option<(Lsn, Landed)> {
        match self.flying.front()?.landed.is_finished() {
            true => self.first().await,
            false => None,
        }
    }
}
