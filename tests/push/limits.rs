//! What the daemon and a call take at most, whatever waits: memory, and uploads at once.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    order::{held, root},
    process::peak_memory,
    proxy::Proxy,
    sample::{SEGMENTS, archive_all, copy, segments},
    site::{Cluster, Site, compare, server, wait_for},
};

/// What a daemon with two uploads at once may take for segments of 16 MiB: four of them, and what is made of two.
const MOST_MEMORY: u64 = 128 << 20;
/// Long enough for one more to come beside those that are on their way.
const DELAY: Duration = Duration::from_millis(40);

/// A stopped cluster with segments of 16 MiB that wait, and that nothing compresses.
fn incompressible(site: &Site) -> Cluster {
    let cluster = Cluster::init(site.path("data"), 16);
    cluster.archive_with("false");
    cluster.start();
    // More than a segment of random bytes: nothing is in one twice.
    cluster.sql(
        "CREATE TABLE random (b bytea); ALTER TABLE random ALTER b SET STORAGE EXTERNAL; \
         INSERT INTO random SELECT decode(string_agg(md5(random()::text), ''), 'hex') \
         FROM generate_series(1, 17 * 128) n, generate_series(1, 512) m GROUP BY n",
    );
    while cluster.ready().len() < SEGMENTS {
        cluster.sql("SELECT count(pg_logical_emit_message(false, 'test', b)) FROM random");
    }
    cluster.stop("fast");
    cluster
}

/// All but the second: those that can be put while that one hangs.
fn but_the_second(all: &[String]) -> BTreeSet<String> {
    let others = all.iter().filter(|name| **name != all[1]);
    others.cloned().collect()
}

#[tokio::test]
async fn memory_is_bounded_whatever_waits_behind_a_segment_that_hangs() {
    let proxy = Proxy::start(server().port(), Duration::ZERO);
    let site = Site::at("limits-memory", proxy.port());
    site.configure("parallelUploads: 2");
    let cluster = incompressible(&site);
    let (pgdata, all) = (&cluster.pgdata, segments(&cluster.pgdata));
    proxy.hold(&format!("wal/00000001/{}", all[1]));
    let daemon = site.daemon();
    site.client(pgdata, &all[0], false).expect(0);
    let wal = root(&site).await.join("wal/00000001");
    wait_for("the segments behind the one that is held", || {
        held(&wal) == but_the_second(&all)
    });
    let bytes: u64 = stored(&wal).iter().sum();
    let peak = peak_memory(Path::new(&format!("/proc/{}/status", daemon.id())));
    println!(
        "{} MiB put, at most {} MiB in memory",
        bytes >> 20,
        peak >> 20
    );
    assert!(bytes > MOST_MEMORY + (32 << 20), "{bytes} show nothing");
    assert!(peak <= MOST_MEMORY, "{peak}");
    proxy.let_go();
    archive_all(pgdata, |name| site.client(pgdata, name, false).code() == 0);
    compare(&cluster, &site.lineage().await).await;
}

/// The sizes of what a folder holds.
fn stored(folder: &Path) -> Vec<u64> {
    let files = fs::read_dir(folder).unwrap();
    let sizes = files.map(|file| file.unwrap().metadata().unwrap().len());
    sizes.collect()
}

/// Segments that wait, at a site whose archive takes two at once.
fn two_at_once(site: &Site) -> (PathBuf, Vec<String>) {
    let config = fs::read_to_string(site.config()).unwrap();
    let limits = "  limits: {parallelUploads: 2}\narchiveName";
    fs::write(site.config(), config.replace("archiveName", limits)).unwrap();
    let pgdata = copy(site);
    let all = segments(&pgdata);
    (pgdata, all)
}

#[tokio::test]
async fn a_daemon_puts_no_more_at_once_than_it_may() {
    let proxy = Proxy::uneven(server().port(), DELAY);
    let site = Site::at("limits-daemon", proxy.port());
    let (pgdata, all) = two_at_once(&site);
    proxy.hold(&format!("wal/00000001/{}", all[1]));
    let _daemon = site.daemon();
    site.client(&pgdata, &all[0], false).expect(0);
    let wal = root(&site).await.join("wal/00000001");
    // One hangs, the others have each other's place.
    wait_for("the segments behind the one that is held", || {
        held(&wal) == but_the_second(&all)
    });
    proxy.let_go();
    archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    assert_eq!(proxy.most_puts(), 2);
}

#[tokio::test]
async fn a_call_puts_no_more_at_once_than_it_may() {
    let proxy = Proxy::uneven(server().port(), DELAY);
    let site = Site::at("limits-call", proxy.port());
    let (pgdata, all) = two_at_once(&site);
    site.push(&pgdata, &all[0]).expect(0);
    let most = proxy.most_puts();
    assert!((1..=2).contains(&most), "{most}");
}
