//! The shipping process from the outside: started, measured, ended, and its archive looked at.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context, Result, ensure};
use highwater::postgres::{Lsn, TimelineId};
use serde::Serialize;

use crate::{
    bench::Place,
    group::{Group, NAME, Program},
    scratch,
    ship::{Order, READY, SLOT, Transport},
    weight::Weight,
};

/// What the agent's container requests, in thousandths of a CPU.
pub const AGENT_CPU: u64 = 20;

/// What a run took of the machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// The most memory that was resident.
    pub peak_mebibytes: f64,
    /// CPU time.
    pub cpu_seconds: f64,
}

/// A process at work.
pub struct Shipping<'a> {
    place: &'a Place,
    order: Order,
    group: Group,
    _weight: Weight,
    child: Child,
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
        let group = Group::new()?;
        let weight = Weight::new(NAME, AGENT_CPU)?;
        let child = group.spawn(&Program {
            line: vec![bench, "ship".into(), file.display().to_string()],
            directory: place.scratch.clone(),
            log: log.clone(),
            ..Program::default()
        })?;
        weight.take(child.id())?;
        let mut shipping = Self {
            place,
            order,
            group,
            _weight: weight,
            child,
            log,
        };
        scratch::until("all WAL to be shipped", || shipping.is_ready())?;
        Ok(shipping)
    }

    fn is_ready(&mut self) -> Result<bool> {
        let said = fs::read_to_string(&self.log)?;
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the shipping process ended: {said}");
        Ok(said.lines().any(|line| line == READY))
    }

    /// CPU seconds that it has used.
    ///
    /// # Errors
    /// The file system's.
    pub fn cpu(&self) -> Result<f64> {
        Ok(self.group.cpu()? / 1000.0)
    }

    /// Ends it in order. The archive must hold all WAL from `from` to `to`: what ships nothing costs nothing.
    ///
    /// # Errors
    /// It failed, or WAL is missing.
    pub fn end(mut self, from: Lsn, to: Lsn) -> Result<Cost> {
        self.is_ready()?;
        let cost = Cost {
            peak_mebibytes: peak(&self.child)?,
            cpu_seconds: self.cpu()?,
        };
        let status = end_by("-TERM", &mut self.child)?;
        let said = || fs::read_to_string(&self.log).unwrap_or_default();
        ensure!(status.success(), "the shipping process failed: {}", said());
        let missing = self.missing(from, to)?;
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

    fn missing(&self, from: Lsn, to: Lsn) -> Result<Option<Lsn>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (lineage, _) = self.order.lineage()?;
        let contents = runtime.block_on(lineage.contents())?;
        Ok(contents.first_missing(TimelineId::FIRST, from, to))
    }
}

/// The most memory that a process has had, in MiB, as the kernel counts it.
///
/// # Errors
/// It has ended.
pub fn peak(child: &Child) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: f64 = kibibytes.context("no VmHWM")?.parse()?;
    Ok(kibibytes / 1024.0)
}

/// Ends a process in order, and waits for it.
///
/// # Errors
/// It has ended already.
pub fn end_by(signal: &str, child: &mut Child) -> Result<ExitStatus> {
    let pid = child.id().to_string();
    scratch::output(Command::new("kill").args([signal, &pid]))?;
    Ok(child.wait()?)
}
