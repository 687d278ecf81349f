//! Two histories of one cluster in one lineage: each segment is sound in itself, and only the chain of records tells.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use highwater::{
    archive::{FORMAT, Identity, IndexEntry, Lineage},
    postgres::{SegmentName, SegmentSize, TimelineId, wal},
};

use crate::{
    fixture::{configure, open, spec},
    said::verify,
    site::{Cluster, Site},
};

/// Writes some segments, and returns all that are finished.
fn written(cluster: &Cluster, filler: u32) -> BTreeMap<SegmentName, Vec<u8>> {
    cluster.start();
    for _ in 0..5 {
        cluster.sql(&format!(
            "INSERT INTO t SELECT n, repeat('x', {filler}) || random() FROM generate_series(1, 6000) n"
        ));
    }
    let current = cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let current: SegmentName = current.parse().unwrap();
    cluster.stop("fast");
    let names = cluster.names().into_iter();
    let finished = names
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name < current);
    finished
        .map(|name| (name, read(&cluster.pgdata, name)))
        .collect()
}

fn read(pgdata: &Path, name: SegmentName) -> Vec<u8> {
    fs::read(pgdata.join("pg_wal").join(name.to_string())).unwrap()
}

async fn push(lineage: &Lineage, identity: &Identity, name: SegmentName, plain: &[u8]) {
    let size = identity.segment_size;
    let scan = wal::scan(plain, name, size, Some(identity.system_identifier), None).unwrap();
    let entry = IndexEntry::scanned(name, size, plain, &scan);
    let pushed = lineage.push_segment(name, plain.to_vec().into(), &entry);
    pushed.await.unwrap();
}

/// An empty archive that `verify` is told of.
async fn begin(site: &Site, identifier: &str, size: SegmentSize) -> (Identity, Lineage) {
    let directory = site.path("archive");
    fs::create_dir(&directory).unwrap();
    configure(&directory, &site.path("state"), &site.config());
    let identity = Identity {
        format: FORMAT,
        lineage: "0123456789".parse().unwrap(),
        system_identifier: identifier.parse().unwrap(),
        major_version: 15,
        segment_size: size,
        created_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let lineage = open(&directory, &spec()).lineage(identity.lineage.clone());
    lineage.create_identity(&identity).await.unwrap();
    (identity, lineage)
}

/// A cluster, and a copy of it: two histories from there on.
fn two(site: &Site) -> (Cluster, Cluster, String) {
    let one = Cluster::init(site.path("one"), 1);
    one.start();
    one.sql("CREATE TABLE t (n int, filler text)");
    let identifier = one.sql("SELECT system_identifier FROM pg_control_system()");
    one.stop("fast");
    let other = Cluster {
        pgdata: site.path("other"),
        size: one.size,
    };
    let copied = Command::new("cp")
        .arg("-a")
        .args([&one.pgdata, &other.pgdata])
        .status();
    assert!(copied.unwrap().success());
    (one, other, identifier)
}

#[tokio::test]
async fn a_segment_of_another_history_is_found_by_the_chain_of_records() {
    let site = Site::new("verify-histories");
    let (one, other, identifier) = two(&site);
    let (ours, theirs) = (written(&one, 100), written(&other, 170));
    let (identity, lineage) = begin(&site, &identifier, one.size).await;
    let names: Vec<SegmentName> = ours.keys().copied().collect();
    let strange = names[names.len() - 2];
    for name in names.iter().filter(|name| **name != strange) {
        push(&lineage, &identity, *name, &ours[name]).await;
    }
    assert_ne!(ours[&strange], theirs[&strange]);
    push(&lineage, &identity, strange, &theirs[&strange]).await;
    let said = verify(&site.config(), &[]);
    // It does not go on from the one before, and the one after does not go on from it.
    said.expect("histories", &[("WalInvalid", 2)]);
    assert!(
        said.text.contains("does not go on from the segment before"),
        "{}",
        said.text
    );
}

/// PostgreSQL copies what lies before a fork into the new timeline's first segment, so the old timeline's must be sound up
/// to there; what it has behind the fork is nobody's any more.
#[tokio::test]
async fn a_segment_that_a_timeline_was_left_in_must_be_sound_up_to_there() {
    let site = Site::new("verify-left");
    let (one, other, identifier) = two(&site);
    let (ours, theirs) = (written(&one, 100), written(&other, 170));
    let names: Vec<SegmentName> = ours.keys().copied().collect();
    let left = names[names.len() - 1];
    let size = one.size;
    let fork = left.start(size).advance(size.get() / 2);
    let second = TimelineId::new(2).unwrap();
    let damaged_at = |quarter: usize| {
        let mut bytes = ours[&left].clone();
        let at = bytes.len() / 4 * quarter;
        bytes[at..at + 100].fill(0xAA);
        bytes
    };
    for (name, last, expected) in [
        ("sound", ours[&left].clone(), &[][..]),
        ("damaged behind the fork", damaged_at(3), &[]),
        (
            "damaged before the fork",
            damaged_at(1),
            &[("WalInvalid", 1)],
        ),
        (
            "another history",
            theirs[&left].clone(),
            &[("WalInvalid", 1)],
        ),
    ] {
        let (identity, lineage) = begin(&site, &identifier, size).await;
        for name in &names[..names.len() - 1] {
            push(&lineage, &identity, *name, &ours[name]).await;
        }
        push(&lineage, &identity, left, &last).await;
        let history = format!("1\t{fork}\tno recovery target specified\n");
        let pushed = lineage.push_history(second, history.into()).await;
        pushed.unwrap();
        let said = verify(&site.config(), &[]);
        match expected.is_empty() {
            true => drop(said.expect_sound().clone()),
            false => said.expect(name, expected),
        }
        let noted = said.text.contains("a newer timeline left it before");
        assert_eq!(noted, name == "damaged behind the fork", "{}", said.text);
        fs::remove_dir_all(site.path("archive")).unwrap();
    }
}
