//! WAL page headers (`XLogPageHeaderData` in PostgreSQL's `xlog_internal.h`).

use super::{Invalid, Origin, ScanError};
use crate::postgres::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId};

/// `XLOG_BLCKSZ` of every usual build; another one is refused by the long header.
pub(super) const PAGE: usize = 8192;

const SHORT: usize = 24;
const LONG: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x1;
const LONG_HEADER: u16 = 0x2;
// 0x4 is XLP_BKP_REMOVABLE: either value is good.
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x8;
const KNOWN_FLAGS: u16 = 0xF;

/// The major version whose WAL pages begin with `magic`.
const fn major(magic: u16) -> Option<u32> {
    match magic {
        0xD10D => Some(14),
        0xD110 => Some(15),
        0xD113 => Some(16),
        0xD116 => Some(17),
        0xD118 => Some(18),
        _ => None,
    }
}

/// A page header whose fields that need no context are valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageHeader {
    pub(super) length: usize,
    pub(super) timeline: TimelineId,
    /// The page begins with the rest of a record, of this many bytes.
    pub(super) continues: Option<u32>,
    /// The record that would go on here was lost in a crash; something else was written instead.
    pub(super) overwrites: bool,
}

/// What all pages of one segment have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    magic: u16,
    start: Lsn,
    pub(super) major: u32,
    pub(super) system_identifier: SystemIdentifier,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn origin(bytes: &[u8]) -> Option<Origin> {
    let long = u16_at(bytes, 2)? & LONG_HEADER != 0;
    let origin = Origin {
        system_identifier: SystemIdentifier::new(u64_at(bytes, 24)?),
        segment_size: SegmentSize::new(u32_at(bytes, 32)?).ok()?,
        major: major(u16_at(bytes, 0)?)?,
    };
    long.then_some(origin)
}

impl SegmentHeader {
    /// Reads the long header that a segment begins with. `None` if the bytes end within it.
    pub(super) fn read(
        bytes: &[u8],
        name: SegmentName,
        size: SegmentSize,
        system_identifier: Option<SystemIdentifier>,
    ) -> Result<Option<Self>, ScanError> {
        let Some(header) = bytes.get(..LONG) else {
            return Ok(None);
        };
        let field = |at| u32_at(header, at).unwrap_or_default();
        let address = Lsn::new(u64_at(header, 8).unwrap_or_default());
        let magic = u16_at(header, 0).unwrap_or_default();
        let start = name.start(size);
        let major = major(magic).ok_or(ScanError::NotWal { name, magic })?;
        if address != start {
            return Err(ScanError::OtherSegment { name, address });
        }
        if field(32) != u32::from(size) || field(36) as usize != PAGE {
            return Err(ScanError::OtherSize {
                name,
                segment_size: field(32),
                page_size: field(36),
            });
        }
        let found = SystemIdentifier::new(u64_at(header, 24).unwrap_or_default());
        match system_identifier {
            Some(want) if want != found => Err(ScanError::OtherCluster { name, found, want }),
            _ => Ok(Some(Self {
                magic,
                start,
                major,
                system_identifier: found,
            })),
        }
    }

    /// Reads the header that `page` begins with: the page at `offset` of the segment. `None` if the bytes end within it.
    pub(super) fn page(&self, page: &[u8], offset: usize) -> Result<Option<PageHeader>, Invalid> {
        let length = if offset == 0 { LONG } else { SHORT };
        let Some(header) = page.get(..length) else {
            return Ok(None);
        };
        let flags = u16_at(header, 2).unwrap_or_default();
        let rest = u32_at(header, 16).unwrap_or_default();
        let continues = flags & FIRST_IS_CONTRECORD != 0;
        let timeline = u32_at(header, 4).and_then(TimelineId::new);
        let as_expected = u16_at(header, 0) == Some(self.magic)
            && flags & !KNOWN_FLAGS == 0
            && (flags & LONG_HEADER != 0) == (offset == 0)
            && u64_at(header, 8) == Some(self.start.advance(offset as u64).get())
            && u32_at(header, 20) == Some(0)
            && continues == (rest != 0);
        match timeline {
            Some(timeline) if as_expected => Ok(Some(PageHeader {
                length,
                timeline,
                continues: continues.then_some(rest),
                overwrites: flags & FIRST_IS_OVERWRITE_CONTRECORD != 0,
            })),
            _ => Err(Invalid::PageHeader),
        }
    }
}
