//! Which file PostgreSQL asks for, and what of it belongs to the plan. Pure.

use serde::{Deserialize, Serialize};

use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// What the log consists of on its way to the plan's end: one stretch per timeline, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it forked from its parent; 0/0 for the first.
    pub begins: Lsn,
    /// Where the next timeline forked from it, or the plan's end: nothing from here on is served.
    pub ends: Lsn,
}

/// A file that a `restore_command` is asked for (`%f`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A WAL segment.
    Segment(SegmentName),
    /// A timeline history file.
    History(TimelineId),
    /// Anything else: the archive holds no such files.
    Other,
}

impl Wanted {
    /// From `%f`.
    pub fn parse(file: &str) -> Self {
        if let Some(timeline) = file.strip_suffix(".history") {
            return timeline.parse().map_or(Self::Other, Self::History);
        }
        file.parse().map_or(Self::Other, Self::Segment)
    }
}

/// What of a segment belongs to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything up to this position, and at least one byte.
    UpTo(Lsn),
    /// Nothing: the plan's way has left this timeline before, or ends before. A definite end.
    Ended,
    /// The timeline is not on the plan's way: PostgreSQL does not follow the plan.
    Foreign,
}

/// What of `segment` belongs to `line`.
pub fn part(segment: SegmentName, size: SegmentSize, line: &[Stretch]) -> Part {
    match line.iter().find(|s| s.timeline == segment.timeline()) {
        None => Part::Foreign,
        Some(stretch) if segment.start(size) >= stretch.ends => Part::Ended,
        Some(stretch) => Part::UpTo(stretch.ends),
    }
}

/// Whether the archive must hold `segment` because bytes in it belong to `line`. If it then says "no such object", that
/// is a gap, never an end.
pub fn must_exist(segment: SegmentName, size: SegmentSize, line: &[Stretch]) -> bool {
    line.iter()
        .filter(|stretch| stretch.timeline == segment.timeline())
        .any(|stretch| {
            segment.start(size).max(stretch.begins) < segment.end(size).min(stretch.ends)
        })
}

/// How far the plan is served once `segment` is, from its `first` position to its end.
pub fn reached(segment: SegmentName, size: SegmentSize, line: &[Stretch]) -> Option<Lsn> {
    match part(segment, size, line) {
        Part::UpTo(ends) => Some(ends.min(segment.end(size))),
        Part::Ended | Part::Foreign => None,
    }
}

/// The segment that PostgreSQL wants after `segment` on its way along `line`: of the next piece of the log, the file of
/// the newest timeline with a byte in it, which PostgreSQL tries first. `None`: the line ends.
pub fn next(segment: SegmentName, size: SegmentSize, line: &[Stretch]) -> Option<SegmentName> {
    let at = segment.end(size);
    line.iter()
        .rev()
        .map(|stretch| SegmentName::containing(stretch.timeline, at, size))
        .find(|name| must_exist(*name, size, line))
}

/// The segment before the one that was served last, when the plan is served up to `reached`: PostgreSQL asks for the next one
/// when it has read the one before, so this one is replayed but for the last of it that it read ahead. `None`: the line begins.
pub fn before(reached: Lsn, size: SegmentSize, line: &[Stretch]) -> Option<SegmentName> {
    let last_byte = |lsn: Lsn| lsn.get().checked_sub(1).map(Lsn::new);
    let served = SegmentName::containing(TimelineId::FIRST, last_byte(reached)?, size);
    let at = last_byte(served.start(size))?;
    line.iter()
        .rev()
        .map(|stretch| SegmentName::containing(stretch.timeline, at, size))
        .find(|name| must_exist(*name, size, line))
}

/// What to have ready once `asked` is asked for after `last`: up to `count` segments. Nothing for whoever walks
/// backwards, as pg_rewind does.
pub fn ahead(
    asked: SegmentName,
    last: Option<SegmentName>,
    count: usize,
    size: SegmentSize,
    line: &[Stretch],
) -> Vec<SegmentName> {
    if last.is_some_and(|last| asked.start(size) < last.start(size)) {
        return Vec::new();
    }
    std::iter::successors(next(asked, size, line), |name| next(*name, size, line))
        .take(count)
        .collect()
}

/// How many segments are held at once: `most`, or as many as `bytes` hold, and always one.
pub fn width(most: usize, bytes: u64, size: SegmentSize) -> usize {
    usize::try_from(bytes / size.get())
        .unwrap_or(most)
        .clamp(1, most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const SEG: u64 = 16 * 1024 * 1024;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Timeline 1 up to the middle of segment 5, timeline 3 from there to 100 bytes into segment 8.
    fn line() -> Vec<Stretch> {
        let fork = Lsn::new(5 * SEG + SEG / 2);
        vec![
            Stretch {
                timeline: timeline(1),
                begins: Lsn::new(0),
                ends: fork,
            },
            Stretch {
                timeline: timeline(3),
                begins: fork,
                ends: Lsn::new(8 * SEG + 100),
            },
        ]
    }

    fn segment(tli: u32, number: u64) -> SegmentName {
        SegmentName::containing(timeline(tli), Lsn::new(number * SEG), SIZE)
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(
            Wanted::parse("00000003.history"),
            Wanted::History(timeline(3))
        );
        assert_eq!(
            Wanted::parse("000000010000000000000005"),
            Wanted::Segment(segment(1, 5))
        );
        for other in [
            "",
            "00000000.history",
            "x.history",
            "000000010000000000000005.00000028.backup",
            "000000010000000000000005.partial",
            "../../etc/passwd",
        ] {
            assert_eq!(Wanted::parse(other), Wanted::Other, "{other}");
        }
    }

    #[test]
    fn only_the_plans_way_is_served() {
        let fork = Lsn::new(5 * SEG + SEG / 2);
        let end = Lsn::new(8 * SEG + 100);
        for (tli, number, expected) in [
            (1, 4, Part::UpTo(fork)),
            (1, 5, Part::UpTo(fork)),
            (1, 6, Part::Ended),
            (2, 5, Part::Foreign),
            (3, 5, Part::UpTo(end)),
            (3, 8, Part::UpTo(end)),
            (3, 9, Part::Ended),
            (4, 9, Part::Foreign),
        ] {
            assert_eq!(
                part(segment(tli, number), SIZE, &line()),
                expected,
                "timeline {tli}, segment {number}"
            );
        }
    }

    #[test]
    fn a_missing_segment_is_a_gap_where_the_plan_needs_a_byte_of_it() {
        for (tli, number, needed) in [
            (1, 4, true),
            (1, 5, true),
            (1, 6, false),
            (3, 4, false),
            (3, 5, true),
            (3, 8, true),
            (3, 9, false),
            (2, 5, false),
        ] {
            assert_eq!(
                must_exist(segment(tli, number), SIZE, &line()),
                needed,
                "timeline {tli}, segment {number}"
            );
        }
    }

    #[test]
    fn an_end_at_a_segment_boundary_needs_no_further_segment() {
        let mut line = line();
        line[1].ends = Lsn::new(8 * SEG);
        assert_eq!(part(segment(3, 8), SIZE, &line), Part::Ended);
        assert!(must_exist(segment(3, 7), SIZE, &line));
        assert_eq!(reached(segment(3, 7), SIZE, &line), Some(Lsn::new(8 * SEG)));
    }

    #[test]
    fn the_way_ahead_changes_timelines_at_the_fork_and_ends_with_the_plan() {
        let ahead = |tli, number, last| ahead(segment(tli, number), last, 4, SIZE, &line());
        let names = |names: &[(u32, u64)]| -> Vec<SegmentName> {
            names.iter().map(|(t, n)| segment(*t, *n)).collect()
        };
        let forwards = names(&[(1, 3), (1, 4), (3, 5), (3, 6)]);
        assert_eq!(ahead(1, 2, None), forwards);
        // The one before it, or itself once more.
        assert_eq!(ahead(1, 2, Some(segment(1, 1))), forwards);
        assert_eq!(ahead(1, 2, Some(segment(1, 2))), forwards);
        // PostgreSQL tried the new timeline's file first and then took the old one's.
        assert_eq!(ahead(1, 5, None), names(&[(3, 6), (3, 7), (3, 8)]));
        assert_eq!(ahead(3, 8, None), []);
        // Backwards.
        assert_eq!(ahead(1, 2, Some(segment(1, 3))), []);
    }

    #[test]
    fn what_is_replayed_lies_before_what_was_served_last() {
        for (reached, expected) in [
            (0, None),
            (SEG - 1, None),
            (SEG, None),
            (SEG + 1, Some(segment(1, 0))),
            (5 * SEG, Some(segment(1, 3))),
            (5 * SEG + 1, Some(segment(1, 4))),
            // The fork's segment is the new timeline's.
            (7 * SEG, Some(segment(3, 5))),
            (9 * SEG, Some(segment(3, 7))),
        ] {
            assert_eq!(
                before(Lsn::new(reached), SIZE, &line()),
                expected,
                "{reached}"
            );
        }
    }

    #[test]
    fn memory_is_bounded_and_one_segment_always_fits() {
        const MIB: u64 = 1 << 20;
        for (size, expected) in [(1, 4), (16, 4), (32, 4), (64, 2), (128, 1), (1024, 1)] {
            let size = SegmentSize::new(size << 20).unwrap();
            assert_eq!(width(4, 128 * MIB, size), expected, "{size:?}");
        }
    }

    /// Any number of timelines, forks anywhere, several in one segment too.
    fn lines() -> impl Strategy<Value = Vec<Stretch>> {
        let stretch = (1u64..3 * SEG, 1u32..4);
        (0..4 * SEG, prop::collection::vec(stretch, 1..6)).prop_map(|(from, stretches)| {
            let (mut at, mut tli, mut line) = (Lsn::new(0), 0, Vec::new());
            for (length, step) in stretches {
                tli += step;
                let begins = at;
                at = at.advance(length);
                line.push((tli, begins, at));
            }
            let shift = |lsn: Lsn| match lsn.get() {
                0 => lsn,
                _ => lsn.advance(from),
            };
            line.into_iter()
                .map(|(tli, begins, ends)| Stretch {
                    timeline: timeline(tli),
                    begins: shift(begins),
                    ends: shift(ends),
                })
                .collect()
        })
    }

    proptest! {
        /// Whoever follows `next` from the first segment gets every byte of the plan from the timeline that wrote it
        /// or from a descendant's copy, one file per piece of the log, and nothing beyond the end.
        #[test]
        fn the_way_covers_the_line(line in lines()) {
            let end = line.last().unwrap().ends;
            let first = SegmentName::containing(line[0].timeline, Lsn::new(0), SIZE);
            let mut at = SIZE.get();
            let mut before = first;
            for name in std::iter::successors(next(first, SIZE, &line), |n| next(*n, SIZE, &line)) {
                prop_assert_eq!(name.start(SIZE).get(), at);
                prop_assert!(must_exist(name, SIZE, &line));
                prop_assert!(matches!(part(name, SIZE, &line), Part::UpTo(_)));
                prop_assert!(name.timeline() >= before.timeline());
                let newest = line.iter().rfind(|s| s.begins < name.end(SIZE)).unwrap();
                prop_assert_eq!(name.timeline(), newest.timeline);
                (at, before) = (at + SIZE.get(), name);
            }
            prop_assert!(at >= end.get() && at < end.get() + SIZE.get() || end.get() <= SIZE.get());
        }

        #[test]
        fn what_is_ahead_is_a_beginning_of_the_way(line in lines(), tli in 0usize..6, number in 0u64..20, count in 0usize..6) {
            let stretch = &line[tli % line.len()];
            let asked = SegmentName::containing(stretch.timeline, Lsn::new(number * SEG), SIZE);
            let all = ahead(asked, None, usize::MAX, SIZE, &line);
            let some = ahead(asked, None, count, SIZE, &line);
            prop_assert_eq!(&some[..], &all[..count.min(all.len())]);
            prop_assert!(all.iter().all(|name| name.start(SIZE) > asked.start(SIZE)));
            prop_assert_eq!(ahead(asked, Some(asked.next(SIZE)), count, SIZE, &line), []);
        }
    }
}
