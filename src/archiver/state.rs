//! What was found out about an archive, remembered for the next call in a small file: without it each call would list.
//!
//! Nothing here is believed: a lineage from it counts only if its identity object is this cluster's.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Config;
use crate::{
    archive::{LineageId, sha256},
    postgres::SystemIdentifier,
};

/// What was found out about one database in one archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// Of which database: for people who look.
    pub place: String,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Its lineage.
    pub lineage: LineageId,
    /// Whether the store heeds the condition that an object be new, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates_only: Option<bool>,
    /// The lineage had no parts of unfinished segments.
    pub no_tails: bool,
}

/// The file.
#[derive(Clone, Debug)]
pub struct State {
    path: Option<PathBuf>,
    place: String,
}

impl State {
    /// Where `config` wants it, in a directory that nobody else may write.
    pub fn of(config: &Config) -> Self {
        let place = config.place();
        let store = (&config.archive, &config.directory);
        let name = sha256(format!("{place} {store:?}").as_bytes());
        let directory = config.state_directory.clone().or_else(default_directory);
        let directory = directory.filter(|directory| private(directory).is_ok());
        Self {
            path: directory.map(|directory| directory.join(format!("{}.json", &name[..16]))),
            place,
        }
    }

    /// What is remembered of this cluster.
    pub fn read(&self, system_identifier: SystemIdentifier) -> Option<Remembered> {
        let remembered = self.anything()?;
        (remembered.system_identifier == system_identifier).then_some(remembered)
    }

    /// The lineage that is remembered, of whichever cluster.
    pub fn lineage(&self) -> Option<LineageId> {
        Some(self.anything()?.lineage)
    }

    fn anything(&self) -> Option<Remembered> {
        let text = fs::read(self.path.as_deref()?).ok()?;
        let remembered: Remembered = serde_json::from_slice(&text).ok()?;
        (remembered.place == self.place).then_some(remembered)
    }

    /// Remembers. That it fails costs the next call a few requests, no more.
    pub fn write(&self, remembered: &Remembered) {
        let Some(path) = &self.path else { return };
        if let Err(error) = replace(path, remembered) {
            tracing::debug!(path = %path.display(), %error, "failed to remember the lineage");
        }
    }

    /// The database in the archive, for people.
    pub fn place(&self) -> &str {
        &self.place
    }
}

fn replace(path: &Path, remembered: &Remembered) -> io::Result<()> {
    // Two calls may write at once: each a file of its own.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(remembered)?)?;
    fs::rename(&partial, path)
}

fn own_uid() -> Option<u32> {
    Some(fs::metadata("/proc/self").ok()?.uid())
}

fn default_directory() -> Option<PathBuf> {
    if let Some(run) = std::env::var_os("XDG_RUNTIME_DIR").filter(|run| !run.is_empty()) {
        return Some(PathBuf::from(run).join("highwater"));
    }
    Some(PathBuf::from(format!("/tmp/highwater-{}", own_uid()?)))
}

/// Whoever else could write there could say where WAL goes.
fn private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(directory)?;
    let ours = Some(found.uid()) == own_uid() && found.is_dir() && found.mode() & 0o022 == 0;
    match ours {
        true => Ok(()),
        false => Err(io::Error::other("others may write there")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state(directory: &Path) -> State {
        let text = format!(
            "archive: {{s3: {{bucket: wal}}}}\narchiveName: orders\nstateDirectory: {}",
            directory.display()
        );
        State::of(&serde_saphyr::from_str(&text).unwrap())
    }

    #[test]
    fn only_what_this_user_alone_wrote_about_this_cluster_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (SystemIdentifier::new(1), SystemIdentifier::new(2));
        let remembered = Remembered {
            place: state(directory.path()).place,
            system_identifier: ours,
            lineage: LineageId::of_cluster(ours),
            creates_only: Some(true),
            no_tails: true,
        };
        state(directory.path()).write(&remembered);
        assert_eq!(state(directory.path()).read(ours), Some(remembered));
        assert_eq!(state(directory.path()).read(theirs), None);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(state(directory.path()).read(ours), None);
    }
}
