//! What single records say.

use jiff::Timestamp;

use super::{
    assembly::{Assembly, RM_XACT, RM_XLOG},
    page::{u32_at, u64_at},
};
use crate::postgres::Lsn;

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A whole record with a right checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub start: Lsn,
    /// Where the next one may begin.
    pub end: Lsn,
    /// The record before it: where that begins.
    pub previous: Lsn,
    /// Bytes, without page headers and padding (`xl_tot_len`).
    pub length: u32,
    /// The resource manager's number, as in PostgreSQL's `rmgrlist.h`.
    pub resource_manager: u8,
    /// The transaction that wrote it; 0 for none.
    pub xid: u32,
    /// What it says.
    pub content: Content,
}

impl Record {
    /// `record`, which ends before `end`.
    pub(super) fn of(record: &Assembly, end: Lsn, content: &Content) -> Self {
        Self {
            start: record.start,
            end,
            previous: record.previous(),
            length: record.length(),
            resource_manager: record.manager(),
            xid: record.xid(),
            content: content.clone(),
        }
    }
}

/// What matters about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A transaction is committed.
    Commit {
        /// When, by the server's clock.
        at: Timestamp,
        /// Which.
        xid: u32,
    },
    /// A transaction is rolled back.
    Abort {
        /// Which.
        xid: u32,
    },
    /// A named point that recovery can stop at.
    RestorePoint {
        /// Its name.
        name: String,
        /// When it was made, by the server's clock.
        at: Timestamp,
    },
    /// Nothing follows in this segment.
    Switch,
    /// The log goes on as timeline `this`.
    NewTimeline {
        /// Not checked: may be 0.
        this: u32,
    },
    /// A record before this was lost in a crash; the page's header says so too.
    Overwrite,
    /// May come between the beginning of a timeline and the record that says so.
    FullPageWritesChange,
    /// Anything else.
    Other,
}

impl Content {
    pub(super) fn read(record: &Assembly, major: u32) -> Self {
        let read = match record.manager() {
            RM_XLOG => read_xlog(record),
            RM_XACT => read_xact(record, major),
            _ => None,
        };
        read.unwrap_or(Self::Other)
    }
}

fn timestamp(data: &[u8], at: usize) -> Option<Timestamp> {
    let micros = u64_at(data, at)?
        .cast_signed()
        .checked_add(POSTGRES_EPOCH)?;
    Timestamp::from_microsecond(micros).ok()
}

/// Whether the first record of a timeline may begin so: what is there of `record` is all that there is yet.
pub(super) fn may_begin_timeline(record: &Assembly) -> bool {
    let is_of_its_kind = matches!(record.info() & 0xF0, 0x00 | 0x80 | 0x90);
    !record.has_header() || (record.manager() == RM_XLOG && is_of_its_kind)
}

/// `XLOG_…` in `pg_control.h`.
fn read_xlog(record: &Assembly) -> Option<Content> {
    let new_timeline = |at| {
        let data = record.main_data()?;
        let (this, previous) = (u32_at(data, at)?, u32_at(data, at + 4)?);
        (this != previous).then_some(Content::NewTimeline { this })
    };
    match record.info() & 0xF0 {
        0x00 | 0x90 => new_timeline(8),
        0x40 => Some(Content::Switch),
        0x70 => {
            let data = record.main_data()?;
            let name = data.get(8..)?.split(|byte| *byte == 0).next()?;
            Some(Content::RestorePoint {
                name: String::from_utf8_lossy(name).into_owned(),
                at: timestamp(data, 0)?,
            })
        }
        0x80 => Some(Content::FullPageWritesChange),
        0xD0 => Some(Content::Overwrite),
        _ => None,
    }
}

/// `XLOG_XACT_…` in `xact.h`.
fn read_xact(record: &Assembly, major: u32) -> Option<Content> {
    let operation = record.info() & 0x70;
    let xid = match operation {
        0x00 | 0x20 => record.xid(),
        0x30 | 0x40 => prepared_xid(record, major)?,
        _ => return None,
    };
    match operation {
        0x00 | 0x30 => Some(Content::Commit {
            at: timestamp(record.main_data()?, 0)?,
            xid,
        }),
        _ => Some(Content::Abort { xid }),
    }
}

/// The prepared transaction that is committed or rolled back: the header holds the xid of who does it, which is none.
fn prepared_xid(record: &Assembly, major: u32) -> Option<u32> {
    const HAS_INFO: u8 = 0x80;
    let data = record.main_data()?;
    if record.info() & HAS_INFO == 0 {
        return None;
    }
    let flags = u32_at(data, 8)?;
    let dropped_statistics = if major < 18 { 12 } else { 16 };
    let mut at = 12 + if flags & 1 != 0 { 8 } else { 0 };
    // Lists in the order in which they are written: subtransactions, relations, dropped statistics, invalidations.
    for (flag, size) in [
        (1 << 1, 4),
        (1 << 2, 12),
        (1 << 8, dropped_statistics),
        (1 << 3, 16),
    ] {
        if flags & flag != 0 {
            let count = u32_at(data, at)? as usize;
            at = count.checked_mul(size)?.checked_add(at + 4)?;
        }
    }
    (flags & (1 << 4) != 0).then(|| u32_at(data, at))?
}
