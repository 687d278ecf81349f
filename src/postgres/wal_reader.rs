//! WAL by SQL: read from the server's files up to what it has flushed.

use std::{iter, ops::Range};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use tokio_postgres::{
    Row,
    types::{PgLsn, Type},
};

use super::{
    Lsn, SegmentName, SegmentSize, TimelineId,
    session::{Client, QueryError},
};

/// How far the log is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPosition {
    /// Everything before is on the server's disk.
    pub lsn: Lsn,
    /// The server's clock, read before the position: what was acknowledged by then lies before `lsn`.
    pub at: Timestamp,
    /// The timeline that the server writes.
    pub timeline: TimelineId,
}

/// No WAL.
#[derive(Debug, thiserror::Error)]
pub enum WalReadError {
    /// The query fails.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The server writes no WAL: it is a standby, or recovering.
    #[error("failed to read the flush position: PostgreSQL is in recovery")]
    InRecovery,
    /// The server has removed the file.
    #[error(
        "failed to read WAL segment {0}: PostgreSQL has removed it. The WAL is missing from the archive: take a new backup"
    )]
    Removed(SegmentName),
    /// The file holds an older segment, renamed for later use: the server has not written this one.
    #[error("failed to read WAL segment {0}: its file still holds {1}")]
    Recycled(SegmentName, Lsn),
}

// The clock comes first: see `FlushPosition::at`. The target list is evaluated from left to right.
const FLUSH_POSITION: &str = "SELECT clock_timestamp(), \
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN NULL \
         ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END";
const READ: &str = "SELECT pg_read_binary_file($1, $2, $3, true)";

/// How far a primary has flushed its log.
///
/// # Errors
/// The server is in recovery, or the query fails.
pub async fn flush_position(client: &Client) -> Result<FlushPosition, WalReadError> {
    let action = "read the flush position";
    let failed = |error: tokio_postgres::Error| QueryError::new(action, &error);
    let row = client
        .query_typed_one(FLUSH_POSITION, &[])
        .await
        .map_err(failed)?;
    let lsn: Option<PgLsn> = row.try_get(1).map_err(failed)?;
    let timeline: Option<&str> = row.try_get(2).map_err(failed)?;
    let (Some(lsn), Some(timeline)) = (lsn, timeline) else {
        return Err(WalReadError::InRecovery);
    };
    let timeline = timeline.parse();
    Ok(FlushPosition {
        lsn: Lsn::new(lsn.into()),
        at: row.try_get(0).map_err(failed)?,
        timeline: timeline.map_err(|error: super::TimelineParseError| {
            QueryError::unexpected(action, error.to_string())
        })?,
    })
}

/// How far a server is, in recovery or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whether it is a standby, or recovering.
    pub in_recovery: bool,
    /// What it has flushed, or replayed.
    pub lsn: Lsn,
    /// Whether `max_slot_wal_keep_size` bounds what slots hold.
    pub bounded: bool,
}

const END: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    (SELECT setting <> '-1' FROM pg_settings WHERE name = 'max_slot_wal_keep_size')";

/// How far the server is.
///
/// # Errors
/// The query fails.
pub async fn end(client: &Client) -> Result<End, QueryError> {
    let failed =
        |error: tokio_postgres::Error| QueryError::new("ask how far PostgreSQL is", &error);
    let row = client.query_typed_one(END, &[]).await.map_err(failed)?;
    // Nothing is replayed yet where recovery has just begun.
    let lsn: Option<PgLsn> = row.try_get(1).map_err(failed)?;
    let bounded: Option<bool> = row.try_get(2).map_err(failed)?;
    Ok(End {
        in_recovery: row.try_get(0).map_err(failed)?,
        lsn: Lsn::new(lsn.map_or(0, PgLsn::into)),
        bounded: bounded.unwrap_or_default(),
    })
}

/// How much is read at once. What is at work fits into a core's cache, and a session's buffers grow no larger.
const CHUNK: u64 = 1 << 18;
/// How many requests are on their way: PostgreSQL reads one chunk while the last one is taken.
const REQUESTS: usize = 3;

/// `length` bytes of segment `name` from `offset`; fewer if the file ends before. Ask for what is flushed only: behind it
/// lies whatever the file held before.
///
/// # Errors
/// The file is gone, holds another segment, or the query fails.
pub async fn read(
    client: &Client,
    name: SegmentName,
    size: SegmentSize,
    offset: u64,
    length: u64,
) -> Result<Bytes, WalReadError> {
    let bytes = read_file(client, &name.to_string(), offset, length).await?;
    let bytes = bytes.ok_or(WalReadError::Removed(name))?;
    match page_address(&bytes, offset) {
        Some((at, address)) if address != name.start(size).advance(at) => {
            Err(WalReadError::Recycled(name, address))
        }
        _ => Ok(bytes),
    }
}

/// All bytes of segment `name` in `range`, as [`read`] reads them, in order and in pieces of up to 256 KiB. A file that ends
/// before is not the segment that was written: it counts as removed.
pub fn read_range(
    client: &Client,
    name: SegmentName,
    size: SegmentSize,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, WalReadError>> {
    let chunk = move |(from, to)| async move {
        let bytes = read(client, name, size, from, to - from).await?;
        match bytes.len() as u64 == to - from {
            true => Ok(bytes),
            false => Err(WalReadError::Removed(name)),
        }
    };
    stream::iter(chunks(range)).map(chunk).buffered(REQUESTS)
}

/// Where each chunk begins and ends: at boundaries of chunks, so that every read but a tail's begins with a page.
fn chunks(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let end = move |from: u64| (from + CHUNK - from % CHUNK).min(range.end);
    let first = (range.start, end(range.start));
    iter::successors(Some(first), move |(_, to)| Some((*to, end(*to))))
        .take_while(|(from, to)| from < to)
}

/// The history file of `timeline`; `None` if the server has none, as for timeline 1.
///
/// # Errors
/// The query fails.
pub async fn history_file(
    client: &Client,
    timeline: TimelineId,
) -> Result<Option<Bytes>, QueryError> {
    read_file(client, &format!("{timeline:08X}.history"), 0, 1 << 20).await
}

async fn read_file(
    client: &Client,
    name: &str,
    offset: u64,
    length: u64,
) -> Result<Option<Bytes>, QueryError> {
    let failed =
        |error: tokio_postgres::Error| QueryError::new(format!("read pg_wal/{name}"), &error);
    let path = format!("pg_wal/{name}");
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (offset, length) = (number(offset), number(length));
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
        (&path, Type::TEXT),
        (&offset, Type::INT8),
        (&length, Type::INT8),
    ];
    let row = client
        .query_typed_one(READ, &parameters)
        .await
        .map_err(failed)?;
    let bytes: Option<&[u8]> = row.try_get(0).map_err(failed)?;
    // The row's own memory: to copy it once more costs as much as to receive it.
    Ok(bytes.is_some().then(|| Bytes::from_owner(Content(row))))
}

/// A row of one column of bytes.
struct Content(Row);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        self.0.try_get(0).unwrap_or_default()
    }
}

const PAGE: u64 = 8192;

/// Offset in the segment and address of the first page that begins in `bytes`. `None` if none does, or if it is all zero,
/// as after a switch.
fn page_address(bytes: &[u8], offset: u64) -> Option<(u64, Lsn)> {
    let at = offset.next_multiple_of(PAGE);
    let header = bytes.get(usize::try_from(at - offset).ok()?..)?.get(..24)?;
    if header.iter().all(|byte| *byte == 0) {
        return None;
    }
    let address = header.get(8..16)?.try_into().ok()?;
    Some((at, Lsn::new(u64::from_le_bytes(address))))
}
