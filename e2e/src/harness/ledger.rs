//! The oracle for "nothing lost": a writer commits numbered rows and notes, outside the database, each number whose commit was
//! acknowledged.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::connect;

/// The numbers whose commit was acknowledged, and the one that was sent last.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    acknowledged: Arc<AtomicI64>,
    sent: Arc<AtomicI64>,
    /// When each number was acknowledged, from the first of this writer on.
    times: Arc<Mutex<Vec<(Instant, i64)>>>,
    pause: Arc<tokio::sync::Mutex<()>>,
}

/// A database that came back without rows whose commit was acknowledged.
#[derive(Debug)]
pub struct Lost(i64);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the database itself lost {} acknowledged rows", self.0)
    }
}

impl std::error::Error for Lost {}

impl Ledger {
    /// Every number up to this one was acknowledged.
    pub fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// No number after this one was ever sent.
    pub fn sent(&self) -> i64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn note(&self, number: i64) {
        self.acknowledged.store(number, Ordering::SeqCst);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push((Instant::now(), number));
    }

    /// The last number that had been acknowledged by then; 0 if none.
    pub fn acknowledged_by(&self, then: Instant) -> i64 {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let count = times.partition_point(|(at, _)| *at <= then);
        count.checked_sub(1).map_or(0, |last| times[last].1)
    }

    /// Holds the writer between two commits while `look` runs: what it returns lies between two acknowledged commits, or
    /// where the writer has lost its database, after the last one.
    pub async fn between_commits<T>(&self, look: impl AsyncFnOnce() -> T) -> T {
        let _held = self.pause.lock().await;
        look().await
    }

    /// How many of the rows 1 to `acknowledged` a restored database has not.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn missing(client: &Client, acknowledged: i64) -> Result<i64> {
        let missing = "SELECT count(*) FROM generate_series(1::bigint, $1::bigint) n \
            WHERE NOT EXISTS (SELECT FROM ledger WHERE ledger.n = n.n)";
        Ok(client.query_one(missing, &[&acknowledged]).await?.get(0))
    }

    /// Checks a restored database: it holds 1 to n without a hole, where n is at least `acknowledged` and at most `sent`.
    ///
    /// # Errors
    /// A row is missing, twice or too many.
    pub async fn check(client: &Client, acknowledged: i64, sent: i64) -> Result<i64> {
        let row = client
            .query_one(
                "SELECT count(*), coalesce(min(n), 0), coalesce(max(n), 0) FROM ledger",
                &[],
            )
            .await?;
        let (count, least, most): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        if count != most || (least != 1 && count != 0) {
            let holes = "SELECT n FROM generate_series(1::bigint, $1::bigint) n \
                WHERE NOT EXISTS (SELECT FROM ledger WHERE ledger.n = n.n) LIMIT 10";
            let holes = client.query(holes, &[&most]).await?;
            let holes: Vec<i64> = holes.iter().map(|row| row.get(0)).collect();
            bail!("rows {least} to {most} but {count} of them: there is a hole at {holes:?}");
        }
        ensure!(
            most >= acknowledged,
            "{} acknowledged rows are lost: {most} of {acknowledged}",
            acknowledged - most
        );
        ensure!(
            most <= sent,
            "{} rows came after the target: {most}, where {sent} was the last",
            most - sent
        );
        Ok(most)
    }
}

/// Commits rows, one by one, until it is stopped or the database goes away.
pub struct Writer {
    /// What it noted.
    pub ledger: Ledger,
    stop: Arc<AtomicBool>,
    ended: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Makes the table and begins.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn start(address: &str) -> Result<Self> {
        let (client, last) = table(address).await?;
        let ledger = Ledger::default();
        ledger.acknowledged.store(last, Ordering::SeqCst);
        Ok(Self::begin(client, last, ledger))
    }

    /// Goes on in a database that was away, with what was noted before. The row that was sent last may be there or not.
    ///
    /// # Errors
    /// The database cannot be reached, or is without an acknowledged row: [`Lost`].
    pub async fn resume(address: &str, ledger: Ledger) -> Result<Self> {
        let (client, last) = table(address).await?;
        let lost = ledger.acknowledged() - last;
        ensure!(lost <= 0, Lost(lost));
        Ok(Self::begin(client, last, ledger))
    }

    fn begin(client: Client, last: i64, ledger: Ledger) -> Self {
        ledger.sent.store(last, Ordering::SeqCst);
        let (stop, ended) = (Arc::default(), Arc::default());
        let (noted, stopped, told) = (ledger.clone(), Arc::clone(&stop), Arc::clone(&ended));
        let task = tokio::spawn(write(client, noted, stopped, told));
        Self {
            ledger,
            stop,
            ended,
            task,
        }
    }

    /// See [`Ledger::between_commits`].
    pub async fn between_commits<T>(&self, look: impl AsyncFnOnce() -> T) -> T {
        self.ledger.between_commits(look).await
    }

    /// Why it ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends it in the middle of what it does, as a database that is gone may never answer.
    pub async fn abort(self) {
        self.task.abort();
        // So that it holds nothing any more.
        let _ = self.task.await;
    }

    /// Ends it.
    ///
    /// # Errors
    /// It panicked.
    pub async fn stop(self) -> Result<Ledger> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.context("the writer panicked")?;
        Ok(self.ledger)
    }
}

/// A session with a database that has the table, and the last row in it.
async fn table(address: &str) -> Result<(Client, i64)> {
    let client = connect(address).await?;
    client.batch_execute("CREATE TABLE IF NOT EXISTS ledger (n bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())").await?;
    let last = "SELECT coalesce(max(n), 0) FROM ledger";
    let last = client.query_one(last, &[]).await?.get(0);
    Ok((client, last))
}

async fn write(
    client: Client,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    ended: Arc<Mutex<Option<String>>>,
) {
    while !stop.load(Ordering::SeqCst) {
        let held = ledger.pause.lock().await;
        let next = ledger.sent() + 1;
        ledger.sent.store(next, Ordering::SeqCst);
        if let Err(error) = client
            .execute("INSERT INTO ledger (n) VALUES ($1)", &[&next])
            .await
        {
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            return;
        }
        ledger.note(next);
        drop(held);
        // Some 100 commits a second: a load, and leaves the machine to what is tested.
        tokio::time::sleep(std::time::Duration::from_millis(8)).await;
    }
}
