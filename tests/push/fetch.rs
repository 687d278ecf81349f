//! `wal fetch` on its own: 1 is for what is definitely not there, and nothing else.

use std::fs;

use crate::{
    sample::{archive_all, copy, segments},
    site::{Cluster, Site},
};

fn next(name: &str) -> String {
    let name: highwater::postgres::SegmentName = name.parse().unwrap();
    let size = highwater::postgres::SegmentSize::new(1 << 20).unwrap();
    name.next(size).to_string()
}

#[tokio::test]
async fn the_end_of_the_log_is_told_from_a_gap_and_from_an_outage() {
    let site = Site::new("fetch");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    // Nothing was ever archived: that is no end.
    site.fetch(&pgdata, &all[0]).expect(212);
    let ours = fs::read(pgdata.join("pg_wal").join(&all[5])).unwrap();
    archive_all(&pgdata, |name| site.push(&pgdata, name).code() == 0);
    site.fetch(&pgdata, &all[5]).expect(0);
    assert!(fs::read(pgdata.join("pg_wal/RECOVERYXLOG")).unwrap() == ours);
    fs::remove_file(pgdata.join("pg_wal/RECOVERYXLOG")).unwrap();
    for absent in [
        next(all.last().unwrap()).as_str(),
        "00000002.history",
        "something",
    ] {
        site.fetch(&pgdata, absent).expect(1);
    }
    assert!(!pgdata.join("pg_wal/RECOVERYXLOG").exists());
    let lost = crate::site::server()
        .data()
        .join(crate::server::BUCKET)
        .join("prod")
        .join(site.archive_name());
    let lineage = site.identities().await[0].lineage.clone();
    fs::remove_file(lost.join(format!("{lineage}/wal/00000001/{}.zst", all[5]))).unwrap();
    let said = site.fetch(&pgdata, &all[5]);
    assert!(said.expect(201).contains(&all[5]));
    site.configure_store(1, "fetchDeadlineSeconds: 1");
    site.fetch(&pgdata, &all[6]).expect(200);
    site.fetch(&pgdata, &next(all.last().unwrap())).expect(200);
    fs::write(site.config(), "archiveName: [").unwrap();
    site.fetch(&pgdata, &all[6]).expect(205);
    // A standby asks again: above 125 it would end.
    fs::write(pgdata.join("standby.signal"), "").unwrap();
    site.fetch(&pgdata, &all[6]).expect(1);
    site.configure("");
    site.fetch(&pgdata, &all[5]).expect(1);
    site.fetch(&pgdata, &all[6]).expect(0);
}

/// The largest that PostgreSQL can have (`initdb --wal-segsize`).
#[test]
fn a_segment_of_a_gigabyte_goes_there_and_back() {
    let site = Site::new("gigabyte");
    let cluster = Cluster::init(site.path("data"), 1024);
    cluster.archive_with(&site.push_command());
    cluster.start();
    cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n");
    let name = cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    cluster.archive_all();
    cluster.stop("fast");
    let wal = cluster.pgdata.join("pg_wal");
    let theirs = fs::read(wal.join(&name)).unwrap();
    assert_eq!(theirs.len(), 1 << 30);
    site.fetch(&cluster.pgdata, &name).expect(0);
    assert!(fs::read(wal.join("RECOVERYXLOG")).unwrap() == theirs);
}

#[tokio::test]
async fn another_clusters_wal_is_not_handed_out() {
    let site = Site::new("fetch-stranger");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let (name, absent) = (all[0].clone(), next(&all[all.len() - 1]));
    site.push(&pgdata, &name).expect(0);
    let lineage = site.identities().await[0].lineage.clone();
    let other = crate::sample::copy_of(crate::sample::other(), &site.path("other"));
    site.configure(&format!("lineage: {lineage}"));
    site.fetch(&other, &name).expect(213);
    // What is not there in another cluster's lineage is no end of this one's log.
    site.fetch(&other, &absent).expect(212);
    site.fetch(&pgdata, &absent).expect(1);
    site.fetch(&pgdata, &name).expect(0);
}

#[tokio::test]
async fn what_may_still_be_on_its_way_is_waited_for_and_is_a_gap_only_later() {
    let site = Site::new("fetch-awaited");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    archive_all(&pgdata, |name| site.push(&pgdata, name).code() == 0);
    let root = crate::site::server()
        .data()
        .join(crate::server::BUCKET)
        .join("prod")
        .join(site.archive_name())
        .join(site.identities().await[0].lineage.to_string());
    // As a writer leaves it that puts several at once: later ones are there, and none of them counts yet.
    let whole = |name: &str| root.join(format!("wal/00000001/{name}.zst"));
    let away = site.path("away");
    fs::rename(whole(&all[5]), &away).unwrap();
    for name in &all[5..] {
        fs::remove_file(root.join(format!("index/00000001/{name}.json"))).unwrap();
    }
    site.configure("fetchDeadlineSeconds: 2");
    let said = site.fetch(&pgdata, &all[5]);
    assert!(said.expect(200).contains("is being archived"));
    // It comes while it is asked for.
    site.configure("fetchDeadlineSeconds: 60");
    let mut asking = site.fetch_process(&pgdata, &all[5]);
    asking.until_said("trying again to fetch");
    fs::rename(&away, whole(&all[5])).unwrap();
    asking.wait().expect(0);
    // The last of them came long ago.
    fs::remove_file(whole(&all[5])).unwrap();
    for name in &all[6..] {
        let file = fs::File::options().write(true).open(whole(name)).unwrap();
        let put_at = file.metadata().unwrap().modified().unwrap();
        let aged = put_at - std::time::Duration::from_mins(10);
        file.set_modified(aged).unwrap();
    }
    let said = site.fetch(&pgdata, &all[5]);
    assert!(said.expect(201).contains(&all[5]));
}
