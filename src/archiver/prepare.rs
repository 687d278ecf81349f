//! A segment as it lies in `pg_wal`: read once, checked, hashed.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{config::DamagedWal, error::PushFailure};
use crate::{
    archive::IndexEntry,
    buffers::Buffers,
    postgres::{
        SegmentName, SegmentSize,
        wal::{self, Carry, Origin, ScanEnd, SegmentScan},
    },
};

/// A segment in memory.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Its size.
    pub size: SegmentSize,
    /// Who wrote it.
    pub origin: Origin,
    /// All of it.
    pub bytes: Bytes,
    /// SHA-256 of all of it, hexadecimal.
    sha256: String,
}

impl Segment {
    /// Reads the file `path` of segment `name`, and hashes it on the way: of bytes that are still in the processor's cache
    /// that takes two thirds of the time.
    ///
    /// # Errors
    /// The file system's, or it is no segment of this name.
    pub fn read(path: &Path, name: SegmentName, buffers: &Buffers) -> Result<Self, PushFailure> {
        let mut hasher = Sha256::new();
        let (size, bytes) = load(path, name, buffers, |chunk| hasher.update(chunk))?;
        // Address, size and magic: more than the origin says.
        wal::scan(
            bytes.get(..FIRST_PAGE).unwrap_or_default(),
            name,
            size,
            None,
            None,
        )?;
        let magic = [bytes[0], bytes[1]];
        let origin = Origin::read(&bytes).ok_or(wal::ScanError::NotWal {
            name,
            magic: u16::from_le_bytes(magic),
        })?;
        Ok(Self {
            name,
            size,
            origin,
            bytes,
            sha256: hex::encode(hasher.finalize()),
        })
    }

    /// Walks along the records.
    ///
    /// # Errors
    /// It is not the segment that its name says, or it is damaged and `damaged` says that this is refused.
    pub fn scan(
        &self,
        carry: Option<&Carry>,
        damaged: DamagedWal,
    ) -> Result<SegmentScan, PushFailure> {
        scanned(&self.bytes, self.name, self.size, carry, damaged)
    }

    /// What the archive is told of it.
    pub fn entry(&self, scan: &SegmentScan) -> IndexEntry {
        let sha256 = self.sha256.clone();
        IndexEntry::scanned_as(self.name, self.size, &self.bytes, scan, sha256)
    }
}

const FIRST_PAGE: usize = 8192;
/// What fits into a processor's cache beside everything else.
const CHUNK: usize = 128 << 10;

fn scanned(
    bytes: &[u8],
    name: SegmentName,
    size: SegmentSize,
    carry: Option<&Carry>,
    damaged: DamagedWal,
) -> Result<SegmentScan, PushFailure> {
    let scan = wal::scan(bytes, name, size, None, carry)?;
    match (scan.end, damaged) {
        (ScanEnd::Full | ScanEnd::Switch, _) | (_, DamagedWal::Archive) => Ok(scan),
        (ScanEnd::Invalid { at, why }, DamagedWal::Refuse) => {
            Err(PushFailure::Damaged { name, at, why })
        }
        // All bytes are given: there is nothing that could follow.
        (ScanEnd::Data, DamagedWal::Refuse) => Err(PushFailure::Damaged {
            name,
            at: scan.valid_end,
            why: wal::Invalid::Unused,
        }),
    }
}

/// The size of the segments of which `length` bytes are one.
pub fn size_of(name: SegmentName, length: u64) -> Result<SegmentSize, PushFailure> {
    let size = u32::try_from(length).ok().map(SegmentSize::new);
    size.and_then(Result::ok).ok_or(PushFailure::Length {
        name: name.to_string(),
        length,
    })
}

/// All bytes of the file `path` of segment `name`, each shown to `seen` when it was read.
fn load(
    path: &Path,
    name: SegmentName,
    buffers: &Buffers,
    mut seen: impl FnMut(&[u8]),
) -> Result<(SegmentSize, Bytes), PushFailure> {
    let failed = |cause| PushFailure::Read {
        path: path.to_owned(),
        cause,
    };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let size = size_of(name, length)?;
    let mut bytes = buffers.take_filled(usize::try_from(length).unwrap_or_default());
    for chunk in bytes.chunks_mut(CHUNK) {
        file.read_exact(chunk).map_err(failed)?;
        seen(chunk);
    }
    Ok((size, buffers.lend(bytes)))
}

/// What the segment before `name` leaves to it, from the file beside it, if that is still there and still that segment.
pub fn carry_beside(
    path: &Path,
    name: SegmentName,
    size: SegmentSize,
    buffers: &Buffers,
) -> Option<Carry> {
    let before = previous(name, size)?;
    let path: PathBuf = path.with_file_name(before.to_string());
    let (found, bytes) = load(&path, before, buffers, |_| {}).ok()?;
    if found != size {
        return None;
    }
    let scan = scanned(&bytes, before, size, None, DamagedWal::Refuse);
    scan.ok()?.carry
}

/// The segment before `name` on its timeline.
pub fn previous(name: SegmentName, size: SegmentSize) -> Option<SegmentName> {
    let start = name.start(size).get().checked_sub(size.get())?;
    let start = crate::postgres::Lsn::new(start);
    Some(SegmentName::containing(name.timeline(), start, size))
}
