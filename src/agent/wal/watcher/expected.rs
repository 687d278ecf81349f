//! What becomes of the segment that is expected next. Its name in the lineage says nothing of who put it there: it counts once
//! PostgreSQL is done with it, or when it was compared.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Watcher,
    begin::{first_pending, on_path},
};
use crate::{
    agent::wal::{
        archiver::ArchiverTrouble,
        compare::{Compared, compare},
        error::Error,
        plan::holes,
        route::{GapCause, Notice},
    },
    postgres::{
        Lsn, SegmentName,
        archiver::{self, Archiver, Fate},
    },
};

/// Between two questions for a segment that did not come.
const ASK: Duration = Duration::from_secs(10);
/// The same once nothing has changed for some time.
const SELDOM: Duration = Duration::from_secs(60);

/// The segment that is expected next.
#[derive(Debug)]
pub(super) struct Expected {
    name: SegmentName,
    fate: Fate,
    /// Since when that becomes of it.
    since: Instant,
    /// When the lineage was asked for it, and for how long it is not asked again.
    asked: Option<(Instant, Duration)>,
}

impl Expected {
    pub(super) fn new(name: SegmentName, fate: Fate) -> Self {
        Self {
            name,
            fate,
            since: Instant::now(),
            asked: None,
        }
    }

    /// What becomes of `name` now.
    fn see(&mut self, name: SegmentName, fate: Fate) {
        if (self.name, self.fate) != (name, fate) {
            *self = Self::new(name, fate);
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none_or(|(at, pause)| now >= at + pause)
    }

    fn asked(&mut self, now: Instant) {
        let pause = self.asked.map_or(ASK, |(_, pause)| (2 * pause).min(SELDOM));
        self.asked = Some((now, pause));
    }
}

impl Watcher {
    /// Takes what has come, in order, and finds out what becomes of the first segment that has not.
    pub(super) async fn follow(&mut self, archiver: &Archiver) -> Result<(), Error> {
        while self.flushed >= self.next().end(self.route.size) {
            let name = self.next();
            // Before the archive: what was done by then is there.
            let fate = archiver::fate(&self.route.client, name, self.route.size).await?;
            self.expected.see(name, fate);
            let came = match fate {
                Fate::Waits => self.waits(name, archiver).await?,
                Fate::Unnoticed => self.unnoticed(name).await?,
                Fate::Done | Fate::Gone => self.left(name, fate).await?,
            };
            if !came {
                break;
            }
            self.arrived(name, fate);
        }
        Ok(())
    }

    fn arrived(&mut self, name: SegmentName, fate: Fate) {
        let size = self.route.size;
        self.move_to(name.end(size));
        self.any = true;
        self.comes |= self.was_brought(name, fate);
        self.signals.metrics.segments.inc();
        self.signals.metrics.archived_bytes.inc_by(size.get());
        self.signals.report(self.durable, self.flushed);
    }

    /// Whether the command brought it. What another primary wrote is done without it.
    fn was_brought(&self, name: SegmentName, fate: Fate) -> bool {
        fate == Fate::Done && name.timeline() == self.route.path.timeline
    }

    /// It waits for the archiver. Whether it is there all the same, and the database's own.
    async fn waits(&mut self, name: SegmentName, archiver: &Archiver) -> Result<bool, Error> {
        let waited = self.expected.since.elapsed();
        let failing = archiver.failing.as_ref();
        let fails = failing.is_some_and(|failing| failing.file == name.to_string());
        if (fails || waited >= self.delays.compare) && self.has(name).await? == Some(true) {
            return self.is_own(name).await;
        }
        let stalled = failing.is_none() && waited >= self.delays.stalled;
        self.say(stalled.then_some(ArchiverTrouble::Stalled(name)));
        Ok(false)
    }

    /// The archiver does not know of it, and the database still has it. Whether it is there all the same.
    async fn unnoticed(&mut self, name: SegmentName) -> Result<bool, Error> {
        match self.has(name).await? {
            Some(true) => return self.is_own(name).await,
            Some(false) => self.comes |= self.comes_later().await?,
            None => {}
        }
        self.say(Some(ArchiverTrouble::Unnoticed(name)));
        Ok(false)
    }

    /// The command brought the newest segment that is there.
    async fn comes_later(&self) -> Result<bool, Error> {
        let Some(newest) = self.listed.last() else {
            return Ok(false);
        };
        let (client, size) = (&self.route.client, self.route.size);
        let name = self.route.path.segment(*newest, size);
        let fate = archiver::fate(client, name, size).await?;
        Ok(self.was_brought(name, fate))
    }

    /// The archiver has nothing more to do with it. Whether it is there: else it never will be.
    async fn left(&mut self, name: SegmentName, fate: Fate) -> Result<bool, Error> {
        match self.has(name).await? {
            Some(true) => return Ok(true),
            None => return Ok(false),
            Some(false) => {}
        }
        match self.listed.first().copied() {
            Some(later) => self.skip(name, fate, later).await?,
            None => self.elsewhere(name).await?,
        }
        Ok(false)
    }

    /// Whether the lineage has it: asked for by name, then by a list, as its entry may have been rolled up. `None`: it was asked
    /// for not long ago. An archive that does not answer is asked again at each look, so that each says so.
    async fn has(&mut self, name: SegmentName) -> Result<Option<bool>, Error> {
        let start = name.start(self.route.size);
        if self.listed.contains(&start) {
            return Ok(Some(true));
        }
        let now = Instant::now();
        if !self.expected.is_due(now) {
            return Ok(None);
        }
        let lineage = &self.route.lineage;
        let mut has = lineage.has_entry(name).await?;
        if !has {
            let contents = lineage.contents_again().await?;
            let starts = on_path(&self.route, &contents);
            self.listed = starts.filter(|at| *at >= self.durable).collect();
            has = self.listed.contains(&start);
        }
        self.expected.asked(now);
        Ok(Some(has))
    }

    /// Whether what is there is what the database has.
    async fn is_own(&self, name: SegmentName) -> Result<bool, Error> {
        match compare(&self.route, name).await? {
            Compared::Same => Ok(true),
            Compared::Unknown => Ok(false),
            Compared::Other(what) => Err(Error::Conflict(what)),
        }
    }

    /// WAL is missing from `name` on, and nobody will bring it. `later` is there.
    async fn skip(&mut self, name: SegmentName, fate: Fate, later: Lsn) -> Result<(), Error> {
        let (from, size) = (self.durable, self.route.size);
        let behind = holes(&self.route.path, size, name.end(size), later, |_| false);
        let to = first_pending(&self.route, behind).await?.unwrap_or(later);
        tracing::error!(%from, %to, "WAL is missing: PostgreSQL does not archive it any more");
        self.signals.metrics.error("WalGap");
        let cause = match fate {
            Fate::Done => GapCause::Elsewhere(name),
            Fate::Waits | Fate::Unnoticed | Fate::Gone => GapCause::Unarchived,
        };
        self.signals.tell(Notice::Gap { from, to, cause });
        self.move_to(to);
        Ok(())
    }

    /// Neither it nor anything behind it is there. What another primary wrote is done without having been archived: what this
    /// one wrote says where the command brings WAL.
    async fn elsewhere(&mut self, name: SegmentName) -> Result<(), Error> {
        let (path, size) = (&self.route.path, self.route.size);
        let own = match path.ancestors.last() {
            Some((_, left)) if name.timeline() != path.timeline => path.segment(*left, size),
            Some(_) | None => name,
        };
        let is_left = self.flushed >= own.end(size)
            && match archiver::fate(&self.route.client, own, size).await? {
                Fate::Done | Fate::Gone => true,
                Fate::Waits | Fate::Unnoticed => false,
            };
        self.say(is_left.then_some(ArchiverTrouble::Elsewhere(own)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{SegmentSize, TimelineId};

    #[test]
    fn while_nothing_changes_the_lineage_is_asked_less_and_less_often() {
        let name = SegmentName::containing(TimelineId::FIRST, Lsn::new(0), SegmentSize::DEFAULT);
        let mut expected = Expected::new(name, Fate::Done);
        let mut now = Instant::now();
        assert!(expected.is_due(now));
        for seconds in [10, 20, 40, 60, 60] {
            expected.asked(now);
            now += Duration::from_secs(seconds);
            assert!(!expected.is_due(now - Duration::from_secs(1)), "{seconds}");
            assert!(expected.is_due(now), "{seconds}");
        }
        expected.asked(now);
        expected.see(name, Fate::Done);
        assert!(!expected.is_due(now));
        expected.see(name, Fate::Waits);
        assert!(expected.is_due(now));
    }
}
