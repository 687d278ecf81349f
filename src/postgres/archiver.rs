//! PostgreSQL's own archiver: how it is set, how its last calls went, and what it still has to archive.

use tokio_postgres::types::Type;

use super::{
    SegmentName, SegmentSize,
    session::{Client, QueryError},
    wal_reader::{self, WalReadError},
};

/// What a server says of its archiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archiver {
    /// `archive_mode` is `on` or `always`.
    pub mode: bool,
    /// There is an `archive_command`, or an `archive_library`.
    pub has_command: bool,
    /// `archive_timeout`, with its unit: `0` if an unfinished segment is never archived for its age.
    pub timeout: String,
    /// The last call failed: for this file. PostgreSQL counts neither exit codes above 125 nor a command that hangs.
    pub failing: Option<Failing>,
}

/// A file that the archiver could not archive, and has archived nothing since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Its name.
    pub file: String,
    /// How many calls have failed since the statistics began.
    pub count: i64,
}

/// What becomes of a finished segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for the archiver.
    Waits,
    /// The archiver does not know of it, as of what was written before `archive_mode` was on: it is told before a checkpoint
    /// removes the segment, which no checkpoint does while a slot or `wal_keep_size` holds it.
    Unnoticed,
    /// The archiver has nothing more to do with it: it was archived, or came from a primary that was to archive it.
    Done,
    /// The server does not have it.
    Gone,
}

// The command itself may hold secrets: it stays on the server. A setting that the version does not know is none.
const ASK: &str = "SELECT current_setting('archive_mode') IN ('on', 'always'), \
    coalesce(current_setting('archive_command', true), '') NOT IN ('', '(disabled)') \
        OR coalesce(current_setting('archive_library', true), '') <> '', \
    current_setting('archive_timeout'), \
    CASE WHEN coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) \
         THEN last_failed_wal END, \
    failed_count FROM pg_stat_archiver";
const STATUS: &str = "SELECT pg_read_binary_file($1, 0, 1, true) IS NOT NULL, \
    pg_read_binary_file($2, 0, 1, true) IS NOT NULL";

/// Asks the server.
///
/// # Errors
/// The query fails.
pub async fn ask(client: &Client) -> Result<Archiver, QueryError> {
    let failed = |error: tokio_postgres::Error| QueryError::new("ask for the archiver", &error);
    let row = client.query_typed_one(ASK, &[]).await.map_err(failed)?;
    let failing: Option<String> = row.try_get(3).map_err(failed)?;
    let count = row.try_get(4).map_err(failed)?;
    Ok(Archiver {
        mode: row.try_get(0).map_err(failed)?,
        has_command: row.try_get(1).map_err(failed)?,
        timeout: row.try_get(2).map_err(failed)?,
        failing: failing.map(|file| Failing { file, count }),
    })
}

/// What becomes of a segment that the server has finished.
///
/// # Errors
/// The query fails.
pub async fn fate(
    client: &Client,
    name: SegmentName,
    size: SegmentSize,
) -> Result<Fate, QueryError> {
    let failed = |error: tokio_postgres::Error| {
        QueryError::new(format!("ask whether {name} waits for the archiver"), &error)
    };
    let file = |ending: &str| format!("pg_wal/archive_status/{name}.{ending}");
    let (ready, done) = (file("ready"), file("done"));
    let row = client
        .query_typed_one(STATUS, &[(&ready, Type::TEXT), (&done, Type::TEXT)])
        .await
        .map_err(failed)?;
    if row.try_get(0).map_err(failed)? {
        return Ok(Fate::Waits);
    }
    if row.try_get(1).map_err(failed)? {
        return Ok(Fate::Done);
    }
    match wal_reader::read(client, name, size, 0, HEADER).await {
        Ok(_) => Ok(Fate::Unnoticed),
        Err(WalReadError::Removed(_) | WalReadError::Recycled(..) | WalReadError::InRecovery) => {
            Ok(Fate::Gone)
        }
        Err(WalReadError::Query(error)) => Err(error),
    }
}

/// Enough of a segment to tell which it is.
const HEADER: u64 = 24;
