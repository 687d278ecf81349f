//! The report of one lineage, from what was listed and found. Pure.

use object_store::ObjectMeta;

use super::super::{Contents, Manifest, window::window};
use super::{
    BackupReport, KindReport, LineageReport, Subject, TimelineReport, backups::missing,
    judge::gaps_of, segments::Found,
};
use crate::{
    api::{Fork, Gap},
    postgres::{Lsn, SegmentName, TimelineId},
};

/// What there is to say. `listed` is all that lies there, `sound` what can be relied on.
pub(super) fn summarize(
    subject: &Subject<'_>,
    listed: &Contents,
    sound: &Contents,
    found: &Found,
    backups: &[(String, Manifest)],
) -> LineageReport {
    let kinds = kinds(subject);
    let timelines: Vec<TimelineReport> = listed
        .timelines()
        .into_iter()
        .map(|timeline| timeline_report(subject, listed, found, timeline))
        .collect();
    let backups = backups.iter().map(|(folder, manifest)| BackupReport {
        name: manifest.name.clone(),
        folder: folder.clone(),
        timeline: manifest.timeline,
        start_lsn: manifest.start_lsn,
        stop_lsn: manifest.stop_lsn,
        stopped_at: manifest.stopped_at,
        usable: missing(manifest, sound).is_none(),
    });
    LineageReport {
        lineage: subject.identity.lineage.clone(),
        system_identifier: subject.identity.system_identifier,
        major_version: subject.identity.major_version,
        segment_size: subject.identity.segment_size,
        stored_bytes: kinds.iter().map(|kind| kind.stored_bytes).sum(),
        wal_bytes: timelines.iter().map(|timeline| timeline.wal_bytes).sum(),
        kinds,
        not_decrypted: found.locked,
        last_commit: found.last_commits.values().max().copied(),
        recoverable: window(sound),
        timelines,
        backups: backups.collect(),
    }
}

fn kind<'a>(
    kind: &'static str,
    objects: impl Iterator<Item = &'a ObjectMeta> + Clone,
) -> KindReport {
    KindReport {
        kind,
        objects: objects.clone().count() as u64,
        stored_bytes: objects.map(|object| object.size).sum(),
    }
}

fn kinds(subject: &Subject<'_>) -> Vec<KindReport> {
    let inventory = subject.inventory;
    let segments = inventory.segments.values().flatten();
    let tails = inventory.tails.values().flatten();
    let backups = inventory.backups.values().flat_map(|files| files.values());
    vec![
        kind("wal", segments.map(|(_, object)| object)),
        kind("tail", tails.map(|(_, _, object)| object)),
        kind("index", inventory.entries.values()),
        kind("rollup", inventory.rollups.values()),
        kind("history", inventory.histories.values()),
        kind("backup-history", inventory.backup_histories.iter()),
        kind("clock", inventory.clocks.values()),
        kind("retention", inventory.expired.iter()),
        kind("backups", backups),
    ]
}

fn timeline_report(
    subject: &Subject<'_>,
    listed: &Contents,
    found: &Found,
    timeline: TimelineId,
) -> TimelineReport {
    let size = subject.identity.segment_size;
    let inventory = subject.inventory;
    let own = |name: &&SegmentName| name.timeline() == timeline;
    let whole = inventory.segments.keys().filter(own);
    let names = whole.clone().chain(inventory.tails.keys().filter(own));
    let from = names.min().map(|name| name.start(size));
    let ends = listed.valid_ends().into_iter();
    let to = ends.filter(|(id, _)| *id == timeline).map(|(_, end)| end);
    let to = to.max();
    let segments = whole.count() as u64;
    let history = subject.histories.get(&timeline);
    let parent = history.and_then(|history| history.parent());
    TimelineReport {
        id: timeline,
        began: parent.map(|parent| Fork {
            timeline: parent.timeline,
            at: parent.switch_lsn,
        }),
        from,
        to,
        segments,
        stored_bytes: stored(subject, timeline),
        wal_bytes: segments * size.get() + unfinished(subject, listed, timeline),
        gaps: gaps_of(listed, timeline),
        abandoned: abandoned(subject, timeline, to),
        last_commit: found.last_commits.get(&timeline).copied(),
    }
}

/// Bytes of a timeline's segments and tails, as they lie there.
fn stored(subject: &Subject<'_>, timeline: TimelineId) -> u64 {
    let segments = subject.inventory.segments.iter();
    let segments = segments.filter(|(name, _)| name.timeline() == timeline);
    let segments = segments.flat_map(|(_, objects)| objects.iter().map(|(_, object)| object.size));
    let tails = subject.inventory.tails.iter();
    let tails = tails.filter(|(name, _)| name.timeline() == timeline);
    let tails = tails.flat_map(|(_, parts)| parts.iter().map(|(_, _, object)| object.size));
    segments.chain(tails).sum()
}

/// Bytes of WAL in a timeline's unfinished segments.
fn unfinished(subject: &Subject<'_>, listed: &Contents, timeline: TimelineId) -> u64 {
    let size = subject.identity.segment_size;
    let tails = listed.tails.iter().filter(|(name, _)| {
        name.timeline() == timeline && !subject.inventory.segments.contains_key(*name)
    });
    tails
        .map(|(name, tail)| tail.end.bytes_since(name.start(size)))
        .sum()
}

/// What lies behind the last place where a newer timeline left this one.
fn abandoned(subject: &Subject<'_>, timeline: TimelineId, to: Option<Lsn>) -> Option<Gap> {
    let parents = subject
        .histories
        .values()
        .filter_map(|history| history.parent());
    let left = parents.filter(|parent| parent.timeline == timeline);
    let from = left.map(|parent| parent.switch_lsn).max()?;
    let to = to.filter(|to| *to > from)?;
    Some(Gap { from, to })
}
