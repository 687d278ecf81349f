//! How fast WAL is replayed, and so how long the rest will take.

use std::time::Duration;

use crate::postgres::Lsn;

/// What was seen of the replay in this try. An earlier try's pace says nothing: it may have run beside other load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    first: Option<(Lsn, Duration)>,
    last: Option<(Lsn, Duration)>,
}

impl Pace {
    /// Takes note of a position, `elapsed` after any fixed moment. A position that was seen already adds nothing: its
    /// first sighting counts.
    pub fn see(&mut self, reached: Lsn, elapsed: Duration) {
        if self.last.is_none_or(|(lsn, _)| reached > lsn) {
            self.last = Some((reached, elapsed));
            self.first = self.first.or(self.last);
        }
    }

    /// Seconds, rounded up, that the WAL from the last position to `end` takes at the pace since the first; absent until
    /// two positions were seen at different moments.
    pub fn remaining(&self, end: Lsn) -> Option<i64> {
        let ((first, began), (last, now)) = (self.first?, self.last?);
        let millis = now.saturating_sub(began).as_millis();
        let done = u128::from(last.bytes_since(first));
        if millis == 0 || done == 0 {
            return None;
        }
        let left = u128::from(end.bytes_since(last));
        let seconds = left
            .saturating_mul(millis)
            .div_ceil(done.saturating_mul(1000));
        i64::try_from(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        let end = Lsn::new(0x10_000);
        for (seen, expected) in [
            (&[][..], None),
            (&[(0x1000, 500)], None),
            (&[(0x1000, 500), (0x1000, 9000)], None),
            (&[(0x1000, 500), (0x8000, 500)], None),
            (&[(0x8000, 0), (0xc000, 10_000)], Some(10)),
            // The time before the first position is PostgreSQL's start and no pace.
            (&[(0x8000, 60_000), (0xc000, 70_000)], Some(10)),
            (&[(0x8000, 0), (0xc000, 10_000), (0xc000, 90_000)], Some(10)),
            (&[(0x8000, 0), (0xf000, 7000), (0x9000, 8000)], Some(1)),
            (&[(0x8000, 0), (0xffff, 1000)], Some(1)),
            (&[(0x8000, 0), (0x10_000, 1000)], Some(0)),
            (&[(0x8000, 0), (0x20_000, 1000)], Some(0)),
        ] {
            let mut pace = Pace::default();
            for (lsn, millis) in seen {
                pace.see(Lsn::new(*lsn), Duration::from_millis(*millis));
            }
            assert_eq!(pace.remaining(end), expected, "{seen:?}");
        }
    }

    #[test]
    fn what_has_no_number_has_no_estimate() {
        let mut pace = Pace::default();
        pace.see(Lsn::new(0), Duration::ZERO);
        pace.see(Lsn::new(1), Duration::from_millis(u64::MAX));
        assert_eq!(pace.remaining(Lsn::new(u64::MAX)), None);
    }
}
