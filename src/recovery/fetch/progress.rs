//! What fetch tells the recovery program, in a small file: PostgreSQL starts one fetch after the other, never two.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::super::files;
use crate::postgres::Lsn;

/// How far fetch is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchProgress {
    /// WAL up to here was handed out.
    pub reached: Option<Lsn>,
    /// Segments handed out.
    pub segments: i64,
    /// Why the last fetch ended recovery.
    pub failure: Option<FetchFailure>,
}

/// Why a fetch ended recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchFailure {
    /// In one word: `Gap`, `ArchiveUnavailable`, `ArchiveCorrupt`, `OffPlan`, `DiskFailed`, `DecryptionKeyMissing`, `DecryptionKeyWrong`.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

impl FetchProgress {
    /// What the last fetch left; nothing if there was none.
    pub fn read(path: &Path) -> Self {
        std::fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::replace(path, &serde_json::to_vec(self)?)
    }
}
