//! Reading WAL segments: how far the chain of valid records goes, and what the planner must know of them.
//!
//! Every page header and every record up to the end is checked, as PostgreSQL itself would on replay, and a little more:
//! the unused bytes between records must be zero. A byte that is changed anywhere before the end ends the chain there.
//! One bit is free, the flag `XLP_BKP_REMOVABLE` of a page: replay does not look at it.

mod assembly;
mod page;
mod record;
mod scanner;
#[cfg(test)]
pub(crate) mod tests;

use assembly::Assembly;
use jiff::Timestamp;
use page::SegmentHeader;
pub use record::{Content, Record};

use super::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId};

/// What a segment holds, as far as its chain of records goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentScan {
    /// PostgreSQL's major version.
    pub major: u32,
    /// The end of the last whole record; of a complete segment the segment's end.
    pub valid_end: Lsn,
    /// Why there is nothing after that.
    pub end: ScanEnd,
    /// Whether nothing more can be written to this segment: the log goes on in the next.
    pub complete: bool,
    /// Where the last whole record begins: a recovery target LSN up to here is reached. May lie in an earlier segment.
    pub last_record_start: Option<Lsn>,
    /// The earliest commit time. Prepared transactions count when they are committed.
    pub first_commit: Option<Timestamp>,
    /// The latest commit time. Commits are not in the order of their times.
    pub last_commit: Option<Timestamp>,
    /// The oldest transaction that is committed or rolled back here.
    pub first_xid: Option<u32>,
    /// The newest transaction that is committed or rolled back here.
    pub last_xid: Option<u32>,
    /// All restore points, in the order of the log.
    pub restore_points: Vec<RestorePoint>,
    /// The segment begins with the rest of a record whose beginning was not at hand: up to here it is not checked.
    pub unchecked_until: Option<Lsn>,
    /// What the scan of the next segment needs. `None` if the segment is not complete, or is one piece of a record whose
    /// beginning was not at hand.
    pub carry: Option<Carry>,
    /// What the scan of the rest of the segment needs, once there is more. `None` if nothing was read yet, or nothing
    /// follows.
    pub resume: Option<Resume>,
}

/// Why the chain of records ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// The segment is full.
    Full,
    /// The server went on to the next segment before this one was full; what follows is zero.
    Switch,
    /// The given bytes end, after a record or within one.
    Data,
    /// What follows is not the next record: the unused rest of the file, or damage. Before the server's flush position it is
    /// damage.
    Invalid {
        /// Where.
        at: Lsn,
        /// Why.
        why: Invalid,
    },
}

/// Why bytes are not the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Zero, where a record would begin.
    #[error("nothing is written there")]
    Unused,
    /// The page header is not that of this page.
    #[error("the page header is wrong")]
    PageHeader,
    /// The page is of another timeline.
    #[error("the page's timeline is wrong")]
    Timeline,
    /// The page does not go on with the record before it, or goes on with one where none is open.
    #[error("the record does not continue on the next page")]
    Continuation,
    /// No record is that short or long.
    #[error("the record's length is wrong")]
    Length,
    /// The record does not follow the one before it.
    #[error("the record does not link to the one before it")]
    Previous,
    /// The record is damaged.
    #[error("the record's checksum is wrong")]
    Checksum,
    /// Bytes between records are not zero.
    #[error("the padding after the record is not zero")]
    Padding,
}

/// A named point that recovery can stop at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// The end of its record: what `pg_create_restore_point` returned.
    pub lsn: Lsn,
    /// When it was made, by the server's clock.
    pub at: Timestamp,
}

/// What the scan of a complete segment hands to the scan of the next: an unfinished record, and where the last one began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carry {
    system_identifier: SystemIdentifier,
    next: Lsn,
    previous: Option<Lsn>,
    unfinished: Option<Assembly>,
}

impl Carry {
    /// Where the next segment begins.
    pub const fn next(&self) -> Lsn {
        self.next
    }
}

/// The end of the last whole record of an unfinished segment, and all that was found up to there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    header: SegmentHeader,
    name: SegmentName,
    size: SegmentSize,
    /// Offset in the segment.
    at: usize,
    previous: Option<Lsn>,
    timeline: TimelineId,
    claimed: bool,
    found: Box<SegmentScan>,
}

impl Resume {
    /// The segment.
    pub const fn name(&self) -> SegmentName {
        self.name
    }

    /// Bytes from the start of the segment that are not needed any more.
    pub const fn offset(&self) -> usize {
        self.at
    }
}

/// Bytes that are not the segment that their name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// More bytes than a segment has.
    #[error("failed to scan WAL segment {name}: {length} bytes are more than a segment has")]
    TooLong {
        /// The segment.
        name: SegmentName,
        /// How many bytes there are.
        length: usize,
    },
    /// Not WAL, or not of PostgreSQL 14 to 18 on a little-endian machine.
    #[error(
        "failed to scan WAL segment {name}: it begins with {magic:#06X}, which is not WAL of PostgreSQL 14 to 18"
    )]
    NotWal {
        /// The segment.
        name: SegmentName,
        /// The first two bytes.
        magic: u16,
    },
    /// Another segment's bytes: a recycled file, or a wrong name.
    #[error("failed to scan WAL segment {name}: it holds the segment that begins at {address}")]
    OtherSegment {
        /// The segment.
        name: SegmentName,
        /// What the first page says.
        address: Lsn,
    },
    /// Another size of segments or pages.
    #[error(
        "failed to scan WAL segment {name}: segments of {segment_size} bytes with pages of {page_size} are not what was expected"
    )]
    OtherSize {
        /// The segment.
        name: SegmentName,
        /// What the first page says.
        segment_size: u32,
        /// What the first page says.
        page_size: u32,
    },
    /// Another cluster's WAL.
    #[error("failed to scan WAL segment {name}: it is of cluster {found}, not of {want}")]
    OtherCluster {
        /// The segment.
        name: SegmentName,
        /// What the first page says.
        found: SystemIdentifier,
        /// What was expected.
        want: SystemIdentifier,
    },
    /// Another timeline's WAL.
    #[error("failed to scan WAL segment {name}: up to {until} it is of timeline {found}")]
    OtherTimeline {
        /// The segment.
        name: SegmentName,
        /// What its pages say.
        found: TimelineId,
        /// The end of its valid records.
        until: Lsn,
    },
    /// The carry is not the one of the segment before.
    #[error("failed to scan WAL segment {name}: the scan before it ended at {next}")]
    OtherCarry {
        /// The segment.
        name: SegmentName,
        /// Where that ended.
        next: Lsn,
    },
}

/// Whose WAL a segment is, by the long header that it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// PostgreSQL's major version.
    pub major: u32,
}

impl Origin {
    /// From the first bytes of a segment. `None`: they are not the beginning of a segment that this program knows.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        page::origin(bytes)
    }
}

/// Scans `bytes`, the beginning of segment `name` or all of it.
///
/// A record that the segment cuts off is checked by the scan of the segment in which it ends. Without `carry`, or with one of
/// another cluster, a record that began in an earlier segment is skipped, and its rest goes unchecked.
///
/// # Errors
/// The bytes are not that segment. That its records end early is no error: see [`ScanEnd`].
pub fn scan(
    bytes: &[u8],
    name: SegmentName,
    size: SegmentSize,
    system_identifier: Option<SystemIdentifier>,
    carry: Option<&Carry>,
) -> Result<SegmentScan, ScanError> {
    scanner::scan(bytes, name, size, system_identifier, carry, None)
}

/// As [`scan`], and shows each whole record that ends in `bytes` to `seen`, in the order of the log. The end of one that
/// switches segments is the end of its bytes.
///
/// # Errors
/// As [`scan`].
pub fn scan_records<'a>(
    bytes: &'a [u8],
    name: SegmentName,
    size: SegmentSize,
    system_identifier: Option<SystemIdentifier>,
    carry: Option<&Carry>,
    seen: &'a mut dyn FnMut(&Record),
) -> Result<SegmentScan, ScanError> {
    scanner::scan(bytes, name, size, system_identifier, carry, Some(seen))
}

/// Goes on with a scan: `bytes` follow the first [`Resume::offset`] of the segment. What it returns is as if all had been
/// scanned at once.
///
/// # Errors
/// As [`scan`].
pub fn scan_on(bytes: &[u8], resume: Resume) -> Result<SegmentScan, ScanError> {
    scanner::scan_on(bytes, resume)
}
