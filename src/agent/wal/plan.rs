//! What to ship next. Pure.

use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// Which timeline each segment is read from: where the current one and its ancestors begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The timeline that is written now.
    pub timeline: TimelineId,
    /// Its ancestors, each with the position where the history leaves it, oldest first.
    pub ancestors: Vec<(TimelineId, Lsn)>,
}

impl Path {
    /// The timeline in the name of the segment that starts at `start`. PostgreSQL copies the part of a segment before a
    /// switch into the new timeline's segment, so the one that holds the switch is the new timeline's.
    pub fn timeline_of(&self, start: Lsn, size: SegmentSize) -> TimelineId {
        let end = start.advance(size.get());
        self.ancestors
            .iter()
            .find(|(_, left_at)| end <= *left_at)
            .map_or(self.timeline, |(timeline, _)| *timeline)
    }

    /// The segment that holds the byte at `lsn`.
    pub fn segment(&self, lsn: Lsn, size: SegmentSize) -> SegmentName {
        let start = Lsn::new(lsn.get() - size.offset(lsn));
        SegmentName::containing(self.timeline_of(start, size), start, size)
    }
}

/// How far shipping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The start of the first segment that is not whole in the archive.
    pub segment: Lsn,
    /// Every byte before it is durable in the archive: `segment`, or further by tails.
    pub durable: Lsn,
}

/// What is known when the next step is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// How far shipping is.
    pub position: Position,
    /// How far PostgreSQL has flushed.
    pub flushed: Lsn,
    /// The last tail is at least a tail interval ago.
    pub tail_due: bool,
    /// Somebody waits until the archive has this.
    pub demanded: Option<Lsn>,
    /// The agent ends: what is there now is the last that is shipped.
    pub ending: bool,
}

/// The next thing to ship.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The whole segment that starts here.
    Segment(Lsn),
    /// The unfinished segment's bytes from the first up to the second position.
    Tail(Lsn, Lsn),
    /// Nothing: wait.
    Wait,
}

/// Whole segments first and in order; the tail when it is due, or when somebody waits for it.
pub fn plan(situation: &Situation, size: SegmentSize) -> Step {
    let Situation {
        position,
        flushed,
        tail_due,
        demanded,
        ending,
    } = *situation;
    let end = position.segment.advance(size.get());
    if flushed >= end {
        return Step::Segment(position.segment);
    }
    let wanted = tail_due || ending || demanded.is_some_and(|lsn| position.durable < lsn);
    match flushed > position.durable && wanted {
        true => Step::Tail(position.durable, flushed),
        false => Step::Wait,
    }
}

/// Where shipping begins: at the segment of the slot's restart LSN, or earlier where the archive ends earlier (what
/// `pg_wal` still has of it is shipped too), but never before the archive's whole segments end.
///
/// `archived` is where the archive's whole segments end without a gap, on the path to the current timeline.
pub fn begin(restart: Lsn, archived: Option<Lsn>, size: SegmentSize) -> Lsn {
    let start = |lsn: Lsn| Lsn::new(lsn.get() - size.offset(lsn));
    match archived {
        Some(archived) => start(restart.min(archived)),
        None => start(restart),
    }
}

/// The whole segments from `from` up to `to` that are not there, in order.
pub fn holes(
    path: &Path,
    size: SegmentSize,
    from: Lsn,
    to: Lsn,
    is_there: impl Fn(&SegmentName) -> bool,
) -> Vec<SegmentName> {
    let starts = (from.get()..to.get()).step_by(usize::try_from(size.get()).unwrap_or(usize::MAX));
    starts
        .map(|start| path.segment(Lsn::new(start), size))
        .filter(|name| !is_there(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const SEGMENT: u64 = SIZE.get();

    fn situation(segment: u64, durable: u64, flushed: u64) -> Situation {
        Situation {
            position: Position {
                segment: Lsn::new(segment),
                durable: Lsn::new(durable),
            },
            flushed: Lsn::new(flushed),
            tail_due: false,
            demanded: None,
            ending: false,
        }
    }

    #[test]
    fn whole_segments_go_first_and_tails_when_somebody_waits() {
        let base = situation(SEGMENT, SEGMENT, SEGMENT + 100);
        let tail = Step::Tail(Lsn::new(SEGMENT), Lsn::new(SEGMENT + 100));
        for (name, situation, expected) in [
            ("not due", base, Step::Wait),
            (
                "due",
                Situation {
                    tail_due: true,
                    ..base
                },
                tail,
            ),
            (
                "ending",
                Situation {
                    ending: true,
                    ..base
                },
                tail,
            ),
            (
                "a backup waits",
                Situation {
                    demanded: Some(Lsn::new(SEGMENT + 50)),
                    ..base
                },
                tail,
            ),
            (
                "what is waited for is there",
                Situation {
                    demanded: Some(Lsn::new(SEGMENT)),
                    ..base
                },
                Step::Wait,
            ),
            (
                "nothing new",
                Situation {
                    tail_due: true,
                    ..situation(SEGMENT, SEGMENT + 100, SEGMENT + 100)
                },
                Step::Wait,
            ),
            (
                "full",
                Situation {
                    tail_due: true,
                    ..situation(SEGMENT, SEGMENT + 100, 2 * SEGMENT)
                },
                Step::Segment(Lsn::new(SEGMENT)),
            ),
        ] {
            assert_eq!(plan(&situation, SIZE), expected, "{name}");
        }
    }

    #[test]
    fn the_segment_with_the_switch_is_the_new_timelines() {
        let second = TimelineId::new(2).unwrap();
        let path = Path {
            timeline: second,
            ancestors: vec![(TimelineId::FIRST, Lsn::new(5 * SEGMENT + 100))],
        };
        for (segment, timeline) in [(4, TimelineId::FIRST), (5, second), (6, second)] {
            assert_eq!(
                path.timeline_of(Lsn::new(segment * SEGMENT), SIZE),
                timeline
            );
        }
        let at_boundary = Path {
            timeline: second,
            ancestors: vec![(TimelineId::FIRST, Lsn::new(5 * SEGMENT))],
        };
        assert_eq!(
            at_boundary.timeline_of(Lsn::new(4 * SEGMENT), SIZE),
            TimelineId::FIRST
        );
        assert_eq!(at_boundary.timeline_of(Lsn::new(5 * SEGMENT), SIZE), second);
    }

    #[test]
    fn holes_have_the_names_of_their_timelines() {
        let second = TimelineId::new(2).unwrap();
        let path = Path {
            timeline: second,
            ancestors: vec![(TimelineId::FIRST, Lsn::new(5 * SEGMENT + 100))],
        };
        let lsn = |segment: u64| Lsn::new(segment * SEGMENT);
        let name = |timeline, segment| SegmentName::containing(timeline, lsn(segment), SIZE);
        let there = [name(TimelineId::FIRST, 3), name(TimelineId::FIRST, 5)];
        assert_eq!(
            holes(&path, SIZE, lsn(3), lsn(7), |name| there.contains(name)),
            [name(TimelineId::FIRST, 4), name(second, 5), name(second, 6)]
        );
    }

    #[test]
    fn shipping_begins_where_neither_slot_nor_archive_leaves_a_hole() {
        let lsn = |segments: u64, bytes: u64| Lsn::new(segments * SEGMENT + bytes);
        assert_eq!(begin(lsn(3, 40), None, SIZE), lsn(3, 0));
        assert_eq!(begin(lsn(3, 40), Some(lsn(5, 0)), SIZE), lsn(3, 0));
        assert_eq!(begin(lsn(7, 40), Some(lsn(5, 0)), SIZE), lsn(5, 0));
    }

    proptest! {
        /// Nothing is skipped, nothing beyond the flushed end is shipped, and a demand ends in the archive.
        #[test]
        fn shipping_goes_on_without_holes(
            steps in prop::collection::vec((0u64..3 * SEGMENT, any::<bool>(), any::<bool>()), 1..40),
        ) {
            let mut position = Position { segment: Lsn::new(SEGMENT), durable: Lsn::new(SEGMENT) };
            let mut flushed = SEGMENT;
            for (more, tail_due, waits) in steps {
                flushed += more;
                loop {
                    let situation = Situation {
                        position,
                        flushed: Lsn::new(flushed),
                        tail_due,
                        demanded: waits.then_some(Lsn::new(flushed)),
                        ending: false,
                    };
                    match plan(&situation, SIZE) {
                        Step::Segment(start) => {
                            prop_assert_eq!(start, position.segment);
                            let end = start.advance(SEGMENT);
                            prop_assert!(end.get() <= flushed);
                            position = Position { segment: end, durable: end };
                        }
                        Step::Tail(from, to) => {
                            prop_assert_eq!(from, position.durable);
                            prop_assert!(from < to && to.get() <= flushed);
                            prop_assert!(to < position.segment.advance(SEGMENT));
                            position.durable = to;
                        }
                        Step::Wait => break,
                    }
                }
                if waits || tail_due {
                    prop_assert_eq!(position.durable.get(), flushed);
                }
            }
        }
    }
}
