//! Load that outlives its database: the ledger's writer and changes of an indexed table, begun again whenever they end.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use highwater_e2e::harness::{Database, Ledger, Lost, Writer, connect};

use super::sets::Primary;

/// How long a writer may get no further before its connection counts as dead.
const STUCK: Duration = Duration::from_secs(40);
/// How often it is looked whether a writer has ended.
const LOOK: Duration = Duration::from_millis(250);
/// Rows that are changed all the time, by their index.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS changed (id int PRIMARY KEY, text text NOT NULL); \
    CREATE INDEX IF NOT EXISTS changed_text ON changed (text); \
    INSERT INTO changed SELECT n, md5(n::text) FROM generate_series(1, 20000) n ON CONFLICT DO NOTHING";
const CHANGE: &str =
    "UPDATE changed SET text = md5(random()::text) WHERE id BETWEEN $1 AND $1 + 19";

/// Runs until it is stopped.
pub struct Load {
    pub ledger: Ledger,
    stop: Arc<AtomicBool>,
    complaint: Arc<Mutex<Option<String>>>,
}

impl Load {
    pub fn start(database: &Database, primary: &Primary) -> Self {
        let load = Self {
            ledger: Ledger::default(),
            stop: Arc::default(),
            complaint: Arc::default(),
        };
        let place = (database.clone(), primary.clone());
        let (ledger, stop) = (load.ledger.clone(), Arc::clone(&load.stop));
        let complaint = Arc::clone(&load.complaint);
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                match write(&place, &ledger, &stop).await {
                    Err(error) if error.is::<Lost>() => {
                        let mut said = complaint.lock().unwrap_or_else(PoisonError::into_inner);
                        *said = Some(error.to_string());
                        return;
                    }
                    // It is being killed, or chosen anew.
                    Ok(()) | Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
        });
        let (place, stop) = ((database.clone(), primary.clone()), Arc::clone(&load.stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let _ = change(&place, &stop).await;
                tokio::time::sleep(LOOK).await;
            }
        });
        load
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Why it ended by itself, if it did.
    pub fn complaint(&self) -> Option<String> {
        self.complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn address((database, primary): &(Database, Primary)) -> Option<String> {
    database.address_of(&primary.get()?).ok()
}

/// Until the database goes away.
async fn write(place: &(Database, Primary), ledger: &Ledger, stop: &AtomicBool) -> Result<()> {
    let Some(address) = address(place) else {
        return Ok(());
    };
    let resumed = Writer::resume(&address, ledger.clone());
    let writer = tokio::time::timeout(STUCK, resumed).await??;
    let mut last = (ledger.acknowledged(), Instant::now());
    while writer.ended().is_none() && !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(LOOK).await;
        let now = ledger.acknowledged();
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > STUCK {
            break;
        }
    }
    writer.abort().await;
    Ok(())
}

/// Until the database goes away.
async fn change(place: &(Database, Primary), stop: &AtomicBool) -> Result<()> {
    let Some(address) = address(place) else {
        return Ok(());
    };
    let work = async {
        let client = connect(&address).await?;
        client.batch_execute(TABLE).await?;
        Ok::<_, anyhow::Error>(client)
    };
    let client = tokio::time::timeout(STUCK, work).await??;
    let mut row = 0_i32;
    while !stop.load(Ordering::SeqCst) {
        row = (row + 7919) % 20000;
        tokio::time::timeout(STUCK, client.execute(CHANGE, &[&row])).await??;
        // A load, and leaves the machine to what is tested.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    Ok(())
}
