//! What any client of the replication protocol costs the database: PostgreSQL's own, which receives and writes, no more.

use std::{path::PathBuf, process::Child};

use anyhow::{Result, ensure};
use highwater::postgres::Lsn;

use crate::{
    bench::Place,
    group::{Group, NAME, Program},
    scratch,
    shipping::{AGENT_CPU, Cost, end_by, peak},
    weight::Weight,
};

/// `pg_receivewal` at work, with the agent's weight. Its files lie where the store's do.
pub struct Receiving<'a> {
    place: &'a Place,
    group: Group,
    _weight: Weight,
    child: Child,
    files: PathBuf,
}

impl<'a> Receiving<'a> {
    /// Starts it, and waits until WAL comes.
    ///
    /// # Errors
    /// It cannot be started, or nothing comes.
    pub fn start(place: &'a Place) -> Result<Self> {
        let files = place.objects.join("pg_receivewal");
        scratch::empty(&files)?;
        let (program, port) = (place.cluster.program("pg_receivewal"), place.cluster.port);
        let connection = format!("host=127.0.0.1 port={port} user=postgres");
        let group = Group::new()?;
        let weight = Weight::new(NAME, AGENT_CPU)?;
        let mut line = vec![program.display().to_string(), "-D".into()];
        line.push(files.display().to_string());
        line.extend(["--no-sync", "-w", "-s", "1", "-d"].map(str::to_owned));
        line.push(connection);
        let child = group.spawn(&Program {
            line,
            environment: [("PGPASSWORD".to_owned(), place.password.clone())].into(),
            directory: place.scratch.clone(),
            log: place.scratch.join("log"),
        })?;
        weight.take(child.id())?;
        let receiving = Self {
            place,
            group,
            _weight: weight,
            child,
            files,
        };
        scratch::until("pg_receivewal to begin", || receiving.has(None))?;
        Ok(receiving)
    }

    /// Whether it is there, and has written everything before `to`.
    fn has(&self, to: Option<Lsn>) -> Result<bool> {
        let mut query = "SELECT count(*) FROM pg_stat_replication".to_owned();
        if let Some(to) = to {
            query += &format!(" WHERE write_lsn >= '{to}'");
        }
        Ok(self.place.cluster.sql(&query)? == "1")
    }

    /// CPU seconds that it has used.
    ///
    /// # Errors
    /// The file system's.
    pub fn cpu(&self) -> Result<f64> {
        Ok(self.group.cpu()? / 1000.0)
    }

    /// Ends it, once it has written everything before `to`.
    ///
    /// # Errors
    /// It failed, or does not get there.
    pub fn end(mut self, to: Lsn) -> Result<Cost> {
        scratch::until("pg_receivewal to write all", || self.has(Some(to)))?;
        let cost = Cost {
            peak_mebibytes: peak(&self.child)?,
            cpu_seconds: self.cpu()?,
        };
        // PostgreSQL 15's knows no other signal.
        let status = end_by("-INT", &mut self.child)?;
        ensure!(status.success(), "pg_receivewal failed: {status}");
        scratch::remove(&self.files)?;
        Ok(cost)
    }
}
