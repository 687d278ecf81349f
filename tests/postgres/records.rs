//! Each record of real WAL, as our reader and `pg_waldump` of the same version read it.

use std::collections::BTreeSet;

use highwater::postgres::{
    SegmentName, TimelineId,
    wal::{Content, Record, scan_records},
};

use crate::{
    database::{Database, programs::major},
    statements,
    waldump::{DumpedRecord, MANAGERS, dump, segments},
};

/// Sizes of segments in MB. `make wal-majors` asks for more.
fn sizes() -> Vec<u32> {
    let sizes = std::env::var("HIGHWATER_SEGMENT_SIZES").unwrap_or_else(|_| "1 16".into());
    sizes.split(' ').map(|size| size.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_read_as_pg_waldump_reads_it() {
    for megabytes in sizes() {
        let settings = "wal_keep_size = '4GB'\nmax_wal_size = '8GB'\ncheckpoint_timeout = '1h'\n\
            wal_level = replica\ntrack_commit_timestamp = on";
        let database = Database::start(megabytes, settings);
        statements::run_all(&database).await;
        statements::killed_while_writing(&database).await;
        let mut compared = compare(&database, TimelineId::FIRST);
        // What recovery makes of such an end.
        database.boot();
        statements::killed_while_writing(&database).await;
        compared = compare(&database, TimelineId::FIRST).after(compared);
        compared = promoted(&database).await.after(compared);
        assert_eq!(
            compared.managers,
            (0..=21).collect(),
            "not all resource managers"
        );
        let missing: Vec<_> = CONTENTS
            .into_iter()
            .filter(|kind| !compared.contents.contains(kind))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        let records = compared.records;
        assert!(records > 100_000, "{records}");
        println!(
            "PostgreSQL {}, segments of {megabytes} MB: {records} records",
            major()
        );
    }
}

/// The same log on a timeline of its own.
async fn promoted(database: &Database) -> Compared {
    let copy = database.copy("restore_command = 'false'\nrecovery_target_timeline = 'latest'");
    copy.append("standby.signal", "");
    copy.boot();
    copy.sql("SELECT pg_promote()").await;
    statements::killed_while_writing(&copy).await;
    compare(&copy, TimelineId::new(2).unwrap())
}

/// What was compared.
struct Compared {
    records: usize,
    managers: BTreeSet<u8>,
    contents: BTreeSet<&'static str>,
}

impl Compared {
    /// A later comparison reads all that an earlier one read, or another log.
    fn after(mut self, earlier: Self) -> Self {
        self.records = self.records.max(earlier.records);
        self.managers.extend(earlier.managers);
        self.contents.extend(earlier.contents);
        self
    }
}

/// What must be among it. A record that was overwritten may be there or not, as the crash comes.
const CONTENTS: [&str; 8] = [
    "commit",
    "abort",
    "restore point",
    "switch",
    "new timeline",
    "full-page writes",
    "other",
    "prepared",
];

/// Reads all that is left of a timeline's log.
fn compare(database: &Database, timeline: TimelineId) -> Compared {
    let size = database.segment_size;
    let mut name = oldest(database, timeline);
    let dumped = dump(database, name, name.start(size));
    let (mut read, mut carry) = (Vec::new(), None);
    let mut valid_end = None;
    while let Some(bytes) = bytes_of(database, name) {
        let mut seen = |record: &Record| read.push(record.clone());
        let found = scan_records(&bytes, name, size, None, carry.as_ref(), &mut seen).unwrap();
        if !found.complete {
            valid_end = Some(found.valid_end);
            break;
        }
        (name, carry) = (name.next(size), found.carry);
    }
    let contents = read
        .iter()
        .zip(&dumped)
        .map(|(read, dumped)| same(read, dumped));
    let contents = contents.collect();
    assert_eq!(
        read.len(),
        dumped.len(),
        "{:?} and {:?}",
        read.last(),
        dumped.last()
    );
    let end = dumped.last().unwrap().end;
    assert_eq!(valid_end.unwrap_or(end), end);
    Compared {
        records: read.len(),
        managers: read.iter().map(|record| record.resource_manager).collect(),
        contents,
    }
}

/// A segment; `None` where a crash came before it was made. None behind it is there either.
fn bytes_of(database: &Database, name: SegmentName) -> Option<Vec<u8>> {
    let is_there = database.wal().join(name.to_string()).exists();
    let size = database.segment_size;
    let newest = segments(database, name.timeline()).max_by_key(|name| name.start(size));
    assert!(
        is_there || newest.unwrap().next(size) == name,
        "a hole at {name}"
    );
    is_there.then(|| database.segment(name))
}

fn oldest(database: &Database, timeline: TimelineId) -> SegmentName {
    let size = database.segment_size;
    segments(database, timeline)
        .min_by_key(|name| name.start(size))
        .unwrap()
}

/// Says what kind of content was compared.
fn same(read: &Record, dumped: &DumpedRecord) -> &'static str {
    let Record {
        start,
        end,
        previous,
        length,
        resource_manager,
        xid,
        content,
    } = read;
    let manager = MANAGERS[usize::from(*resource_manager)];
    assert_eq!(
        (*start, *previous, *length, manager, *xid),
        (
            dumped.start,
            dumped.previous,
            dumped.length,
            dumped.manager.as_str(),
            dumped.xid
        ),
        "{dumped:?}"
    );
    if *content != Content::Switch {
        assert_eq!(*end, dumped.end, "{dumped:?}");
    }
    said(content, dumped)
}

fn said(content: &Content, dumped: &DumpedRecord) -> &'static str {
    let description = dumped.description.as_str();
    let (is, kind) = match content {
        Content::Commit { at, xid } => (
            dumped.commit() == Some((*at, *xid)),
            if *xid == dumped.xid {
                "commit"
            } else {
                "prepared"
            },
        ),
        Content::Abort { xid } => (dumped.abort() == Some(*xid), "abort"),
        Content::RestorePoint { name, at: _ } => (
            description == format!("RESTORE_POINT {name}"),
            "restore point",
        ),
        Content::Switch => (description.starts_with("SWITCH"), "switch"),
        Content::NewTimeline { this } => (dumped.new_timeline() == Some(*this), "new timeline"),
        Content::Overwrite => (description.starts_with("OVERWRITE_CONTRECORD"), "overwrite"),
        Content::FullPageWritesChange => {
            (description.starts_with("FPW_CHANGE"), "full-page writes")
        }
        Content::Other => (!dumped.matters(), "other"),
    };
    assert!(is, "{content:?} {dumped:?}");
    kind
}
