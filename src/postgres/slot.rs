//! Physical replication slots: what keeps WAL on the server until it is shipped.

use std::time::Duration;

use tokio_postgres::{
    Row,
    error::SqlState,
    types::{PgLsn, ToSql, Type},
};

use super::{
    Lsn,
    session::{Client, QueryError},
};
use crate::retry::{self, Failure, Policy};

/// A physical replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// WAL from here on is kept. `None` if it keeps nothing.
    pub restart_lsn: Option<Lsn>,
    /// Whether the server still keeps its word.
    pub wal_status: WalStatus,
    /// How many bytes may be written until the slot loses its WAL; `None` without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// Whether a walsender uses it.
    pub active: bool,
}

/// What has become of the WAL that a slot keeps (view `pg_replication_slots`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Kept, within `max_wal_size`.
    Reserved,
    /// Kept, by the slot alone.
    Extended,
    /// Not kept any more: removed at the next checkpoint.
    Unreserved,
    /// Gone: the slot is of no use.
    Lost,
    /// The slot keeps nothing.
    None,
}

const FIND: &str = "SELECT slot_name::text, restart_lsn, wal_status, safe_wal_size, active \
    FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'physical'";
const CREATE: &str = "SELECT pg_create_physical_replication_slot($1, true)";
const ADVANCE: &str = "SELECT end_lsn FROM pg_replication_slot_advance($1, $2)";
const DROP: &str = "SELECT pg_drop_replication_slot($1)";

/// Why a slot cannot be made where all are in use, and what to do.
const NO_SLOT: &str = "TooManyReplicationSlots";
const NO_SLOT_REMEDY: &str = "Drop one that nobody uses (SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots";

/// How long a slot is tried to be moved that somebody else moves at the same moment.
const CONTENDED: Policy = Policy {
    first: Duration::from_millis(20),
    longest: Duration::from_millis(20),
    give_up_after: Duration::from_secs(2),
};

/// The physical slot of this name, if there is one.
///
/// # Errors
/// The query fails.
pub async fn find(client: &Client, name: &str) -> Result<Option<Slot>, QueryError> {
    let failed = |error: tokio_postgres::Error| {
        QueryError::new(format!("look for replication slot {name}"), &error)
    };
    let row = client
        .query_typed_opt(FIND, &[(&name, Type::NAME)])
        .await
        .map_err(failed)?;
    row.map(|row| slot(&row)).transpose().map_err(failed)
}

fn slot(row: &Row) -> Result<Slot, tokio_postgres::Error> {
    let restart_lsn: Option<PgLsn> = row.try_get(1)?;
    let wal_status: Option<&str> = row.try_get(2)?;
    Ok(Slot {
        name: row.try_get(0)?,
        restart_lsn: restart_lsn.map(|lsn| Lsn::new(lsn.into())),
        wal_status: match wal_status {
            None => WalStatus::None,
            Some("reserved") => WalStatus::Reserved,
            Some("extended") => WalStatus::Extended,
            Some("unreserved") => WalStatus::Unreserved,
            // An unknown word promises nothing.
            Some(_) => WalStatus::Lost,
        },
        safe_wal_size: row.try_get(3)?,
        active: row.try_get(4)?,
    })
}

/// Makes the slot, which keeps WAL from now on. One that exists is taken as it is.
///
/// # Errors
/// No right to, no free slot (`max_replication_slots`), or a logical slot has the name.
pub async fn create(client: &Client, name: &str) -> Result<Slot, QueryError> {
    if let Some(slot) = find(client, name).await? {
        return Ok(slot);
    }
    let action = || format!("create replication slot {name}");
    client
        .query_typed_one(CREATE, &[(&name, Type::NAME)])
        .await
        .map_err(|error| QueryError::new(action(), &error).at_limit(NO_SLOT, NO_SLOT_REMEDY))?;
    let slot = find(client, name).await?;
    slot.ok_or_else(|| QueryError::unexpected(action(), "it is gone again"))
}

/// Lets the server remove WAL before `to`; a slot that is there already stays. Returns where the slot is: on a standby
/// not past what it has replayed.
///
/// # Errors
/// The slot is gone, lost, or in use.
pub async fn advance(client: &Client, name: &str, to: Lsn) -> Result<Lsn, QueryError> {
    let action = || format!("advance replication slot {name} to {to}");
    let failed = |error: tokio_postgres::Error| QueryError::new(action(), &error);
    let lsn = PgLsn::from(to.get());
    let attempt = || async {
        let slot = find(client, name).await.map_err(Failure::Permanent)?;
        let slot = slot.ok_or_else(|| {
            Failure::Permanent(QueryError::unexpected(action(), "it does not exist"))
        })?;
        if let Some(at) = slot.restart_lsn.filter(|at| *at >= to) {
            return Ok(at);
        }
        let parameters = [
            (&name as &(dyn ToSql + Sync), Type::NAME),
            (&lsn, Type::PG_LSN),
        ];
        let row = client.query_typed_one(ADVANCE, &parameters).await;
        let row = row.map_err(|error| match is_contended(&error) {
            // Another agent has it for a moment, or has moved it past `to` since.
            true => Failure::Transient(failed(error)),
            false => Failure::Permanent(failed(error)),
        })?;
        let at: PgLsn = row
            .try_get(0)
            .map_err(|error| Failure::Permanent(failed(error)))?;
        Ok(Lsn::new(at.into()))
    };
    retry::run(CONTENDED, attempt).await
}

/// Whether somebody else uses the slot, or has moved it. A slot that has lost its WAL says the same.
fn is_contended(error: &tokio_postgres::Error) -> bool {
    let contended = [
        SqlState::OBJECT_IN_USE,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ];
    error.code().is_some_and(|state| contended.contains(state))
}

/// Drops the slot. `false` if there is none.
///
/// # Errors
/// It is in use, or no right to.
pub async fn drop(client: &Client, name: &str) -> Result<bool, QueryError> {
    if find(client, name).await?.is_none() {
        return Ok(false);
    }
    client
        .query_typed_one(DROP, &[(&name, Type::NAME)])
        .await
        .map_err(|error| QueryError::new(format!("drop replication slot {name}"), &error))?;
    Ok(true)
}
