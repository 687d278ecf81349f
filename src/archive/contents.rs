//! What a lineage holds, for planning. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use jiff::Timestamp;
use object_store::path::Path;

use super::{
    ClockPair, Identity, IndexEntry, Manifest, Piece, RestorePoint,
    pieces::{Pieces, Ranges, Stretches},
    retention::Expired,
};
use crate::{
    api::Gap,
    postgres::{Lsn, SegmentName, TimelineHistory, TimelineId},
};

/// What a lineage holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Whose it is.
    pub identity: Identity,
    /// Its backups, with the folder of each.
    pub backups: Vec<(String, Manifest)>,
    /// The histories of its timelines but the first.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Its whole segments.
    pub segments: BTreeMap<SegmentName, Segment>,
    /// Its unfinished segments.
    pub tails: BTreeMap<SegmentName, Tail>,
    /// Named points in WAL whose records were read, each with the timeline in its segment's name, in the order of both.
    pub restore_points: Vec<(TimelineId, RestorePoint)>,
    /// Up to when each timeline is covered.
    pub clocks: Vec<ClockPair>,
    /// Bytes of each timeline's whole segments, as they lie in the store.
    pub stored: BTreeMap<TimelineId, u64>,
    /// Whole segments that do not count yet, as WAL before them is still to come, each with the time when it was put.
    pub on_their_way: BTreeMap<SegmentName, Timestamp>,
    /// WAL that nothing needs any more: where it is missing it is not lost.
    pub expired: Expired,
    /// Objects that no restore reads; `None` where not everything was listed.
    pub orphans: Option<BTreeSet<Path>>,
}

/// A whole segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The end of valid WAL in it.
    pub valid_end: Lsn,
    /// What its records say; `None` where nobody read them.
    pub records: Option<Records>,
    /// The oldest and the newest transaction that ends in it, where its records were read and one does.
    pub ended: Option<(u32, u32)>,
    /// Whether it can be read with a private key only.
    pub encrypted: bool,
}

/// The shipped beginning of a segment that is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Bytes before here are there.
    pub end: Lsn,
    /// What its records say; `None` where nobody could read them.
    pub records: Option<Records>,
    /// Whether any of it can be read with a private key only.
    pub encrypted: bool,
}

/// What the records of a stretch of WAL say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Where the last whole record begins.
    pub last_record: Option<Lsn>,
    /// The latest commit or abort time; `None` if there is none.
    pub last_commit: Option<Timestamp>,
}

impl From<&IndexEntry> for Segment {
    fn from(entry: &IndexEntry) -> Self {
        let read = entry.sha256_valid.is_some();
        Self {
            valid_end: entry.valid_end,
            records: read.then_some(Records {
                last_record: entry.last_record,
                last_commit: entry.last_commit,
            }),
            ended: entry.first_xid.zip(entry.last_xid),
            // The listing says it.
            encrypted: false,
        }
    }
}

impl Contents {
    /// Leaves out of the catalog what is not the backup of one of these UIDs: a snapshot goes with its PgBackup, and an
    /// entry that outlived both begins no restore. Returns what was left out.
    pub fn keep_backups(&mut self, uids: &BTreeSet<String>) -> Vec<(String, Manifest)> {
        let is_left_out = |(_, manifest): &mut (String, Manifest)| !uids.contains(&manifest.uid);
        self.backups.extract_if(.., is_left_out).collect()
    }

    /// The log as the timeline `timeline` sees it, in its order. Of a segment that holds a switch, the new timeline's copy
    /// counts; while that does not reach the switch, the old one's up to there.
    pub fn pieces(&self, timeline: TimelineId) -> Vec<Piece> {
        self.pieces_within(timeline, Lsn::new(0), Lsn::new(u64::MAX))
    }

    /// As [`Self::pieces`], of the segments that hold `from` to `to` alone: what is asked of a short stretch must not cost a walk
    /// along a million.
    pub(super) fn pieces_within(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Vec<Piece> {
        let ancestors = self.ancestors(timeline);
        let all = self.segments.len() + self.tails.len();
        let asked = to.bytes_since(from) / self.identity.segment_size.get() + 2;
        let asked = usize::try_from(asked).unwrap_or(usize::MAX);
        let mut pieces = Pieces::with_capacity(asked.min(all));
        let mut begins = Lsn::new(0);
        for (ancestor, left_at) in ancestors {
            pieces.extend(self.own_pieces(ancestor, (from, to), begins, Some(left_at)));
            begins = left_at;
        }
        pieces.extend(self.own_pieces(timeline, (from.max(begins), to), begins, None));
        pieces.in_order()
    }

    /// Whether the object that `piece` is of holds more, which is another line's.
    pub fn goes_on(&self, piece: &Piece) -> bool {
        let name = SegmentName::containing(piece.timeline, piece.from, self.identity.segment_size);
        let whole = self.segments.get(&name).map(|segment| segment.valid_end);
        let tail = || self.tails.get(&name).map(|tail| tail.end);
        whole.or_else(tail).is_some_and(|end| end > piece.to)
    }

    /// What is there of `timeline` itself in the segments that hold `from` to `to`, up to where it was left.
    fn own_pieces(
        &self,
        timeline: TimelineId,
        (from, to): (Lsn, Lsn),
        begins: Lsn,
        left_at: Option<Lsn>,
    ) -> impl Iterator<Item = Piece> {
        let size = self.identity.segment_size;
        let until = left_at.map_or(to, |left_at| left_at.min(to));
        let last = SegmentName::containing(timeline, until, size);
        // Where it was left before `from`, of its last segment nothing is asked: that does no harm.
        let first = SegmentName::containing(timeline, from, size).min(last);
        // Behind the end of valid WAL nothing can be replayed: it is as if it were missing.
        let whole = (self.segments.range(first..=last))
            .map(|(name, segment)| (*name, segment.valid_end, segment.records, segment.encrypted));
        let tails = (self.tails.range(first..=last))
            .filter(|(name, _)| !self.segments.contains_key(*name))
            .map(|(name, tail)| (*name, tail.end, tail.records, tail.encrypted));
        whole
            .chain(tails)
            .filter_map(move |(name, end, records, encrypted)| {
                let to = left_at.map_or(end, |left_at| end.min(left_at));
                let from = name.start(size);
                // A copy that does not reach the switch holds the old line alone, which has another name for it.
                (from < to && begins < to).then_some(Piece {
                    timeline,
                    from,
                    to,
                    // What lies behind the switch is another line's.
                    records: records.filter(|_| to == end),
                    encrypted,
                })
            })
    }

    /// The newest segment that may hold restore points which nobody could read: an encrypted one that is not whole, or one
    /// without an index entry.
    pub fn unsearched(&self) -> Option<SegmentName> {
        let tails = self.tails.iter();
        let tails = tails.filter(|(_, tail)| tail.encrypted || tail.records.is_none());
        let whole = self.segments.iter();
        let whole = whole.filter(|(_, segment)| segment.records.is_none());
        let newest = tails.map(|(name, _)| *name).next_back();
        newest.max(whole.map(|(name, _)| *name).next_back())
    }

    /// [`Self::pieces`], cut where bytes are missing.
    pub fn ranges(&self, timeline: TimelineId) -> Ranges {
        Ranges::of(self.pieces(timeline))
    }

    /// From where to where [`Self::ranges`] go: without the pieces, of which there may be a million.
    pub(super) fn stretches(&self, timeline: TimelineId) -> Vec<(Lsn, Lsn)> {
        let (ancestors, all) = (self.ancestors(timeline), (Lsn::new(0), Lsn::new(u64::MAX)));
        let mut stretches = Stretches::default();
        let mut begins = Lsn::new(0);
        for (ancestor, left_at) in ancestors {
            stretches.extend(self.own_pieces(ancestor, all, begins, Some(left_at)));
            begins = left_at;
        }
        let own = (begins, all.1);
        stretches.extend(self.own_pieces(timeline, own, begins, None));
        let in_order = stretches.in_order();
        in_order.unwrap_or_else(|| self.ranges(timeline).stretches())
    }

    /// Where bytes are missing between `stretches`, which are those of `timeline`.
    pub(super) fn holes(&self, timeline: TimelineId, stretches: &[(Lsn, Lsn)]) -> Vec<Hole> {
        let size = self.identity.segment_size;
        let ancestors = self.ancestors(timeline);
        let pairs = stretches.iter().zip(stretches.iter().skip(1));
        let holes = pairs.map(|((_, from), (to, _))| Gap {
            from: *from,
            to: *to,
        });
        let line = (timeline, ancestors.as_slice());
        let hole = |missing| Hole {
            lost: self.expired.lost(&missing, line, size),
            missing,
        };
        holes.map(hole).collect()
    }

    /// What was lost between `stretches`, which are those of `timeline`: without what nothing needed any more.
    pub(super) fn gaps_between(&self, timeline: TimelineId, stretches: &[(Lsn, Lsn)]) -> Vec<Gap> {
        let holes = self.holes(timeline, stretches).into_iter();
        holes.flat_map(|hole| hole.lost).collect()
    }

    /// Whether nothing needed the last byte before `end` on `timeline`.
    pub(super) fn is_expired(&self, timeline: TimelineId, end: Lsn) -> bool {
        let size = self.identity.segment_size;
        let last = Lsn::new(end.get().saturating_sub(1));
        let name = SegmentName::containing(timeline, last, size);
        self.expired.since(name, size).is_some()
    }

    /// The ancestors of a timeline, oldest first, each with the position where the history leaves it.
    pub fn ancestors(&self, timeline: TimelineId) -> Vec<(TimelineId, Lsn)> {
        let entries = self
            .histories
            .get(&timeline)
            .map(TimelineHistory::entries)
            .unwrap_or_default();
        entries
            .iter()
            .map(|entry| (entry.timeline, entry.switch_lsn))
            .collect()
    }

    /// Whether recovery can follow `timeline`: PostgreSQL wants the history of every timeline but the first.
    pub fn has_history(&self, timeline: TimelineId) -> bool {
        timeline == TimelineId::FIRST || self.histories.contains_key(&timeline)
    }

    /// The timeline whose log holds the last byte before `end`, on the line of `timeline`.
    pub fn timeline_before(&self, timeline: TimelineId, end: Lsn) -> TimelineId {
        let ancestors = self.ancestors(timeline);
        let older = ancestors.iter().find(|(_, left_at)| end <= *left_at);
        older.map_or(timeline, |(id, _)| *id)
    }

    /// The timelines that there is WAL, a history or a backup of.
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        let backups = self.backups.iter().map(|(_, manifest)| manifest.timeline);
        let mut all: BTreeSet<TimelineId> = self.histories.keys().copied().chain(backups).collect();
        all.extend(self.tails.keys().map(|name| name.timeline()));
        all.extend(self.timelines_of_segments());
        all
    }

    /// From timeline to timeline, and not from segment to segment: there may be a million.
    fn timelines_of_segments(&self) -> impl Iterator<Item = TimelineId> {
        let size = self.identity.segment_size;
        let first = self.segments.keys().next();
        std::iter::successors(first, move |name| {
            let last = SegmentName::containing(name.timeline(), Lsn::new(u64::MAX), size);
            let mut behind = self
                .segments
                .range((Bound::Excluded(last), Bound::Unbounded));
            behind.next().map(|(name, _)| name)
        })
        .map(|name| name.timeline())
    }

    /// Whether `lsn` on timeline `id` lies on the line of `timeline`.
    pub fn reaches(&self, timeline: TimelineId, id: TimelineId, lsn: Lsn) -> bool {
        on_line(timeline, &self.ancestors(timeline), id, lsn)
    }

    /// Whether a backup is on the line of `timeline`: a backup that stopped after its timeline was left is on a dead branch.
    pub fn on_line(&self, manifest: &Manifest, timeline: TimelineId) -> bool {
        self.reaches(timeline, manifest.timeline, manifest.stop_lsn)
    }

    /// The latest commit time in a timeline's own WAL, as far as its records were read.
    pub fn last_commit(&self, timeline: TimelineId) -> Option<Timestamp> {
        let size = self.identity.segment_size;
        let name = |lsn| SegmentName::containing(timeline, Lsn::new(lsn), size);
        let own = name(0)..=name(u64::MAX);
        let whole = self.segments.range(own.clone());
        let tails = self.tails.range(own);
        let whole = whole.map(|(_, whole)| whole.records);
        let own = whole.chain(tails.map(|(_, tail)| tail.records));
        own.filter_map(|records| records?.last_commit).max()
    }

    /// Where each timeline's valid WAL ends.
    pub fn valid_ends(&self) -> Vec<(TimelineId, Lsn)> {
        let whole = self
            .segments
            .iter()
            .map(|(name, segment)| (name.timeline(), segment.valid_end));
        let tails = self
            .tails
            .iter()
            .map(|(name, tail)| (name.timeline(), tail.end));
        let mut ends: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
        for (timeline, end) in whole.chain(tails) {
            let known = ends.entry(timeline).or_insert(end);
            *known = end.max(*known);
        }
        ends.into_iter().collect()
    }

    /// As [`Self::valid_ends`], and further where segments lie that do not count yet, or lay that nothing needed: somebody wrote
    /// them.
    pub fn written_ends(&self) -> Vec<(TimelineId, Lsn)> {
        let size = self.identity.segment_size;
        let mut ends: BTreeMap<TimelineId, Lsn> = self.valid_ends().into_iter().collect();
        for name in self.on_their_way.keys() {
            let known = ends.entry(name.timeline()).or_insert(name.end(size));
            *known = name.end(size).max(*known);
        }
        for (timeline, end) in self.expired.ends() {
            let known = ends.entry(timeline).or_insert(end);
            *known = end.max(*known);
        }
        ends.into_iter().collect()
    }

    /// Where the whole segments end on the way to `timeline`.
    pub fn whole_end(&self, timeline: TimelineId, ancestors: &[(TimelineId, Lsn)]) -> Option<Lsn> {
        let size = self.identity.segment_size;
        let line = |name: &SegmentName| {
            let left_at = ancestors
                .iter()
                .find(|(id, _)| *id == name.timeline())
                .map(|(_, left_at)| *left_at);
            name.timeline() == timeline || left_at.is_some_and(|left_at| name.end(size) <= left_at)
        };
        self.segments
            .keys()
            .filter(|name| line(name))
            .map(|name| name.end(size))
            .max()
    }

    /// The first position from `from` on that is missing before `to`, as `timeline` sees the log.
    pub fn first_missing(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Option<Lsn> {
        let mut reached = from;
        for piece in self.pieces_within(timeline, from, to) {
            if piece.from <= reached && reached < piece.to {
                reached = piece.to;
            }
        }
        (reached < to).then_some(reached)
    }
}

/// Whether `lsn` on timeline `id` lies on the line of `timeline`, which has these ancestors.
pub(super) fn on_line(
    timeline: TimelineId,
    ancestors: &[(TimelineId, Lsn)],
    id: TimelineId,
    lsn: Lsn,
) -> bool {
    let mut ancestors = ancestors.iter();
    id == timeline || ancestors.any(|(ancestor, left_at)| *ancestor == id && lsn <= *left_at)
}

/// Missing bytes between WAL that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// From the last byte before to the first one behind.
    missing: Gap,
    /// What of it was lost, and did not go because nothing needed it.
    lost: Vec<Gap>,
}

impl Hole {
    /// Whether all of it is.
    pub(super) fn is_lost(&self) -> bool {
        self.lost == std::slice::from_ref(&self.missing)
    }
}

/// What it means that a segment is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// It is there.
    Found,
    /// It is not there, and nothing that follows it: the log ends here.
    End,
    /// It is not there, but what needs it is: WAL is missing.
    Gap,
}

/// Whether the absence of `segment` is the end of the log. `plan_end` is where a restore's plan ends: before it nothing is
/// an end.
pub fn end_of_log(contents: &Contents, segment: SegmentName, plan_end: Option<Lsn>) -> LogEnd {
    if contents.segments.contains_key(&segment) || contents.tails.contains_key(&segment) {
        return LogEnd::Found;
    }
    let start = segment.start(contents.identity.segment_size);
    let needed = plan_end.is_some_and(|end| start < end);
    match needed || is_followed(contents, segment.timeline(), start) {
        true => LogEnd::Gap,
        false => LogEnd::End,
    }
}

/// Whether something lies behind `start` on `timeline` or on a timeline that leaves it behind `start`.
fn is_followed(contents: &Contents, timeline: TimelineId, start: Lsn) -> bool {
    let size = contents.identity.segment_size;
    let descends = |id: TimelineId| {
        let ancestors = contents.ancestors(id);
        let left_at = ancestors.iter().find(|(ancestor, _)| *ancestor == timeline);
        left_at.is_some_and(|(_, left_at)| start < *left_at)
    };
    let mut there = contents.segments.keys().chain(contents.tails.keys());
    there.any(|name| {
        // The child's copy of this very segment stands in for it.
        start < name.start(size) && (name.timeline() == timeline || descends(name.timeline()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::examples::*;

    /// Timeline 1 to segment 5, timeline 2 from 4.5 on to segment 8 and a tail; segment 6 of it is missing.
    fn holed() -> Contents {
        let contents = with_segments(with_segments(empty(), 1, 2..6), 2, [4, 5, 7, 8]);
        with_history(with_tail(contents, 2, 9.5, None), 2, &[(1, 4.5)])
    }

    #[test]
    fn only_behind_everything_is_the_end() {
        let contents = holed();
        for (tli, number, plan_end, expected) in [
            (2, 5, None, LogEnd::Found),
            (2, 9, None, LogEnd::Found),
            (2, 6, None, LogEnd::Gap),
            (2, 10, None, LogEnd::End),
            (2, 10, Some(10.5), LogEnd::Gap),
            (2, 10, Some(10.0), LogEnd::End),
            // Timeline 1 ends where 2 left it; what it wrote after that is another line's.
            (1, 6, None, LogEnd::End),
            (1, 1, None, LogEnd::Gap),
            // Timeline 2 needs what lies before its fork.
            (3, 1, None, LogEnd::End),
        ] {
            let found = end_of_log(&contents, segment(tli, number), plan_end.map(lsn));
            assert_eq!(found, expected, "{tli} {number}");
        }
        let mut parent_lost = holed();
        parent_lost
            .segments
            .retain(|name, _| name.timeline() != timeline(1));
        assert_eq!(end_of_log(&parent_lost, segment(1, 3), None), LogEnd::Gap);
    }

    #[test]
    fn gaps_are_found_and_whole_ends_known() {
        let contents = holed();
        let ranges: Vec<_> = contents
            .ranges(timeline(2))
            .iter()
            .map(|range| (range[0].from, range[range.len() - 1].to))
            .collect();
        assert_eq!(ranges, [(lsn(2.0), lsn(6.0)), (lsn(7.0), lsn(9.5))]);
        let missing = |from, to| contents.first_missing(timeline(2), lsn(from), lsn(to));
        assert_eq!(missing(2.3, 6.0), None);
        assert_eq!(missing(2.3, 6.1), Some(lsn(6.0)));
        assert_eq!(missing(1.0, 3.0), Some(lsn(1.0)));
        assert_eq!(missing(8.0, 9.6), Some(lsn(9.5)));
        assert_eq!(
            contents.valid_ends(),
            [(timeline(1), lsn(6.0)), (timeline(2), lsn(9.5))]
        );
        let ancestors = contents.ancestors(timeline(2));
        assert_eq!(contents.whole_end(timeline(2), &ancestors), Some(lsn(9.0)));
    }
}
