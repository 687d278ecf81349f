//! What a running server says about itself.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    SegmentSize, SystemIdentifier, TimelineId,
    session::{Client, QueryError},
};

/// Settings that a restore must match, or that an admin should hear about.
pub const RECORDED_SETTINGS: [&str; 9] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "shared_preload_libraries",
    "max_slot_wal_keep_size",
    IDLE_SLOT_TIMEOUT,
];

/// After how long PostgreSQL gives up what a slot holds that nobody moves; 0 is never. PostgreSQL 18 and later.
pub const IDLE_SLOT_TIMEOUT: &str = "idle_replication_slot_timeout";

/// What a running server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// What `initdb` gave the cluster.
    pub system_identifier: SystemIdentifier,
    /// The major version.
    pub major: u32,
    /// The timeline it writes; on a standby, the one of its last restart point.
    pub timeline: TimelineId,
    /// Whether it is a standby, or recovering.
    pub in_recovery: bool,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// PGDATA, as the server's container sees it. Whether `pg_wal` in it is a link to elsewhere no SQL function tells:
    /// recovery sees it on the restored volume.
    pub data_directory: PathBuf,
    /// All tablespaces outside PGDATA.
    pub tablespaces: Vec<Tablespace>,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// Those of [`RECORDED_SETTINGS`] that this version has, and their values, with units as `SHOW` has them.
    pub settings: BTreeMap<String, String>,
}

/// A tablespace outside PGDATA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// The name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name in SQL.
    pub name: String,
    /// The directory that the link leads to.
    pub location: PathBuf,
}

// pg_walfile_name() fails in recovery; the timeline in pg_control lags behind after a promotion.
const FACTS: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
    pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN NULL \
         ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END, \
    (SELECT timeline_id FROM pg_control_checkpoint()), \
    pg_size_bytes(current_setting('wal_segment_size')), \
    current_setting('data_checksums'), \
    (SELECT setting FROM pg_settings WHERE name = 'data_directory')";
const TABLESPACES: &str = "SELECT oid, spcname::text, location \
    FROM (SELECT oid, spcname, pg_tablespace_location(oid) AS location FROM pg_tablespace) t \
    WHERE location <> '' ORDER BY oid";
const SETTINGS: &str = "SELECT name, current_setting(name) FROM pg_settings \
    WHERE name = ANY(string_to_array($1, ',')) ORDER BY name";

const ACTION: &str = "ask PostgreSQL for its facts";

/// Asks the server.
///
/// # Errors
/// The session is lost, or the role may not know (see [`super::privileges::missing`]).
pub async fn facts(client: &Client) -> Result<ServerFacts, QueryError> {
    let failed = |error: tokio_postgres::Error| QueryError::new(ACTION, &error);
    let row = client.query_typed_one(FACTS, &[]).await.map_err(failed)?;
    let system_identifier: i64 = row.try_get(0).map_err(failed)?;
    let insert_timeline: Option<String> = row.try_get(2).map_err(failed)?;
    let checkpoint_timeline: i32 = row.try_get(3).map_err(failed)?;
    let segment_size: i64 = row.try_get(4).map_err(failed)?;
    let data_directory: Option<String> = row.try_get(6).map_err(failed)?;
    let data_directory = data_directory.ok_or_else(|| {
        QueryError::forbidden(ACTION, "the role may not read the setting data_directory")
    })?;
    let timeline = insert_timeline
        .and_then(|digits| digits.parse().ok())
        .or_else(|| TimelineId::new(checkpoint_timeline.cast_unsigned()));
    let segment_size = u32::try_from(segment_size)
        .ok()
        .and_then(|bytes| SegmentSize::new(bytes).ok());
    Ok(ServerFacts {
        system_identifier: SystemIdentifier::new(system_identifier.cast_unsigned()),
        major: client.major(),
        timeline: timeline.ok_or_else(|| QueryError::unexpected(ACTION, "no timeline"))?,
        in_recovery: row.try_get(1).map_err(failed)?,
        segment_size: segment_size
            .ok_or_else(|| QueryError::unexpected(ACTION, "no WAL segment size"))?,
        data_directory: data_directory.into(),
        tablespaces: tablespaces(client).await.map_err(failed)?,
        data_checksums: row.try_get::<_, &str>(5).map_err(failed)? == "on",
        settings: settings(client).await.map_err(failed)?,
    })
}

async fn tablespaces(client: &Client) -> Result<Vec<Tablespace>, tokio_postgres::Error> {
    let rows = client.query_typed(TABLESPACES, &[]).await?;
    let tablespace = |row: tokio_postgres::Row| {
        Ok(Tablespace {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            location: PathBuf::from(row.try_get::<_, String>(2)?),
        })
    };
    rows.into_iter().map(tablespace).collect()
}

async fn settings(client: &Client) -> Result<BTreeMap<String, String>, tokio_postgres::Error> {
    let names = RECORDED_SETTINGS.join(",");
    let parameter = (&names as _, tokio_postgres::types::Type::TEXT);
    let rows = client.query_typed(SETTINGS, &[parameter]).await?;
    let setting = |row: tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.into_iter().map(setting).collect()
}

/// The role of the session.
///
/// # Errors
/// The session is lost.
pub async fn user(client: &Client) -> Result<String, QueryError> {
    let failed = |error: tokio_postgres::Error| QueryError::new("ask for the role", &error);
    let row = client
        .query_typed_one("SELECT current_user::text", &[])
        .await
        .map_err(failed)?;
    row.try_get(0).map_err(failed)
}
