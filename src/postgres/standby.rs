//! What a standby says of the log that it replays, and its restart points.

use tokio_postgres::Row;

use super::{
    TimelineId,
    session::{Client, QueryError},
};

const STREAMS: &str = "SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'";
const MINIMUM: &str = "SELECT min_recovery_end_timeline FROM pg_control_recovery()";

/// The timeline that the standby streams. `None` if it streams nothing: it is no standby, reads an archive, or is cut off.
///
/// # Errors
/// The query fails.
pub async fn streams(client: &Client) -> Result<Option<TimelineId>, QueryError> {
    let action = "ask what the standby streams";
    let failed = |error: tokio_postgres::Error| QueryError::new(action, &error);
    let row = client.query_typed_opt(STREAMS, &[]).await;
    match row.map_err(failed)? {
        Some(row) => timeline(&row).map_err(failed),
        None => Ok(None),
    }
}

/// The timeline of what must be replayed at least: where a base backup of the standby ends, that ends now. `None` on a
/// primary.
///
/// # Errors
/// The query fails, or the role may not ask.
pub async fn minimum_timeline(client: &Client) -> Result<Option<TimelineId>, QueryError> {
    let action = "ask how far the standby must replay";
    let failed = |error: tokio_postgres::Error| QueryError::new(action, &error);
    let row = client.query_typed_one(MINIMUM, &[]).await;
    timeline(&row.map_err(failed)?).map_err(failed)
}

/// Has the standby write what it has replayed to disk, so that a base backup finds its restart point made. As a command of
/// its own it holds no snapshot of rows, which replay would cancel as it does a long query; a function call does.
///
/// # Errors
/// The role may not (`pg_checkpoint`, which PostgreSQL 14 does not have), or the session is lost.
pub async fn restart_point(client: &Client) -> Result<(), QueryError> {
    let made = client.batch_execute("CHECKPOINT").await;
    made.map_err(|error| QueryError::new("make a restart point", &error))
}

fn timeline(row: &Row) -> Result<Option<TimelineId>, tokio_postgres::Error> {
    let number: Option<i32> = row.try_get(0)?;
    Ok(number.and_then(|number| TimelineId::new(number.cast_unsigned())))
}
