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

#[cfg(test)]
mod tests {
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
}
