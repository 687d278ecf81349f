//! What is not archived, and what PostgreSQL is told: never more than 125.

use std::{fs, process::Command};

use highwater::recovery::restored::{self, Place, Restored};

use crate::{
    sample::{self, archive_all, as_cluster, copy, not_ready, segments, status_file},
    site::{PROGRAM, Site, as_postgres, compare, hand_over, ready, server},
};

/// Changes one byte of a file.
fn damage(path: &std::path::Path, at: usize, bits: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= bits;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn other_content_under_the_name_is_refused_and_both_hashes_are_said() {
    let site = Site::new("conflict");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    site.configure("parallelUploads: 1");
    not_ready(&pgdata, &all[1..]);
    site.push(&pgdata, &all[0]).expect(0);
    let path = pgdata.join("pg_wal").join(&all[0]);
    let ours = highwater::archive::sha256(&fs::read(&path).unwrap());
    // The one bit that no checksum covers.
    damage(&path, 8192 + 2, 0x04);
    let theirs = highwater::archive::sha256(&fs::read(&path).unwrap());
    let said = site.push(&pgdata, &all[0]);
    let text = said.expect(10);
    assert!(text.contains(&ours) && text.contains(&theirs), "{text}");
    let lineage = site.lineage().await;
    let name = all[0].parse().unwrap();
    let archived = lineage.fetch_segment(
        name,
        as_cluster(&pgdata).size,
        name.end(as_cluster(&pgdata).size),
    );
    assert_eq!(highwater::archive::sha256(&archived.await.unwrap()), ours);
}

#[tokio::test]
async fn a_copy_does_not_archive_where_its_original_does() {
    let site = Site::new("copy");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    site.configure("parallelUploads: 1");
    not_ready(&pgdata, &all[1..]);
    site.push(&pgdata, &all[0]).expect(0);
    let lineage = site.lineage().await;
    let archived = async || lineage.contents().await.unwrap().segments.len();
    let before = archived().await;

    let place = |archive_name: String| Place {
        archive_name,
        lineage: lineage.id().clone(),
    };
    // Of another database of the archive, as a push names each lineage by its cluster.
    Restored::note(&pgdata, place("elsewhere".to_owned()), None).unwrap();
    hand_over(&pgdata.join(restored::NAME));
    site.push(&pgdata, &all[0]).expect(0);
    Restored::note(&pgdata, place(site.archive_name()), None).unwrap();
    hand_over(&pgdata.join(restored::NAME));
    let said = site.push(&pgdata, &all[1]);
    let text = said.expect(14);
    assert!(
        text.contains(lineage.id().as_str()) && text.contains(restored::NAME),
        "{text}"
    );
    assert_eq!(archived().await, before, "nothing of it is archived");
    // It takes the original's place.
    fs::remove_file(pgdata.join(restored::NAME)).unwrap();
    site.push(&pgdata, &all[1]).expect(0);
    assert_eq!(archived().await, before + 1);
}

#[tokio::test]
async fn nothing_is_put_behind_a_segment_that_the_archive_refuses() {
    let site = Site::new("behind");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    site.configure("parallelUploads: 1");
    not_ready(&pgdata, &all[3..]);
    archive_all(&pgdata, |name| site.push(&pgdata, name).code() == 0);
    // The same database, set back to before all of it: other WAL under the same names, and more.
    for name in &all[..3] {
        damage(&pgdata.join("pg_wal").join(name), 8192 + 2, 0x04);
    }
    for name in &all {
        let _ = fs::remove_file(status_file(&pgdata, name, "done"));
        fs::write(status_file(&pgdata, name, "ready"), "").unwrap();
        hand_over(&status_file(&pgdata, name, "ready"));
    }
    site.configure("parallelUploads: 4");
    site.push(&pgdata, &all[0]).expect(10);
    let lineage = site.lineage().await;
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.segments.len(), 3);
    assert!(
        contents.on_their_way.is_empty(),
        "{:?}",
        contents.on_their_way
    );
}

#[tokio::test]
async fn another_clusters_segment_is_refused() {
    let site = Site::new("stranger");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let other = sample::copy_of(sample::other(), &site.path("other"));
    let theirs = segments(&other);
    // In the data directory of ours.
    fs::copy(
        other.join("pg_wal").join(&theirs[0]),
        pgdata.join("pg_wal").join(&all[0]),
    )
    .unwrap();
    site.push(&pgdata, &all[0]).expect(11);
    let archived = site.lineage().await.contents().await.unwrap().segments;
    assert!(!archived.contains_key(&all[0].parse().unwrap()));
    // In the lineage of ours.
    site.push(&pgdata, &all[1]).expect(0);
    let lineage = site.identities().await[0].lineage.clone();
    site.configure(&format!("lineage: {lineage}"));
    let said = site.push(&other, &theirs[0]);
    assert!(said.expect(11).contains(lineage.as_str()));
    // Through a daemon that found it itself.
    site.configure("");
    let _daemon = site.daemon();
    site.client(&pgdata, &all[1], false).expect(0);
    site.client(&other, &theirs[0], false).expect(11);
}

#[tokio::test]
async fn a_damaged_segment_is_refused_and_keeps_nobody_from_being_archived() {
    let site = Site::new("damaged");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let path = pgdata.join("pg_wal").join(&all[2]);
    damage(&path, 700_001, 0x40);
    site.push(&pgdata, &all[0]).expect(0);
    assert!(
        ready(&pgdata).contains(&all[2]),
        "PostgreSQL must ask for it"
    );
    let said = site.push(&pgdata, &all[2]);
    let text = said.expect(12);
    assert!(
        text.contains("damagedWal") && text.contains(&all[2]),
        "{text}"
    );
    // The first page alone is wrong, or the file is too short: no setting lets that pass.
    let good = fs::read(&path).unwrap();
    for (what, bytes) in [
        ("short", &good[..8192]),
        ("empty", &[][..]),
        (
            "of another place",
            &fs::read(pgdata.join("pg_wal").join(&all[3])).unwrap(),
        ),
        ("zero", &vec![0; 1 << 20]),
    ] {
        site.configure("damagedWal: Archive");
        fs::write(&path, bytes).unwrap();
        assert_eq!(site.push(&pgdata, &all[2]).code(), 12, "{what}");
    }
    fs::write(&path, good).unwrap();
    site.push(&pgdata, &all[2]).expect(0);
    let entry = site.lineage().await.contents().await.unwrap();
    let name: highwater::postgres::SegmentName = all[2].parse().unwrap();
    let size = as_cluster(&pgdata).size;
    assert!(
        entry.segments[&name].valid_end < name.end(size),
        "valid WAL ends at the damage"
    );
}

#[test]
fn a_wrong_call_is_an_error_that_postgresql_survives() {
    let site = Site::new("usage");
    let pgdata = copy(&site);
    let name = &segments(&pgdata)[0];
    let push = |arguments: &[&str]| {
        let output = as_postgres(PROGRAM)
            .args(["wal", "push"])
            .args(arguments)
            .current_dir(&pgdata)
            .output();
        output.unwrap().status.code()
    };
    let (config, file) = (site.config(), format!("pg_wal/{name}"));
    let config = config.to_string_lossy();
    assert_eq!(push(&[]), Some(2));
    assert_eq!(push(&["--config", &config]), Some(2));
    assert_eq!(push(&[&file]), Some(2));
    assert_eq!(push(&["--config", &config, "--no-such", &file]), Some(2));
    assert_eq!(
        push(&["--config", &config, "pg_wal/archive_status"]),
        Some(2)
    );
    assert_eq!(push(&["--config", "/nowhere", &file]), Some(3));
    assert_eq!(
        push(&["--config", &config, "pg_wal/0000000100000000000000FF"]),
        Some(1)
    );
    fs::write(site.config(), "archiveName: [").unwrap();
    assert_eq!(push(&["--config", &config, &file]), Some(3));
    // Nobody reads what it says.
    let mut deaf = Command::new("sh");
    deaf.args([
        "-c",
        &format!(
            "{PROGRAM} wal push --config /nowhere {file} 2>&1 | true; exit ${{PIPESTATUS:-0}}"
        ),
    ]);
    assert!(deaf.status().unwrap().success());
}

#[tokio::test]
async fn while_the_store_is_down_nothing_is_lost_and_it_resumes_unaided() {
    let site = Site::new("down");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    site.configure_store(1, "");
    let said = site.push(&pgdata, &all[0]);
    let text = said.expect(1);
    assert!(text.contains("endpoint"), "{text}");
    assert_eq!(ready(&pgdata).len(), all.len());
    site.configure("");
    archive_all(&pgdata, |name| site.push(&pgdata, name).code() == 0);
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
}

/// PostgreSQL's children inherit what it has open.
#[test]
fn it_needs_few_file_descriptors_of_its_own() {
    let site = Site::new("descriptors");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    // All but 60 of those allowed are taken.
    let script = format!(
        "ulimit -n 400; for i in $(seq 10 350); do eval \"exec $i</dev/null\"; done; exec {PROGRAM} wal push --config {} pg_wal/{}",
        site.config().display(),
        all[0]
    );
    let output = as_postgres("/bin/bash")
        .args(["-c", &script])
        .current_dir(&pgdata)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = server();
}
