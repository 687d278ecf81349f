//! The files of a backup: label, tablespace map, manifest.

use bytes::Bytes;
use object_store::path::Path;

use super::{Lineage, Manifest, PushError, ReadError, sha256};

/// The object with `backup_label`.
pub const BACKUP_LABEL: &str = "backup_label";
/// The object with `tablespace_map`.
pub const TABLESPACE_MAP: &str = "tablespace_map";
/// The object with the manifest: a folder without it is no backup.
pub const MANIFEST: &str = "manifest.json";

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
        self.create(&key, &content, content.clone()).await?;
        self.read_back(&key, &content).await
    }

    async fn read_back(&self, key: &Path, written: &Bytes) -> Result<(), PushError> {
        let read = self.get(key).await?.ok_or_else(|| ReadError::NotFound {
            key: key.to_string(),
        })?;
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
        self.get(&key).await?.ok_or_else(|| ReadError::NotFound {
            key: key.to_string(),
        })
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
        let encoded = serde_json::to_vec_pretty(manifest);
        let content = encoded
            .map(Bytes::from)
            .map_err(|error| PushError::Encode {
                key: key.to_string(),
                what: error.to_string(),
            })?;
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
        self.get_json(&key)
            .await?
            .ok_or_else(|| ReadError::NotFound {
                key: key.to_string(),
            })
    }
}
