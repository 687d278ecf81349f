//! What the archiver does not bring, and what is said of that.

use highwater::{
    agent::wal::{ArchiverTrouble, Delays, GapCause, Notice},
    archive::GROUP,
    postgres::{SegmentName, TimelineId, slot},
};

use super::{
    Gate, NEVER, archiving, backup, begin, ends_like, has_slot, no_trouble, reason, rest, site,
    switch, until, watcher_begin,
};
use crate::{
    database::Database,
    running::{LIMIT, Running, SLOT, flushed, same_as_server, write},
};

/// PostgreSQL counts as failed neither a program that is not there nor one that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_that_neither_archives_nor_fails_is_told_and_recovers() {
    let (_server, site) = site("agent-stalled");
    let database = Database::start(1, &archiving("/nonexistent/program"));
    let lineage = begin(&site, &database).await;
    let delays = Delays {
        stalled: std::time::Duration::from_secs(1),
        ..Delays::default()
    };
    let (mut watcher, mut seen) = Running::watch_with(delays, &database, &lineage)
        .await
        .unwrap();
    let start = watcher_begin(&mut watcher).await;
    let name = SegmentName::containing(TimelineId::FIRST, start, database.segment_size);
    let end = switch(&database).await;
    let stalled = until("trouble", &mut seen, |watched| watched.trouble.is_some()).await;
    assert_eq!(stalled.trouble, Some(ArchiverTrouble::Stalled(name)));
    assert_eq!(reason(Some(&stalled)), Some("ArchiverStalled"));
    let command = site.push_command();
    database
        .sql(&format!("ALTER SYSTEM SET archive_command = '{command}'"))
        .await;
    // The archiver that ended is started anew when somebody comes.
    let come = async {
        loop {
            database.sql("SELECT pg_reload_conf()").await;
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = watcher.ship(end) => {}
        () = come => {}
    }
    no_trouble(&mut seen).await;
    ends_like(&database, watcher, &lineage).await;
}

/// What PostgreSQL archived last is no segment then.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_elsewhere_is_told_after_a_backup_too() {
    let (_server, site) = site("agent-elsewhere-backup");
    let gate = Gate::of(&site);
    let command = format!("test -e {}", gate.0.display());
    let database = Database::start(1, &archiving(&command));
    let lineage = begin(&site, &database).await;
    let (_watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    backup(&database).await;
    until("failure", &mut seen, |watched| watched.trouble.is_some()).await;
    gate.open(&database).await;
    rest(&database);
    let client = database.client().await;
    let ask = "SELECT coalesce(last_archived_wal, '') LIKE '%.backup' FROM pg_stat_archiver";
    let told = async {
        while !client
            .query_typed_one(ask, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, told).await.unwrap();
    until("trouble", &mut seen, |watched| {
        reason(Some(watched)) == Some("ArchivedElsewhere")
    })
    .await;
}

/// Its entry is rolled up at once, PostgreSQL does not call it what was archived last, and nothing follows it.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_segment_of_a_group_is_followed_though_it_was_pushed_ahead() {
    let (_server, site) = site("agent-group");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let size = database.segment_size;
    let lineage = begin(&site, &database).await;
    gate.open(&database).await;
    let number = flushed(&database).await.get() / size.get();
    let switches = format!(
        "DO $$ BEGIN FOR n IN 1..{} LOOP \
         PERFORM pg_logical_emit_message(false, 'test', 'end'); PERFORM pg_switch_wal(); \
         END LOOP; END $$",
        GROUP - 1 - number
    );
    let client = database.client().await;
    client.batch_execute(&switches).await.unwrap();
    rest(&database);
    gate.close();
    let (mut watcher, _seen) = Running::watch(&database, &lineage).await.unwrap();
    let start = watcher_begin(&mut watcher).await;
    assert_eq!(start.get() / size.get() % GROUP, GROUP - 1);
    let last = SegmentName::containing(TimelineId::FIRST, start, size).to_string();
    let end = switch(&database).await;
    site.push(&database.data(), &last).expect(0);
    assert!(!lineage.has_entry(last.parse().unwrap()).await.unwrap());
    let status = database.data().join("pg_wal/archive_status");
    let [ready, done] = ["ready", "done"].map(|ending| status.join(format!("{last}.{ending}")));
    std::fs::rename(ready, done).unwrap();
    watcher.ship(end).await;
    watcher.end().await.unwrap();
    same_as_server(&database, &lineage).await;
}

/// What nobody archived may be more than is looked at of what was pushed at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_stretch_that_the_slot_holds_is_not_taken_for_archived() {
    let (_server, site) = site("agent-long");
    let database = Database::start(1, "archive_mode = off");
    let lineage = begin(&site, &database).await;
    let mut shipper = Running::start(&database, &lineage, NEVER).await;
    write(&database, 1).await;
    let from = switch(&database).await;
    shipper.ship(from).await;
    shipper.end().await.unwrap();
    let client = database.client().await;
    let switches = "DO $$ BEGIN FOR n IN 1..80 LOOP \
        PERFORM pg_logical_emit_message(false, 'test', 'end'); PERFORM pg_switch_wal(); \
        END LOOP; END $$";
    client.batch_execute(switches).await.unwrap();
    drop(client);
    database.append("postgresql.conf", &archiving(&site.push_command()));
    database.stop("fast");
    database.boot();
    switch(&database).await;
    rest(&database);
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    assert_eq!(watcher_begin(&mut watcher).await, from);
    // Nothing is lost as long as the database has it.
    let waits = until("trouble", &mut seen, |watched| watched.trouble.is_some()).await;
    let name = SegmentName::containing(TimelineId::FIRST, from, database.segment_size);
    assert_eq!(waits.trouble, Some(ArchiverTrouble::Unnoticed(name)));
    let status = format!("pg_wal/archive_status/{name}.ready");
    let said = waits.trouble.unwrap().message(lineage.id());
    assert!(said.contains(&status), "{said}");
    database.write(&database.data().join(status), b"");
    database.sql("SELECT pg_reload_conf()").await;
    watcher.ship(name.end(database.segment_size)).await;
    assert!(watcher.notices.try_recv().is_err(), "a gap was told");
    watcher.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_has_lost_its_wal_goes_and_that_is_told() {
    let (_server, site) = site("agent-slot-lost");
    let settings = "max_slot_wal_keep_size = 1MB\nmin_wal_size = 2MB\nmax_wal_size = 2MB\n";
    let gate = Gate::of(&site);
    let command = archiving(&gate.command(&site));
    let database = Database::start(1, &format!("{settings}{command}"));
    let lineage = begin(&site, &database).await;
    gate.open(&database).await;
    slot::create(&database.client().await, SLOT).await.unwrap();
    for _ in 0..6 {
        switch(&database).await;
    }
    rest(&database);
    database.sql("CHECKPOINT; CHECKPOINT").await;
    let held = slot::find(&database.client().await, SLOT).await.unwrap();
    assert_eq!(held.unwrap().wal_status, slot::WalStatus::Lost);
    let (mut watcher, _seen) = Running::watch(&database, &lineage).await.unwrap();
    let notice = tokio::time::timeout(LIMIT, watcher.notices.recv()).await;
    assert_eq!(notice.unwrap(), Some(Notice::SlotLost));
    assert!(!has_slot(&database).await);
    watcher.end().await.unwrap();
}

/// The file is gone, and what follows it came.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_archived_and_the_database_has_not_is_a_gap() {
    let (_server, site) = site("agent-gone");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let lineage = begin(&site, &database).await;
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let from = watcher_begin(&mut watcher).await;
    let name = SegmentName::containing(TimelineId::FIRST, from, database.segment_size);
    let to = switch(&database).await;
    until("failure", &mut seen, |watched| watched.trouble.is_some()).await;
    let status = format!("archive_status/{name}.ready");
    for file in [status, name.to_string()] {
        std::fs::remove_file(database.wal().join(file)).unwrap();
    }
    gate.open(&database).await;
    let end = switch(&database).await;
    watcher.ship(end).await;
    let cause = GapCause::Unarchived;
    let gap = Notice::Gap { from, to, cause };
    assert_eq!(watcher.notices.try_recv(), Ok(gap));
    watcher.end().await.unwrap();
}
