//! What `pg_waldump` says about the same segments: the judge of the scan.

use highwater::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::database::{Database, run};

/// The resource managers, each at its number.
pub const MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// One record as `pg_waldump` prints it.
#[derive(Clone, Debug)]
pub struct DumpedRecord {
    pub start: Lsn,
    pub previous: Lsn,
    pub length: u32,
    /// The resource manager's name.
    pub manager: String,
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

    /// The timeline that begins here.
    pub fn new_timeline(&self) -> Option<u32> {
        let begins = ["CHECKPOINT_SHUTDOWN", "END_OF_RECOVERY"];
        begins
            .iter()
            .find(|word| self.description.starts_with(*word))?;
        let field = |key: &str| {
            let rest = self.description.split_once(key)?.1;
            rest.split(';').next()?.trim().parse::<u32>().ok()
        };
        let (this, previous) = (field(" tli ")?, field("prev tli ")?);
        (this != previous).then_some(this)
    }

    /// Whether the record must not be passed over.
    pub fn matters(&self) -> bool {
        let said = |words: &[&str]| words.iter().any(|word| self.description.starts_with(word));
        match self.manager.as_str() {
            "Transaction" => said(&["COMMIT", "ABORT"]),
            "XLOG" => {
                said(&[
                    "RESTORE_POINT",
                    "SWITCH",
                    "OVERWRITE_CONTRECORD",
                    "FPW_CHANGE",
                ]) || self.new_timeline().is_some()
            }
            _ => false,
        }
    }

    fn ended(&self, word: &str) -> Option<(Timestamp, u32)> {
        if self.manager != "Transaction" {
            return None;
        }
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

/// All records from `start`, which is in segment `first`, to the end of the log.
pub fn dump(database: &Database, first: SegmentName, start: Lsn) -> Vec<DumpedRecord> {
    let size = database.segment_size;
    let wal = database.wal();
    let newest = segments(database, first.timeline()).max_by_key(|name| name.start(size));
    // With names: it learns the size of segments from any file otherwise, be it one that is not written yet.
    let arguments = [
        "-p",
        wal.to_str().unwrap(),
        "-s",
        &start.to_string(),
        &first.to_string(),
        &newest.unwrap().to_string(),
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

/// The segments of a timeline that are there, in no order. Of the newest some may not be written yet.
pub fn segments(
    database: &Database,
    timeline: TimelineId,
) -> impl Iterator<Item = SegmentName> + use<> {
    let files = std::fs::read_dir(database.wal()).unwrap();
    let names = files.filter_map(|file| file.unwrap().file_name().to_str()?.parse().ok());
    names.filter(move |name: &SegmentName| name.timeline() == timeline)
}

fn parse(line: &str, size: SegmentSize) -> Option<DumpedRecord> {
    let field = |key: &str| {
        let rest = &line[line.find(key)? + key.len()..];
        Some(rest.trim_start().split(',').next()?.trim().to_owned())
    };
    let start: Lsn = field(" lsn: ")?.parse().ok()?;
    let previous = field(" prev ")?;
    let lengths = field("len (rec/tot):")?;
    let total: u64 = lengths.split('/').nth(1)?.trim().parse().ok()?;
    let description = line.split_once("desc: ")?.1.to_owned();
    let end = match description.starts_with("SWITCH") {
        true => SegmentName::containing(TimelineId::FIRST, start, size).end(size),
        false => end(start, total, size),
    };
    Some(DumpedRecord {
        start,
        previous: previous.parse().ok()?,
        length: u32::try_from(total).ok()?,
        manager: field("rmgr:")?.split_whitespace().next()?.to_owned(),
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
