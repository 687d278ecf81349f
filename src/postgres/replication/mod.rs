//! Physical streaming replication: the server sends WAL as it flushes it, and is told what is durable here (PostgreSQL
//! manual, "Streaming Replication Protocol"). It needs the REPLICATION attribute and a line for `replication` in pg_hba.conf.

mod messages;
mod wire;

use std::io;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use jiff::Timestamp;
use postgres_protocol::message::backend::{DataRowBody, Message};

use self::{
    messages::{Said, position},
    wire::{Incoming, Wire},
};
use super::{
    Lsn, SystemIdentifier, TimelineId,
    session::{ConnectError, ConnectOptions, QueryError, connect_for_replication},
};

const START: &str = "start streaming WAL";
const STREAM: &str = "stream WAL";
const IDENTIFY: &str = "identify the server";

/// A session that can stream.
pub struct Replication(Wire);

/// Who the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of its cluster.
    pub system_identifier: SystemIdentifier,
    /// The timeline that it writes, or replays.
    pub timeline: TimelineId,
    /// How far its log is flushed.
    pub flushed: Lsn,
}

/// What came through the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// WAL that the server has flushed.
    Wal {
        /// Where it begins: where the last ended.
        start: Lsn,
        /// What it is: up to 128 KiB.
        bytes: Bytes,
    },
    /// There is no more for now.
    Alive {
        /// Everything up to here was sent.
        end: Lsn,
        /// The server gives up soon unless [`WalStream::confirm`] answers.
        wants_answer: bool,
    },
    /// The timeline has no more: [`WalStream::end`] says where it goes on.
    Ended,
}

/// Where a timeline goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The next timeline.
    pub next: TimelineId,
    /// Where it leaves the one before.
    pub at: Lsn,
}

impl Replication {
    /// Logs in.
    ///
    /// # Errors
    /// As for [`super::session::connect`]; a server that does not let the role replicate answers `AccessRefused`.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let stream = connect_for_replication(options).await?;
        Ok(Self(Wire::new(stream)))
    }

    /// Ends the session, and waits until the server has let go.
    pub async fn close(self) {
        self.0.close().await;
    }

    /// Asks the server who it is.
    ///
    /// # Errors
    /// The session is lost, or the answer makes no sense.
    pub async fn identify(&mut self) -> Result<Identity, QueryError> {
        let rows = self.rows("IDENTIFY_SYSTEM", IDENTIFY).await?;
        let identity = rows.first().and_then(|row| {
            Some(Identity {
                system_identifier: text(row, 0)?.parse().ok()?,
                timeline: timeline(row, 1)?,
                flushed: text(row, 2)?.parse().ok()?,
            })
        });
        identity.ok_or_else(|| QueryError::unexpected(IDENTIFY, "the answer has no identity"))
    }

    /// Begins to stream `timeline` at `from`. No slot is used: whoever has one moves it, and is not hindered by this.
    ///
    /// # Errors
    /// The WAL is gone, the timeline is unknown, or the session is lost.
    pub async fn start(mut self, from: Lsn, timeline: TimelineId) -> Result<WalStream, QueryError> {
        let query = format!(
            "START_REPLICATION PHYSICAL {from} TIMELINE {}",
            timeline.get()
        );
        self.0.query(&query).await.map_err(lost(START))?;
        let mut stream = WalStream {
            wire: self.0,
            next: from,
            answer: None,
        };
        match stream.wire.receive().await.map_err(lost(START))? {
            Incoming::CopyBoth => Ok(stream),
            Incoming::Message(Message::ErrorResponse(error)) => {
                Err(QueryError::answered(START, &error))
            }
            // Nothing is left of the timeline: this is what comes at its end.
            Incoming::Message(message) => {
                stream.answer = Some(message);
                Ok(stream)
            }
        }
    }

    async fn rows(&mut self, query: &str, action: &str) -> Result<Vec<DataRowBody>, QueryError> {
        self.0.query(query).await.map_err(lost(action))?;
        rows(&mut self.0, None, action).await
    }
}

/// WAL, from a position on.
pub struct WalStream {
    wire: Wire,
    /// Where the next WAL begins.
    next: Lsn,
    /// The beginning of what the server says of the next timeline, where there was nothing to stream.
    answer: Option<Message>,
}

impl WalStream {
    /// Waits for what comes next. Nothing is lost if this is dropped while it waits.
    ///
    /// # Errors
    /// The session is lost; the server says why, if it can.
    pub async fn next(&mut self) -> Result<Event, QueryError> {
        if self.answer.is_some() {
            return Ok(Event::Ended);
        }
        match self.wire.receive().await.map_err(lost(STREAM))? {
            Incoming::Message(Message::CopyData(message)) => self.event(message.into_bytes()),
            Incoming::Message(Message::CopyDone) => Ok(Event::Ended),
            Incoming::Message(Message::ErrorResponse(error)) => {
                Err(QueryError::answered(STREAM, &error))
            }
            // It stops: it says that the stream is complete and goes.
            Incoming::CopyBoth | Incoming::Message(_) => {
                let why = io::Error::other("the server ended the stream");
                Err(lost(STREAM)(why))
            }
        }
    }

    /// Tells the server what was received, so that it knows that somebody is there, and what is durable, which makes this a
    /// synchronous standby where `synchronous_standby_names` has room for it: `*` has.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn confirm(
        &mut self,
        durable: Option<Lsn>,
        now: Timestamp,
    ) -> Result<(), QueryError> {
        let message = position(self.next, durable, now);
        self.wire.copy(message).await.map_err(lost(STREAM))
    }

    fn event(&mut self, message: Bytes) -> Result<Event, QueryError> {
        let unexpected = |why: String| Err(QueryError::unexpected(STREAM, why));
        match messages::read(message) {
            Ok(Said::Wal { start, bytes }) if start == self.next => {
                self.next = start.advance(bytes.len() as u64);
                Ok(Event::Wal { start, bytes })
            }
            Ok(Said::Wal { start, .. }) => {
                unexpected(format!("WAL from {start} came, not from {}", self.next))
            }
            Ok(Said::Alive { end, wants_answer }) => Ok(Event::Alive { end, wants_answer }),
            Err(error) => unexpected(error.to_string()),
        }
    }

    /// After [`Event::Ended`]: where the timeline goes on. Ends the session too.
    ///
    /// # Errors
    /// The session is lost, or the server says nothing of another timeline: it stops.
    pub async fn end(mut self) -> Result<Switch, QueryError> {
        let answer = self.answer.take();
        if answer.is_none() {
            self.wire.copy_done().await.map_err(lost(STREAM))?;
        }
        let rows = rows(&mut self.wire, answer, STREAM).await?;
        self.close().await;
        let switch = rows.first().and_then(|row| {
            Some(Switch {
                next: timeline(row, 0)?,
                at: text(row, 1)?.parse().ok()?,
            })
        });
        let why = "the server ended the stream and names no timeline";
        switch.ok_or_else(|| QueryError::unexpected(STREAM, why))
    }

    /// Ends stream and session, and waits until the server has let go.
    pub async fn close(self) {
        self.wire.close().await;
    }
}

/// The rows of an answer, up to the server's readiness for more.
async fn rows(
    wire: &mut Wire,
    mut first: Option<Message>,
    action: &str,
) -> Result<Vec<DataRowBody>, QueryError> {
    let mut rows = Vec::new();
    let mut refused = None;
    loop {
        let message = match first.take() {
            Some(message) => message,
            None => match wire.receive().await {
                Ok(Incoming::Message(message)) => message,
                Ok(Incoming::CopyBoth) => {
                    return Err(QueryError::unexpected(action, "the server began to stream"));
                }
                // What it said before it went says more.
                Err(error) => return Err(refused.unwrap_or_else(|| lost(action)(error))),
            },
        };
        match message {
            Message::DataRow(row) => rows.push(row),
            Message::ErrorResponse(error) => refused = Some(QueryError::answered(action, &error)),
            Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), Err),
            _ => {}
        }
    }
}

fn text(row: &DataRowBody, column: usize) -> Option<&str> {
    let range = row.ranges().nth(column).ok()???;
    std::str::from_utf8(row.buffer().get(range)?).ok()
}

fn timeline(row: &DataRowBody, column: usize) -> Option<TimelineId> {
    TimelineId::new(text(row, column)?.parse().ok()?)
}

fn lost(action: &str) -> impl Fn(io::Error) -> QueryError {
    move |error| QueryError::lost(action, &error)
}
