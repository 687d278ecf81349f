//! Which WAL nothing needs any more, and since when: written down before the first of it is deleted, so that nobody takes what
//! is gone for lost. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::Gap,
    archive::{Contents, FORMAT},
    postgres::{Lsn, SegmentName, SegmentSize, TimelineId},
};

/// WAL that nothing needs: the object `retention/expired.json`. What it names may be gone, or be there still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expired {
    /// The version of the format.
    pub format: u32,
    /// By timeline and place; none touches another of the same age.
    pub ranges: Vec<ExpiredRange>,
}

/// Whole segments of one timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpiredRange {
    /// In the names of the segments.
    pub timeline: TimelineId,
    /// Where the first begins.
    pub from: Lsn,
    /// Where the last ends.
    pub to: Lsn,
    /// Since when nothing needs any of them.
    pub since: Timestamp,
}

impl Default for Expired {
    fn default() -> Self {
        Self {
            format: FORMAT,
            ranges: Vec::new(),
        }
    }
}

impl Expired {
    /// What is to be written down at `now`: with what of `contents` nothing needs now, without what is there and needed again.
    /// What nothing has needed since `due` may be gone, and is told in as few ranges as there can be.
    #[must_use]
    pub fn next(
        &self,
        contents: &Contents,
        needed: impl Fn(SegmentName) -> bool,
        (now, due): (Timestamp, Timestamp),
    ) -> Self {
        let size = contents.identity.segment_size;
        let there = contents.segments.keys().chain(contents.tails.keys());
        let (mut back, mut new) = (BTreeSet::new(), BTreeSet::new());
        for name in there {
            match (needed(*name), self.since(*name, size)) {
                (true, Some(_)) => drop(back.insert(*name)),
                (false, None) => drop(new.insert(*name)),
                (true, None) | (false, Some(_)) => {}
            }
        }
        let known = self
            .ranges
            .iter()
            .flat_map(|range| range.without(&back, size));
        let new = new.into_iter().map(|name| ExpiredRange {
            timeline: name.timeline(),
            from: name.start(size),
            to: name.end(size),
            since: now,
        });
        // A clock that was set back must not keep anything for longer than it says.
        let known = known.map(|range| ExpiredRange {
            since: range.since.min(now),
            ..range
        });
        Self {
            format: FORMAT,
            ranges: merged(known.chain(new).collect(), due),
        }
    }

    /// Since when nothing needs the segment.
    pub fn since(&self, name: SegmentName, size: SegmentSize) -> Option<Timestamp> {
        let place = (name.timeline(), name.start(size));
        let behind = self
            .ranges
            .partition_point(|range| (range.timeline, range.from) <= place);
        let range = self.ranges.get(behind.checked_sub(1)?)?;
        let within = range.timeline == name.timeline() && name.start(size) < range.to;
        within.then_some(range.since)
    }

    /// Whether nothing has needed any segment from `first` to `last` since `due`.
    fn is_due(
        &self,
        (first, last): (SegmentName, SegmentName),
        size: SegmentSize,
        due: Timestamp,
    ) -> bool {
        let mut reached = first.start(size);
        let of_its = self.ranges.iter();
        let of_its =
            of_its.filter(|range| range.timeline == first.timeline() && range.since <= due);
        for range in of_its {
            if range.from <= reached && reached < range.to {
                reached = range.to;
            }
        }
        first.timeline() == last.timeline() && last.end(size) <= reached
    }

    /// Where the last of it ends, by timeline.
    pub fn ends(&self) -> impl Iterator<Item = (TimelineId, Lsn)> {
        self.ranges.iter().map(|range| (range.timeline, range.to))
    }

    /// What of a gap on the line of `timeline`, which has these `ancestors`, is lost: not what nobody needed any more, nor what was
    /// lost between such. The first and the last byte of the gap lie beside WAL that is there.
    pub(in crate::archive) fn lost(
        &self,
        gap: &Gap,
        (timeline, ancestors): (TimelineId, &[(TimelineId, Lsn)]),
        size: SegmentSize,
    ) -> Vec<Gap> {
        let expired = self.on_line((timeline, ancestors), size);
        let mut left = Vec::new();
        let mut reached = gap.from;
        for (from, to) in expired {
            if to <= reached || gap.to <= from {
                continue;
            }
            if reached < from {
                left.push(Gap {
                    from: reached,
                    to: from,
                });
            }
            reached = to;
        }
        if reached < gap.to {
            left.push(Gap {
                from: reached,
                to: gap.to,
            });
        }
        left.retain(|part| part.from == gap.from || part.to == gap.to);
        left
    }

    /// What of the line of a timeline it names, in its order.
    fn on_line(
        &self,
        (timeline, ancestors): (TimelineId, &[(TimelineId, Lsn)]),
        size: SegmentSize,
    ) -> Vec<(Lsn, Lsn)> {
        let mut begins = Lsn::new(0);
        let mut parts = Vec::new();
        let itself = (timeline, Lsn::new(u64::MAX));
        for (id, left_at) in ancestors.iter().copied().chain([itself]) {
            // Of the segment that holds a fork, either timeline's.
            let first = SegmentName::containing(id, begins, size).start(size);
            let own = self.ranges.iter().filter(|range| range.timeline == id);
            let own = own.map(|range| (range.from.max(first), range.to.min(left_at)));
            parts.extend(own.filter(|(from, to)| from < to));
            begins = left_at;
        }
        parts.sort_unstable();
        parts
    }
}

/// What may be deleted.
pub struct Due<'a> {
    /// As it is written down.
    pub expired: &'a Expired,
    /// Whether something needs a segment after all.
    pub needed: &'a (dyn Fn(SegmentName) -> bool + Sync),
    /// What nothing has needed since then.
    pub since: Timestamp,
    /// Of every segment.
    pub size: SegmentSize,
}

impl Due<'_> {
    /// Whether the segment may be deleted, and what is known of it.
    pub fn has(&self, name: SegmentName) -> bool {
        let since = self.expired.since(name, self.size);
        since.is_some_and(|since| since <= self.since) && !(self.needed)(name)
    }

    /// Whether nothing has needed anything from `first` to `last`.
    pub(in crate::archive) fn spans(&self, first: SegmentName, last: SegmentName) -> bool {
        self.expired.is_due((first, last), self.size, self.since)
    }
}

impl ExpiredRange {
    /// What is left of it without these segments.
    fn without(&self, back: &BTreeSet<SegmentName>, size: SegmentSize) -> Vec<Self> {
        let Self {
            timeline,
            from,
            to,
            since,
        } = *self;
        let part = |from, to| Self {
            timeline,
            from,
            to,
            since,
        };
        let mut left = Vec::new();
        let mut reached = from;
        let first = SegmentName::containing(timeline, from, size);
        let within = back.range(first..);
        let within = within.take_while(|name| name.timeline() == timeline && name.start(size) < to);
        for name in within {
            left.push(part(reached, name.start(size)));
            reached = name.end(size);
        }
        left.push(part(reached, to));
        left.retain(|part| part.from < part.to);
        left
    }
}

/// In order; what touches is one where it is of one age, or is all due.
fn merged(mut ranges: Vec<ExpiredRange>, due: Timestamp) -> Vec<ExpiredRange> {
    ranges.sort_by_key(|range| (range.timeline, range.from));
    ranges.dedup_by(|next, kept| {
        let of_one_age = next.since == kept.since || next.since.max(kept.since) <= due;
        let one = next.timeline == kept.timeline && next.from <= kept.to && of_one_age;
        if one {
            kept.to = kept.to.max(next.to);
            kept.since = kept.since.max(next.since);
        }
        one
    });
    ranges
}

#[cfg(test)]
mod tests;
