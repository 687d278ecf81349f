//! A primary and a standby that streams from it, and copies of the standby.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use highwater::postgres::{
    ControlFile, Lsn, TimelineId, backup_mode::Stopped, session::Client, standby, wal_reader,
};
use tempfile::TempDir;

use crate::database::{Database, PASSWORD};

/// Where pg_control lies in a data directory.
pub const CONTROL: &str = "global/pg_control";

const LIMIT: Duration = Duration::from_secs(30);

/// A primary and a standby that streams from it.
pub struct Pair {
    pub primary: Database,
    pub standby: Database,
}

impl Pair {
    pub async fn start() -> Self {
        let primary = Database::start(1, "wal_keep_size = '256MB'");
        primary.allow_replication().await;
        primary
            .sql("CREATE TABLE public.ledger (id int PRIMARY KEY, filler text)")
            .await;
        primary.stop("fast");
        let port = primary.login("postgres", None).port;
        let from = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres password=''{PASSWORD}'''"
        );
        let standby = primary.copy(&from);
        standby.append("standby.signal", "");
        primary.boot();
        standby.boot();
        let pair = Self { primary, standby };
        let client = pair.standby.client().await;
        let follows = async || standby::streams(&client).await.unwrap() == Some(TimelineId::FIRST);
        until("the standby streams", follows).await;
        pair
    }

    /// Until the standby has replayed what the primary has flushed.
    pub async fn replayed(&self, primary: &Client, standby: &Client) {
        let flushed = wal_reader::flush_position(primary).await.unwrap().lsn;
        let there = async || wal_reader::end(standby).await.unwrap().lsn >= flushed;
        until("the standby replays", there).await;
    }
}

pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn control(bytes: &[u8]) -> ControlFile {
    ControlFile::parse(bytes).unwrap()
}

/// As a tool does it: a file that goes meanwhile is none of the backup.
pub fn copy(from: &Path, to: &Path) {
    Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .output()
        .unwrap();
}

/// A directory for a copy.
pub fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("highwater-postgres-")
        .tempdir()
        .unwrap()
}

/// A copy of the standby's data directory that is to be recovered up to `target`, and promoted there; stopped.
pub fn restored(pair: &Pair, directory: TempDir, stopped: &Stopped, target: Lsn) -> Database {
    let data = directory.path().join("data");
    for gone in ["standby.signal", "postmaster.pid", "pg_wal"] {
        fs::remove_file(data.join(gone)).unwrap();
    }
    let owner = fs::metadata(&data).unwrap();
    fs::create_dir(data.join("pg_wal")).unwrap();
    chown(data.join("pg_wal"), Some(owner.uid()), Some(owner.gid())).unwrap();
    let copied = Database::at(directory, pair.primary.segment_size);
    copied.write(&data.join("backup_label"), stopped.label.as_bytes());
    copied.append("recovery.signal", "");
    let settings = format!(
        "primary_conninfo = ''\nrestore_command = 'cp {}/%f %p'\nrecovery_target_lsn = '{target}'\n\
         recovery_target_inclusive = off\nrecovery_target_action = 'promote'",
        pair.primary.wal().display(),
    );
    copied.append("postgresql.conf", &settings);
    copied
}

/// A session of what takes writes, after its recovery.
pub async fn promoted(copied: &Database) -> Client {
    copied.boot();
    let client = copied.client().await;
    let writes = async || !wal_reader::end(&client).await.unwrap().in_recovery;
    until("the copy is promoted", writes).await;
    client
}
