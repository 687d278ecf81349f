//! Where the bytes of WAL come from.

use super::{
    buffer::Buffer,
    error::Error,
    tap::{Server, Tap, TapError},
};
use tokio::sync::watch;

use crate::postgres::{
    Lsn, SegmentName, SegmentSize, TimelineId, session::Client, wal_reader::WalReadError,
};

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
    /// What the server is told to be durable: never anything unless commits may wait for the archive. It would make this a
    /// synchronous standby of whoever has `*` for their names.
    durable: watch::Sender<Option<Lsn>>,
    synchronous: bool,
}

impl Source {
    /// Streams from `server`. With `synchronous` the server is told what is durable, so that commits can wait for that.
    pub fn streaming(server: Server, synchronous: bool) -> Self {
        Self::Streaming(Box::new(Streaming {
            server,
            tap: None,
            durable: watch::Sender::new(None),
            synchronous,
        }))
    }

    /// Whether commits may wait for what [`Self::durable`] says.
    pub fn is_synchronous(&self) -> bool {
        match self {
            Self::Sql => false,
            Self::Streaming(streaming) => streaming.synchronous,
        }
    }

    /// Everything before `lsn` is in the archive.
    pub fn durable(&self, lsn: Lsn) {
        if let Self::Streaming(streaming) = self
            && streaming.synchronous
        {
            streaming.durable.send_if_modified(|told| {
                let changed = *told < Some(lsn);
                *told = (*told).max(Some(lsn));
                changed
            });
        }
    }

    /// Waits until the server has sent more than was read, and returns where that ends; for ever if nothing is sent
    /// unasked. Nothing is lost if this is dropped while it waits.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn more(&mut self) -> Result<Lsn, Error> {
        let tap = match self {
            Self::Sql => None,
            Self::Streaming(streaming) => streaming.tap.as_mut(),
        };
        match tap {
            Some(tap) => tap.more().await.map_err(Error::Stream),
            None => std::future::pending().await,
        }
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
        if self.synchronous && self.tap.is_none() {
            let at = name.start(size).advance(buffer.bytes().len() as u64);
            let tap = self.open(name.timeline(), at).await;
            self.tap = Some(tap.map_err(|error| explain(error, name))?);
        }
        Ok(())
    }

    async fn open(&self, timeline: TimelineId, at: Lsn) -> Result<Tap, TapError> {
        Tap::open(&self.server, timeline, at, self.durable.subscribe()).await
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
            None => self.open(timeline, at).await?,
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
