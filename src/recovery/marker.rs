//! The marker: a file in PGDATA that says how far this restore's work on the directory is. A recovery program that is
//! killed and started again goes on from there.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::files::{self, Owner};
use crate::{api::RestoreProgress, postgres::Lsn};

/// In PGDATA. Another restore's marker, which came with the snapshot, counts as none.
const NAME: &str = "highwater-recovery.json";

/// How far this restore's work on the directory is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// The PgRestore's UID.
    pub restore: String,
    /// What has been done.
    pub step: Step,
    /// Slots that the snapshot held.
    #[serde(default)]
    pub dropped_slots: Vec<String>,
    /// Libraries that could not be loaded.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// How far WAL was handed out when PostgreSQL promoted, if that is before the plan's end.
    #[serde(default)]
    pub ended_early: Option<Lsn>,
    /// What is to be reported, once PostgreSQL was stopped.
    #[serde(default)]
    pub result: Option<RestoreProgress>,
}

/// What has been done with the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It is being made right: PostgreSQL cannot start on it, and has not.
    Preparing,
    /// It is right: PostgreSQL may have been started on it.
    Prepared,
    /// PostgreSQL was promoted and stopped: nothing may be done any more.
    Done,
}

impl Marker {
    /// A new one.
    pub fn new(restore: &str) -> Self {
        Self {
            restore: restore.to_owned(),
            step: Step::Preparing,
            dropped_slots: Vec::new(),
            left_out: Vec::new(),
            ended_early: None,
            result: None,
        }
    }

    /// This restore's marker, if there is one.
    ///
    /// # Errors
    /// The file system's. A file that cannot be understood is another's.
    pub fn read(pgdata: &Path, restore: &str) -> io::Result<Option<Self>> {
        let text = match fs::read(pgdata.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let marker: Option<Self> = serde_json::from_slice(&text).ok();
        Ok(marker.filter(|marker| marker.restore == restore))
    }

    /// Durable when this returns.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, pgdata: &Path, owner: Option<Owner>) -> io::Result<()> {
        files::replace_durably(&pgdata.join(NAME), &serde_json::to_vec(self)?, owner)
    }

    /// Removes it: to be called after the result was reported.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(pgdata: &Path) -> io::Result<()> {
        files::remove(&pgdata.join(NAME))?;
        files::sync_directory(pgdata)
    }
}
