//! The shipping process from the outside: started, measured, ended, and its archive looked at.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use highwater::postgres::{Lsn, TimelineId};

use crate::{
    bench::Place,
    group::Program,
    scratch,
    ship::{Order, READY, SLOT, Transport},
    watched::{Cost, Watched},
};

/// A process at work.
pub struct Shipping<'a> {
    place: &'a Place,
    order: Order,
    process: Watched,
    log: PathBuf,
}

impl<'a> Shipping<'a> {
    /// Starts it on an empty bucket, and waits until it has shipped all that there is.
    ///
    /// # Errors
    /// It ended, or takes too long.
    pub fn start(place: &'a Place, transport: Transport) -> Result<Self> {
        let bucket = "bench".to_owned();
        place.store.create(&bucket)?;
        let order = Order {
            transport,
            port: place.cluster.port,
            password: place.password.clone(),
            store_port: place.store.port,
            credentials: place.credentials.clone(),
            bucket,
        };
        let (file, log) = (place.scratch.join("order.json"), place.scratch.join("log"));
        scratch::write(&file, serde_json::to_vec(&order)?)?;
        scratch::write(&log, "")?;
        let bench = std::env::current_exe()?.display().to_string();
        let process = Watched::start(&Program {
            line: vec![bench, "ship".into(), file.display().to_string()],
            directory: place.scratch.clone(),
            log: log.clone(),
            ..Program::default()
        })?;
        let mut shipping = Self {
            place,
            order,
            process,
            log,
        };
        scratch::until("all WAL to be shipped", || shipping.is_ready())?;
        Ok(shipping)
    }

    fn is_ready(&mut self) -> Result<bool> {
        let said = fs::read_to_string(&self.log)?;
        let lives = self.process.lives()?;
        ensure!(lives, "the shipping process ended: {said}");
        Ok(said.lines().any(|line| line == READY))
    }

    /// CPU seconds that it has used.
    ///
    /// # Errors
    /// The file system's.
    pub fn cpu(&self) -> Result<f64> {
        self.process.cpu()
    }

    /// Ends it in order. The archive must hold all WAL from `from` to `to`: what ships nothing costs nothing.
    ///
    /// # Errors
    /// It failed, or WAL is missing.
    pub fn end(mut self, from: Lsn, to: Lsn) -> Result<Cost> {
        self.is_ready()?;
        let (cost, status) = self.process.end("-TERM")?;
        let said = || fs::read_to_string(&self.log).unwrap_or_default();
        ensure!(status.success(), "the shipping process failed: {}", said());
        let missing = missing(&self.order, from, to)?;
        ensure!(
            missing.is_none(),
            "{missing:?} is not in the archive: {}",
            said()
        );
        let slot = format!("SELECT pg_drop_replication_slot('{SLOT}')");
        self.place.cluster.sql(&slot)?;
        self.place.store.remove(&self.order.bucket)?;
        Ok(cost)
    }
}

fn missing(order: &Order, from: Lsn, to: Lsn) -> Result<Option<Lsn>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (lineage, _) = order.lineage()?;
    let contents = runtime.block_on(lineage.contents())?;
    Ok(contents.first_missing(TimelineId::FIRST, from, to))
}
