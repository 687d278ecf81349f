//! PostgreSQL under load archives with our program; then everything is there as it was written.

use std::fs;

use crate::site::{Cluster, Site, compare, wait_for};

async fn load(site: &Site, cluster: &Cluster) {
    cluster.start();
    cluster.pgbench(&["-i", "-s", "4"]);
    cluster.pgbench(&["-n", "-c", "4", "-T", "3"]);
    cluster.archive_all();
    let contents = compare(cluster, &site.lineage().await).await;
    assert!(contents.segments.len() > 2, "{}", contents.segments.len());
    let log = cluster.log();
    for bad in [
        "archive command failed",
        "archive command was terminated",
        "could not rename",
    ] {
        assert!(!log.contains(bad), "{log}");
    }
}

#[tokio::test]
async fn one_call_after_the_other() {
    let site = Site::new("load-calls");
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with(&site.push_command());
    load(&site, &cluster).await;
}

#[tokio::test]
async fn through_the_daemon() {
    let site = Site::new("load-daemon");
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with(&site.client_command());
    let _daemon = site.daemon();
    load(&site, &cluster).await;
}

#[tokio::test]
async fn segments_of_64_megabytes() {
    let site = Site::new("load-large");
    site.configure("parallelUploads: 2");
    let cluster = Cluster::init(site.path("data"), 64);
    cluster.archive_with(&site.push_command());
    cluster.start();
    for _ in 0..2 {
        cluster.sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)); SELECT pg_switch_wal()");
    }
    cluster.archive_all();
    let contents = compare(&cluster, &site.lineage().await).await;
    assert!(contents.segments.len() >= 3);
    assert_eq!(contents.identity.segment_size.get(), 64 << 20);
}

/// A base backup, and recovery from the archive alone, to a new timeline that is archived in its turn.
#[tokio::test]
async fn what_was_archived_is_recovered_and_the_new_timeline_goes_on() {
    let site = Site::new("recovery");
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with(&site.push_command());
    cluster.start();
    cluster.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let copy = site.path("copy");
    cluster.base_backup(&copy);
    cluster.sql("INSERT INTO t SELECT n FROM generate_series(1001, 30000) n");
    cluster.archive_all();
    cluster.stop("fast");
    wait_for("the last segment", || cluster.ready().is_empty());

    let restored = Cluster {
        pgdata: copy,
        size: cluster.size,
    };
    restored.set(&format!("restore_command = '{}'\n", site.restore_command()));
    fs::write(restored.pgdata.join("recovery.signal"), "").unwrap();
    restored.start();
    wait_for("promotion", || {
        restored.sql("SELECT pg_is_in_recovery()") == "f"
    });
    assert_eq!(
        restored.sql("SELECT count(*), max(n) FROM t"),
        "30000|30000"
    );
    restored.sql("CHECKPOINT");
    assert_eq!(restored.timeline().get(), 2);
    restored.archive_all();
    let contents = compare(&restored, &site.lineage().await).await;
    assert_eq!(contents.histories.len(), 1);
    assert!(
        contents
            .segments
            .keys()
            .any(|name| name.timeline().get() == 2)
    );
    // The history was archived before the WAL of its timeline.
    let times = archived_at(&site);
    let history = times.iter().find(|(name, _)| name.ends_with(".history"));
    let (_, history) = history.unwrap();
    let first = times
        .iter()
        .filter(|(name, _)| name.contains("/wal/00000002/"));
    assert!(first.map(|(_, at)| at).min().unwrap() >= history);
    assert!(
        times
            .iter()
            .any(|(name, _)| name.contains("backup-history/"))
    );
}

/// Every object of the site, and when it was put.
fn archived_at(site: &Site) -> Vec<(String, std::time::SystemTime)> {
    fn walk(path: &std::path::Path, found: &mut Vec<(String, std::time::SystemTime)>) {
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), found),
                false => {
                    let at = entry.metadata().unwrap().modified().unwrap();
                    found.push((entry.path().to_string_lossy().into_owned(), at));
                }
            }
        }
    }
    let mut found = Vec::new();
    let root = crate::site::server()
        .data()
        .join(crate::server::BUCKET)
        .join("prod")
        .join(site.archive_name());
    walk(&root, &mut found);
    found
}
