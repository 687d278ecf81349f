//! Small lineages for tests: segments of 1 MiB, a minute of commits each.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Contents, FORMAT, Identity, Manifest, Records, Segment, Tail, retention::Expired};
use crate::postgres::{
    Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId,
};

pub const MIB: u64 = 1 << 20;
pub const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
    Ok(size) => size,
    Err(_) => panic!(),
};

pub fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

pub fn segment(tli: u32, number: u64) -> SegmentName {
    SegmentName::containing(timeline(tli), Lsn::new(number * MIB), SIZE)
}

/// `minutes` after the first commit.
pub fn at(minutes: f64) -> Timestamp {
    let begin: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    begin + SignedDuration::from_secs_f64(minutes * 60.0)
}

/// `segments` in LSN.
pub fn lsn(segments: f64) -> Lsn {
    Lsn::new((segments * MIB as f64) as u64)
}

pub fn identity() -> Identity {
    Identity {
        format: FORMAT,
        lineage: "0123456789".parse().unwrap(),
        system_identifier: SystemIdentifier::new(7_391_000_000_000_000_001),
        major_version: 15,
        segment_size: SIZE,
        created_at: at(0.0),
    }
}

pub fn empty() -> Contents {
    Contents {
        identity: identity(),
        backups: Vec::new(),
        histories: BTreeMap::new(),
        segments: BTreeMap::new(),
        tails: BTreeMap::new(),
        restore_points: Vec::new(),
        clocks: Vec::new(),
        stored: BTreeMap::new(),
        on_their_way: BTreeMap::new(),
        expired: Expired::default(),
        orphans: None,
    }
}

/// A commit each half minute, the last record at 0.9 of the segment: segment n holds minutes n to n + 0.5.
pub fn with_segments(
    mut contents: Contents,
    tli: u32,
    numbers: impl IntoIterator<Item = u64>,
) -> Contents {
    for number in numbers {
        let records = Records {
            last_record: Some(lsn(number as f64 + 0.9)),
            last_commit: Some(at(number as f64 + 0.5)),
        };
        let whole = Segment {
            valid_end: Lsn::new((number + 1) * MIB),
            records: Some(records),
            ended: None,
            encrypted: false,
        };
        contents.segments.insert(segment(tli, number), whole);
    }
    contents
}

/// A tail up to `end` segments whose last commit was `committed` minutes after the first.
pub fn with_tail(mut contents: Contents, tli: u32, end: f64, committed: Option<f64>) -> Contents {
    let records = Records {
        last_record: Some(lsn(end - 0.01)),
        last_commit: committed.map(at),
    };
    let tail = Tail {
        end: lsn(end),
        records: Some(records),
        encrypted: false,
    };
    contents.tails.insert(segment(tli, end as u64), tail);
    contents
}

/// A backup from `start` to `stop` segments, which ended as many minutes after the first commit.
pub fn with_backup(
    mut contents: Contents,
    name: &str,
    tli: u32,
    start: f64,
    stop: f64,
) -> Contents {
    contents
        .backups
        .push((format!("{name}-folder"), manifest(name, tli, start, stop)));
    contents
}

pub fn manifest(name: &str, tli: u32, start: f64, stop: f64) -> Manifest {
    Manifest {
        format: FORMAT,
        name: name.to_owned(),
        uid: format!("{name}-uid"),
        namespace: "shop".into(),
        stateful_set_name: "orders".into(),
        lineage: identity().lineage,
        system_identifier: identity().system_identifier,
        major_version: 15,
        segment_size: SIZE,
        timeline: timeline(tli),
        start_lsn: lsn(start),
        stop_lsn: lsn(stop),
        started_at: at(start),
        stopped_at: at(stop),
        backup_label_sha256: String::new(),
        tablespace_map_sha256: None,
        data_directory: "/var/lib/postgresql/data".into(),
        wal_directory: None,
        tablespaces: Vec::new(),
        user: "postgres".into(),
        database: "postgres".into(),
        settings: BTreeMap::new(),
        volumes: Vec::new(),
        stateful_set: None,
    }
}

/// Timeline `tli` with `ancestors`: each with where it was left, in segments.
pub fn with_history(mut contents: Contents, tli: u32, ancestors: &[(u32, f64)]) -> Contents {
    let line = |(id, left): &(u32, f64)| format!("{id}\t{}\treason\n", lsn(*left));
    let text: String = ancestors.iter().map(line).collect();
    let history = TimelineHistory::parse(timeline(tli), &text).unwrap();
    contents.histories.insert(timeline(tli), history);
    contents
}
