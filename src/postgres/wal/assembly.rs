//! Putting a record together from the pages that it lies on.

use super::{
    Invalid,
    page::{u32_at, u64_at},
};
use crate::postgres::Lsn;

/// `SizeOfXLogRecord`.
pub(super) const HEADER: usize = 24;
/// `offsetof(XLogRecord, xl_crc)`: the checksum covers the body, then this much of the header.
const CHECKED: usize = 20;
/// A record is held in memory by the server, which allocates less than this at once.
const LONGEST: usize = 1 << 30;

/// Resource managers whose records are looked into: `RM_XLOG_ID`, `RM_XACT_ID`.
pub(super) const RM_XLOG: u8 = 0;
pub(super) const RM_XACT: u8 = 1;

/// A record, as far as it has been read. The body is kept only of those that are looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assembly {
    pub(super) start: Lsn,
    total: usize,
    filled: usize,
    header: [u8; HEADER],
    body: Vec<u8>,
    checksum: u32,
}

impl Assembly {
    /// A record that begins at `start` with the field `xl_tot_len`.
    pub(super) fn begin(start: Lsn, total: u32) -> Result<Self, Invalid> {
        match total as usize {
            0 => Err(Invalid::Unused),
            total @ HEADER..LONGEST => Ok(Self {
                start,
                total,
                filled: 0,
                header: [0; HEADER],
                body: Vec::new(),
                checksum: 0,
            }),
            _ => Err(Invalid::Length),
        }
    }

    /// Whether its header was read.
    pub(super) const fn has_header(&self) -> bool {
        self.filled >= HEADER
    }

    /// Bytes that are still to come.
    pub(super) const fn rest(&self) -> usize {
        self.total - self.filled
    }

    /// Takes in the next bytes, at most [`Self::rest`]. `previous` is where the record before began, if that is known.
    pub(super) fn feed(&mut self, bytes: &[u8], previous: Option<Lsn>) -> Result<(), Invalid> {
        let (head, body) = bytes.split_at(bytes.len().min(HEADER.saturating_sub(self.filled)));
        if !head.is_empty() {
            match head.first_chunk() {
                // All at once, as nearly always: a copy of known length is no call.
                Some(whole) => self.header = *whole,
                None => self.header[self.filled..self.filled + head.len()].copy_from_slice(head),
            }
            self.filled += head.len();
            // At once: what follows a false header may be long.
            if self.filled == HEADER && !self.follows(previous) {
                return Err(Invalid::Previous);
            }
        }
        self.checksum = crc32c::crc32c_append(self.checksum, body);
        self.filled += body.len();
        if matches!(self.manager(), RM_XLOG | RM_XACT) {
            self.body.extend_from_slice(body);
        }
        Ok(())
    }

    fn follows(&self, previous: Option<Lsn>) -> bool {
        let link = self.previous();
        previous.map_or(link < self.start, |previous| link == previous)
    }

    /// `xl_prev`.
    pub(super) fn previous(&self) -> Lsn {
        Lsn::new(u64_at(&self.header, 8).unwrap_or_default())
    }

    /// `xl_tot_len`.
    pub(super) fn length(&self) -> u32 {
        u32_at(&self.header, 0).unwrap_or_default()
    }

    /// Whether the checksum holds.
    pub(super) fn is_sound(&self) -> bool {
        let checksum = crc32c::crc32c_append(self.checksum, &self.header[..CHECKED]);
        u32_at(&self.header, CHECKED) == Some(checksum)
    }

    /// `xl_rmid`.
    pub(super) const fn manager(&self) -> u8 {
        self.header[17]
    }

    /// `xl_info`.
    pub(super) const fn info(&self) -> u8 {
        self.header[16]
    }

    /// `xl_xid`.
    pub(super) fn xid(&self) -> u32 {
        u32_at(&self.header, 4).unwrap_or_default()
    }

    /// The record's main data, if it has no block references: those of the resource managers that are looked into.
    pub(super) fn main_data(&self) -> Option<&[u8]> {
        let mut at = 0;
        loop {
            let (length_at, data) = match self.body.get(at)? {
                255 => (at + 1, self.body.get(at + 2..)?),
                254 => (at + 1, self.body.get(at + 5..)?),
                253 => {
                    at += 3;
                    continue;
                }
                252 => {
                    at += 5;
                    continue;
                }
                _ => return None,
            };
            let length = match self.body.get(at)? {
                255 => usize::from(*self.body.get(length_at)?),
                _ => u32_at(&self.body, length_at)? as usize,
            };
            return (data.len() == length).then_some(data);
        }
    }
}
