//! WAL segments: their size and their names.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lsn, TimelineId};

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32", into = "u32")]
pub struct SegmentSize(u32);

/// A number that is not the size of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is no WAL segment size: want a power of two from 1 MiB to 1 GiB")]
pub struct SegmentSizeError(u32);

impl SegmentSize {
    /// 16 MiB, unless `initdb` was told otherwise.
    pub const DEFAULT: Self = Self(16 * 1024 * 1024);

    /// Checks `bytes`.
    ///
    /// # Errors
    /// Not a power of two from 1 MiB to 1 GiB.
    pub const fn new(bytes: u32) -> Result<Self, SegmentSizeError> {
        match bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            true => Ok(Self(bytes)),
            false => Err(SegmentSizeError(bytes)),
        }
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0 as u64
    }

    /// Bytes from the start of its segment to `lsn`.
    pub const fn offset(self, lsn: Lsn) -> u64 {
        lsn.get() % self.get()
    }

    const fn per_log(self) -> u64 {
        0x1_0000_0000 / self.get()
    }
}

impl TryFrom<u32> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl From<SegmentSize> for u32 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

/// The name of a WAL segment: 24 hexadecimal digits for timeline, log and segment
/// (`XLogFileName` in PostgreSQL's `xlog_internal.h`). Ordered as the log is, within one timeline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// The segment of `timeline` that holds the byte at `lsn`. At a boundary that is the segment which begins there,
    /// where `pg_walfile_name` names the one before.
    pub const fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        let number = lsn.get() / size.get();
        Self {
            timeline,
            log: (number / size.per_log()) as u32,
            segment: (number % size.per_log()) as u32,
        }
    }

    /// The timeline in the name.
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The position of the segment's first byte.
    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn::new((self.log as u64 * size.per_log() + self.segment as u64) * size.get())
    }

    /// The position after the segment's last byte.
    pub const fn end(self, size: SegmentSize) -> Lsn {
        self.start(size).advance(size.get())
    }

    /// The segment after this one on the same timeline.
    #[must_use]
    pub const fn next(self, size: SegmentSize) -> Self {
        Self::containing(self.timeline, self.end(size), size)
    }
}

/// A text that is not the name of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse WAL segment name {0:?}: want 24 hexadecimal digits")]
pub struct SegmentNameParseError(String);

impl FromStr for SegmentName {
    type Err = SegmentNameParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            if text.len() != 24 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            Some(Self {
                timeline: text.get(..8)?.parse().ok()?,
                log: u32::from_str_radix(text.get(8..16)?, 16).ok()?,
                segment: u32::from_str_radix(text.get(16..)?, 16).ok()?,
            })
        };
        parse().ok_or_else(|| SegmentNameParseError(text.to_owned()))
    }
}

impl TryFrom<String> for SegmentName {
    type Error = SegmentNameParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08X}{:08X}{:08X}",
            self.timeline, self.log, self.segment
        )
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_boundary_belongs_to_the_segment_that_begins_there() {
        let name = |lsn| {
            SegmentName::containing(TimelineId::FIRST, Lsn::new(lsn), SegmentSize::DEFAULT)
                .to_string()
        };
        assert_eq!(name(0x0100_0000), "000000010000000000000001");
        assert_eq!(name(0x00FF_FFFF), "000000010000000000000000");
        assert_eq!(name(0x1_0000_0000), "000000010000000100000000");
    }

    proptest! {
        #[test]
        fn holds_its_lsn(bytes in 0..u64::MAX / 2, shift in 20u32..=30) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let name = SegmentName::containing(TimelineId::FIRST, Lsn::new(bytes), size);
            prop_assert!(name.start(size).get() <= bytes && bytes < name.end(size).get());
            prop_assert_eq!(name.to_string().parse::<SegmentName>(), Ok(name));
            prop_assert_eq!(name.next(size).start(size), name.end(size));
        }
    }
}
