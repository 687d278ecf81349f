use super::*;
use crate::archive::examples::*;

/// From and to in segments, and the minute since when.
fn range(tli: u32, from: f64, to: f64, since: f64) -> ExpiredRange {
    ExpiredRange {
        timeline: timeline(tli),
        from: lsn(from),
        to: lsn(to),
        since: at(since),
    }
}

fn expired(ranges: &[ExpiredRange]) -> Expired {
    Expired {
        ranges: ranges.to_vec(),
        ..Expired::default()
    }
}

/// As written down at `now` of segments 1 to 9, `needed` by their numbers; due is what is ten minutes old.
fn next(known: &Expired, needed: impl Fn(u64) -> bool, now: f64) -> Vec<ExpiredRange> {
    let contents = with_segments(empty(), 1, 1..10);
    let needed = |name: SegmentName| needed(name.start(SIZE).get() / MIB);
    known
        .next(&contents, needed, (at(now), at(now - 10.0)))
        .ranges
}

#[test]
fn what_nothing_needs_is_told_by_age() {
    let first = next(&Expired::default(), |it| it > 3, 100.0);
    assert_eq!(first, [range(1, 1.0, 4.0, 100.0)]);
    let second = next(&expired(&first), |it| it > 5, 105.0);
    assert_eq!(
        second,
        [range(1, 1.0, 4.0, 100.0), range(1, 4.0, 6.0, 105.0)]
    );
    // What is due is one, however old.
    let third = next(&expired(&second), |it| it > 5, 115.0);
    assert_eq!(third, [range(1, 1.0, 6.0, 105.0)]);
    assert_eq!(next(&expired(&third), |it| it > 5, 116.0), third);
}

#[test]
fn what_is_needed_again_and_there_is_not_told_any_more() {
    let known = expired(&[range(1, 0.0, 6.0, 100.0)]);
    let left = next(&known, |it| it > 5 || it == 3, 101.0);
    assert_eq!(left, [range(1, 0.0, 3.0, 100.0), range(1, 4.0, 6.0, 100.0)]);
    // What is gone stays told, needed or not.
    let left = next(&known, |_| true, 101.0);
    assert_eq!(left, [range(1, 0.0, 1.0, 100.0)]);
}

#[test]
fn a_clock_that_was_set_back_keeps_nothing_longer() {
    let known = expired(&[range(1, 1.0, 4.0, 900.0)]);
    assert_eq!(
        next(&known, |it| it > 3, 100.0),
        [range(1, 1.0, 4.0, 100.0)]
    );
}

#[test]
fn only_what_nothing_has_needed_for_long_enough_is_due() {
    let expired = expired(&[
        range(1, 1.0, 4.0, 100.0),
        range(1, 4.0, 6.0, 105.0),
        range(2, 1.0, 3.0, 100.0),
    ]);
    let needed = |name: SegmentName| name == segment(1, 2);
    let due = |since: f64| Due {
        expired: &expired,
        needed: &needed,
        since: at(since),
        size: SIZE,
    };
    for (since, tli, number, goes) in [
        (99.0, 1, 1, false),
        (100.0, 1, 1, true),
        (100.0, 1, 2, false),
        (100.0, 1, 4, false),
        (105.0, 1, 5, true),
        (105.0, 1, 6, false),
        (105.0, 1, 0, false),
        (105.0, 2, 2, true),
        (105.0, 2, 3, false),
        (105.0, 3, 1, false),
    ] {
        assert_eq!(
            due(since).has(segment(tli, number)),
            goes,
            "{since} {tli} {number}"
        );
    }
    let spans = |since, first, last| due(since).spans(segment(1, first), segment(1, last));
    assert!(spans(105.0, 1, 5) && spans(100.0, 1, 3));
    assert!(!spans(100.0, 1, 5) && !spans(105.0, 1, 6) && !spans(105.0, 0, 3));
}

/// Timeline 2 left 1 in segment 4.
#[test]
fn of_a_gap_what_nothing_needed_is_not_lost() {
    let ancestors = [(timeline(1), lsn(4.5))];
    let lost = |ranges: &[ExpiredRange], from, to| {
        let gap = Gap {
            from: lsn(from),
            to: lsn(to),
        };
        let lost = expired(ranges).lost(&gap, (timeline(2), &ancestors), SIZE);
        let told = |it: &Gap| {
            (
                it.from.get() as f64 / MIB as f64,
                it.to.get() as f64 / MIB as f64,
            )
        };
        lost.iter().map(told).collect::<Vec<_>>()
    };
    let both = [range(1, 0.0, 5.0, 0.0), range(2, 4.0, 7.0, 0.0)];
    for (name, ranges, from, to, expected) in [
        ("nothing is told", &[][..], 2.0, 8.0, vec![(2.0, 8.0)]),
        ("over the fork", &both, 2.0, 7.0, vec![]),
        ("lost behind it", &both, 2.0, 8.0, vec![(7.0, 8.0)]),
        (
            "lost before it",
            &[range(1, 3.0, 5.0, 0.0)],
            2.0,
            4.5,
            vec![(2.0, 3.0)],
        ),
        (
            "of the other branch",
            &[range(1, 5.0, 9.0, 0.0)],
            5.0,
            8.0,
            vec![(5.0, 8.0)],
        ),
        (
            "between two that nobody needed",
            &[range(2, 5.0, 6.0, 0.0), range(2, 7.0, 8.0, 0.0)],
            5.0,
            8.0,
            vec![],
        ),
    ] {
        assert_eq!(lost(ranges, from, to), expected, "{name}");
    }
}
