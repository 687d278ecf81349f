//! Segments whose place in the log is not reached yet: a writer that puts several at once has put them before an earlier
//! one. Pure.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// Whether a segment has an index entry: one of its own, or in a roll-up from the first to the last of `rolled_up`, which
/// holds all between them.
pub(super) fn has_entry<'a>(
    name: SegmentName,
    has_own: bool,
    rolled_up: impl IntoIterator<Item = (&'a SegmentName, &'a SegmentName)>,
) -> bool {
    let covers = |(first, last): (&SegmentName, &SegmentName)| *first <= name && name <= *last;
    has_own || rolled_up.into_iter().any(covers)
}

/// What came longer ago than this is not followed any more by what was put at the same time, and is missing before it.
pub const YOUNG: SignedDuration = SignedDuration::from_mins(5);

/// Those of `segments` that do not count as archived: WAL is missing before them, and they have no index entry, which
/// a writer puts only when everything before the segment is durable.
pub(super) fn on_their_way(
    segments: impl Iterator<Item = SegmentName>,
    has_entry: impl Fn(&SegmentName) -> bool,
    size: SegmentSize,
) -> Vec<SegmentName> {
    let mut in_order: Vec<SegmentName> = segments.collect();
    in_order.sort_by_key(|name| (name.start(size), name.timeline()));
    // With the oldest timeline that reaches there: what a timeline has left goes on from no newer one.
    let mut ends: BTreeMap<Lsn, TimelineId> = BTreeMap::new();
    let Some(first) = in_order.first().map(|name| name.start(size)) else {
        return Vec::new();
    };
    in_order.retain(|name| {
        let start = name.start(size);
        let follows = ends.get(&start).is_some_and(|id| *id <= name.timeline());
        let counts = start == first || follows || has_entry(name);
        if counts {
            let oldest = ends.entry(name.end(size)).or_insert(name.timeline());
            *oldest = name.timeline().min(*oldest);
        }
        !counts
    });
    in_order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::examples::{SIZE, segment};

    #[test]
    fn what_follows_a_hole_counts_from_its_first_entry_on() {
        let found = |there: &[(u32, u64)], entries: &[(u32, u64)]| {
            let there = there.iter().map(|(tli, number)| segment(*tli, *number));
            let has = |name: &SegmentName| entries.iter().any(|(t, n)| segment(*t, *n) == *name);
            on_their_way(there, has, SIZE)
        };
        let none: [SegmentName; 0] = [];
        for (name, there, entries, expected) in [
            ("nothing", &[][..], &[][..], none.to_vec()),
            ("no hole, no entries", &[(1, 3), (1, 4)], &[], none.to_vec()),
            (
                "a hole",
                &[(1, 3), (1, 5), (1, 6)],
                &[(1, 3)],
                vec![segment(1, 5), segment(1, 6)],
            ),
            (
                "a gap that was passed",
                &[(1, 3), (1, 5), (1, 6), (1, 8)],
                &[(1, 3), (1, 5)],
                vec![segment(1, 8)],
            ),
            (
                "the first of a timeline is on its way",
                &[(1, 3), (1, 4), (2, 6)],
                &[(1, 3), (1, 4)],
                vec![segment(2, 6)],
            ),
            (
                "another timeline fills the hole",
                &[(1, 3), (1, 4), (1, 6), (2, 4), (2, 5)],
                &[(1, 3), (1, 4), (2, 4), (2, 5)],
                vec![segment(1, 6)],
            ),
            (
                "a timeline goes on where another was left",
                &[(1, 3), (1, 4), (2, 4), (2, 5)],
                &[],
                none.to_vec(),
            ),
        ] {
            assert_eq!(found(there, entries), expected, "{name}");
        }
    }
}
