//! A restore by hand: what a driver's snapshots hold, WAL that `cp` brings, and the PostgreSQL of this machine. Nothing of
//! Highwater's is in it and nothing is checked, so that it can be done wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, NoTls};

use super::{bucket, integrity, postgres};
use crate::bench::{
    cluster::Cluster,
    scratch::{is_segment, names, output},
};

/// The longest that replay may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Its socket's: it listens nowhere else.
const PORT: u16 = 5432;

/// What is put together.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// A snapshot of the volume with PGDATA.
    pub data: &'a Path,
    /// PGDATA in it.
    pub pgdata: &'a str,
    /// One of the volume with the tablespace, as `manifests/postgres-volumes.yaml` has it; none: that volume is empty.
    pub fast: Option<&'a Path>,
    /// `backup_label`; none: PostgreSQL begins where pg_control says, and finds the WAL in `pg_wal`.
    pub label: Option<&'a str>,
    /// A folder of plain WAL.
    pub wal: &'a Path,
}

/// A database that was put together, and promoted.
pub struct ByHand(Cluster);

impl ByHand {
    /// Puts it together in `root` and waits until replay is over.
    ///
    /// # Errors
    /// PostgreSQL does not start or does not end recovery; or the file system's.
    pub async fn restore(root: &Path, parts: &Parts<'_>) -> Result<Self> {
        let programs = postgres::program("postgres");
        let programs = programs.parent().context("no programs")?;
        let cluster = Cluster::new(programs, root, PORT)?;
        put_together(root, parts)?;
        cluster.start().with_context(|| {
            let log = fs::read_to_string(root.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().filter(|line| line.contains("FATAL")).collect();
            lines.join("; ")
        })?;
        let database = Self(cluster);
        let begin = Instant::now();
        while database.recovers().await? {
            ensure!(begin.elapsed() < LIMIT, "recovery does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(database)
    }

    async fn recovers(&self) -> Result<bool> {
        let asked = "SELECT pg_is_in_recovery()";
        Ok(self.connect().await?.query_one(asked, &[]).await?.get(0))
    }

    async fn connect(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.0.root).port(PORT);
        let config = config.user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// What psql prints for `text`.
    ///
    /// # Errors
    /// It fails.
    pub fn sql(&self, text: &str) -> Result<String> {
        self.0.sql(text)
    }

    /// What the oracle says of it.
    ///
    /// # Errors
    /// As [`integrity::judge`].
    pub async fn judge(&self, rows: (i64, i64)) -> Result<i64> {
        let host = self.0.root.to_string_lossy();
        integrity::judge(&self.connect().await?, &host, rows).await
    }
}

fn put_together(root: &Path, parts: &Parts<'_>) -> Result<()> {
    let (data, fast) = (root.join("data"), root.join("fast"));
    copy(&parts.data.join(parts.pgdata), &data)?;
    match parts.fast {
        Some(volume) => copy(&volume.join("space"), &fast)?,
        None => fs::create_dir(&fast)?,
    }
    for link in names(&data.join("pg_tblspc"), |_| true)? {
        let link = data.join("pg_tblspc").join(link);
        fs::remove_file(&link)?;
        std::os::unix::fs::symlink(&fast, &link)?;
    }
    // The snapshot's own WAL may lie elsewhere.
    let wal = data.join("pg_wal");
    match wal.is_symlink() {
        true => fs::remove_file(&wal)?,
        false => fs::remove_dir_all(&wal)?,
    }
    fs::create_dir_all(wal.join("archive_status"))?;
    for stale in ["postmaster.pid", "standby.signal", "backup_label"] {
        let _ = fs::remove_file(data.join(stale));
    }
    match parts.label {
        Some(label) => {
            fs::write(data.join("backup_label"), label)?;
            fs::write(data.join("recovery.signal"), "")?;
        }
        None => {
            for name in names(parts.wal, is_segment)? {
                fs::copy(parts.wal.join(&name), wal.join(&name))?;
            }
        }
    }
    settings(root, parts.wal)?;
    output(
        Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(root),
    )?;
    output(
        Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(parts.wal),
    )?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// Behind those of the source, of which the last one counts.
fn settings(root: &Path, wal: &Path) -> Result<()> {
    let file = root.join("data/postgresql.auto.conf");
    let mut text = fs::read_to_string(&file).unwrap_or_default();
    text += &format!(
        "\nlisten_addresses = ''\nport = {PORT}\nunix_socket_directories = '{}'\nunix_socket_permissions = 0777\n\
         archive_mode = off\nrestore_command = 'cp {}/%f %p'\nrecovery_target_timeline = 'current'\n",
        root.display(),
        wal.display()
    );
    fs::write(file, text)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    output(copy.args(["-a", "--reflink=auto"]).args([from, to])).map(drop)
}

/// Every whole segment of a lineage's first timeline as PostgreSQL wrote it, by `zstd -d` from what lies in the bucket now.
///
/// # Errors
/// It cannot be read.
pub fn plain_wal(segments: &Path, to: &Path) -> Result<PathBuf> {
    let found = names(segments, |name| name.ends_with(".zst"))?;
    ensure!(
        !found.is_empty(),
        "no segment lies in {}",
        segments.display()
    );
    fs::create_dir(to)?;
    for name in found {
        let plain = to.join(name.trim_end_matches(".zst"));
        let mut zstd = Command::new("zstd");
        zstd.args(["-d", "-q", "-o"]).arg(plain);
        output(zstd.arg(segments.join(name)))?;
    }
    Ok(to.to_owned())
}

/// Where the segments of a lineage's first timeline lie.
///
/// # Errors
/// The object store does not run, or the database has no lineage.
pub fn segments(database: &super::Database) -> Result<PathBuf> {
    let folder = bucket::folder(&database.kubectl)?;
    Ok(folder.join(bucket::lineage(database)?).join("wal/00000001"))
}
