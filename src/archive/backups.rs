//! The files of a backup: label, tablespace map, manifest.

use bytes::Bytes;
use jiff::Timestamp;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT, Lineage, Manifest, PushError, ReadError,
    handle::{not_found, to_json},
    sha256,
};

/// The object with `backup_label`.
pub const BACKUP_LABEL: &str = "backup_label";
/// The object with `tablespace_map`.
pub const TABLESPACE_MAP: &str = "tablespace_map";
/// The object with the manifest: a folder without it is no backup.
pub const MANIFEST: &str = "manifest.json";
/// The object that says that a backup is deleted: whatever lies beside it does not count any more.
pub const TOMBSTONE: &str = "deleted.json";

/// Says that a backup is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// The version of the format.
    pub format: u32,
    /// When.
    pub deleted_at: Timestamp,
}

impl Lineage {
    /// Puts a file of the backup `backup` (see [`super::backup_key`]) and reads it back.
    ///
    /// # Errors
    /// Other content lies there, the store refuses, or returns something else.
    pub async fn put_backup_file(
        &self,
        backup: &str,
        name: &str,
        content: Bytes,
    ) -> Result<(), PushError> {
        let key = self.layout.backup_file(backup, name);
        self.create(&key, &sha256(&content), content.clone().into())
            .await?;
        self.read_back(&key, &content).await
    }

    async fn read_back(&self, key: &Path, written: &Bytes) -> Result<(), PushError> {
        let read = self.get(key).await?.ok_or_else(|| not_found(key))?.bytes;
        match read == written {
            true => Ok(()),
            false => Err(PushError::Conflict {
                key: key.to_string(),
                ours: sha256(written),
                theirs: sha256(&read),
            }),
        }
    }

    /// A file of a backup.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn backup_file(&self, backup: &str, name: &str) -> Result<Bytes, ReadError> {
        let key = self.layout.backup_file(backup, name);
        let stored = self.get(&key).await?.ok_or_else(|| not_found(&key))?;
        Ok(stored.bytes)
    }

    /// Puts the manifest and reads it back; returns its key and SHA-256. Everything it speaks of must be there.
    ///
    /// # Errors
    /// As [`Self::put_backup_file`].
    pub async fn put_manifest(
        &self,
        backup: &str,
        manifest: &Manifest,
    ) -> Result<(String, String), PushError> {
        let key = self.layout.backup_file(backup, MANIFEST);
        let content = to_json(&key, manifest)?;
        self.put_backup_file(backup, MANIFEST, content.clone())
            .await?;
        Ok((key.to_string(), sha256(&content)))
    }

    /// The manifest of a backup.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn manifest(&self, backup: &str) -> Result<Manifest, ReadError> {
        let key = self.layout.backup_file(backup, MANIFEST);
        self.get_json(&key).await?.ok_or_else(|| not_found(&key))
    }

    /// Deletes a backup from the catalog. Its WAL stays.
    ///
    /// # Errors
    /// The store refuses; what was begun is finished by the next try.
    pub async fn bury_backup(&self, backup: &str, now: Timestamp) -> Result<(), PushError> {
        let key = self.layout.backup_file(backup, TOMBSTONE);
        let tombstone = Tombstone {
            format: FORMAT,
            deleted_at: now,
        };
        match self.create_json(&key, &tombstone).await {
            // Buried before, at another time.
            Ok(_) | Err(PushError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        // The manifest first: without it the rest is no backup, even to a reader that knows no tombstones.
        for file in [MANIFEST, BACKUP_LABEL, TABLESPACE_MAP] {
            let key = self.layout.backup_file(backup, file);
            self.delete(vec![key]).await?;
        }
        Ok(())
    }
}
