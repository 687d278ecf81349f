//! Forks, and records that a crash cut off.

use std::fs;

use highwater::postgres::{
    Lsn, SegmentName, TimelineHistory, TimelineId,
    session::Client,
    wal::{Carry, ScanEnd, SegmentScan, scan},
    wal_reader,
};

use crate::{database::Database, waldump::dump};

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

async fn write(client: &Client) {
    client
        .batch_execute("SELECT pg_logical_emit_message(true, 'some', repeat('x', 40000))")
        .await
        .unwrap();
}

/// Scans the segments of `timeline` from the one that holds `from` to the end of the log.
fn scan_from(database: &Database, timeline: TimelineId, from: Lsn) -> SegmentScan {
    let size = database.segment_size;
    let mut name = SegmentName::containing(timeline, from, size);
    let records = dump(database, name, from);
    let mut carry: Option<Carry> = None;
    loop {
        let found = scan(&database.segment(name), name, size, None, carry.as_ref()).unwrap();
        if !found.complete {
            assert_eq!(
                Some(found.valid_end),
                records.last().map(|record| record.end)
            );
            return found;
        }
        name = name.next(size);
        carry = found.carry;
    }
}

#[tokio::test]
async fn a_fork_is_followed_from_timeline_to_timeline() {
    let first = Database::start(1, "wal_keep_size = '100MB'");
    let client = first.client().await;
    write(&client).await;
    drop(client);
    first.stop("fast");

    // Timeline 2 begins with a checkpoint at a recovery target's end, 3 with a promotion.
    let recovery = "restore_command = 'false'\nrecovery_target_timeline = 'latest'";
    let second = first.copy(recovery);
    second.append("recovery.signal", "");
    let fork = follow(&second, timeline(2)).await;
    let third = second.copy(recovery);
    third.append("standby.signal", "");
    third.boot();
    let standby = third.client().await;
    assert!(matches!(
        wal_reader::flush_position(&standby).await,
        Err(wal_reader::WalReadError::InRecovery)
    ));
    assert!(
        highwater::postgres::server::facts(&standby)
            .await
            .unwrap()
            .in_recovery
    );
    standby.batch_execute("SELECT pg_promote()").await.unwrap();
    let again = follow_running(&third, timeline(3)).await;
    assert!(again > fork);

    // The segment of the fork under the new name is not taken for the old timeline's, nor the other way round.
    let size = first.segment_size;
    let name = SegmentName::containing(timeline(2), fork, size);
    let bytes = second.segment(name);
    let old = SegmentName::containing(timeline(1), fork, size);
    let under_old_name = scan(&bytes, old, size, None, None).unwrap();
    assert!(
        matches!(under_old_name.end, ScanEnd::Invalid { .. }) && under_old_name.valid_end <= fork
    );
    assert!(scan(&first.segment(old), name, size, None, None).is_err());
}

/// Starts the server, which leaves recovery; returns where `timeline` begins.
async fn follow(database: &Database, timeline: TimelineId) -> Lsn {
    database.boot();
    let client = database.client().await;
    client
        .batch_execute(
            "DO $$ BEGIN WHILE pg_is_in_recovery() LOOP PERFORM pg_sleep(0.01); END LOOP; END $$",
        )
        .await
        .unwrap();
    drop(client);
    let fork = follow_running(database, timeline).await;
    database.stop("fast");
    fork
}

async fn follow_running(database: &Database, timeline: TimelineId) -> Lsn {
    let client = database.client().await;
    // A promotion asks for one and does not wait for it: its records would come while the others are read.
    client.batch_execute("CHECKPOINT").await.unwrap();
    write(&client).await;
    let position = wal_reader::flush_position(&client).await.unwrap();
    assert_eq!(
        position.timeline, timeline,
        "pg_control may still say the old one"
    );
    assert_eq!(
        highwater::postgres::server::facts(&client)
            .await
            .unwrap()
            .timeline,
        timeline
    );
    let text = wal_reader::history_file(&client, timeline)
        .await
        .unwrap()
        .unwrap();
    let history = TimelineHistory::parse(timeline, std::str::from_utf8(&text).unwrap()).unwrap();
    let fork = history.parent().unwrap();
    assert_eq!(fork.timeline.get() + 1, timeline.get());
    assert!(
        history.contains(timeline, position.lsn)
            && history.contains(fork.timeline, fork.switch_lsn)
    );
    let found = scan_from(database, timeline, fork.switch_lsn);
    assert!(found.valid_end >= position.lsn);
    fork.switch_lsn
}

#[tokio::test]
async fn a_record_that_a_crash_cut_off_is_passed_over() {
    let database = Database::start(1, "wal_keep_size = '100MB'");
    let client = database.client().await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    let from = wal_reader::flush_position(&client).await.unwrap().lsn;
    client
        .batch_execute("SELECT pg_logical_emit_message(true, 'long', repeat('x', 3500000))")
        .await
        .unwrap();
    database.stop("immediate");
    let size = database.segment_size;
    let first = SegmentName::containing(TimelineId::FIRST, from, size);
    for entry in fs::read_dir(database.wal()).unwrap() {
        let entry = entry.unwrap();
        let name = entry
            .file_name()
            .into_string()
            .unwrap()
            .parse::<SegmentName>();
        if name.is_ok_and(|name| name > first) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    database.boot();
    write(&database.client().await).await;
    let text = fs::read_to_string(database.directory().join("log")).unwrap();
    let found = scan_from(&database, TimelineId::FIRST, from);
    assert!(found.valid_end > first.end(size), "{text}");
    let second = first.next(size);
    let records = dump(&database, first, from);
    assert!(
        records
            .iter()
            .any(|record| record.description.starts_with("OVERWRITE_CONTRECORD")),
        "{text}"
    );

    // The flag alone, without the record that belongs to it, is damage.
    let before = scan(&database.segment(first), first, size, None, None).unwrap();
    let carry = before.carry.unwrap();
    let mut bytes = database.segment(second);
    bytes[2] ^= 8;
    let flipped = scan(&bytes, second, size, None, Some(&carry)).unwrap();
    assert_eq!(flipped.valid_end, second.start(size));
}
