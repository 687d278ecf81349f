//! Says in a restored data directory whose copy it is: what archives from it must not archive where its original does.

use std::{collections::BTreeSet, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::files::{self, Owner};
use crate::archive::LineageId;

/// In PGDATA. It stays, and goes into each copy of the directory.
pub const NAME: &str = "highwater-restored.json";

/// Where a data directory comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// What it was restored from, and what its original was.
    pub from: BTreeSet<Place>,
}

/// A lineage of a database in an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The database's name in the archive. Without it an id says too little: a push makes it from the cluster's identifier.
    pub archive_name: String,
    /// The lineage.
    pub lineage: LineageId,
}

impl Restored {
    /// What the data directory `pgdata` says; nothing if it was never restored.
    ///
    /// # Errors
    /// The file system's, or the file cannot be understood.
    pub fn read(pgdata: &Path) -> io::Result<Self> {
        match fs::read(pgdata.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            text => Ok(serde_json::from_slice(&text?)?),
        }
    }

    /// Adds that `pgdata` was restored from `place`. Durable when this returns.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn note(pgdata: &Path, place: Place, owner: Option<Owner>) -> io::Result<()> {
        let mut restored = Self::read(pgdata)?;
        if !restored.from.insert(place) {
            return Ok(());
        }
        files::replace_durably(&pgdata.join(NAME), &serde_json::to_vec(&restored)?, owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_copy_knows_both() {
        let pgdata = tempfile::tempdir().unwrap();
        assert_eq!(Restored::read(pgdata.path()).unwrap(), Restored::default());
        for archive_name in ["orders", "copy", "orders"] {
            let place = Place {
                archive_name: archive_name.to_owned(),
                lineage: "0123456789".parse().unwrap(),
            };
            Restored::note(pgdata.path(), place, None).unwrap();
        }
        let restored = Restored::read(pgdata.path()).unwrap();
        assert_eq!(restored.from.len(), 2);
        fs::write(pgdata.path().join(NAME), "half a fi").unwrap();
        assert!(Restored::read(pgdata.path()).is_err());
    }
}
