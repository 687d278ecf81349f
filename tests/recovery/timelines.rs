//! A recovery over a failover: the old timeline up to the fork, then the new one.

use std::fs;

use highwater::{
    archive::{Archive, IndexEntry, MountedSecrets, store},
    postgres::{Lsn, SegmentName, TimelineId},
    recovery::fetch::{FetchProgress, MountedPaths},
};
use serde_json::json;

use crate::{
    Restore,
    cluster::{self, SIZE},
    fixture,
};

/// The fixture's archive, and in it what a database promoted before the great deletion wrote on timeline 2.
async fn failed_over(name: &str) -> (MountedPaths, Lsn) {
    let fixture = fixture().await;
    let fork = fixture.before_drop.1;
    let promoted = Restore::new(&format!("{name}-promoted"), fork, json!(null)).await;
    promoted.run().await.unwrap();
    let running = promoted.started();
    let sql = running.connect().await;
    cluster::insert(&sql, 10_000..13_000).await;
    let row = sql
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await;
    let end: Lsn = row.unwrap().get::<_, String>(0).parse().unwrap();
    let directory = Restore::directory(name).await.join("archive");
    cluster::copy(&fixture.archive(), &directory);
    let mounted = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: directory.clone(),
    };
    let store = store::open(&fixture.spec, &mounted).unwrap();
    let archive = Archive::new(store, &fixture.spec, "shop-orders");
    let lineage = archive.unwrap().lineage(cluster::LINEAGE.parse().unwrap());
    let wal = promoted.pgdata().join("pg_wal");
    let second = TimelineId::new(2).unwrap();
    let history = fs::read(wal.join("00000002.history")).unwrap();
    lineage.push_history(second, history.into()).await.unwrap();
    let mut segment = SegmentName::containing(second, fork, SIZE);
    while segment.start(SIZE) < end {
        let bytes = fs::read(wal.join(segment.to_string())).unwrap();
        if segment.end(SIZE) <= end {
            let entry = IndexEntry::of(segment, SIZE, &bytes);
            lineage
                .push_segment(segment, bytes.into(), &entry)
                .await
                .unwrap();
        } else {
            let length = usize::try_from(SIZE.offset(end)).unwrap();
            lineage
                .push_tail(segment, 0, &bytes[..length], "e2", None)
                .await
                .unwrap();
        }
        segment = segment.next(SIZE);
    }
    let mounted = MountedPaths {
        credentials: None,
        ca: None,
        decryption: None,
        directory,
    };
    (mounted, end)
}

#[tokio::test]
async fn over_a_failover_to_the_end_of_the_new_timeline() {
    let (mounted, end) = failed_over("t-over").await;
    let mut plan = Restore::plan(end, json!(null)).await;
    plan.timeline = TimelineId::new(2).unwrap();
    let restore = Restore::from_archive("t-over", plan, &fixture().await.spec, mounted).await;
    assert_eq!(restore.job.fetch.line.len(), 2);

    // History files are asked of the archive at every start: without this one there is no way to its timeline.
    let archive = &restore.job.fetch.mounted.directory;
    let mut history = crate::files(archive, "00000002");
    history.retain(|path| path.to_string_lossy().contains("history"));
    assert_eq!(history.len(), 1, "{history:?}");
    let away = archive.join("away");
    fs::rename(&history[0], &away).unwrap();
    let error = restore.run().await.unwrap_err();
    let said = "recovery target timeline 2 does not exist";
    assert!(error.to_string().contains(said), "{error}");
    assert!(restore.control().contains("TimeLineID:       1"));
    fs::rename(&away, &history[0]).unwrap();

    let result = restore.run().await.unwrap();
    assert_eq!(result.new_timeline.map(TimelineId::get), Some(3));
    assert_eq!(result.end_lsn, Some(end));
    assert_eq!(restore.rows().await, (7000, Some(0), Some(12_999)));
    let progress = FetchProgress::read(&restore.job.fetch.progress);
    assert_eq!(progress.reached, Some(end));
}
