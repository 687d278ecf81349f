//! Segments go several at once, and count in their order: an index entry says that everything before it is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    proxy::Proxy,
    sample::{archive_all, as_cluster, copy, segments},
    site::{Site, compare, ready, server, wait_for},
};

/// Where the server keeps the lineage.
pub async fn root(site: &Site) -> PathBuf {
    let bucket = server().data().join(crate::server::BUCKET);
    let database = bucket.join("prod").join(site.archive_name());
    database.join(site.identities().await[0].lineage.to_string())
}

/// The segments that have an object in a folder.
pub fn held(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let segments = names.filter_map(|name| Some(name.split_once('.')?.0.to_owned()));
    segments.filter(|name| name.len() == 24).collect()
}

#[tokio::test]
async fn an_index_entry_waits_for_the_segments_before_it_and_their_bodies_do_not() {
    let proxy = Proxy::start(server().port(), Duration::ZERO);
    let site = Site::at("order", proxy.port());
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    proxy.hold(&format!("wal/00000001/{}", all[1]));
    let _daemon = site.daemon();
    site.client(&pgdata, &all[0], false).expect(0);
    let root = root(&site).await;
    let (wal, index) = (root.join("wal/00000001"), root.join("index/00000001"));
    let others: BTreeSet<String> = all
        .iter()
        .filter(|name| **name != all[1])
        .cloned()
        .collect();
    wait_for("the segments behind the one that is held", || {
        held(&wal) == others
    });
    // Another whole push, to whose end theirs would have come too.
    site.client(&pgdata, &all[0], false).expect(0);
    assert_eq!(held(&index), BTreeSet::from([all[0].clone()]));
    assert!(
        ready(&pgdata).is_superset(&others),
        "something is said to be done"
    );
    proxy.let_go();
    wait_for("all of them", || held(&index).len() == all.len());
    archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
}

#[tokio::test]
async fn what_follows_a_segment_that_fails_fails_too_and_is_asked_for_again() {
    let site = Site::new("order-failed");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let path = pgdata.join("pg_wal").join(&all[1]);
    let sound = fs::read(&path).unwrap();
    let damaged = [&sound[..500_000], &[0xAA; 100], &sound[500_100..]].concat();
    fs::write(&path, damaged).unwrap();
    let daemon = site.daemon();
    site.client(&pgdata, &all[0], false).expect(0);
    site.client(&pgdata, &all[1], false).expect(12);
    // It waits for what is on its way: none of it hangs.
    daemon.terminate();
    let said = daemon.wait();
    let text = said.expect(0);
    assert!(!text.contains("on their way"), "{text}");
    let index = root(&site).await.join("index/00000001");
    assert_eq!(held(&index), BTreeSet::from([all[0].clone()]));
    let left = ready(&pgdata);
    assert!(all[1..].iter().all(|name| left.contains(name)), "{left:?}");

    fs::write(&path, sound).unwrap();
    let _daemon = site.daemon();
    archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
}

#[tokio::test]
async fn what_waits_behind_a_segment_that_does_not_get_there_fails_too() {
    let proxy = Proxy::start(server().port(), Duration::ZERO);
    let site = Site::at("order-cut", proxy.port());
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    proxy.hold(&format!("wal/00000001/{}", all[1]));
    let daemon = site.daemon();
    site.client(&pgdata, &all[0], false).expect(0);
    let root = root(&site).await;
    let wal = root.join("wal/00000001");
    wait_for("the segments behind the one that is held", || {
        held(&wal).len() == all.len() - 1
    });
    proxy.cut();
    site.client(&pgdata, &all[1], false).expect(1);
    daemon.terminate();
    let said = daemon.wait();
    let text = said.expect(0);
    assert!(!text.contains("on their way"), "{text}");
    let index = held(&root.join("index/00000001"));
    assert_eq!(index, BTreeSet::from([all[0].clone()]));

    proxy.mend();
    proxy.let_go();
    let _daemon = site.daemon();
    archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
}

/// The control of the tests above: a daemon that ends while a segment hangs says so.
#[tokio::test]
async fn what_a_daemon_leaves_on_its_way_is_said_and_asked_for_again() {
    let proxy = Proxy::start(server().port(), Duration::ZERO);
    let site = Site::at("order-left", proxy.port());
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    proxy.hold(&format!("wal/00000001/{}", all[1]));
    let daemon = site.daemon();
    site.client(&pgdata, &all[0], false).expect(0);
    let wal = root(&site).await.join("wal/00000001");
    wait_for("the segments behind the one that is held", || {
        held(&wal).len() == all.len() - 1
    });
    daemon.terminate();
    let said = daemon.wait();
    let text = said.expect(0);
    let left = format!("{} segments were still on their way", all.len() - 1);
    assert!(text.contains(&left), "{text}");
    let ready = ready(&pgdata);
    assert!(
        all[1..].iter().all(|name| ready.contains(name)),
        "{ready:?}"
    );

    proxy.let_go();
    let _daemon = site.daemon();
    archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
}
