//! What is in a database that is restored, whoever restores it, and how it is looked for in the copy.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use highwater_e2e::harness::{Writer, connect, story};
use serde::Serialize;
use tokio_postgres::Client;

/// Of pgbench, for a gigabyte: its tables and indexes take 1.003 GB then.
const SCALE: u32 = 64;
/// Rows behind each backup.
pub const COMMITS: i64 = 100;

/// Of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Size {
    /// 1 GB.
    #[value(name = "1")]
    #[serde(rename = "1 GB")]
    One,
    /// 3 GB.
    #[value(name = "3")]
    #[serde(rename = "3 GB")]
    Three,
    /// 10 GB.
    #[value(name = "10")]
    #[serde(rename = "10 GB")]
    Ten,
}

impl Size {
    /// How many.
    pub const fn gigabytes(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Ten => 10,
        }
    }
}

/// Fills the database at this address with pgbench's tables, and has all of it on the disk.
pub async fn fill(address: &str, size: Size) -> Result<()> {
    let scale = (SCALE * size.gigabytes()).to_string();
    let mut pgbench = story::pgbench(address, &["-i", "-q", "-s", &scale]);
    let ran = pgbench.output().await.context("failed to run pgbench")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "failed to fill a database: {said}");
    connect(address).await?.batch_execute("CHECKPOINT").await?;
    sync()
}

/// Commits what is not in the backup.
pub async fn commit(address: &str) -> Result<()> {
    let writer = Writer::start(address).await?;
    story::commits(&writer, COMMITS).await?;
    writer.stop().await?;
    Ok(())
}

/// The first query: how many of those commits are there.
pub async fn first_query(session: &Client) -> Result<i64> {
    let rows = "SELECT count(*) FROM ledger";
    Ok(session.query_one(rows, &[]).await?.get(0))
}

/// Requires that all is there, with so many of those commits.
pub async fn check(session: &Client, size: Size, commits: i64) -> Result<()> {
    ensure!(commits >= COMMITS, "the copy has {commits} rows");
    let bytes = "SELECT pg_database_size(current_database())";
    let bytes: i64 = session.query_one(bytes, &[]).await?.get(0);
    let least = i64::from(size.gigabytes()) * 1_000_000_000;
    ensure!(bytes >= least, "the copy has {bytes} bytes");
    Ok(())
}

/// Has on the disk what was written so far, so that the next does not wait for it.
pub fn sync() -> Result<()> {
    let synced = std::process::Command::new("sync").status();
    ensure!(
        synced.context("failed to run sync")?.success(),
        "failed to run sync"
    );
    Ok(())
}
