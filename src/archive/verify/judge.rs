//! What the parts mean together: gaps, forks, backups, clocks. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::super::{
    ClockPair, Contents, Manifest,
    contents::{Segment, Tail},
    on_their_way::{has_entry, on_their_way},
};
use super::{Problem, Run, Subject, backups::missing, inventory::Inventory, segments::Found};
use crate::{
    api::Gap,
    postgres::{Lsn, SegmentName, TimelineId},
};

/// What lies there by names alone.
pub(super) fn listed(subject: &Subject<'_>, inventory: &Inventory) -> Contents {
    let size = subject.identity.segment_size;
    let names = inventory.segments.keys().copied();
    let unsettled = on_their_way(names, |name| inventory.has_entry(*name), size);
    let unsettled: BTreeSet<SegmentName> = unsettled.into_iter().collect();
    let counting = inventory.segments.iter();
    let counting = counting.filter(|(name, _)| !unsettled.contains(*name));
    let segments = counting.map(|(name, objects)| {
        let segment = Segment {
            valid_end: name.end(size),
            records: None,
            ended: None,
            encrypted: objects.iter().all(|(encoding, _)| encoding.encrypted),
        };
        (*name, segment)
    });
    let tails = inventory.tails.iter().map(|(name, parts)| {
        let reached = parts
            .iter()
            .fold(0, |reached, (part, _, _)| match part.from <= reached {
                true => part.to.max(reached),
                false => reached,
            });
        let tail = Tail {
            end: name.start(size).advance(reached),
            records: None,
            encrypted: parts.iter().any(|(_, encoding, _)| encoding.encrypted),
        };
        (*name, tail)
    });
    Contents {
        identity: subject.identity.clone(),
        backups: Vec::new(),
        histories: subject.histories.clone(),
        segments: segments.collect(),
        tails: tails.collect(),
        restore_points: Vec::new(),
        clocks: Vec::new(),
        stored: BTreeMap::new(),
        on_their_way: BTreeMap::new(),
        expired: subject.expired.clone(),
        orphans: None,
    }
}

/// What was found sound, and what was not in scope.
pub(super) fn sound(
    subject: &Subject<'_>,
    listed: &Contents,
    found: &Found,
    backups: Vec<(String, Manifest)>,
    clocks: Vec<ClockPair>,
) -> Contents {
    let mut contents = Contents {
        backups,
        clocks,
        ..listed.clone()
    };
    contents.segments.retain(|name, _| !subject.in_scope(*name));
    contents.tails.retain(|name, _| !subject.in_scope(*name));
    let counting = found.segments.iter();
    let counting = counting.filter(|(name, _)| listed.segments.contains_key(*name));
    contents
        .segments
        .extend(counting.map(|(name, segment)| (*name, *segment)));
    contents.tails.extend(found.tails.clone());
    contents
}

/// What is missing between WAL that is there, each range once, with the timelines whose way it lies on.
pub(super) fn gaps(contents: &Contents) -> BTreeMap<(Lsn, Lsn), BTreeSet<TimelineId>> {
    let mut gaps: BTreeMap<(Lsn, Lsn), BTreeSet<TimelineId>> = BTreeMap::new();
    for timeline in contents.timelines() {
        for Gap { from, to } in gaps_of(contents, timeline) {
            gaps.entry((from, to)).or_default().insert(timeline);
        }
    }
    gaps
}

/// The same on the way to the end of one timeline.
pub(super) fn gaps_of(contents: &Contents, timeline: TimelineId) -> Vec<Gap> {
    contents.gaps_between(timeline, &contents.stretches(timeline))
}

/// Says what is missing. `later` is what lay there when everything was read, `counting` what of it counts.
pub(super) fn find_missing(subject: &Subject<'_>, later: &Inventory, counting: &Contents) {
    let size = subject.identity.segment_size;
    let inventory = subject.inventory;
    let still = gaps(counting);
    for ((from, to), timelines) in &still {
        let timeline = subject.scope.timeline;
        let asked = timeline.is_none_or(|timeline| timelines.contains(&timeline));
        if !asked || !subject.overlaps(*from, *to) {
            continue;
        }
        let names: Vec<String> = timelines.iter().map(ToString::to_string).collect();
        let object = format!("WAL from {from} to {to}");
        let known = subject.index.entries.keys();
        let known = known.filter(|name| {
            let within = *from <= name.start(size) && name.start(size) < *to;
            within && !inventory.segments.contains_key(*name)
        });
        let what = format!(
            "it is missing on the way to timeline {}; {} of its segments were archived once",
            names.join(", "),
            known.count()
        );
        match is_young_behind(subject, later, *to) {
            true => subject
                .run
                .note(object, format!("{what}; it may be on its way")),
            false => subject.run.find(Problem::Gap, object, what),
        }
    }
    for (name, (key, _)) in &subject.index.entries {
        let start = name.start(size);
        let in_gap = still.keys().any(|(from, to)| *from <= start && start < *to);
        // What was pushed while everything was listed may be in the later list only.
        let there = inventory.segments.contains_key(name) || later.segments.contains_key(name);
        // Deleted before its entry, as nothing needs it.
        let expired = counting.expired.since(*name, size).is_some();
        if subject.in_scope(*name) && !there && !in_gap && !expired {
            let what = format!("segment {name}, which it speaks of, is not there");
            subject.run.find(Problem::SegmentMissing, key, what);
        }
    }
}

/// Whether what lies behind a gap came a moment ago: segments are pushed in parallel.
fn is_young_behind(subject: &Subject<'_>, inventory: &Inventory, to: Lsn) -> bool {
    let size = subject.identity.segment_size;
    let begins = |name: &SegmentName| name.start(size) == to;
    let segments = inventory.segments.iter().filter(|(name, _)| begins(name));
    let segments = segments.flat_map(|(_, objects)| objects.iter().map(|(_, object)| object));
    let tails = inventory.tails.iter().filter(|(name, _)| begins(name));
    let tails = tails.flat_map(|(_, parts)| parts.iter().map(|(_, _, object)| object));
    segments.chain(tails).any(|object| subject.is_young(object))
}

/// Says which segments nothing is known of.
pub(super) fn find_unknown(subject: &Subject<'_>, later: &Inventory, counting: &Contents) {
    for (name, objects) in &subject.inventory.segments {
        // Roll-ups that were there before were read: they lack it.
        let read = &subject.inventory.rollups;
        let new = later
            .rollups
            .keys()
            .filter(|range| !read.contains_key(range));
        let new = new.map(|(first, last)| (first, last));
        let known = subject.index.entries.contains_key(name)
            || subject.index.is_excused(*name)
            || has_entry(*name, later.entries.contains_key(name), new);
        if known || !subject.in_scope(*name) {
            continue;
        }
        let what = "it has no index entry";
        let young = objects.iter().any(|(_, object)| subject.is_young(object));
        match young || !counting.segments.contains_key(name) {
            true => {
                let what = format!("{what}: it may be on its way, and does not count yet");
                subject.run.note(name, what);
            }
            false => subject.run.find(Problem::EntryMissing, name, what),
        }
    }
}

/// Says which histories are missing or lead nowhere.
pub(super) fn find_forks(subject: &Subject<'_>, contents: &Contents, later: &Inventory) {
    let run = subject.run;
    let with_wal: BTreeSet<TimelineId> = contents
        .segments
        .keys()
        .chain(contents.tails.keys())
        .map(|name| name.timeline())
        .collect();
    for timeline in &with_wal {
        let listed = subject.inventory.histories.contains_key(timeline)
            || later.histories.contains_key(timeline);
        if *timeline != TimelineId::FIRST && !listed {
            let what = "there is WAL of it, and no history file";
            run.find(
                Problem::HistoryMissing,
                format!("timeline {timeline}"),
                what,
            );
        }
    }
    for (timeline, what) in super::histories::contradictions(subject.histories) {
        if let Some(object) = subject.inventory.histories.get(&timeline) {
            run.find(Problem::ForkWrong, &object.location, what);
        }
    }
    let ends: BTreeMap<TimelineId, Lsn> = contents.valid_ends().into_iter().collect();
    for (timeline, history) in subject.histories {
        let Some(parent) = history.parent().filter(|_| !with_wal.contains(timeline)) else {
            continue;
        };
        let end = ends.get(&parent.timeline);
        let Some(end) = end.filter(|end| **end < parent.switch_lsn) else {
            continue;
        };
        if contents.is_expired(parent.timeline, parent.switch_lsn) {
            continue;
        }
        let object = format!("WAL from {end} to {}", parent.switch_lsn);
        let what = format!("timeline {timeline} goes on from there, and it is missing");
        let history = subject.inventory.histories.get(timeline);
        match history.is_some_and(|object| subject.is_young(object)) {
            true => run.note(object, format!("{what}; it may be on its way")),
            false => run.find(Problem::Gap, object, what),
        }
    }
}

/// Says which clocks promise what is not there.
pub(super) fn find_clocks(
    subject: &Subject<'_>,
    contents: &Contents,
    clocks: &BTreeMap<TimelineId, ClockPair>,
    run: &Run,
) {
    let ends: BTreeMap<TimelineId, Lsn> = contents.valid_ends().into_iter().collect();
    for (
        timeline,
        ClockPair {
            lsn,
            at,
            timeline: said,
        },
    ) in clocks
    {
        let key = subject.lineage.layout.clock(*timeline);
        if said != timeline {
            run.find(
                Problem::ClockWrong,
                &key,
                format!("it is of timeline {said}"),
            );
        }
        // By the clock of the store, too: this machine's may be slow, and others write while this goes on.
        let object = subject.inventory.clocks.get(timeline);
        let listed = object.map(|object| object.last_modified.timestamp());
        let listed = listed.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let now = listed.map_or(subject.scope.now, |listed| listed.max(subject.scope.now));
        if *at > now + super::super::YOUNG {
            run.find(Problem::ClockWrong, &key, format!("{at} is in the future"));
        }
        let missing = ends.get(timeline).filter(|end| *end < lsn);
        if let Some(end) = missing
            && !contents.is_expired(*timeline, *lsn)
        {
            let what = format!("it says that all up to {lsn} is there; WAL ends at {end}");
            run.find(Problem::ClockWrong, &key, what);
        }
    }
}

/// Says which backups lack WAL.
pub(super) fn find_backups(
    subject: &Subject<'_>,
    contents: &Contents,
    backups: &[(String, Manifest)],
) {
    for (folder, manifest) in backups {
        if !subject.overlaps(manifest.start_lsn, manifest.stop_lsn) {
            continue;
        }
        if let Some(at) = missing(manifest, contents) {
            let what = format!(
                "it needs WAL from {} to {}; sound WAL ends at {at}",
                manifest.start_lsn, manifest.stop_lsn
            );
            let object = format!("backup {folder}");
            subject.run.find(Problem::BackupWithoutWal, object, what);
        }
    }
}
