//! How far the archive is behind PostgreSQL, and whether that grows.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    agent::{metrics::Metrics, shared::Progress},
    postgres::{Lsn, session::Client, wal_reader},
};

/// Readings are kept apart by at least this much.
const APART: Duration = Duration::from_secs(1);
/// The most readings that wait; beyond it every second one is forgotten.
const MOST: usize = 4096;
/// Over how long the slope is taken.
const WINDOW: Duration = Duration::from_secs(20);
/// Between two looks while nothing is shipped.
const LOOK: Duration = Duration::from_secs(2);

/// How far behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Bytes that PostgreSQL has flushed and the archive does not have.
    pub bytes: u64,
    /// For how long the oldest of them has been waiting, in seconds.
    pub seconds: f64,
    /// How much `bytes` has grown over the last 20 seconds, in bytes per second; negative where it shrinks.
    pub slope: f64,
}

/// What was seen of WAL that waits. Pure.
#[derive(Debug)]
pub struct Waiting {
    /// When the end of the log was seen first, where that is not archived.
    flushed: VecDeque<(Instant, Lsn)>,
    /// What was behind at which time, within the window.
    behind: VecDeque<(Instant, u64)>,
    /// The furthest end of the log that was seen: of two who look one may know less.
    newest: Lsn,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            flushed: VecDeque::new(),
            behind: VecDeque::new(),
            newest: Lsn::new(0),
        }
    }
}

impl Waiting {
    /// A session begins, with a log that ends at `end`: perhaps another server's, which is not as far.
    pub fn begin(&mut self, end: Lsn) {
        self.flushed.retain(|(_, lsn)| *lsn <= end);
        self.behind.clear();
        self.newest = end;
    }

    /// At `now` PostgreSQL has flushed up to `flushed`, and the archive has everything before `durable`.
    pub fn observe(&mut self, now: Instant, flushed: Lsn, durable: Lsn) -> Lag {
        let flushed = flushed.max(self.newest);
        self.newest = flushed;
        while self.flushed.front().is_some_and(|(_, lsn)| *lsn <= durable) {
            self.flushed.pop_front();
        }
        let newest = self.flushed.back();
        let is_new = newest.is_none_or(|(at, lsn)| *lsn < flushed && now >= *at + APART);
        if flushed > durable && is_new {
            self.flushed.push_back((now, flushed));
        }
        if self.flushed.len() > MOST {
            let mut even = false;
            self.flushed.retain(|_| {
                even = !even;
                even
            });
        }
        let bytes = flushed.bytes_since(durable);
        let oldest = self.flushed.front().map(|(at, _)| now - *at);
        Lag {
            bytes,
            seconds: oldest.unwrap_or_default().as_secs_f64(),
            slope: self.slope(now, bytes),
        }
    }

    fn slope(&mut self, now: Instant, bytes: u64) -> f64 {
        let newest = self.behind.back();
        if newest.is_none_or(|(at, _)| now >= *at + APART) {
            self.behind.push_back((now, bytes));
        }
        while self.behind.len() > 1
            && self
                .behind
                .front()
                .is_some_and(|(at, _)| now > *at + WINDOW)
        {
            self.behind.pop_front();
        }
        match self.behind.front() {
            Some((at, before)) if now >= *at + APART => {
                (bytes as f64 - *before as f64) / (now - *at).as_secs_f64()
            }
            Some(_) | None => 0.0,
        }
    }
}

/// Keeps the numbers true while nothing is shipped, as in an outage of the archive: for ever. `held` is where the slot
/// begins; nothing before it is missing.
pub async fn follow(
    client: &Client,
    held: Option<Lsn>,
    progress: watch::Receiver<Progress>,
    metrics: &Metrics,
) {
    let mut begins = true;
    loop {
        // Who ships says what is wrong with a session that ends.
        if let Ok(end) = wal_reader::flush_position(client).await {
            if std::mem::take(&mut begins) {
                metrics.session(end.lsn);
            }
            if let Some(durable) = progress.borrow().durable.or(held) {
                metrics.behind(Instant::now(), end.lsn, durable);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn an_outage_shows_in_all_three_and_its_end_too() {
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        let mut lag = Lag::default();
        // One MiB each second, and nothing is archived.
        for second in 0..=120 {
            lag = waiting.observe(
                at(begin, second),
                Lsn::new((second + 1) * MIB),
                Lsn::new(MIB),
            );
        }
        assert_eq!(lag.bytes, 120 * MIB);
        assert_eq!(lag.seconds, 119.0);
        assert_eq!(lag.slope, MIB as f64);
        // Five are archived each second, and one is written.
        for second in 121..=130 {
            let durable = Lsn::new(MIB + (second - 120) * 5 * MIB);
            lag = waiting.observe(at(begin, second), Lsn::new((second + 1) * MIB), durable);
        }
        assert_eq!(lag.bytes, 80 * MIB);
        assert_eq!(lag.seconds, 79.0);
        assert!(lag.slope < MIB as f64);
        lag = waiting.observe(at(begin, 140), Lsn::new(131 * MIB), Lsn::new(131 * MIB));
        assert_eq!((lag.bytes, lag.seconds), (0, 0.0));
        assert!(lag.slope < 0.0, "{lag:?}");
    }

    #[test]
    fn another_server_that_is_not_as_far_ends_what_waited_and_the_slower_look_counts_not() {
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        waiting.observe(begin, Lsn::new(50 * MIB), Lsn::new(MIB));
        let lag = waiting.observe(at(begin, 1), Lsn::new(20 * MIB), Lsn::new(MIB));
        assert_eq!(lag.bytes, 49 * MIB);
        waiting.begin(Lsn::new(2 * MIB));
        let lag = waiting.observe(at(begin, 60), Lsn::new(2 * MIB), Lsn::new(2 * MIB));
        assert_eq!((lag.bytes, lag.seconds, lag.slope), (0, 0.0, 0.0));
    }

    #[test]
    fn steady_writing_is_not_taken_for_an_ever_older_backlog() {
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        for second in 0..1000 {
            let (flushed, durable) = (Lsn::new((second + 5) * MIB), Lsn::new(second * MIB));
            let lag = waiting.observe(at(begin, second), flushed, durable);
            assert!(lag.seconds <= 5.0 && lag.slope.abs() < 1.0, "{lag:?}");
        }
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_nothing_is_older_than_it_was_seen(steps in prop::collection::vec((0u64..5000, 0u64..100, 0u64..100), 1..300)) {
            let (begin, mut waiting) = (Instant::now(), Waiting::default());
            let (mut now, mut flushed, mut durable) = (begin, 0, 0);
            for (millis, written, archived) in steps {
                now += Duration::from_millis(millis);
                flushed += written;
                durable = (durable + archived).min(flushed);
                let lag = waiting.observe(now, Lsn::new(flushed), Lsn::new(durable));
                prop_assert_eq!(lag.bytes, flushed - durable);
                prop_assert!(lag.seconds <= (now - begin).as_secs_f64());
                prop_assert_eq!(lag.bytes == 0, waiting.flushed.is_empty());
                prop_assert!(waiting.behind.len() <= 22);
            }
        }
    }

    #[test]
    fn a_long_outage_keeps_the_oldest_reading_and_few_of_the_others() {
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        let mut lag = Lag::default();
        for second in 0..100_000 {
            lag = waiting.observe(at(begin, second), Lsn::new(second + 2), Lsn::new(1));
        }
        assert_eq!(lag.seconds, 99_999.0);
        assert!(waiting.flushed.len() <= MOST);
    }
}
