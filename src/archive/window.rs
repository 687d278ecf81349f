//! From when to when a lineage can be recovered. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{Contents, Manifest, contents::Piece};
use crate::{
    api::{Gap, RecoveryWindow, TimelineWindow},
    postgres::{Lsn, TimelineId},
};

/// A backup with the unbroken WAL that holds it.
#[derive(Clone, Debug)]
pub(super) struct Base<'a> {
    /// The backup's folder.
    pub key: &'a str,
    /// The backup.
    pub manifest: &'a Manifest,
    /// WAL from the segment of its start on, without a gap, at least to its stop.
    pub pieces: Vec<Piece>,
}

impl Base<'_> {
    /// Where the unbroken WAL ends.
    pub(super) fn end(&self) -> Lsn {
        self.pieces
            .last()
            .map_or(self.manifest.stop_lsn, |piece| piece.to)
    }

    /// The latest commit in it.
    pub(super) fn last_commit(&self) -> Option<Timestamp> {
        self.pieces
            .iter()
            .filter_map(|piece| piece.records?.last_commit)
            .max()
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
    let ranges = contents.ranges(timeline);
    let mut bases: Vec<Base<'_>> = contents
        .backups
        .iter()
        .filter(|(_, manifest)| contents.on_line(manifest, timeline))
        .filter_map(|(key, manifest)| {
            let range = ranges.iter().find(|range| {
                range
                    .first()
                    .is_some_and(|piece| piece.from <= manifest.start_lsn)
                    && range
                        .last()
                        .is_some_and(|piece| piece.to >= manifest.stop_lsn)
            })?;
            let pieces = range
                .iter()
                .filter(|piece| piece.to > manifest.start_lsn)
                .copied()
                .collect();
            Some(Base {
                key,
                manifest,
                pieces,
            })
        })
        .collect();
    bases.sort_by_key(|base| base.manifest.stop_lsn);
    bases
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
    let from = bases.iter().map(|base| base.manifest.stopped_at).min();
    let to = bases.last().map(|base| base.covered(contents, newest));
    let timelines = contents
        .timelines()
        .into_iter()
        .filter_map(|timeline| timeline_window(contents, timeline));
    RecoveryWindow {
        from: from.map(MicroTime),
        to: to.map(MicroTime),
        timelines: timelines.collect(),
    }
}

fn timeline_window(contents: &Contents, timeline: TimelineId) -> Option<TimelineWindow> {
    let ranges = contents.ranges(timeline);
    let (first, last) = (ranges.first()?.first()?, ranges.last()?.last()?);
    let ends = ranges.iter().filter_map(|range| range.last());
    let starts = ranges.iter().skip(1).filter_map(|range| range.first());
    let gaps = ends.zip(starts).map(|(before, after)| Gap {
        from: before.to,
        to: after.from,
    });
    Some(TimelineWindow {
        id: timeline,
        from: first.from,
        to: last.to,
        gaps: gaps.collect(),
    })
}
