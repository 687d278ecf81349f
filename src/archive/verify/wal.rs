//! Walking the WAL of one segment or of the beginning of one. Pure.

use super::super::{IndexEntry, sha256};
use crate::postgres::{
    Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId,
    wal::{self, Carry, ScanEnd, ScanError, SegmentScan},
};

/// Whose WAL it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) name: SegmentName,
    pub(super) size: SegmentSize,
    pub(super) system_identifier: SystemIdentifier,
}

/// What the walk found.
#[derive(Clone, Debug)]
pub(super) struct Walked {
    /// The scan that goes furthest; `None`: it is not the segment that its name says.
    pub(super) scan: Option<SegmentScan>,
    /// Where the chain of records that comes from the segment before ends.
    pub(super) reached: Lsn,
    /// Why WAL cannot be replayed through it.
    pub(super) trouble: Option<String>,
    /// What an index entry may say of it: with and without knowing the segment before. A whole segment only.
    pub(super) expected: Vec<IndexEntry>,
    /// Whether the segment before was at hand: without it a record that began there is not known.
    pub(super) joined: bool,
}

impl Place {
    fn scan(self, plain: &[u8], carry: Option<&Carry>) -> Result<SegmentScan, ScanError> {
        let Self {
            name,
            size,
            system_identifier,
        } = self;
        wal::scan(plain, name, size, Some(system_identifier), carry)
    }

    /// Walks the chain of records on from `carry`. `hash` is that of `plain`, `entry` what the index says of it.
    pub(super) fn walk(
        self,
        plain: &[u8],
        hash: &str,
        carry: Option<&Carry>,
        entry: Option<&IndexEntry>,
    ) -> Walked {
        let joined = self.scan(plain, carry);
        let sound = joined.as_ref().is_ok_and(is_sound);
        let scanned = joined.as_ref().ok();
        let reached = scanned.map_or(self.name.start(self.size), |scan| scan.valid_end);
        let mut expected: Vec<IndexEntry> = scanned
            .map(|scan| self.expected(plain, hash, scan))
            .into_iter()
            .collect();
        if sound && (carry.is_none() || entry.is_none_or(|entry| expected.contains(entry))) {
            return Walked {
                scan: joined.ok(),
                reached,
                trouble: None,
                expected,
                joined: carry.is_some(),
            };
        }
        // Whoever archived it may not have had the segment before.
        let alone = carry.and_then(|_| self.scan(plain, None).ok());
        expected.extend(alone.iter().map(|scan| self.expected(plain, hash, scan)));
        let trouble = (!sound).then(|| why(&joined));
        match (trouble, alone.filter(is_sound)) {
            (Some(what), Some(alone)) => Walked {
                scan: Some(alone),
                reached,
                trouble: Some(format!("it does not go on from the segment before: {what}")),
                expected,
                joined: carry.is_some(),
            },
            (trouble, _) => Walked {
                scan: joined.ok(),
                reached,
                trouble,
                expected,
                joined: carry.is_some(),
            },
        }
    }

    fn expected(self, plain: &[u8], hash: &str, scan: &SegmentScan) -> IndexEntry {
        let valid = scan.valid_end.bytes_since(self.name.start(self.size));
        let valid = usize::try_from(valid).unwrap_or(plain.len());
        let of_valid = match plain.get(..valid) {
            Some(before) if valid < plain.len() => sha256(before),
            Some(_) | None => hash.to_owned(),
        };
        IndexEntry::hashed(self.name, scan, hash.to_owned(), of_valid)
    }

    /// Which timeline the WAL leaves for the one in its name, and where. `None`: it is of one timeline alone.
    pub(super) fn fork(self, plain: &[u8], carry: Option<&Carry>) -> Option<(TimelineId, Lsn)> {
        // Up to the record that begins the new timeline all is of the old one: the longest such beginning ends there.
        let old = |length: usize| {
            let beginning = plain.get(..length)?;
            match self.scan(beginning, carry) {
                Err(ScanError::OtherTimeline { found, until, .. }) => Some((found, until)),
                Ok(_) | Err(_) => None,
            }
        };
        let (mut low, mut high) = (LEAST, plain.len() / ALIGNMENT * ALIGNMENT);
        let mut left = old(low)?;
        while high - low > ALIGNMENT {
            let middle = low + (high - low) / 2 / ALIGNMENT * ALIGNMENT;
            match old(middle) {
                Some(further) => (low, left) = (middle, further),
                None => high = middle,
            }
        }
        Some(left)
    }
}

/// Records begin at multiples of this.
const ALIGNMENT: usize = 8;
/// A segment's first page header: with less nothing is said.
const LEAST: usize = 40;

/// The chain of records reaches the end of what there is.
fn is_sound(scan: &SegmentScan) -> bool {
    match scan.end {
        ScanEnd::Full | ScanEnd::Switch | ScanEnd::Data => true,
        ScanEnd::Invalid { .. } => false,
    }
}

fn why(scan: &Result<SegmentScan, ScanError>) -> String {
    match scan {
        Ok(SegmentScan {
            end: ScanEnd::Invalid { at, why },
            ..
        }) => format!("its WAL is damaged at {at}: {why}"),
        Ok(scan) => format!("its WAL ends at {}", scan.valid_end),
        Err(error) => error.to_string(),
    }
}
