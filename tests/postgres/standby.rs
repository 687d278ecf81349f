//! Backup mode on a standby that streams from a primary.

use std::fs;

use highwater::postgres::{
    BackupFrom, BackupLabel, ClusterState, Lsn, TimelineId, backup_mode, session::Client, standby,
    wal_reader,
};
use tempfile::TempDir;

use crate::pair::{CONTROL, Pair, control, copy, directory, promoted, restored};

async fn insert(client: &Client, from: i32, to: i32) {
    let rows = format!(
        "INSERT INTO public.ledger SELECT n, repeat('x', 500) FROM generate_series({from}, {to}) AS n"
    );
    client.batch_execute(&rows).await.unwrap();
}

/// Everything but pg_control, and that last, with changes between.
async fn snapshot(pair: &Pair, primary: &Client, standby: &Client) -> TempDir {
    let directory = directory();
    let (from, to) = (pair.standby.data(), directory.path().join("data"));
    copy(&from, directory.path());
    insert(primary, 2001, 3000).await;
    pair.replayed(primary, standby).await;
    fs::remove_file(to.join(CONTROL)).unwrap();
    copy(&from.join(CONTROL), &to.join(CONTROL));
    directory
}

#[tokio::test]
async fn a_backup_of_a_standby_lies_within_one_of_its_primary() {
    let pair = Pair::start().await;
    let (primary, own) = (pair.primary.client().await, pair.standby.client().await);
    assert_eq!(standby::streams(&primary).await.unwrap(), None);
    assert_eq!(standby::minimum_timeline(&primary).await.unwrap(), None);
    insert(&primary, 1, 1000).await;

    let around = backup_mode::start(&primary, "around", true).await.unwrap();
    pair.replayed(&primary, &own).await;
    let began = backup_mode::start(&own, "of the standby", true)
        .await
        .unwrap();
    assert!(began.start_lsn >= around.start_lsn, "{began:?} {around:?}");
    assert_eq!(
        (began.timeline, around.timeline),
        (TimelineId::FIRST, TimelineId::FIRST)
    );
    insert(&primary, 1001, 2000).await;
    pair.replayed(&primary, &own).await;
    // Pages are written, and pg_control says how much must be replayed for them.
    own.batch_execute("CHECKPOINT").await.unwrap();
    let directory = snapshot(&pair, &primary, &own).await;
    let found = control(&fs::read(directory.path().join("data").join(CONTROL)).unwrap());
    insert(&primary, 3001, 4000).await;
    pair.replayed(&primary, &own).await;

    let stopped = backup_mode::stop(&own).await.unwrap();
    let minimum = standby::minimum_timeline(&own).await.unwrap();
    assert_eq!(minimum, Some(TimelineId::FIRST));
    let ended = backup_mode::stop(&primary).await.unwrap();
    assert!(stopped.stop_lsn < ended.stop_lsn, "{stopped:?} {ended:?}");
    let label = BackupLabel::parse(&stopped.label).unwrap();
    assert_eq!(label.from, BackupFrom::Standby);
    assert_eq!(
        (label.start_lsn, label.start_timeline),
        (began.start_lsn, began.timeline)
    );
    assert_eq!(found.state, ClusterState::InArchiveRecovery);
    assert!(found.checkpoint >= label.checkpoint_lsn && found.checkpoint < stopped.stop_lsn);
    assert!(found.min_recovery_point <= stopped.stop_lsn, "{found:?}");
    // The segment that the standby's end lies in is complete: the primary's end has switched it.
    let end = wal_reader::flush_position(&primary).await.unwrap().lsn;
    let segment = |lsn: Lsn| lsn.get() / pair.primary.segment_size.get();
    assert!(
        segment(end) > segment(stopped.stop_lsn),
        "{end} {}",
        stopped.stop_lsn
    );

    let copied = restored(&pair, directory, &stopped, stopped.stop_lsn);
    let count = promoted(&copied)
        .await
        .query_one("SELECT count(*) FROM public.ledger", &[])
        .await;
    let rows: i64 = count.unwrap().get(0);
    assert!((2000..=4000).contains(&rows), "{rows} rows");
}

#[tokio::test]
async fn a_standby_that_is_promoted_does_not_end_its_backup() {
    let pair = Pair::start().await;
    let own = pair.standby.client().await;
    let old = backup_mode::start(&own, "of the standby", true)
        .await
        .unwrap();
    assert_eq!(old.timeline, TimelineId::FIRST);
    assert!(wal_reader::end(&own).await.unwrap().in_recovery);
    own.batch_execute("SELECT pg_promote()").await.unwrap();
    let error = backup_mode::stop(&own).await.unwrap_err();
    assert!(!error.is_session_lost(), "{error}");
    assert!(
        error.to_string().contains("promoted during online backup"),
        "{error}"
    );
    assert!(!wal_reader::end(&own).await.unwrap().in_recovery);
    // As a primary it begins one like any other.
    let again = backup_mode::start(&own, "of the primary", true)
        .await
        .unwrap();
    assert_eq!(again.timeline.get(), 2);
    backup_mode::stop(&own).await.unwrap();
}
