//! What a running server has left of what its configuration limits. How much room its disk has no SQL function tells.

use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};

use super::session::{Client, QueryError};

/// How long the server may take: it reads a few small views.
pub const ANSWER: Duration = Duration::from_secs(5);
const ACTION: &str = "ask PostgreSQL what it has left of slots and connections";

/// What a running server has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The setting `wal_level`.
    pub wal_level: String,
    /// Whether there is a replication slot of the name that was asked for.
    pub has_slot: bool,
    /// Replication slots, of either kind.
    pub replication_slots: Used,
    /// Processes that send WAL.
    pub wal_senders: Used,
    /// Sessions of the server, without those that are kept for other roles.
    pub connections: Used,
    /// Those of the role, where it has a CONNECTION LIMIT. A superuser's is not enforced.
    pub role_connections: Option<Used>,
    /// Those of the database, where it has one. It is not enforced of superusers either.
    pub database_connections: Option<Used>,
}

/// How much of something is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// How many there may be.
    pub maximum: i32,
    /// How many there are.
    pub used: i32,
}

// Of other roles' sessions the view tells the kind to members of pg_read_all_stats, as pg_monitor is. PostgreSQL 16 can
// keep connections for the members of a role, which earlier versions do not have. The limits are those of who has logged
// in, and a WAL sender is none of the sessions that they count.
const ASK: &str = "WITH sessions AS (SELECT usesysid, datid, backend_type FROM pg_stat_activity), \
    clients AS (SELECT usesysid, datid FROM sessions WHERE backend_type = 'client backend') \
    SELECT current_setting('wal_level'), \
    EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1), \
    current_setting('max_replication_slots')::int, (SELECT count(*)::int FROM pg_replication_slots), \
    current_setting('max_wal_senders')::int, \
    (SELECT count(*)::int FROM sessions WHERE backend_type = 'walsender'), \
    current_setting('max_connections')::int \
        - CASE WHEN me.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int END \
        - CASE WHEN me.rolsuper OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_use_reserved_connections' \
              AND pg_has_role(session_user, oid, 'USAGE')) \
            THEN 0 ELSE coalesce(current_setting('reserved_connections', true)::int, 0) END, \
    (SELECT count(*)::int FROM clients), \
    CASE WHEN NOT me.rolsuper AND me.rolconnlimit >= 0 THEN me.rolconnlimit END, \
    (SELECT count(*)::int FROM clients WHERE usesysid = me.oid), \
    CASE WHEN NOT me.rolsuper AND here.datconnlimit >= 0 THEN here.datconnlimit END, \
    (SELECT count(*)::int FROM clients WHERE datid = here.oid) \
    FROM pg_roles me, pg_database here WHERE me.rolname = session_user AND here.datname = current_database()";

/// Asks the server; `slot` is the name of our own replication slot.
///
/// # Errors
/// The session is lost, or there is no answer within [`ANSWER`].
pub async fn ask(client: &Client, slot: &str) -> Result<Headroom, QueryError> {
    let failed = |error: tokio_postgres::Error| QueryError::new(ACTION, &error);
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&slot, Type::NAME)];
    let row = client.query_typed_one(ASK, &parameters);
    let row = tokio::time::timeout(ANSWER, row).await.map_err(|_| {
        let cause = format!("no answer within {} s", ANSWER.as_secs());
        QueryError::unexpected(ACTION, cause)
    })?;
    let row = row.map_err(failed)?;
    let limited = |at: usize| -> Result<Option<Used>, QueryError> {
        let used = row.try_get(at + 1).map_err(failed)?;
        let maximum: Option<i32> = row.try_get(at).map_err(failed)?;
        Ok(maximum.map(|maximum| Used { maximum, used }))
    };
    let used = |at: usize| -> Result<Used, QueryError> {
        Ok(Used {
            maximum: row.try_get(at).map_err(failed)?,
            used: row.try_get(at + 1).map_err(failed)?,
        })
    };
    Ok(Headroom {
        wal_level: row.try_get(0).map_err(failed)?,
        has_slot: row.try_get(1).map_err(failed)?,
        replication_slots: used(2)?,
        wal_senders: used(4)?,
        connections: used(6)?,
        role_connections: limited(8)?,
        database_connections: limited(10)?,
    })
}
