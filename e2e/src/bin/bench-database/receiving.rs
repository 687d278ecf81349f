//! What any client of the replication protocol costs the database: PostgreSQL's own, which receives and writes, no more.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use highwater::postgres::Lsn;

use crate::{
    bench::Place,
    group::Program,
    scratch,
    watched::{Cost, Watched},
};

/// `pg_receivewal` at work. Its files lie where the store's do.
pub struct Receiving<'a> {
    place: &'a Place,
    process: Watched,
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
        let mut line = vec![program.display().to_string(), "-D".into()];
        line.push(files.display().to_string());
        line.extend(["--no-sync", "-w", "-s", "1", "-d"].map(str::to_owned));
        line.push(connection);
        let process = Watched::start(&Program {
            line,
            environment: [("PGPASSWORD".to_owned(), place.password.clone())].into(),
            directory: place.scratch.clone(),
            log: place.scratch.join("log"),
        })?;
        let receiving = Self {
            place,
            process,
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
        self.process.cpu()
    }

    /// Ends it, once it has written everything before `to`.
    ///
    /// # Errors
    /// It failed, or does not get there.
    pub fn end(self, to: Lsn) -> Result<Cost> {
        scratch::until("pg_receivewal to write all", || self.has(Some(to)))?;
        // PostgreSQL 15's knows no other signal.
        let (cost, status) = self.process.end("-INT")?;
        ensure!(status.success(), "pg_receivewal failed: {status}");
        scratch::remove(&self.files)?;
        Ok(cost)
    }
}
