//! What it means that a whole segment is not there. Pure.

use jiff::Timestamp;

use crate::{
    archive::{Contents, LogEnd, Segment, end_of_log},
    postgres::SegmentName,
};

/// What it means that a whole segment was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It is there now.
    Whole,
    /// The log of its timeline ends in it: its tail is what there is.
    Tail,
    /// Nothing of it is there, and nothing after it.
    End,
    /// Only segments follow that do not count yet: it may be on its way, as they are put several at once. The last of
    /// them came then.
    Awaited(Timestamp),
    /// WAL that follows it is there: it is missing.
    Gap,
}

/// What `contents` say of `segment`.
pub fn end(contents: &Contents, segment: SegmentName) -> Absence {
    let counted = of_what_counts(contents, segment);
    let last = contents.on_their_way.values().max();
    let (Absence::End | Absence::Tail, Some(last)) = (counted, last) else {
        return counted;
    };
    let mut all = contents.clone();
    let size = contents.identity.segment_size;
    let whole = |name: &SegmentName| Segment {
        valid_end: name.end(size),
        records: None,
        ended: None,
        encrypted: false,
    };
    let names = contents.on_their_way.keys();
    all.segments.extend(names.map(|name| (*name, whole(name))));
    match of_what_counts(&all, segment) {
        Absence::Gap => Absence::Awaited(*last),
        // It is there: it was put after it had been asked for.
        Absence::Whole => Absence::Whole,
        Absence::Tail | Absence::End | Absence::Awaited(_) => counted,
    }
}

fn of_what_counts(contents: &Contents, segment: SegmentName) -> Absence {
    if contents.segments.contains_key(&segment) {
        return Absence::Whole;
    }
    if !contents.tails.contains_key(&segment) {
        return match end_of_log(contents, segment, None) {
            LogEnd::Gap => Absence::Gap,
            LogEnd::End => Absence::End,
            // It is in neither.
            LogEnd::Found => Absence::Whole,
        };
    }
    let size = contents.identity.segment_size;
    let names = contents.segments.keys().chain(contents.tails.keys());
    let goes_on = names
        .filter(|name| name.timeline() == segment.timeline())
        .any(|name| name.start(size) > segment.start(size));
    // A timeline that left this one within the segment has a copy of what it needs of it.
    let left_later = contents.histories.keys().any(|timeline| {
        let ancestors = contents.ancestors(*timeline);
        let mut left = ancestors.iter();
        // Left at its end, it was whole.
        left.any(|(id, at)| *id == segment.timeline() && *at >= segment.end(size))
    });
    match goes_on || left_later {
        true => Absence::Gap,
        false => Absence::Tail,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        archive::{FORMAT, Identity, Tail, retention::Expired},
        postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId},
    };

    const MIB: u64 = 1 << 20;

    fn name(tli: u32, number: u64) -> SegmentName {
        let size = SegmentSize::new(1 << 20).unwrap();
        SegmentName::containing(TimelineId::new(tli).unwrap(), Lsn::new(number * MIB), size)
    }

    /// Timeline 1 to segment 4 and a tail in 5; timeline 2 from the fork on to segment 7, and a tail in 8.
    fn forked(fork: f64) -> Contents {
        let size = SegmentSize::new(1 << 20).unwrap();
        let fork = Lsn::new((fork * MIB as f64) as u64);
        let whole = |name: SegmentName| {
            let segment = Segment {
                valid_end: name.end(size),
                records: None,
                ended: None,
                encrypted: false,
            };
            (name, segment)
        };
        let tail = |name: SegmentName| {
            let end = name.start(size).advance(1000);
            let tail = Tail {
                end,
                records: None,
                encrypted: false,
            };
            (name, tail)
        };
        let second = TimelineId::new(2).unwrap();
        let text = format!("1\t{fork}\tno reason\n");
        let ours = (1..=4).map(|number| name(1, number));
        let theirs = (5..=7).map(|number| name(2, number));
        Contents {
            identity: Identity {
                format: FORMAT,
                lineage: "0123456789".parse().unwrap(),
                system_identifier: SystemIdentifier::new(1),
                major_version: 15,
                segment_size: size,
                created_at: jiff::Timestamp::UNIX_EPOCH,
            },
            backups: Vec::new(),
            histories: BTreeMap::from([(second, TimelineHistory::parse(second, &text).unwrap())]),
            segments: ours.chain(theirs).map(whole).collect(),
            tails: BTreeMap::from([tail(name(1, 5)), tail(name(2, 8))]),
            restore_points: Vec::new(),
            clocks: Vec::new(),
            stored: BTreeMap::new(),
            on_their_way: BTreeMap::new(),
            expired: Expired::default(),
            orphans: None,
        }
    }

    #[test]
    fn a_tail_is_handed_out_only_where_its_timeline_ends() {
        let within = forked(5.0 + 500.0 / MIB as f64);
        assert_eq!(end(&within, name(1, 5)), Absence::Tail);
        assert_eq!(end(&within, name(2, 8)), Absence::Tail);
        // Timeline 2 needs segment 6 of timeline 1, so 5 was whole once.
        assert_eq!(end(&forked(6.5), name(1, 5)), Absence::Gap);
        // Left at its very end, too, as after a switch.
        assert_eq!(end(&forked(6.0), name(1, 5)), Absence::Gap);
        let mut goes_on = within.clone();
        let later = goes_on.segments[&name(1, 4)];
        goes_on.segments.insert(name(1, 6), later);
        assert_eq!(end(&goes_on, name(1, 5)), Absence::Gap);
    }

    #[test]
    fn what_is_missing_before_something_is_a_gap() {
        let contents = forked(5.0 + 500.0 / MIB as f64);
        assert_eq!(end(&contents, name(1, 4)), Absence::Whole);
        assert_eq!(end(&contents, name(1, 0)), Absence::Gap);
        assert_eq!(end(&contents, name(1, 6)), Absence::End);
        assert_eq!(end(&contents, name(2, 9)), Absence::End);
        let mut holed = contents;
        holed.segments.remove(&name(2, 6));
        assert_eq!(end(&holed, name(2, 6)), Absence::Gap);
    }

    #[test]
    fn what_is_missing_before_segments_that_do_not_count_yet_is_awaited() {
        let mut contents = forked(5.0 + 500.0 / MIB as f64);
        contents.tails.remove(&name(2, 8));
        let at = Timestamp::from_second(1_000_000).unwrap();
        let before = Timestamp::from_second(900_000).unwrap();
        contents.on_their_way = BTreeMap::from([(name(2, 9), at), (name(2, 10), before)]);
        assert_eq!(end(&contents, name(2, 8)), Absence::Awaited(at));
        assert_eq!(end(&contents, name(2, 11)), Absence::End);
        // Another line's.
        assert_eq!(end(&contents, name(1, 6)), Absence::End);
        assert_eq!(end(&contents, name(1, 5)), Absence::Tail);
        // What counts decides.
        contents.segments.remove(&name(2, 6));
        assert_eq!(end(&contents, name(2, 6)), Absence::Gap);
    }
}
