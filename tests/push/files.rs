//! What becomes of each kind of file, one call at a time.

use std::{fs, time::Duration};

use highwater::archive::LineageId;

use crate::{
    proxy::Proxy,
    sample::{self, add, archive_all, as_cluster, copy, not_ready, segments, status_file},
    site::{Site, compare, ready, server},
};

#[tokio::test]
async fn a_call_archives_its_segment_and_those_that_wait_behind_it() {
    let site = Site::new("ahead");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let before = as_cluster(&pgdata).names();
    site.push(&pgdata, &all[0]).expect(0);
    // PostgreSQL itself says that what it asked for is done.
    assert!(ready(&pgdata).contains(&all[0]));
    assert!(status_file(&pgdata, &all[1], "done").exists());
    let asked = archive_all(&pgdata, |name| site.push(&pgdata, name).code() == 0);
    assert!(asked <= 3, "{asked} calls for {} segments", all.len());
    assert_eq!(
        as_cluster(&pgdata).names(),
        before,
        "a file of ours in pg_wal"
    );
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
    // After a crash PostgreSQL asks again.
    for name in &all {
        site.push(&pgdata, name).expect(0);
    }
    assert_eq!(site.identities().await.len(), 1);
}

/// Each costs money and a round trip.
#[tokio::test]
async fn a_segment_costs_two_requests_and_nothing_is_listed() {
    let proxy = Proxy::start(server().port(), Duration::ZERO);
    let site = Site::at("requests-per-segment", proxy.port());
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    not_ready(&pgdata, &all[4..]);
    site.push(&pgdata, &all[4]).expect(0);
    proxy.requests();
    site.push(&pgdata, &all[0]).expect(0);
    // The identity object, then the segment and its index entry of four segments.
    assert_eq!(proxy.requests(), 9);
    let _daemon = site.daemon();
    site.client(&pgdata, &all[5], false).expect(0);
    proxy.requests();
    let cost = |name: &String| {
        site.client(&pgdata, name, false).expect(0);
        proxy.requests()
    };
    // What the daemon finds out of the store at its start may still be under way.
    let costs: Vec<usize> = all[6..].iter().map(cost).collect();
    assert!(costs.len() > 2 && costs.ends_with(&[2]), "{costs:?}");
}

#[tokio::test]
async fn only_finished_segments_are_pushed_ahead() {
    let site = Site::new("gap-ahead");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    fs::remove_file(status_file(&pgdata, &all[2], "ready")).unwrap();
    site.push(&pgdata, &all[0]).expect(0);
    let archived = site.lineage().await.contents().await.unwrap().segments;
    let archived: Vec<String> = archived.keys().map(ToString::to_string).collect();
    assert_eq!(archived, all[..2]);
}

#[tokio::test]
async fn a_history_goes_before_the_wal_of_its_timeline() {
    let site = Site::new("history");
    let pgdata = copy(&site);
    let history = "00000002.history";
    let name = "000000020000000000000009";
    // The first segment of a timeline that nobody knows: refused, but not before its history was archived.
    add(
        &pgdata,
        history,
        b"1\t0/900000\tno recovery target specified\n",
    );
    let segment = fs::read(pgdata.join("pg_wal").join(&segments(&pgdata)[0])).unwrap();
    add(&pgdata, name, &segment);
    site.push(&pgdata, name).expect(12);
    assert!(status_file(&pgdata, history, "done").exists());
    let contents = site.lineage().await.contents().await.unwrap();
    assert_eq!(contents.histories.len(), 1);
    site.push(&pgdata, history).expect(0);
    // Another history of the same timeline is another database.
    add(
        &pgdata,
        history,
        b"1\t0/800000\tno recovery target specified\n",
    );
    site.push(&pgdata, history).expect(10);
    site.push(&pgdata, name).expect(10);
    add(&pgdata, history, b"half a");
    site.push(&pgdata, history).expect(12);
}

#[tokio::test]
async fn a_backup_history_file_is_kept_and_handed_out() {
    let site = Site::new("backup-history");
    let pgdata = copy(&site);
    let name = format!("{}.00000028.backup", segments(&pgdata)[0]);
    add(&pgdata, &name, b"START WAL LOCATION: 0/100028\n");
    site.push(&pgdata, &name).expect(0);
    site.push(&pgdata, &name).expect(0);
    site.fetch(&pgdata, &name).expect(0);
    let fetched = fs::read(pgdata.join("pg_wal/RECOVERYXLOG")).unwrap();
    assert_eq!(fetched, b"START WAL LOCATION: 0/100028\n");
    add(&pgdata, &name, b"START WAL LOCATION: 0/100029\n");
    site.push(&pgdata, &name).expect(10);
}

#[tokio::test]
async fn a_partial_segment_is_the_last_tail_of_its_timeline_and_no_segment() {
    let site = Site::new("partial");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let whole = fs::read(pgdata.join("pg_wal").join(&all[3])).unwrap();
    let half = [&whole[..400_000], &vec![0; whole.len() - 400_000][..]].concat();
    let partial = format!("{}.partial", all[3]);
    add(&pgdata, &partial, &half);
    fs::remove_file(status_file(&pgdata, &all[3], "ready")).unwrap();
    site.push(&pgdata, &all[2]).expect(0);
    site.push(&pgdata, &partial).expect(0);
    site.push(&pgdata, &partial).expect(0);
    let contents = site.lineage().await.contents().await.unwrap();
    let name = all[3].parse().unwrap();
    assert!(!contents.segments.contains_key(&name));
    let end = contents.tails[&name].end.get() % (1 << 20);
    assert!((300_000..=400_000).contains(&end), "{end}");
    // Whoever recovers that timeline gets as much as there is.
    site.fetch(&pgdata, &all[3]).expect(0);
    let fetched = fs::read(pgdata.join("pg_wal/RECOVERYXLOG")).unwrap();
    let end = usize::try_from(end).unwrap();
    assert!(fetched.len() == whole.len() && fetched[..end] == whole[..end]);
    assert!(fetched[end..].iter().all(|byte| *byte == 0));
    // The old server had all of it: its segment takes the tail's place. A partial file that comes later says nothing new.
    site.push(&pgdata, &all[3]).expect(0);
    let contents = site.lineage().await.contents().await.unwrap();
    assert!(contents.segments.contains_key(&name) && contents.tails.is_empty());
    site.push(&pgdata, &partial).expect(0);
    let mut other = half;
    other[20_000..30_000].copy_from_slice(&whole[40_000..50_000]);
    add(&pgdata, &partial, &other);
    // What is valid of it is a part of the segment still.
    site.push(&pgdata, &partial).expect(0);
}

#[tokio::test]
async fn a_lineage_in_the_configuration_is_used_or_begun() {
    let site = Site::new("given");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    site.configure("lineage: abcdefghjk");
    site.push(&pgdata, &all[0]).expect(0);
    let given: LineageId = "abcdefghjk".parse().unwrap();
    assert_eq!(site.identities().await[0].lineage, given);
    // Whoever does not name it finds it.
    site.configure("");
    site.push(&pgdata, &all[11]).expect(0);
    assert_eq!(site.identities().await.len(), 1);
    // And remembers it; what is remembered of another lineage costs no more than a look.
    let state = fs::read_dir(site.path("state"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = fs::read_to_string(&state).unwrap();
    assert!(text.contains("abcdefghjk"), "{text}");
    fs::write(&state, text.replace("abcdefghjk", "zzzzzzzzzz")).unwrap();
    site.push(&pgdata, &all[11]).expect(0);
    assert!(fs::read_to_string(&state).unwrap().contains("abcdefghjk"));
    fs::write(&state, "{").unwrap();
    site.push(&pgdata, &all[11]).expect(0);
    assert_eq!(site.identities().await.len(), 1);
}

#[tokio::test]
async fn two_lineages_of_one_cluster_are_not_chosen_between() {
    let site = Site::new("several");
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    for lineage in ["abcdefghjk", "bbbbbbbbbb"] {
        site.configure(&format!("lineage: {lineage}"));
        site.push(&pgdata, &all[0]).expect(0);
    }
    site.configure("");
    fs::remove_dir_all(site.path("state")).unwrap();
    let said = site.push(&pgdata, &all[0]);
    let text = said.expect(13);
    assert!(
        text.contains("abcdefghjk") && text.contains("bbbbbbbbbb") && text.contains("lineage"),
        "{text}"
    );
    // Another cluster's lineage beside them is nobody's trouble.
    let other = sample::copy_of(sample::other(), &site.path("other"));
    site.push(&other, &segments(&other)[0]).expect(0);
    assert_eq!(site.identities().await.len(), 3);
}
