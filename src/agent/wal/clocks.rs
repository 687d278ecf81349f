//! Which time the archive covers. Pure.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use crate::postgres::Lsn;

/// What one poll said: everything that was acknowledged by `at` lies before `lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The flushed end.
    pub lsn: Lsn,
    /// The database's clock, read no later than the flushed end.
    pub at: Timestamp,
}

/// Readings that the archive does not cover yet, and the newest that it does.
#[derive(Clone, Debug, Default)]
pub struct Clocks {
    waiting: VecDeque<Reading>,
    covered: Option<Reading>,
}

/// Readings kept apart by at least this much; with [`MOST`] that is how far shipping may lag behind without loss of
/// precision.
const APART: SignedDuration = SignedDuration::from_secs(1);
/// The most readings that wait. Beyond it the newest is replaced: the covered time only falls behind a little.
const MOST: usize = 600;

impl Clocks {
    /// Takes a reading.
    pub fn read(&mut self, reading: Reading) {
        let same = self
            .waiting
            .back()
            .is_some_and(|last| last.lsn == reading.lsn);
        let close = self
            .waiting
            .back()
            .zip(self.before_last())
            .is_some_and(|(last, before)| last.at.duration_since(before.at) < APART);
        let replaces = same || close || self.waiting.len() >= MOST;
        if replaces {
            self.waiting.pop_back();
        }
        self.waiting.push_back(reading);
    }

    fn before_last(&self) -> Option<&Reading> {
        self.waiting.iter().rev().nth(1)
    }

    /// Between `end` and `flushed` lies only a part of a record: what was flushed up to `flushed` is whole up to `end`.
    pub fn whole(&mut self, flushed: Lsn, end: Lsn) {
        for reading in &mut self.waiting {
            if reading.lsn > end && reading.lsn <= flushed {
                reading.lsn = end;
            }
        }
    }

    /// The newest reading whose LSN is durable.
    pub fn cover(&mut self, durable: Lsn) -> Option<Reading> {
        while let Some(reading) = self.waiting.front().filter(|r| r.lsn <= durable) {
            self.covered = Some(*reading);
            self.waiting.pop_front();
        }
        self.covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(lsn: u64, millis: i64) -> Reading {
        Reading {
            lsn: Lsn::new(lsn),
            at: Timestamp::from_millisecond(millis).unwrap(),
        }
    }

    #[test]
    fn the_newest_durable_reading_counts() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.cover(Lsn::new(10)), None);
        for (lsn, millis) in [(10, 0), (20, 2000), (30, 4000)] {
            clocks.read(reading(lsn, millis));
        }
        assert_eq!(clocks.cover(Lsn::new(9)), None);
        assert_eq!(clocks.cover(Lsn::new(25)), Some(reading(20, 2000)));
        assert_eq!(clocks.cover(Lsn::new(30)), Some(reading(30, 4000)));
        assert_eq!(clocks.cover(Lsn::new(30)), Some(reading(30, 4000)));
    }

    #[test]
    fn a_part_of_a_record_was_not_acknowledged() {
        let mut clocks = Clocks::default();
        clocks.read(reading(30, 4000));
        clocks.whole(Lsn::new(30), Lsn::new(28));
        assert_eq!(clocks.cover(Lsn::new(28)), Some(reading(28, 4000)));
    }

    #[test]
    fn an_idle_database_moves_on_in_time() {
        let mut clocks = Clocks::default();
        for second in 0..1000 {
            clocks.read(reading(10, second * 1000));
            assert_eq!(clocks.cover(Lsn::new(10)), Some(reading(10, second * 1000)));
        }
        assert!(clocks.waiting.is_empty());
    }

    #[test]
    fn memory_is_bounded_while_nothing_becomes_durable() {
        let mut clocks = Clocks::default();
        for count in 0..10_000 {
            clocks.read(reading(count, i64::try_from(count).unwrap() * 200));
        }
        assert!(clocks.waiting.len() <= MOST);
        assert_eq!(clocks.waiting.back().map(|r| r.lsn), Some(Lsn::new(9999)));
    }
}
