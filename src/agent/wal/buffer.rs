//! The bytes of the segment that is being filled, as far as they were read.

use std::pin::pin;

use bytes::Bytes;
use futures::StreamExt as _;

use crate::postgres::{
    Lsn, SegmentName, SegmentSize,
    session::Client,
    wal_reader::{self, WalReadError},
};

/// The first bytes of one segment.
#[derive(Debug)]
pub struct Buffer {
    name: SegmentName,
    bytes: Vec<u8>,
}

impl Buffer {
    /// Nothing of `name` yet.
    pub const fn new(name: SegmentName) -> Self {
        Self {
            name,
            bytes: Vec::new(),
        }
    }

    /// A finished segment, whole. `None`: the server does not have it any more.
    ///
    /// # Errors
    /// The session is lost, or the server refuses.
    pub async fn finished(
        client: &Client,
        size: SegmentSize,
        name: SegmentName,
    ) -> Result<Option<Self>, WalReadError> {
        let mut buffer = Self::new(name);
        match buffer.fill(client, size, name.end(size)).await {
            Ok(()) => Ok(Some(buffer)),
            Err(WalReadError::Removed(_) | WalReadError::Recycled(..)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Nothing of `name` yet, in memory that was used before: fresh memory costs a page fault per page.
    pub const fn reusing(name: SegmentName, empty: Vec<u8>) -> Self {
        Self { name, bytes: empty }
    }

    /// The segment.
    pub const fn name(&self) -> SegmentName {
        self.name
    }

    /// What was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was read, given away.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }

    /// What was read, and the memory that it is in.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// Makes room for a whole segment at once, if that is `wanted`: growing step by step takes twice as much.
    pub fn reserve(&mut self, wanted: u64, size: SegmentSize) {
        if self.bytes.capacity() == 0 && wanted == size.get() {
            self.bytes
                .reserve_exact(usize::try_from(wanted).unwrap_or_default());
        }
    }

    /// The bytes that follow.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads on up to `to`, which PostgreSQL must have flushed.
    ///
    /// # Errors
    /// The segment is gone, or the session is.
    pub async fn fill(
        &mut self,
        client: &Client,
        size: SegmentSize,
        to: Lsn,
    ) -> Result<(), WalReadError> {
        let wanted = to.bytes_since(self.name.start(size)).min(size.get());
        let range = self.bytes.len() as u64..wanted;
        let mut chunks = pin!(wal_reader::read_range(client, self.name, size, range));
        while let Some(chunk) = chunks.next().await {
            self.reserve(wanted, size);
            self.bytes.extend_from_slice(&chunk?);
        }
        Ok(())
    }
}
