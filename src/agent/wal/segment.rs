//! Gives WAL to the archive, with what its records say.

use std::sync::Arc;

use bytes::Bytes;

use super::{buffer::Buffer, error::Error, shipper::Route};
use crate::{
    archive::{IndexEntry, RestorePoint},
    controller::context::Chain,
    postgres::{
        Lsn, SegmentName, SegmentSize, SystemIdentifier,
        wal::{self, Carry, SegmentScan},
    },
};

/// Scans and pushes; knows the record that the end of the last segment cut.
pub struct Sender {
    /// The record cut by the end of the segment before `Lsn`; `None` in it if that segment cannot be read.
    carry: Option<(Lsn, Option<Arc<Carry>>)>,
    /// Tells the tails of this run from those of another.
    epoch: String,
}

/// A segment, or its beginning, and what its records say.
struct Scanned {
    bytes: Bytes,
    scan: Option<SegmentScan>,
}

impl Sender {
    /// `epoch` names this run: letters and digits.
    pub const fn new(epoch: String) -> Self {
        Self { carry: None, epoch }
    }

    /// WAL is missing before the next segment.
    pub fn forget(&mut self) {
        self.carry = None;
    }

    /// Archives a whole segment.
    ///
    /// # Errors
    /// The archive does not take it.
    pub async fn segment(
        &mut self,
        route: &Route,
        name: SegmentName,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let Scanned { bytes, scan } = self.scan(route, name, bytes).await;
        let (plain, records, size) = (bytes.clone(), scan.clone(), route.size);
        let entry = blocking(move || entry(name, size, &plain, records.as_ref())).await;
        route.lineage.push_segment(name, bytes, &entry).await?;
        let carry = scan.and_then(|scan| scan.carry).map(Arc::new);
        self.carry = Some((name.end(route.size), carry));
        Ok(())
    }

    /// Archives what `buffer` holds from `offset` on, up to the end of its last whole record: what follows may be written
    /// anew after a crash. Returns that end; nothing is sent if it is not past `offset`.
    ///
    /// # Errors
    /// The archive does not take it.
    pub async fn tail(
        &mut self,
        route: &Route,
        buffer: &Buffer,
        offset: u64,
    ) -> Result<Lsn, Error> {
        let name = buffer.name();
        let start = name.start(route.size);
        let bytes = Bytes::copy_from_slice(buffer.bytes());
        let Scanned { bytes, scan } = self.scan(route, name, bytes).await;
        let read = start.advance(bytes.len() as u64);
        let end = scan.map_or(read, |scan| scan.valid_end.min(read));
        let to = end.bytes_since(start);
        if to > offset {
            let range = ..usize::try_from(to).unwrap_or_default();
            let valid = bytes.get(range).unwrap_or_default();
            route
                .lineage
                .push_tail(name, offset, valid, &self.epoch)
                .await?;
        }
        Ok(end.max(start))
    }

    async fn scan(&mut self, route: &Route, name: SegmentName, bytes: Bytes) -> Scanned {
        let carry = self.carry_into(route, name).await;
        let (size, identifier) = (route.size, route.system_identifier);
        blocking(move || {
            let scan = scan(&bytes, name, size, identifier, carry.as_deref());
            Scanned { bytes, scan }
        })
        .await
    }

    /// The record that the end of the segment before `name` cut: known from before, or read from the server once.
    async fn carry_into(&mut self, route: &Route, name: SegmentName) -> Option<Arc<Carry>> {
        let start = name.start(route.size);
        if let Some((at, carry)) = &self.carry
            && *at == start
        {
            return carry.clone();
        }
        let carry = self.read_carry(route, start).await.map(Arc::new);
        self.carry = Some((start, carry.clone()));
        carry
    }

    async fn read_carry(&self, route: &Route, start: Lsn) -> Option<Carry> {
        let before = Lsn::new(start.get().checked_sub(route.size.get())?);
        let mut buffer = Buffer::new(route.path.segment(before, route.size));
        // It may be gone; then commit times of one record are not in the index.
        buffer.fill(&route.client, route.size, start).await.ok()?;
        let (name, size, identifier) = (buffer.name(), route.size, route.system_identifier);
        let bytes = buffer.into_bytes();
        blocking(move || scan(&bytes, name, size, identifier, None)?.carry).await
    }
}

fn scan(
    bytes: &[u8],
    name: SegmentName,
    size: SegmentSize,
    identifier: SystemIdentifier,
    carry: Option<&Carry>,
) -> Option<SegmentScan> {
    match wal::scan(bytes, name, size, Some(identifier), carry) {
        Ok(scan) => Some(scan),
        Err(error) => {
            // PostgreSQL wrote and reads it: it is archived all the same, only less is known of it.
            tracing::error!(segment = %name, error = %Chain(&error), "failed to read the records of WAL");
            None
        }
    }
}

fn entry(
    name: SegmentName,
    size: SegmentSize,
    plain: &[u8],
    scan: Option<&SegmentScan>,
) -> IndexEntry {
    let mut entry = IndexEntry::of(name, size, plain);
    if let Some(scan) = scan {
        let valid = scan.valid_end.bytes_since(name.start(size));
        let valid = plain.get(..usize::try_from(valid).unwrap_or(plain.len()));
        entry.valid_end = scan.valid_end;
        entry.sha256_valid = valid.map(crate::archive::sha256);
        entry.last_record = scan.last_record_start;
        entry.first_commit = scan.first_commit;
        entry.last_commit = scan.last_commit;
        entry.first_xid = scan.first_xid;
        entry.last_xid = scan.last_xid;
        let points = scan.restore_points.iter();
        entry.restore_points = points
            .map(|point| RestorePoint {
                name: point.name.clone(),
                lsn: point.lsn,
                at: point.at,
            })
            .collect();
    }
    entry
}

/// Work that would keep the other tasks waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
