//! What `pg_waldump` says about the same segments: the judge of the scan.

use highwater::postgres::{Lsn, SegmentName, SegmentSize};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::database::{Database, run};

/// One record as `pg_waldump` prints it.
#[derive(Clone, Debug)]
pub struct DumpedRecord {
    pub start: Lsn,
    /// Where the next record may begin.
    pub end: Lsn,
    pub description: String,
    pub xid: u32,
}

impl DumpedRecord {
    /// A commit's time and transaction.
    pub fn commit(&self) -> Option<(Timestamp, u32)> {
        self.ended("COMMIT")
    }

    /// The transaction that is rolled back.
    pub fn abort(&self) -> Option<u32> {
        self.ended("ABORT").map(|(_, xid)| xid)
    }

    fn ended(&self, word: &str) -> Option<(Timestamp, u32)> {
        let rest = self.description.strip_prefix(word)?;
        let (xid, rest) = match rest.strip_prefix("_PREPARED ") {
            Some(rest) => {
                let (xid, rest) = rest.split_once(": ")?;
                (xid.parse().ok()?, rest)
            }
            None => (self.xid, rest.strip_prefix(' ')?),
        };
        let end = rest.find(" UTC")?;
        let time: DateTime = rest[..end].trim().parse().ok()?;
        Some((time.to_zoned(TimeZone::UTC).ok()?.timestamp(), xid))
    }
}

/// All records from `start` to the end of the log.
pub fn dump(database: &Database, first: SegmentName, start: Lsn) -> Vec<DumpedRecord> {
    let size = database.segment_size;
    let (wal, timeline) = (database.wal(), first.timeline().to_string());
    let arguments = [
        "-p",
        wal.to_str().unwrap(),
        "-t",
        &timeline,
        "-s",
        &start.to_string(),
    ];
    // It ends with an error where the log ends.
    let output = run("pg_waldump", &arguments, database.directory());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let records: Vec<_> = text.lines().filter_map(|line| parse(line, size)).collect();
    assert!(
        !records.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    records
}

fn parse(line: &str, size: SegmentSize) -> Option<DumpedRecord> {
    let field = |key: &str| {
        let rest = &line[line.find(key)? + key.len()..];
        Some(rest.trim_start().split(',').next()?.trim().to_owned())
    };
    let start: Lsn = field(" lsn: ")?.parse().ok()?;
    let lengths = field("len (rec/tot):")?;
    let total: u64 = lengths.split('/').nth(1)?.trim().parse().ok()?;
    let description = line.split_once("desc: ")?.1.to_owned();
    let end = match description.starts_with("SWITCH") {
        true => {
            SegmentName::containing(highwater::postgres::TimelineId::FIRST, start, size).end(size)
        }
        false => end(start, total, size),
    };
    Some(DumpedRecord {
        start,
        end,
        description,
        xid: field(" tx: ")?.parse().ok()?,
    })
}

/// Where a record of `total` bytes ends, page headers and alignment included.
fn end(start: Lsn, total: u64, size: SegmentSize) -> Lsn {
    let (mut at, mut rest) = (start.get(), total);
    loop {
        let room = 8192 - at % 8192;
        if rest <= room {
            return Lsn::new((at + rest).next_multiple_of(8));
        }
        rest -= room;
        at += room;
        at += if at % size.get() == 0 { 40 } else { 24 };
    }
}
