//! pgBackRest's configuration: a repository in an S3 bucket.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{scratch, store};

/// What it calls the database.
pub const STANZA: &str = "demo";
/// What it writes to, below the folder of its configuration.
pub const FOLDERS: [&str; 3] = ["spool", "lock", "log"];

/// Where the repository is.
#[derive(Clone, Debug)]
pub struct Repository {
    /// `http://…`.
    pub endpoint: String,
    /// There already.
    pub bucket: String,
    /// In the bucket, with a slash before it.
    pub path: String,
    /// Who may.
    pub key_id: String,
    /// How it is shown.
    pub secret: String,
}

/// Writes the configuration and its folders below `root`, compressing as Highwater does by default; `global` are more
/// options of all, `database` of the database. Returns where it is.
///
/// # Errors
/// The file system's.
pub fn configure(
    root: &Path,
    pgdata: &Path,
    repository: &Repository,
    (global, database): (&str, &str),
) -> Result<PathBuf> {
    let Repository {
        endpoint,
        bucket,
        path,
        key_id,
        secret,
    } = repository;
    let region = store::REGION;
    let mut text = format!(
        "[global]\nrepo1-type=s3\nrepo1-path={path}\nrepo1-s3-bucket={bucket}\nrepo1-s3-endpoint={endpoint}\n\
         repo1-s3-region={region}\nrepo1-s3-key={key_id}\nrepo1-s3-key-secret={secret}\nrepo1-s3-uri-style=path\n\
         compress-type=zst\ncompress-level=3\nlog-level-file=off\nlog-level-console=warn\n{global}"
    );
    for name in FOLDERS {
        let folder = root.join(name);
        scratch::empty(&folder)?;
        text += &format!("{name}-path={}\n", folder.display());
    }
    text += &format!("[{STANZA}]\npg1-path={}\n{database}", pgdata.display());
    let config = root.join("pgbackrest.conf");
    scratch::write(&config, text)?;
    Ok(config)
}
