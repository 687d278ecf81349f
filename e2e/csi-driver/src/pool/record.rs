//! What the driver must remember: one small JSON file per object, written atomically.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A volume: a writable subvolume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The CSI volume id.
    pub id: String,
    /// The name the caller chose: the same name again is the same volume.
    pub name: String,
    /// Recorded and reported, not enforced.
    pub capacity: i64,
    /// What it was filled from.
    pub source: Option<Source>,
    /// What the sidecars say about the object in Kubernetes, as `csi.storage.k8s.io/…`.
    pub labels: BTreeMap<String, String>,
}

/// What a volume was filled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The id of a snapshot.
    Snapshot(String),
    /// The id of a volume.
    Volume(String),
}

/// A snapshot: a read-only subvolume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The CSI snapshot id.
    pub id: String,
    /// The name the caller chose: the same name again is the same snapshot.
    pub name: String,
    /// The id of the volume it was taken of; that may be gone by now.
    pub volume: String,
    /// The volume's capacity at the cut.
    pub capacity: i64,
    /// When it was cut, in nanoseconds since the epoch.
    pub created_ns: i64,
    /// The group it belongs to.
    pub group: Option<String>,
    /// What the sidecars say about the object in Kubernetes, as `csi.storage.k8s.io/…`.
    pub labels: BTreeMap<String, String>,
}

/// A group snapshot: the snapshots that one request took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The CSI group snapshot id.
    pub id: String,
    /// The name the caller chose: the same name again is the same group.
    pub name: String,
    /// The ids of the snapshots.
    pub snapshots: Vec<String>,
    /// The ids of the volumes they were taken of, sorted.
    pub volumes: Vec<String>,
}

/// An object that is kept in a [`Table`].
pub trait Record: Clone + Serialize + DeserializeOwned {
    /// The name of the folder that keeps objects of this kind.
    const KIND: &'static str;
    /// The id the driver made.
    fn id(&self) -> &str;
    /// The name the caller chose.
    fn name(&self) -> &str;
}

impl Record for Volume {
    const KIND: &'static str = "volumes";
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Record for Snapshot {
    const KIND: &'static str = "snapshots";
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
}

impl Record for Group {
    const KIND: &'static str = "groups";
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        &self.name
    }
}

/// All objects of one kind, in memory and on disk.
pub struct Table<T> {
    folder: PathBuf,
    rows: Mutex<BTreeMap<String, T>>,
}

impl<T: Record> Table<T> {
    /// Reads what an earlier process left in `state`.
    pub fn open(state: &Path) -> Result<Self> {
        let folder = state.join(T::KIND);
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        let mut rows = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read(&path)?;
            let row: T = serde_json::from_slice(&text)
                .with_context(|| format!("failed to read {}", path.display()))?;
            rows.insert(row.id().to_owned(), row);
        }
        Ok(Self {
            folder,
            rows: Mutex::new(rows),
        })
    }

    /// The object with this id.
    pub fn get(&self, id: &str) -> Option<T> {
        self.rows().get(id).cloned()
    }

    /// The object with this name.
    pub fn by_name(&self, name: &str) -> Option<T> {
        self.rows().values().find(|row| row.name() == name).cloned()
    }

    /// All objects, ordered by id.
    pub fn all(&self) -> Vec<T> {
        self.rows().values().cloned().collect()
    }

    /// Adds the object, or replaces the one with its id. On disk when it returns.
    pub fn put(&self, row: T) -> Result<()> {
        let path = self.path(row.id());
        write_atomically(&self.folder, &path, &serde_json::to_vec_pretty(&row)?)
            .with_context(|| format!("failed to write {}", path.display()))?;
        self.rows().insert(row.id().to_owned(), row);
        Ok(())
    }

    /// Forgets the object. Not there is success.
    pub fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("failed to remove {}", path.display()));
            }
            _ => {}
        }
        self.rows().remove(id);
        Ok(())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_atomically(folder: &Path, path: &Path, text: &[u8]) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str, name: &str) -> Volume {
        let (id, name) = (id.to_owned(), name.to_owned());
        Volume {
            id,
            name,
            capacity: 1,
            source: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_restart_loses_nothing() {
        let state = tempfile::tempdir().unwrap();
        let table = Table::open(state.path()).unwrap();
        table.put(volume("a", "first")).unwrap();
        table.put(volume("b", "second")).unwrap();
        table
            .put(Volume {
                capacity: 7,
                ..volume("b", "second")
            })
            .unwrap();
        table.remove("a").unwrap();
        table.remove("a").unwrap();

        let again: Table<Volume> = Table::open(state.path()).unwrap();
        assert_eq!(
            again.all(),
            vec![Volume {
                capacity: 7,
                ..volume("b", "second")
            }]
        );
        assert_eq!(again.by_name("first"), None);
        assert_eq!(again.by_name("second").unwrap().id, "b");
    }
}
