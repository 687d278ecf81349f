//! From when to when a lineage can be recovered. Pure.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{Contents, Manifest, Piece, contents::on_line, pieces::Ranges};
use crate::{
    api::{Fork, RecoveryWindow, TimelineWindow},
    postgres::{Lsn, TimelineId},
};

/// The log as one timeline sees it.
#[derive(Debug)]
struct Line<'a> {
    contents: &'a Contents,
    timeline: TimelineId,
    /// Where it goes on without a gap.
    stretches: Vec<(Lsn, Lsn)>,
    /// The same, piece by piece: made when somebody asks for the first, as there may be a million.
    ranges: OnceLock<Ranges>,
}

/// A backup with the unbroken WAL that holds it.
#[derive(Clone, Debug)]
pub(super) struct Base<'a> {
    /// The backup's folder.
    pub key: &'a str,
    /// The backup.
    pub manifest: &'a Manifest,
    line: Arc<Line<'a>>,
    /// The number of the stretch in which all of its WAL lies.
    stretch: usize,
}

impl Base<'_> {
    /// WAL from the segment of its start on, without a gap, at least to its stop.
    pub(super) fn pieces(&self) -> &[Piece] {
        let Line {
            contents,
            timeline,
            stretches: _,
            ranges,
        } = &*self.line;
        let range = ranges
            .get_or_init(|| contents.ranges(*timeline))
            .range(self.stretch);
        let start = self.manifest.start_lsn;
        let first = range.partition_point(|piece| piece.to <= start);
        range.get(first..).unwrap_or_default()
    }

    /// Where the unbroken WAL ends.
    pub(super) fn end(&self) -> Lsn {
        let stretch = self.line.stretches.get(self.stretch);
        stretch.map_or(self.manifest.stop_lsn, |(_, to)| *to)
    }

    /// Where WAL goes on behind its end, if some is missing there.
    pub(super) fn goes_on_at(&self) -> Option<Lsn> {
        let next = self.line.stretches.get(self.stretch + 1);
        next.map(|(from, _)| *from)
    }

    /// The latest commit in it.
    pub(super) fn last_commit(&self) -> Option<Timestamp> {
        let latest = |pieces: &[Piece]| {
            let commits = pieces.iter().filter_map(|piece| piece.records?.last_commit);
            commits.max()
        };
        match self.line.ranges.get() {
            Some(_) => latest(self.pieces()),
            // The newest backup's are few.
            None => {
                let Line {
                    contents, timeline, ..
                } = &*self.line;
                let within = (self.manifest.start_lsn, self.end());
                latest(&contents.pieces_within(*timeline, within.0, within.1))
            }
        }
    }

    /// Every commit up to this time is in it: the latest of the last commit, the newest clock that it covers, and the
    /// backup's own end. Of clocks only the line's last timeline counts: an old primary that was left behind goes on
    /// saying that nothing new was flushed.
    pub(super) fn covered(&self, contents: &Contents, timeline: TimelineId) -> Timestamp {
        let clocks = contents
            .clocks
            .iter()
            .filter(|pair| pair.timeline == timeline && pair.lsn <= self.end());
        let times = clocks.map(|pair| pair.at).chain(self.last_commit());
        times.fold(self.manifest.stopped_at, Timestamp::max)
    }
}

/// The backups that a restore on `timeline` can begin with, the one that stopped last at the end.
pub(super) fn bases(contents: &Contents, timeline: TimelineId) -> Vec<Base<'_>> {
    let line = Line {
        stretches: contents.stretches(timeline),
        ranges: OnceLock::new(),
        contents,
        timeline,
    };
    bases_of(Arc::new(line))
}

/// The same, for whoever will ask for pieces.
pub(super) fn bases_with_pieces(contents: &Contents, timeline: TimelineId) -> Vec<Base<'_>> {
    let ranges = contents.ranges(timeline);
    let line = Line {
        stretches: ranges.stretches(),
        ranges: ranges.into(),
        contents,
        timeline,
    };
    bases_of(Arc::new(line))
}

fn bases_of(line: Arc<Line<'_>>) -> Vec<Base<'_>> {
    let (contents, timeline) = (line.contents, line.timeline);
    let ancestors = contents.ancestors(timeline);
    let backups = contents.backups.iter();
    let on_line = backups
        .filter(|(_, backup)| on_line(timeline, &ancestors, backup.timeline, backup.stop_lsn));
    let mut bases: Vec<Base<'_>> = on_line
        .filter_map(|(key, manifest)| base(&line, key, manifest))
        .collect();
    bases.sort_by_key(|base| base.manifest.stop_lsn);
    bases
}

/// In the stretch that holds all of its WAL.
fn base<'a>(line: &Arc<Line<'a>>, key: &'a str, manifest: &'a Manifest) -> Option<Base<'a>> {
    let begins = |(from, _): &(Lsn, Lsn)| *from <= manifest.start_lsn;
    let stretch = line.stretches.partition_point(begins).checked_sub(1)?;
    let (_, end) = line.stretches.get(stretch)?;
    (*end >= manifest.stop_lsn).then(|| Base {
        key,
        manifest,
        line: line.clone(),
        stretch,
    })
}

/// The timeline that a restore to latest follows: the newest one.
pub(super) fn newest_timeline(contents: &Contents) -> TimelineId {
    contents
        .timelines()
        .last()
        .copied()
        .unwrap_or(TimelineId::FIRST)
}

/// From when to when the lineage can be recovered, on its newest timeline and by timeline.
pub fn window(contents: &Contents) -> RecoveryWindow {
    let newest = newest_timeline(contents);
    let bases = bases(contents, newest);
    let from = unbroken(contents, newest, &bases);
    let to = bases.last().map(|base| base.covered(contents, newest));
    let timelines = contents
        .timelines()
        .into_iter()
        .filter_map(|timeline| timeline_window(contents, timeline));
    RecoveryWindow {
        backup_needed_from: unreached(contents, newest, &bases),
        from: from.map(MicroTime),
        to: to.map(MicroTime),
        timelines: timelines.collect(),
    }
}

/// Where the first backup stopped behind which nothing was deleted because nothing needed it: one that lies before such a hole is
/// kept for itself alone, and no moment in the hole can be recovered.
fn unbroken(contents: &Contents, newest: TimelineId, bases: &[Base<'_>]) -> Option<Timestamp> {
    let holes = contents.holes(newest, &contents.stretches(newest));
    let last = holes.iter().rposition(|hole| !hole.is_lost());
    let first = last.map_or(0, |hole| hole + 1);
    let behind = bases.iter().filter(|base| base.stretch >= first);
    behind.map(|base| base.manifest.stopped_at).min()
}

/// Where the newest WAL begins, if it follows a gap and no backup leads to it.
fn unreached(contents: &Contents, newest: TimelineId, bases: &[Base<'_>]) -> Option<Lsn> {
    let stretches = contents.stretches(newest);
    let [_, .., (from, to)] = stretches.as_slice() else {
        return None;
    };
    let reached = bases.iter().any(|base| base.end() == *to);
    (!reached).then_some(*from)
}

fn timeline_window(contents: &Contents, timeline: TimelineId) -> Option<TimelineWindow> {
    let stretches = contents.stretches(timeline);
    let (first, last) = (stretches.first()?, stretches.last()?);
    let began = contents.ancestors(timeline).last().copied();
    let stored = contents.stored.get(&timeline);
    Some(TimelineWindow {
        id: timeline,
        from: first.0,
        to: last.1,
        began: began.map(|(timeline, at)| Fork { timeline, at }),
        stored_bytes: stored.and_then(|bytes| i64::try_from(*bytes).ok()),
        last_commit: contents.last_commit(timeline).map(MicroTime),
        gaps: contents.gaps_between(timeline, &stretches),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Gap,
        archive::{examples::*, retention::ExpiredRange},
    };

    /// A backup that is kept for itself alone lies before what nothing needed; what was lost besides is told.
    #[test]
    fn what_nothing_needed_is_no_gap_and_the_window_begins_behind_it() {
        let contents = with_segments(empty(), 1, [1, 2, 6, 7, 9, 10]);
        let contents = with_backup(contents, "kept", 1, 1.5, 2.5);
        let mut contents = with_backup(contents, "first", 1, 6.1, 6.5);
        contents.expired.ranges.push(ExpiredRange {
            timeline: timeline(1),
            from: lsn(3.0),
            to: lsn(6.0),
            since: at(9.0),
        });
        let contents = with_backup(contents, "second", 1, 9.1, 9.5);
        let told = window(&contents);
        let lost = Gap {
            from: lsn(8.0),
            to: lsn(9.0),
        };
        assert_eq!(told.timelines[0].gaps, [lost]);
        assert_eq!(told.from, Some(MicroTime(at(6.5))));
    }

    #[test]
    fn behind_a_gap_a_backup_is_needed_until_there_is_one() {
        let whole = with_backup(with_segments(empty(), 1, 1..9), "first", 1, 1.5, 2.5);
        assert_eq!(window(&whole).backup_needed_from, None);
        let holed = with_backup(
            with_segments(empty(), 1, [1, 2, 3, 5, 6]),
            "first",
            1,
            1.5,
            2.5,
        );
        assert_eq!(window(&holed).backup_needed_from, Some(lsn(5.0)));
        let begun = with_backup(holed.clone(), "in the gap", 1, 4.5, 5.5);
        assert_eq!(window(&begun).backup_needed_from, Some(lsn(5.0)));
        let closed = with_backup(holed, "second", 1, 5.1, 5.5);
        assert_eq!(window(&closed).backup_needed_from, None);
    }

    #[test]
    fn a_timeline_says_where_it_began_and_what_it_holds() {
        let parent = with_segments(empty(), 1, 1..6);
        let child = with_history(with_segments(parent, 2, 4..7), 2, &[(1, 4.5)]);
        let mut contents = with_tail(child, 2, 7.5, Some(7.2));
        contents.stored.insert(timeline(2), 42);
        let [first, second] = &window(&contents).timelines[..] else {
            panic!("two timelines");
        };
        assert_eq!((first.began, first.stored_bytes), (None, None));
        assert_eq!(first.last_commit, Some(MicroTime(at(5.5))));
        let began = Fork {
            timeline: timeline(1),
            at: lsn(4.5),
        };
        assert_eq!((second.began, second.stored_bytes), (Some(began), Some(42)));
        assert_eq!(second.last_commit, Some(MicroTime(at(7.2))));
        // What it came of is there, too.
        assert_eq!((second.from, second.to), (lsn(1.0), lsn(7.5)));
    }

    /// A record that cannot be replayed is the end of what can be restored, whatever lies behind it.
    #[test]
    fn damage_is_a_gap() {
        let mut damaged = with_backup(with_segments(empty(), 1, 1..9), "first", 1, 1.5, 2.5);
        let broken = damaged.segments.get_mut(&segment(1, 4)).unwrap();
        broken.valid_end = lsn(4.5);
        let window = window(&damaged);
        assert_eq!(window.backup_needed_from, Some(lsn(5.0)));
        let gap = Gap {
            from: lsn(4.5),
            to: lsn(5.0),
        };
        assert_eq!(window.timelines[0].gaps, [gap]);
    }
}
