//! Where the bytes of WAL come from.

use super::{
    buffer::Buffer,
    error::Error,
    tap::{Server, Tap, TapError},
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, session::Client, wal_reader::WalReadError};

/// Where the bytes of WAL come from. The slot that holds them is not its business.
pub enum Source {
    /// Files, read by SQL.
    Sql,
    /// The server sends them.
    Streaming(Box<Streaming>),
}

/// A stream, opened where and when it is needed.
pub struct Streaming {
    server: Server,
    tap: Option<Tap>,
}

impl Source {
    /// Streams from `server`.
    pub fn streaming(server: Server) -> Self {
        let tap = None;
        Self::Streaming(Box::new(Streaming { server, tap }))
    }

    /// Reads on in `buffer` up to `to`, which PostgreSQL must have flushed.
    ///
    /// # Errors
    /// The segment is gone, or the session is.
    pub async fn fill(
        &mut self,
        buffer: &mut Buffer,
        client: &Client,
        size: SegmentSize,
        to: Lsn,
    ) -> Result<(), Error> {
        match self {
            Self::Sql => Ok(buffer.fill(client, size, to).await?),
            Self::Streaming(streaming) => streaming.fill(buffer, size, to).await,
        }
    }

    /// What was read is not needed any more, and nothing for a while: a stream is closed.
    pub async fn rest(&mut self) {
        match self {
            Self::Sql => {}
            Self::Streaming(streaming) => streaming.close().await,
        }
    }
}

impl Streaming {
    async fn fill(&mut self, buffer: &mut Buffer, size: SegmentSize, to: Lsn) -> Result<(), Error> {
        let name = buffer.name();
        let wanted = to.bytes_since(name.start(size)).min(size.get());
        buffer.reserve(wanted, size);
        while (buffer.bytes().len() as u64) < wanted {
            let have = buffer.bytes().len() as u64;
            let at = name.start(size).advance(have);
            let most = usize::try_from(wanted - have).unwrap_or(usize::MAX);
            let taken = self.take(name, at, most).await;
            buffer.push(&taken.map_err(|error| explain(error, name))?);
        }
        Ok(())
    }

    /// The bytes at `at`, from the stream that is there if that is where it is.
    async fn take(
        &mut self,
        name: SegmentName,
        at: Lsn,
        most: usize,
    ) -> Result<bytes::Bytes, TapError> {
        let timeline = name.timeline();
        if !self.tap.as_ref().is_some_and(|tap| tap.is_at(timeline, at)) {
            self.close().await;
        }
        let mut tap = match self.tap.take() {
            Some(tap) => tap,
            None => Tap::open(&self.server, timeline, at).await?,
        };
        let bytes = tap.take(most).await?;
        self.tap = Some(tap);
        Ok(bytes)
    }

    /// One stream at a time: a server has few to give.
    async fn close(&mut self) {
        if let Some(tap) = self.tap.take() {
            tap.close().await;
        }
    }
}

fn explain(error: TapError, name: SegmentName) -> Error {
    match error.is_removed() {
        true => Error::Read(WalReadError::Removed(name)),
        false => Error::Stream(error),
    }
}
