//! WAL of a cluster that runs no more: written once, copied for each test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::site::{Cluster, Site, hand_over};

/// Segments in the sample that are finished.
pub const SEGMENTS: usize = 12;

/// The data directory of a stopped cluster whose segments wait to be archived.
fn sample() -> &'static Path {
    static SAMPLE: OnceLock<PathBuf> = OnceLock::new();
    SAMPLE.get_or_init(|| made("sample"))
}

/// Of another cluster.
pub fn other() -> &'static Path {
    static OTHER: OnceLock<PathBuf> = OnceLock::new();
    OTHER.get_or_init(|| made("other-sample"))
}

fn made(name: &str) -> PathBuf {
    let site = Site::new(name);
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with("false");
    cluster.start();
    cluster.sql("CREATE TABLE t (n int, filler text)");
    while cluster.ready().len() < SEGMENTS {
        cluster
            .sql("INSERT INTO t SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 2000) n");
    }
    // A record crosses each boundary but this one.
    cluster.sql("SELECT pg_switch_wal()");
    cluster.stop("fast");
    let pgdata = cluster.pgdata.clone();
    // It stays until the next run.
    std::mem::forget(site);
    pgdata
}

/// A copy of the sample, to do with as a test likes.
pub fn copy(site: &Site) -> PathBuf {
    copy_of(sample(), &site.path("data"))
}

pub fn copy_of(from: &Path, to: &Path) -> PathBuf {
    let mut command = Command::new("cp");
    assert!(
        command
            .arg("-a")
            .arg(from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    );
    to.to_owned()
}

/// The finished segments of the sample, in their order.
pub fn segments(pgdata: &Path) -> Vec<String> {
    let ready = crate::site::ready(pgdata).into_iter();
    let mut all: Vec<String> = ready.filter(|name| name.len() == 24).collect();
    all.sort();
    assert!(all.len() >= SEGMENTS, "{all:?}");
    all
}

/// PostgreSQL has not finished `names` yet.
pub fn not_ready(pgdata: &Path, names: &[String]) {
    for name in names {
        fs::remove_file(status_file(pgdata, name, "ready")).unwrap();
    }
}

pub fn status_file(pgdata: &Path, name: &str, ending: &str) -> PathBuf {
    pgdata.join(format!("pg_wal/archive_status/{name}.{ending}"))
}

/// A file beside the segments, finished.
pub fn add(pgdata: &Path, name: &str, content: &[u8]) {
    let path = pgdata.join("pg_wal").join(name);
    fs::write(&path, content).unwrap();
    hand_over(&path);
    let status = status_file(pgdata, name, "ready");
    fs::write(&status, "").unwrap();
    hand_over(&status);
}

/// As PostgreSQL's archiver: the lowest first, again until it succeeds. Returns how often it asked.
pub fn archive_all(pgdata: &Path, mut push: impl FnMut(&str) -> bool) -> usize {
    let mut asked = 0;
    while let Some(name) = crate::site::ready(pgdata).into_iter().min() {
        asked += 1;
        if push(&name) {
            let from = status_file(pgdata, &name, "ready");
            fs::rename(from, status_file(pgdata, &name, "done")).unwrap();
        }
        assert!(asked < 500, "{name} is never archived");
    }
    asked
}

/// A cluster that never ran here: for comparing what it left.
pub fn as_cluster(pgdata: &Path) -> Cluster {
    Cluster {
        pgdata: pgdata.to_owned(),
        size: highwater::postgres::SegmentSize::new(1 << 20).unwrap(),
    }
}
