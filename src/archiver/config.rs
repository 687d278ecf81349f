//! The file that `wal push`, `wal daemon` and the stand-alone `wal fetch` read. Paths of secrets, no secrets.

use std::{
    fs, io,
    num::NonZeroU8,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    api::PgArchiveSpec,
    archive::{Archive, Identities, LineageId, MountedSecrets, OpenError, store},
};

/// More at once would need more memory than a database's pod has to spare.
const MOST_PARALLEL: u8 = 32;
const DEADLINE: u64 = 600;
const LONGEST_NAME: usize = 253;

/// What `--config` names: YAML.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The archive, as in a PgArchive's spec.
    pub archive: PgArchiveSpec,
    /// The database's name in the archive: a folder.
    pub archive_name: String,
    /// A folder with the credentials, one file per key. Without it they are taken from the environment.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// A PEM file with the certificate authority of the archive's endpoint. Without it the public roots are trusted.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// A file of age identities or SSH private keys, where the archive is encrypted: only fetching needs it.
    #[serde(default)]
    pub decryption: Option<PathBuf>,
    /// Where the volume of a directory archive is mounted.
    #[serde(default = "default_directory")]
    pub directory: PathBuf,
    /// The lineage. Without it the only one of this cluster, or a new one.
    #[serde(default)]
    pub lineage: Option<LineageId>,
    /// How many segments are pushed at once, the one that PostgreSQL asked for among them: 1 to 32. Without it as
    /// `archive.limits` says.
    #[serde(default)]
    pub parallel_uploads: Option<NonZeroU8>,
    /// Where what was found out about the archive is remembered. Without it `$XDG_RUNTIME_DIR/highwater`, or
    /// `/tmp/highwater-<uid>`.
    #[serde(default)]
    pub state_directory: Option<PathBuf>,
    /// What becomes of a finished segment whose records cannot be read to its end.
    #[serde(default)]
    pub damaged_wal: DamagedWal,
    /// Seconds after which a fetch gives an outage up.
    #[serde(default = "default_deadline")]
    pub fetch_deadline_seconds: u64,
}

/// What becomes of a finished segment whose records cannot be read to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum DamagedWal {
    /// It is not archived: PostgreSQL asks again, and its log says why.
    #[default]
    Refuse,
    /// It is archived as it is; its index entry says where valid WAL ends.
    Archive,
}

fn default_directory() -> PathBuf {
    "/var/lib/highwater/archive".into()
}

const fn default_deadline() -> u64 {
    DEADLINE
}

/// A file that is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is not YAML of this form.
    #[error("failed to parse {}: {what}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        what: String,
    },
}

impl Config {
    /// Reads `path`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(&text).map_err(|what| ConfigError::Parse {
            path: path.to_owned(),
            what,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let name = &config.archive_name;
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
        };
        let bytes = name.as_bytes();
        if !(ends(bytes.first()) && ends(bytes.last()) && bytes.iter().copied().all(plain))
            || bytes.len() > LONGEST_NAME
        {
            return Err(format!(
                "archiveName {name:?} must begin and end with a letter or digit, and hold only a-z, 0-9, . and -"
            ));
        }
        let prefix = config.archive.prefix.as_deref().unwrap_or_default();
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(format!(
                "archive.prefix {prefix:?} must be empty or end in /, as in prod/"
            ));
        }
        let parallel = config.parallel_uploads.map(NonZeroU8::get);
        let parallel = parallel.or(config.archive.uploads().parallel_uploads);
        if parallel.is_some_and(|count| !(1..=MOST_PARALLEL).contains(&count)) {
            return Err(format!("parallelUploads must be 1 to {MOST_PARALLEL}"));
        }
        Ok(config)
    }

    /// How many segments are pushed at once.
    pub fn parallel(&self) -> usize {
        let own = self.parallel_uploads.map(|count| count.get().into());
        own.unwrap_or_else(|| self.archive.uploads().parallel())
    }

    /// Opens the archive. Talks to nobody yet.
    ///
    /// # Errors
    /// Credentials or certificate cannot be read, or the archive's settings make no sense.
    pub fn open(&self) -> Result<Archive, OpenError> {
        let mounted = MountedSecrets {
            credentials: self.credentials.clone(),
            ca_file: self.ca.clone(),
            directory: self.directory.clone(),
        };
        let mut spec = self.archive.clone();
        if let (Some(own), Some(limits)) = (self.parallel_uploads, &mut spec.limits) {
            limits.parallel_uploads = Some(own.get());
        }
        let store = store::open(&spec, &mounted)?;
        let archive = Archive::new(store, &spec, &self.archive_name)?;
        let identities = self.decryption.as_deref().map(Identities::read);
        Ok(archive.with_identities(identities.transpose()?.unwrap_or_default()))
    }

    /// The database in the archive, for people.
    pub fn place(&self) -> String {
        format!("{}/{}", store::describe(&self.archive), self.archive_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "archive: {s3: {bucket: wal}}\narchiveName: shop-orders\n";

    #[test]
    fn the_least_that_is_needed() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!(config.parallel(), 4);
        assert_eq!(config.damaged_wal, DamagedWal::Refuse);
        assert_eq!(config.fetch_deadline_seconds, 600);
        assert_eq!(config.lineage, None);
    }

    #[test]
    fn the_place_is_a_path() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!(config.place(), "s3://wal/shop-orders");
        let below = LEAST.replace("{s3:", "{prefix: prod/, s3:");
        let config = Config::parse(&below).unwrap();
        assert_eq!(config.place(), "s3://wal/prod/shop-orders");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "archiveName: shop-orders".to_owned(),
            LEAST.replace("shop-orders", "../other"),
            LEAST.replace("shop-orders", "Shop"),
            LEAST.replace("shop-orders", "''"),
            LEAST.replace("{s3:", "{prefix: prod, s3:"),
            format!("{LEAST}lineage: mine"),
            format!("{LEAST}parallelUploads: 0"),
            format!("{LEAST}parallelUploads: 33"),
            format!("{LEAST}parallelUpload: 3"),
            LEAST.replace("wal}}", "wal}, limits: {parallelUploads: 33}}"),
        ] {
            assert!(Config::parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_sample_of_the_documentation_is_read() {
        let page = include_str!("../../docs/archive-command.md");
        let sample = page.split("```yaml\n").nth(1).unwrap();
        let sample = sample.split("```").next().unwrap();
        let config = Config::parse(sample).unwrap();
        assert_eq!(config.parallel(), 4);
    }

    #[test]
    fn the_archive_may_say_how_many_go_at_once() {
        let limited = LEAST.replace("wal}}", "wal}, limits: {parallelUploads: 7}}");
        assert_eq!(Config::parse(&limited).unwrap().parallel(), 7);
        let own = Config::parse(&format!("{limited}parallelUploads: 2"));
        assert_eq!(own.unwrap().parallel(), 2);
    }
}
