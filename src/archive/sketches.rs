//! Lineages of every kind, for properties.

use proptest::prelude::*;

use super::{ClockPair, Contents, RestorePoint, Segment, examples::*};

/// Fourteen segments of timeline 1, and of timeline 2 from a fork on, with holes; positions are in segments.
#[derive(Clone, Debug)]
pub struct Sketch {
    pub old: Vec<bool>,
    pub new: Vec<bool>,
    pub unread: Vec<bool>,
    pub fork: Option<f64>,
    pub tail: Option<(bool, f64)>,
    pub backups: Vec<(bool, f64, f64)>,
    pub clock: Option<f64>,
    /// Restore points `p0` and so on: whether on the new timeline, and the end of the record.
    pub points: Vec<(bool, f64)>,
}

pub fn sketch() -> impl Strategy<Value = Sketch> {
    let segments = || proptest::collection::vec(prop::bool::weighted(0.9), 14);
    (
        segments(),
        segments(),
        proptest::collection::vec(prop::bool::weighted(0.1), 14),
        proptest::option::of((8u32..96).prop_map(|n| f64::from(n) / 8.0)),
        proptest::option::of((any::<bool>(), (8u32..112).prop_map(|n| f64::from(n) / 8.0))),
        proptest::collection::vec(
            (
                any::<bool>(),
                (8u32..100).prop_map(|n| f64::from(n) / 8.0),
                (0u32..16).prop_map(|n| f64::from(n) / 8.0),
            ),
            0..4,
        ),
        proptest::option::of((0u32..140).prop_map(|n| f64::from(n) / 8.0)),
        proptest::collection::vec(
            (any::<bool>(), (8u32..112).prop_map(|n| f64::from(n) / 8.0)),
            0..4,
        ),
    )
        .prop_map(
            |(old, new, unread, fork, tail, backups, clock, points)| Sketch {
                old,
                new,
                unread,
                fork,
                tail,
                backups,
                clock,
                points,
            },
        )
}

pub fn build(sketch: &Sketch) -> Contents {
    let there = |flags: &[bool], from: f64| -> Vec<u64> {
        (0..14)
            .filter(|n| flags[*n] && *n as f64 + 1.0 > from)
            .map(|n| n as u64)
            .collect()
    };
    let mut contents = with_segments(empty(), 1, there(&sketch.old, 0.0));
    if let Some(fork) = sketch.fork {
        contents = with_history(contents, 2, &[(1, fork)]);
        contents = with_segments(contents, 2, there(&sketch.new, fork));
    }
    for (number, _) in sketch
        .unread
        .iter()
        .enumerate()
        .filter(|(_, unread)| **unread)
    {
        for tli in [1, 2] {
            if let Some(Segment { records, .. }) =
                contents.segments.get_mut(&segment(tli, number as u64))
            {
                *records = None;
            }
        }
    }
    let newest = |new: bool| if new && sketch.fork.is_some() { 2 } else { 1 };
    if let Some((new, end)) = sketch.tail {
        contents = with_tail(contents, newest(new), end + 0.05, Some(end));
    }
    for (index, (new, start, length)) in sketch.backups.iter().enumerate() {
        let tli = newest(*new);
        if tli == 1 || sketch.fork.is_some_and(|fork| *start >= fork) {
            contents = with_backup(
                contents,
                &format!("b{index}"),
                tli,
                *start,
                start + length + 0.1,
            );
        }
    }
    for (index, (new, end)) in sketch.points.iter().enumerate() {
        let point = RestorePoint {
            name: format!("p{index}"),
            lsn: lsn(*end),
            at: at(*end),
        };
        let tli = timeline(newest(*new));
        contents.restore_points.push((tli, point));
    }
    if let Some(minutes) = sketch.clock {
        let tli = newest(true);
        contents.clocks.push(ClockPair {
            lsn: lsn(minutes.min(13.9)),
            at: at(minutes),
            timeline: timeline(tli),
        });
    }
    contents
}
