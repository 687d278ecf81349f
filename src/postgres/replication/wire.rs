//! Messages to and from the server.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::{
    backend::Message,
    frontend::{self, CopyData},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::postgres::session::Stream;

/// `CopyBothResponse`, which the protocol library does not know: only replication has it.
const COPY_BOTH: u8 = b'W';
/// Type and length.
const HEAD: usize = 5;
/// No message is longer: the server sends at most 128 KiB of WAL in one.
const LONGEST: usize = 1 << 20;
/// How long the server may take to let go.
const GOODBYE: Duration = Duration::from_secs(2);

/// What came from the server.
pub(super) enum Incoming {
    /// From here on it is a stream.
    CopyBoth,
    /// Anything else.
    Message(Message),
}

/// A session that has logged in.
pub(super) struct Wire {
    stream: Stream,
    input: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
        }
    }

    /// The next message, but for those that a server may send at any time. Nothing is lost if this is dropped while it waits.
    pub(super) async fn receive(&mut self) -> io::Result<Incoming> {
        loop {
            match self.parse()? {
                Some(Incoming::Message(
                    Message::NoticeResponse(_)
                    | Message::ParameterStatus(_)
                    | Message::NotificationResponse(_),
                )) => continue,
                Some(incoming) => return Ok(incoming),
                None => {}
            }
            self.input.reserve(LONGEST / 4);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                let why = "the server closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Incoming>> {
        let Some(mut head) = self.input.get(..HEAD) else {
            return Ok(None);
        };
        let (kind, length) = (head.get_u8(), head.get_u32());
        let length = 1 + usize::try_from(length).map_err(io::Error::other)?;
        if length > LONGEST {
            // Before memory is made for it.
            let why = format!("the server announces a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if kind != COPY_BOTH {
            return Ok(Message::parse(&mut self.input)?.map(Incoming::Message));
        }
        if self.input.len() < length {
            return Ok(None);
        }
        self.input.advance(length);
        Ok(Some(Incoming::CopyBoth))
    }

    pub(super) async fn query(&mut self, query: &str) -> io::Result<()> {
        let mut output = BytesMut::new();
        frontend::query(query, &mut output)?;
        self.send(&output).await
    }

    pub(super) async fn copy(&mut self, message: BytesMut) -> io::Result<()> {
        let mut output = BytesMut::new();
        CopyData::new(message)?.write(&mut output);
        self.send(&output).await
    }

    pub(super) async fn copy_done(&mut self) -> io::Result<()> {
        let mut output = BytesMut::new();
        frontend::copy_done(&mut output);
        self.send(&output).await
    }

    /// Ends the session as the server expects it, or it would write to its log; returns when the server has let go, or has
    /// taken too long for that.
    pub(super) async fn close(mut self) {
        let mut output = BytesMut::new();
        frontend::terminate(&mut output);
        let gone = async {
            self.send(&output).await?;
            while self.stream.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            io::Result::Ok(())
        };
        // Whatever the outcome, the session is over.
        let _ = tokio::time::timeout(GOODBYE, gone).await;
    }

    async fn send(&mut self, output: &[u8]) -> io::Result<()> {
        self.stream.write_all(output).await?;
        self.stream.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wire on which the server sends `bytes`, so many at a time.
    fn wire(bytes: &'static [u8], chunk: usize) -> Wire {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            for part in bytes.chunks(chunk) {
                far.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        Wire::new(Box::new(near))
    }

    #[tokio::test]
    async fn copy_both_is_known_however_it_comes_and_notices_are_passed_over() {
        let bytes = b"N\0\0\0\x05\0W\0\0\0\x07\0\0\0d\0\0\0\x06hi";
        for chunk in [1, 2, 7, 100] {
            let mut wire = wire(bytes, chunk);
            assert!(matches!(wire.receive().await, Ok(Incoming::CopyBoth)));
            let Ok(Incoming::Message(Message::CopyData(data))) = wire.receive().await else {
                panic!("no data");
            };
            assert_eq!(data.data(), b"hi");
            let end = wire.receive().await.err().unwrap();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn memory_is_not_made_for_what_is_only_announced() {
        for bytes in [b"d\xFF\xFF\xFF\xFF", b"W\xFF\xFF\xFF\xFF"] {
            let refused = wire(bytes, 5).receive().await.err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        }
    }
}
