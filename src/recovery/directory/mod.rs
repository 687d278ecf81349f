//! The data directory: found, checked, made right, and cleared of what recovery left in it.

mod plan;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub use plan::{Found, Op, RECOVERY_SIGNAL, Texts, Wal, steps};

use super::{
    files::{self, Owner},
    marker::{Marker, Step},
    restored::{Place, Restored},
};
use crate::{
    api::RestorePlan,
    postgres::{ControlFile, TablespaceMap, TablespaceMapError},
};

const CONTROL: &str = "global/pg_control";
const HIDDEN_CONTROL: &str = "global/pg_control.highwater";

/// What is wrong with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is none.
    #[error("failed to find PGDATA at {}: the restored volumes do not hold it there", .0.display())]
    NotFound(PathBuf),
    /// It is not the database that the backup says.
    #[error("the data directory {} is of PostgreSQL {found}, the backup of {expected}", path.display())]
    OtherVersion {
        /// PGDATA.
        path: PathBuf,
        /// What PG_VERSION says.
        found: String,
        /// What the manifest says.
        expected: i32,
    },
    /// A tablespace is not on a restored volume.
    #[error("failed to find the tablespace at {}: the restored volumes do not hold it there", .0.display())]
    TablespaceNotFound(PathBuf),
    /// The archive's tablespace map cannot be read.
    #[error(transparent)]
    TablespaceMap(#[from] TablespaceMapError),
    /// PostgreSQL runs as the owner of PGDATA, and we are somebody else.
    #[error(
        "the data directory belongs to user {owner}, and this pod runs as user {ours}: PostgreSQL would refuse to start"
    )]
    OtherOwner {
        /// PGDATA's.
        owner: u32,
        /// This process's.
        ours: u32,
    },
    /// The file system says no.
    #[error("failed to {verb} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

impl DirectoryError {
    /// For the condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "DataDirectoryNotFound",
            Self::OtherVersion { .. } => "OtherVersion",
            Self::TablespaceNotFound(_) => "TablespaceNotFound",
            Self::TablespaceMap(_) => "ArchiveCorrupt",
            Self::OtherOwner { .. } => "OtherOwner",
            Self::Io { .. } => "DiskFailed",
        }
    }
}

fn io_error<'a>(
    verb: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> DirectoryError + use<'a> {
    move |cause| DirectoryError::Io {
        verb,
        path: path.to_owned(),
        cause,
    }
}

/// As whom PostgreSQL must be run: it wants to be the owner of its directory, and never root.
fn run_as(ours: u32, owner: Owner) -> Result<Option<Owner>, DirectoryError> {
    match ours {
        0 => Ok(Some(owner)),
        ours if ours == owner.uid => Ok(None),
        ours => Err(DirectoryError::OtherOwner {
            owner: owner.uid,
            ours,
        }),
    }
}

/// A data directory that is what the backup says.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    /// PGDATA.
    pub path: PathBuf,
    /// As whom PostgreSQL must be run; `None`: as ourselves.
    pub owner: Option<Owner>,
}

impl DataDirectory {
    /// Looks at the directory at `path`.
    ///
    /// # Errors
    /// Not there, of another version, or of another owner while we are not root.
    pub fn open(path: &Path, major: i32) -> Result<Self, DirectoryError> {
        let version = path.join("PG_VERSION");
        let found = match fs::read_to_string(&version) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::NotFound(path.to_owned()));
            }
            found => found.map_err(io_error("read", &version))?,
        };
        if found.trim() != major.to_string() {
            return Err(DirectoryError::OtherVersion {
                path: path.to_owned(),
                found: found.trim().to_owned(),
                expected: major,
            });
        }
        let metadata = fs::metadata(path).map_err(io_error("stat", path))?;
        let ours = Path::new("/proc/self");
        let ours = fs::metadata(ours).map_err(io_error("stat", ours))?.uid();
        let owner = Owner {
            uid: metadata.uid(),
            gid: metadata.gid(),
        };
        Ok(Self {
            path: path.to_owned(),
            owner: run_as(ours, owner)?,
        })
    }

    /// What pg_control says, wherever it lies; `None` where it cannot be understood: PostgreSQL says what is wrong with it.
    ///
    /// # Errors
    /// The file system's.
    pub fn control(&self) -> Result<Option<ControlFile>, DirectoryError> {
        let hidden = self.path.join(HIDDEN_CONTROL);
        let path = match hidden.exists() {
            true => hidden,
            false => self.path.join(CONTROL),
        };
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(ControlFile::parse(&bytes.map_err(io_error("read", &path))?).ok()),
        }
    }

    /// Makes the directory right, from the beginning: to be called only if PostgreSQL was not started on it. May be
    /// killed anywhere and called again.
    ///
    /// # Errors
    /// A missing tablespace; the file system's.
    pub fn prepare(
        &self,
        texts: &Texts,
        restored: &[PathBuf],
        marker: &mut Marker,
    ) -> Result<(), DirectoryError> {
        let map = TablespaceMap::parse(&String::from_utf8_lossy(&texts.tablespace_map))?;
        for tablespace in map.tablespaces {
            let location = PathBuf::from(tablespace.location);
            if !location.is_dir() {
                return Err(DirectoryError::TablespaceNotFound(location));
            }
        }
        marker.step = Step::Preparing;
        for slot in self.slots()? {
            if !marker.dropped_slots.contains(&slot) {
                marker.dropped_slots.push(slot);
            }
        }
        self.write(marker)?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
            .map_err(io_error("set the mode of", &self.path))?;
        for op in steps(&self.path, &self.look()?, texts, restored) {
            self.apply(&op)?;
        }
        marker.step = Step::Prepared;
        self.write(marker)
    }

    /// Before PostgreSQL is started again on a directory where it may have been killed.
    ///
    /// # Errors
    /// The file system's.
    pub fn resume(&self, replay: bool) -> Result<(), DirectoryError> {
        let signal = self.path.join(RECOVERY_SIGNAL);
        if replay {
            self.apply(&Op::Write(signal, Vec::new()))
        } else {
            self.apply(&Op::Remove(signal))
        }
    }

    /// Removes what recovery left, but for the marker.
    ///
    /// # Errors
    /// The file system's.
    pub fn clear(&self) -> Result<(), DirectoryError> {
        for name in ["backup_label.old", "tablespace_map.old", "postmaster.opts"] {
            self.apply(&Op::Remove(self.path.join(name)))?;
        }
        files::sync_directory(&self.path).map_err(io_error("sync", &self.path))
    }

    /// Writes the marker, durable.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, marker: &Marker) -> Result<(), DirectoryError> {
        marker
            .write(&self.path, self.owner)
            .map_err(io_error("write the marker in", &self.path))
    }

    /// Says whose copy it is, durable: whatever archives from here on must know.
    ///
    /// # Errors
    /// The file system's.
    pub fn say_restored(&self, plan: &RestorePlan) -> Result<(), DirectoryError> {
        let place = Place {
            archive_name: plan.archive_name.clone(),
            lineage: plan.lineage.clone(),
        };
        Restored::note(&self.path, place, self.owner)
            .map_err(io_error("say what was restored in", &self.path))
    }

    fn look(&self) -> Result<Found, DirectoryError> {
        let path = self.path.join("pg_wal");
        let wal = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Wal::Missing,
            Err(error) => return Err(io_error("stat", &path)(error)),
            Ok(found) if found.is_symlink() => match fs::canonicalize(&path) {
                Ok(target) => Wal::Link(target),
                // It leads nowhere: to a volume that no snapshot was taken of.
                Err(_) => Wal::Link(PathBuf::new()),
            },
            Ok(_) => Wal::Directory,
        };
        let hidden = self.path.join(HIDDEN_CONTROL).exists();
        Ok(Found {
            wal,
            control_in_place: !hidden,
        })
    }

    fn slots(&self) -> Result<Vec<String>, DirectoryError> {
        let path = self.path.join("pg_replslot");
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error("list", &path))?,
        };
        let mut slots = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("list", &path))?;
            slots.push(entry.file_name().to_string_lossy().into_owned());
        }
        slots.sort();
        Ok(slots)
    }

    fn apply(&self, op: &Op) -> Result<(), DirectoryError> {
        let (control, hidden) = (self.path.join(CONTROL), self.path.join(HIDDEN_CONTROL));
        match op {
            Op::HideControl => {
                files::rename_durably(&control, &hidden).map_err(io_error("rename", &control))
            }
            Op::RevealControl => {
                files::rename_durably(&hidden, &control).map_err(io_error("rename", &hidden))
            }
            Op::Remove(path) => files::remove(path)
                .and_then(|removed| {
                    if removed {
                        files::sync_parent(path)
                    } else {
                        Ok(())
                    }
                })
                .map_err(io_error("remove", path)),
            Op::Empty(path) => files::empty(path).map_err(io_error("empty", path)),
            Op::MakeWalDirectory => {
                let path = self.path.join("pg_wal");
                files::private_directory(&path, self.owner)
                    .and_then(|()| files::sync_parent(&path))
                    .map_err(io_error("make", &path))
            }
            Op::Write(path, content) => {
                files::replace_durably(path, content, self.owner).map_err(io_error("write", path))
            }
        }
    }
}

#[cfg(test)]
mod tests;
