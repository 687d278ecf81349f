//! Which WAL is needed by what is kept.

use std::collections::{BTreeMap, BTreeSet};

use super::{Holds, Why};
use crate::{
    archive::Contents,
    postgres::{Lsn, SegmentName, SegmentSize, TimelineId},
};

/// WAL that must not go.
#[derive(Clone, Debug)]
pub struct Needed(Option<Part>);

/// Where a timeline came from: each ancestor with where it was left.
type Ancestors = Vec<(TimelineId, Lsn)>;

/// Stop and start of backups, by timeline.
type Behind = BTreeMap<TimelineId, Vec<(Lsn, Lsn)>>;

/// Of the timelines whose history is there.
#[derive(Clone, Debug)]
struct Part {
    size: SegmentSize,
    of: BTreeMap<TimelineId, OfTimeline>,
}

/// What is needed of one timeline's own segments.
#[derive(Clone, Debug)]
struct OfTimeline {
    ancestors: Ancestors,
    /// All from there on: a backup leads there that is to be restored to any time.
    from: Option<Lsn>,
    /// From and to; in order, and none touches another, once all are there.
    stretches: Vec<(Lsn, Lsn)>,
}

impl Needed {
    /// All that there is.
    pub(super) const fn everything() -> Self {
        Self(None)
    }

    pub(super) fn by(
        kept: &BTreeMap<String, BTreeSet<Why>>,
        holds: &Holds,
        contents: &Contents,
    ) -> Self {
        let size = contents.identity.segment_size;
        let known = contents.timelines().into_iter();
        let known = known.filter(|timeline| contents.has_history(*timeline));
        let nothing = |timeline| OfTimeline {
            ancestors: contents.ancestors(timeline),
            from: None,
            stretches: Vec::new(),
        };
        let mut part = Part {
            size,
            of: known.map(|it| (it, nothing(it))).collect(),
        };
        let mut to_any_time = Behind::new();
        for (_, manifest) in &contents.backups {
            let Some(whys) = kept.get(&manifest.uid) else {
                continue;
            };
            let (start, stop) = (manifest.start_lsn, manifest.stop_lsn);
            part.add(manifest.timeline, (start, stop));
            let held = holds.backups.get(&manifest.uid) == Some(&true);
            if held || whys.iter().any(|why| why.is_to_any_time()) {
                let of_its = to_any_time.entry(manifest.timeline).or_default();
                of_its.push((stop, start));
            }
        }
        part.add_all_behind(to_any_time);
        for pin in &holds.restores {
            part.add(pin.timeline, (pin.wal_from, pin.wal_to));
        }
        part.of.values_mut().for_each(OfTimeline::merge);
        Self(Some(part))
    }

    /// Whether anything of the segment is needed. What is not known is.
    pub fn has(&self, segment: SegmentName) -> bool {
        let Some(part) = &self.0 else { return true };
        let Some(needed) = part.of.get(&segment.timeline()) else {
            return true;
        };
        let (start, end) = (segment.start(part.size), segment.end(part.size));
        let before = needed.stretches.partition_point(|(_, to)| *to <= start);
        let held = needed.stretches.get(before);
        needed.from.is_some_and(|from| from < end) || held.is_some_and(|(from, _)| *from < end)
    }
}

impl OfTimeline {
    /// Stretches that overlap become one.
    fn merge(&mut self) {
        self.stretches.sort_unstable();
        self.stretches.dedup_by(|next, kept| {
            let overlap = next.0 <= kept.1;
            if overlap {
                kept.1 = kept.1.max(next.1);
            }
            overlap
        });
    }
}

impl Part {
    /// From and to along the line of `timeline`. In the segment that holds a fork that of either timeline: which one is read
    /// depends on what is there.
    fn add(&mut self, timeline: TimelineId, (from, to): (Lsn, Lsn)) {
        let mut begins = Lsn::new(0);
        let known = self.of.get(&timeline);
        let ancestors = known.map_or_else(Vec::new, |known| known.ancestors.clone());
        let itself = (timeline, Lsn::new(u64::MAX));
        for (id, left_at) in ancestors.into_iter().chain([itself]) {
            if left_at <= from {
                begins = left_at;
                continue;
            }
            let first = SegmentName::containing(id, begins, self.size).start(self.size);
            let (from, to) = (from.max(first), to.min(left_at));
            if from < to
                && let Some(needed) = self.of.get_mut(&id)
            {
                needed.stretches.push((from, to));
            }
            begins = left_at;
        }
    }

    /// All on every timeline that one of these backups leads to.
    fn add_all_behind(&mut self, mut backups: Behind) {
        for of_its in backups.values_mut() {
            of_its.sort_unstable();
            // The first start of those that stopped no later.
            let mut first = Lsn::new(u64::MAX);
            for (_, start) in of_its {
                first = first.min(*start);
                *start = first;
            }
        }
        for (timeline, needed) in &mut self.of {
            let itself = (*timeline, Lsn::new(u64::MAX));
            let line = needed.ancestors.iter().copied().chain([itself]);
            let starts = line.filter_map(|(id, left_at)| {
                let of_its = backups.get(&id)?;
                let leading = of_its.partition_point(|(stop, _)| *stop <= left_at);
                of_its.get(..leading)?.last().map(|(_, start)| *start)
            });
            needed.from = starts.min();
        }
    }
}
