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

/// By timeline, of those whose history is there.
#[derive(Clone, Debug)]
struct Part {
    size: SegmentSize,
    ancestors: BTreeMap<TimelineId, Ancestors>,
    /// All of it from there on: a backup leads there that is to be restored to any time.
    from: BTreeMap<TimelineId, Lsn>,
    /// From and to.
    stretches: BTreeMap<TimelineId, Vec<(Lsn, Lsn)>>,
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
        let mut part = Part {
            size,
            ancestors: known.map(|it| (it, contents.ancestors(it))).collect(),
            from: BTreeMap::new(),
            stretches: BTreeMap::new(),
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
        Self(Some(part))
    }

    /// Whether anything of the segment is needed. What is not known is.
    pub fn has(&self, segment: SegmentName) -> bool {
        let Some(part) = &self.0 else { return true };
        let timeline = segment.timeline();
        if !part.ancestors.contains_key(&timeline) {
            return true;
        }
        let (start, end) = (segment.start(part.size), segment.end(part.size));
        let stretches = part.stretches.get(&timeline).into_iter().flatten();
        let mut held = stretches.filter(|(from, to)| *from < end && start < *to);
        let from = part.from.get(&timeline);
        from.is_some_and(|from| *from < end) || held.next().is_some()
    }
}

impl Part {
    /// From and to along the line of `timeline`. In the segment that holds a fork that of either timeline: which one is read
    /// depends on what is there.
    fn add(&mut self, timeline: TimelineId, (from, to): (Lsn, Lsn)) {
        let mut begins = Lsn::new(0);
        let ancestors = self.ancestors.get(&timeline).into_iter().flatten();
        let itself = (timeline, Lsn::new(u64::MAX));
        for (id, left_at) in ancestors.copied().chain([itself]) {
            if left_at <= from {
                begins = left_at;
                continue;
            }
            let first = SegmentName::containing(id, begins, self.size).start(self.size);
            let (from, to) = (from.max(first), to.min(left_at));
            if from < to {
                self.stretches.entry(id).or_default().push((from, to));
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
        for (timeline, ancestors) in &self.ancestors {
            let itself = (*timeline, Lsn::new(u64::MAX));
            let line = ancestors.iter().copied().chain([itself]);
            let starts = line.filter_map(|(id, left_at)| {
                let of_its = backups.get(&id)?;
                let leading = of_its.partition_point(|(stop, _)| *stop <= left_at);
                of_its.get(..leading)?.last().map(|(_, start)| *start)
            });
            if let Some(start) = starts.min() {
                self.from.insert(*timeline, start);
            }
        }
    }
}
