//! What is done in the promoted database before it is stopped: nothing of it may act as the original.

use std::path::Path;

use jiff::Timestamp;
use tokio_postgres::{Client, Config, NoTls};

use crate::{
    clock::{Clock as _, SystemClock},
    postgres::{Lsn, TimelineId},
};

/// A step on the promoted database that failed.
#[derive(Debug, thiserror::Error)]
pub enum PromotedError {
    /// No connection.
    #[error("failed to connect to database {database} of the restored PostgreSQL: {cause}")]
    Connect {
        /// Which.
        database: String,
        /// Why.
        cause: tokio_postgres::Error,
    },
    /// A statement failed.
    #[error("failed to {verb}: {cause}")]
    Statement {
        /// What it was for.
        verb: String,
        /// Why.
        cause: tokio_postgres::Error,
    },
    /// An answer that makes no sense.
    #[error("failed to read the restored database's {0}")]
    Answer(&'static str),
}

/// How the restored database came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The timeline it writes.
    pub timeline: TimelineId,
    /// Where it forked: the end of the replay.
    pub end: Option<Lsn>,
    /// The last commit or rollback that it replayed since it was started; absent if there is none.
    pub replayed_to: Option<Timestamp>,
    /// When it had answered the first query.
    pub answered_at: Timestamp,
    /// The cluster's first superuser.
    pub superuser: String,
    /// Subscriptions that were disabled, as `database/subscription`.
    pub disabled_subscriptions: Vec<String>,
}

/// Against what a role or a database of the source was set to.
pub const OPTIONS: &str = "-c default_transaction_read_only=off -c statement_timeout=0";

/// Connects through the private socket as whoever owns the cluster, and disables subscriptions: a copy that subscribes
/// takes the source's place at the publisher.
///
/// # Errors
/// A connection or a statement that fails.
pub async fn settle(
    socket: &Path,
    user: &str,
    database: &str,
    pgdata: &Path,
) -> Result<Promoted, PromotedError> {
    let client = connect(socket, user, database).await?;
    let timeline = timeline(&client).await?;
    let answered_at = SystemClock.now();
    let owner = one_text(
        &client,
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = 10",
        "find the superuser",
    )
    .await?;
    let found = client
        .query(
            "SELECT d.datname::text, s.subname::text, pg_catalog.quote_ident(s.subname) FROM pg_catalog.pg_subscription s
             JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE s.subenabled ORDER BY 1, 2",
            &[],
        )
        .await
        .map_err(statement("list the subscriptions"))?;
    let mut disabled_subscriptions = Vec::new();
    for row in found {
        let (database, name, quoted): (String, String, String) =
            (row.get(0), row.get(1), row.get(2));
        let client = connect(socket, &owner, &database).await?;
        client
            .batch_execute(&format!("ALTER SUBSCRIPTION {quoted} DISABLE"))
            .await
            .map_err(statement(&format!("disable the subscription {name}")))?;
        disabled_subscriptions.push(format!("{database}/{name}"));
    }
    Ok(Promoted {
        timeline,
        end: forked_at(pgdata, timeline),
        replayed_to: replayed_to(&client).await?,
        answered_at,
        superuser: owner,
        disabled_subscriptions,
    })
}

/// Connects through the private socket.
///
/// # Errors
/// No connection.
pub async fn connect(socket: &Path, user: &str, database: &str) -> Result<Client, PromotedError> {
    let connected = Config::new()
        .host_path(socket)
        .port(5432)
        .user(user)
        .dbname(database)
        .application_name("highwater")
        .options(OPTIONS)
        .connect(NoTls)
        .await;
    let (client, connection) = connected.map_err(|cause| PromotedError::Connect {
        database: database.to_owned(),
        cause,
    })?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the restored database ended");
        }
    });
    Ok(client)
}

async fn timeline(client: &Client) -> Result<TimelineId, PromotedError> {
    let name = one_text(
        client,
        "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())",
        "ask for the timeline",
    )
    .await?;
    name.get(..8)
        .and_then(|digits| digits.parse().ok())
        .ok_or(PromotedError::Answer("timeline"))
}

/// PostgreSQL keeps it after promotion until it is stopped.
async fn replayed_to(client: &Client) -> Result<Option<Timestamp>, PromotedError> {
    let row = client
        .query_one("SELECT pg_catalog.pg_last_xact_replay_timestamp()", &[])
        .await
        .map_err(statement("ask for the last commit that was replayed"))?;
    Ok(row.get(0))
}

async fn one_text(client: &Client, query: &str, verb: &str) -> Result<String, PromotedError> {
    let row = client
        .query_one(query, &[])
        .await
        .map_err(statement(verb))?;
    Ok(row.get(0))
}

/// What failed, for the error.
pub fn statement(verb: &str) -> impl FnOnce(tokio_postgres::Error) -> PromotedError + use<> {
    let verb = verb.to_owned();
    move |cause| PromotedError::Statement { verb, cause }
}

/// The last line of the new timeline's history file names the position it forked at.
fn forked_at(pgdata: &Path, timeline: TimelineId) -> Option<Lsn> {
    let file = pgdata
        .join("pg_wal")
        .join(format!("{timeline:08X}.history"));
    last_fork(&std::fs::read_to_string(file).ok()?)
}

fn last_fork(history: &str) -> Option<Lsn> {
    let line = history
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fork_is_in_the_last_line() {
        let history =
            "1\t0/3000000\tno recovery target specified\n\n2\t0/5000028\tbefore 2026-11-20\n";
        assert_eq!(last_fork(history), Some(Lsn::new(0x500_0028)));
        assert_eq!(last_fork(""), None);
    }
}
