//! Backup mode: it belongs to one session, and ends with it.

use jiff::Timestamp;
use tokio_postgres::types::{PgLsn, Type};

use super::{
    Lsn, TimelineId,
    session::{Client, QueryError},
};

/// Backup mode has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Replay begins here (REDO).
    pub start_lsn: Lsn,
    /// The timeline that the server writes; on a standby, that of the restart point.
    pub timeline: TimelineId,
    /// The server's clock after the call.
    pub at: Timestamp,
}

/// Backup mode has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// A restore is consistent from here. On a standby it is what must have been replayed, in WAL that others archive.
    pub stop_lsn: Lsn,
    /// The server's clock after the call.
    pub at: Timestamp,
    /// `backup_label`: no restore may start without it.
    pub label: String,
    /// `tablespace_map`; empty without tablespaces.
    pub tablespace_map: String,
}

// pg_walfile_name() fails in recovery. The target list is evaluated after the call: pg_control has its restart point then.
const TIMELINE: &str = "CASE WHEN pg_is_in_recovery() THEN NULL \
         ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END, \
    (SELECT timeline_id FROM pg_control_checkpoint())";

/// Begins backup mode; returns after a checkpoint, at once if `fast`, spread out otherwise. On a standby that is a restart
/// point: at the last checkpoint of the primary that it has replayed. Never in a transaction.
///
/// # Errors
/// No right to, a standby replayed WAL that was written with `full_page_writes = off`, the session is in backup mode already, or is lost.
pub async fn start(client: &Client, label: &str, fast: bool) -> Result<Started, QueryError> {
    let call = match client.major() {
        ..15 => "pg_start_backup($1, $2, false)",
        _ => "pg_backup_start($1, $2)",
    };
    let query = format!("SELECT lsn, clock_timestamp(), {TIMELINE} FROM {call} AS lsn");
    let failed = |error: tokio_postgres::Error| QueryError::new("begin backup mode", &error);
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&label, Type::TEXT), (&fast, Type::BOOL)];
    let row = client
        .query_typed_one(&query, &parameters)
        .await
        .map_err(failed)?;
    let start_lsn: PgLsn = row.try_get(0).map_err(failed)?;
    let written: Option<&str> = row.try_get(2).map_err(failed)?;
    let of_checkpoint: i32 = row.try_get(3).map_err(failed)?;
    let timeline = match written {
        Some(digits) => digits.parse().ok(),
        None => TimelineId::new(of_checkpoint.cast_unsigned()),
    };
    Ok(Started {
        start_lsn: Lsn::new(start_lsn.into()),
        timeline: timeline
            .ok_or_else(|| QueryError::unexpected("begin backup mode", "no timeline"))?,
        at: row.try_get(1).map_err(failed)?,
    })
}

/// Ends backup mode. On a standby it writes nothing: WAL up to the end is archived when its primary's is. Does not wait for the server's own archiving: what counts is our archive.
///
/// # Errors
/// The session is not in backup mode, or is lost; the standby was promoted meanwhile.
pub async fn stop(client: &Client) -> Result<Stopped, QueryError> {
    let call = match client.major() {
        ..15 => "pg_stop_backup(false, false)",
        _ => "pg_backup_stop(false)",
    };
    let query = format!("SELECT lsn, labelfile, spcmapfile, clock_timestamp() FROM {call}");
    let failed = |error: tokio_postgres::Error| QueryError::new("end backup mode", &error);
    let row = client.query_typed_one(&query, &[]).await.map_err(failed)?;
    let stop_lsn: PgLsn = row.try_get(0).map_err(failed)?;
    let tablespace_map: Option<String> = row.try_get(2).map_err(failed)?;
    Ok(Stopped {
        stop_lsn: Lsn::new(stop_lsn.into()),
        at: row.try_get(3).map_err(failed)?,
        label: row.try_get(1).map_err(failed)?,
        tablespace_map: tablespace_map.unwrap_or_default(),
    })
}
