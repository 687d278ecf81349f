//! The pool: a folder on btrfs with the subvolumes, the snapshots and the records about them.
//!
//! A record exists only for what is whole. A subvolume without a record is what a crash left, and
//! goes when the driver starts.

mod copy;
mod record;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tonic::Status;

pub use record::{Group, Record, Snapshot, Source, Table, Volume};

use crate::faults::How;
use crate::mount::{run, targets_of};

/// `statfs` says this of btrfs.
const BTRFS_MAGIC: rustix::fs::FsWord = 0x9123_683e;

/// The folder on btrfs that holds everything.
pub struct Pool {
    root: PathBuf,
    /// All volumes.
    pub volumes: Table<Volume>,
    /// All snapshots.
    pub snapshots: Table<Snapshot>,
    /// All group snapshots.
    pub groups: Table<Group>,
    busy: Arc<Mutex<HashSet<String>>>,
}

impl Pool {
    /// Opens the pool and removes what a crash left half made.
    pub async fn open(root: &Path) -> Result<Self> {
        let found = rustix::fs::statfs(root)
            .with_context(|| format!("failed to open the pool {}", root.display()))?;
        ensure!(
            found.f_type == BTRFS_MAGIC,
            "failed to open the pool {}: it is not on btrfs",
            root.display()
        );
        let state = root.join("state");
        let pool = Self {
            root: root.to_owned(),
            volumes: Table::open(&state)?,
            snapshots: Table::open(&state)?,
            groups: Table::open(&state)?,
            busy: Arc::default(),
        };
        let volumes = pool.volumes.all().into_iter().map(|row| row.id).collect();
        pool.sweep(Volume::KIND, &volumes).await?;
        for snapshot in pool.snapshots.all() {
            // A crash before the group was whole: nobody was told of its members.
            if snapshot
                .group
                .is_some_and(|group| pool.groups.get(&group).is_none())
            {
                pool.delete_snapshot(&snapshot.id).await?;
            }
        }
        let snapshots = pool.snapshots.all().into_iter().map(|row| row.id).collect();
        pool.sweep(Snapshot::KIND, &snapshots).await?;
        Ok(pool)
    }

    /// Removes the subvolumes that no record knows: nobody was ever told of them.
    async fn sweep(&self, kind: &str, known: &BTreeSet<String>) -> Result<()> {
        let folder = self.root.join(kind);
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                tracing::warn!(path = %entry.path().display(), "removing an unknown subvolume");
                remove(&entry.path()).await?;
            }
        }
        Ok(())
    }

    /// Where the volume's files are.
    pub fn volume_path(&self, id: &str) -> PathBuf {
        self.root.join(Volume::KIND).join(id)
    }

    /// Where the snapshot's files are.
    pub fn snapshot_path(&self, id: &str) -> PathBuf {
        self.root.join(Snapshot::KIND).join(id)
    }

    /// The volume with this id.
    pub fn known_volume(&self, id: &str) -> Result<Volume, Status> {
        self.volumes
            .get(id)
            .ok_or_else(|| Status::not_found(format!("no volume {id}")))
    }

    /// Makes the volume and then its record.
    pub async fn create_volume(&self, volume: Volume) -> Result<()> {
        let path = self.volume_path(&volume.id);
        match &volume.source {
            None => btrfs(&["subvolume", "create"], &[&path]).await?,
            Some(source) => {
                let from = match source {
                    Source::Snapshot(id) => self.snapshot_path(id),
                    Source::Volume(id) => self.volume_path(id),
                };
                btrfs(&["subvolume", "snapshot"], &[&from, &path]).await?;
            }
        }
        self.volumes.put(volume)
    }

    /// Removes the volume and then its record. Not there is success.
    pub async fn delete_volume(&self, id: &str) -> Result<()> {
        remove(&self.volume_path(id)).await?;
        self.volumes.remove(id)
    }

    /// Is the volume mounted anywhere?
    pub fn in_use(&self, id: &str) -> Result<bool> {
        let folder = Path::new(Volume::KIND).join(id);
        Ok(!targets_of(&self.root, &folder)?.is_empty())
    }

    /// The cut: a read-only, copy-on-write image of the volume, atomic unless a fault wants less.
    pub async fn cut(&self, volume: &str, snapshot: &str, how: How) -> Result<()> {
        let (from, to) = (self.volume_path(volume), self.snapshot_path(snapshot));
        let How::FileByFile(delay) = how else {
            return btrfs(&["subvolume", "snapshot", "-r"], &[&from, &to]).await;
        };
        btrfs(&["subvolume", "create"], &[&to]).await?;
        let target = to.clone();
        tokio::task::spawn_blocking(move || copy::copy_tree(&from, &target, delay)).await??;
        let args = ["property", "set", "-ts"].map(OsStr::new).into_iter();
        let args: Vec<_> = args
            .chain([to.as_os_str(), OsStr::new("ro"), OsStr::new("true")])
            .collect();
        run("btrfs", &args).await
    }

    /// Removes the snapshot and then its record. Not there is success.
    pub async fn delete_snapshot(&self, id: &str) -> Result<()> {
        remove(&self.snapshot_path(id)).await?;
        self.snapshots.remove(id)
    }

    /// Free bytes in the pool.
    pub fn available(&self) -> Result<i64> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(i64::try_from(
            found.f_bavail.saturating_mul(found.f_frsize),
        )?)
    }

    /// Reserves an object for one operation; `Aborted`, as CSI wants it, while another one runs.
    pub fn claim(&self, kind: &str, key: &str) -> Result<Claim, Status> {
        let key = format!("{kind} {key}");
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(key.clone()) {
            return Err(Status::aborted(format!(
                "an operation on {key} is running; try again"
            )));
        }
        Ok(Claim {
            key,
            busy: Arc::clone(&self.busy),
        })
    }
}

/// An object reserved for one operation, until this is dropped.
pub struct Claim {
    key: String,
    busy: Arc<Mutex<HashSet<String>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

/// Any error of the pool, as a caller sees it.
pub fn internal(error: anyhow::Error) -> Status {
    tracing::error!("{error:#}");
    Status::internal(format!("{error:#}"))
}

/// A new id, never used before.
pub fn new_id(prefix: &str) -> Result<String, Status> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Status::internal(format!("failed to make an id: {e}")))?;
    Ok(format!("{prefix}-{}", hex::encode(bytes)))
}

async fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    btrfs(&["subvolume", "delete"], &[path]).await
}

async fn btrfs(words: &[&str], paths: &[&Path]) -> Result<()> {
    let words = words.iter().map(OsStr::new);
    let args: Vec<&OsStr> = words
        .chain(paths.iter().map(|path| path.as_os_str()))
        .collect();
    run("btrfs", &args).await
}
