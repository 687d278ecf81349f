//! What is said inside the stream (PostgreSQL manual, "Streaming Replication Protocol"). Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use jiff::Timestamp;

use crate::postgres::Lsn;

/// PostgreSQL counts microseconds from 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;

/// What the server says in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// WAL. The server has flushed it.
    Wal {
        /// Where it begins.
        start: Lsn,
        /// What it is.
        bytes: Bytes,
    },
    /// It lives.
    Alive {
        /// All the WAL that it may send was sent up to here.
        end: Lsn,
        /// It closes the connection unless it is answered soon.
        wants_answer: bool,
    },
}

/// Not a message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's message cannot be read")]
pub(super) struct Unreadable;

/// Reads one.
pub(super) fn read(mut message: Bytes) -> Result<Said, Unreadable> {
    let said = |kind: u8, message: &mut Bytes| match kind {
        b'w' => {
            let start = message.try_get_u64().ok()?;
            // Where the server's WAL ends, and its clock, which was read after that.
            message.try_get_u64().ok()?;
            message.try_get_u64().ok()?;
            Some(Said::Wal {
                start: Lsn::new(start),
                bytes: std::mem::take(message),
            })
        }
        b'k' => {
            let end = message.try_get_u64().ok()?;
            message.try_get_u64().ok()?;
            Some(Said::Alive {
                end: Lsn::new(end),
                wants_answer: message.try_get_u8().ok()? != 0,
            })
        }
        _ => None,
    };
    let kind = message.try_get_u8().map_err(|_| Unreadable)?;
    said(kind, &mut message)
        .filter(|_| message.is_empty())
        .ok_or(Unreadable)
}

/// Tells the server how far the receiver is. A commit that waits for a synchronous standby goes on where it is `durable`;
/// who does not say what is durable is never taken for one. Nothing is ever said to be applied.
pub(super) fn position(received: Lsn, durable: Option<Lsn>, now: Timestamp) -> BytesMut {
    let mut message = BytesMut::with_capacity(34);
    message.put_u8(b'r');
    message.put_u64(received.get());
    message.put_u64(durable.map_or(0, Lsn::get));
    message.put_u64(0);
    message.put_i64(now.as_microsecond() - EPOCH);
    // The server need not answer.
    message.put_u8(0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, numbers: &[u64], rest: &[u8]) -> Bytes {
        let mut message = vec![kind];
        numbers
            .iter()
            .for_each(|number| message.extend(number.to_be_bytes()));
        message.extend(rest);
        message.into()
    }

    #[test]
    fn reads_what_the_server_says() {
        let wal = message(b'w', &[0x100_0028, 0x200_0000, 1], b"bytes");
        let said = Said::Wal {
            start: Lsn::new(0x100_0028),
            bytes: Bytes::from_static(b"bytes"),
        };
        assert_eq!(read(wal), Ok(said));
        for (flag, wants_answer) in [(0, false), (1, true)] {
            let said = Said::Alive {
                end: Lsn::new(7),
                wants_answer,
            };
            assert_eq!(read(message(b'k', &[7, 1], &[flag])), Ok(said));
        }
    }

    #[test]
    fn refuses_what_is_no_message() {
        for bytes in [
            message(b'w', &[1, 2], &[0; 7]),
            message(b'k', &[1, 2], &[]),
            message(b'k', &[1, 2], &[0, 0]),
            message(b's', &[1, 2, 3], &[]),
            Bytes::new(),
        ] {
            assert_eq!(read(bytes.clone()), Err(Unreadable), "{bytes:?}");
        }
    }

    #[test]
    fn tells_its_position_and_that_nothing_is_applied() {
        let now = "2000-01-01T00:00:01Z".parse().unwrap();
        let told = position(Lsn::new(2), Some(Lsn::new(1)), now);
        assert_eq!(told, message(b'r', &[2, 1, 0, 1_000_000], &[0]));
        let told = position(Lsn::new(2), None, now);
        assert_eq!(told, message(b'r', &[2, 0, 0, 1_000_000], &[0]));
    }
}
