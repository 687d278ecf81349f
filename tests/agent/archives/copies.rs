//! Another writer came first, in the same lineage.

use highwater::{
    archive::Lineage,
    postgres::{SegmentName, TimelineId},
};

use super::{Gate, archiving, begin, rest, site, switch, watcher_begin};
use crate::{
    database::Database,
    running::{LIMIT, Running, flushed, same_as_server},
    site::{Site, ready},
};

/// A database and a copy of it that archive under one name, on one timeline, and the segment that both write.
async fn copied(site: &Site, gate: &Gate) -> (Database, Database, Lineage, SegmentName) {
    let database = Database::start(1, &archiving(&gate.command(site)));
    let lineage = begin(site, &database).await;
    gate.open(&database).await;
    switch(&database).await;
    rest(&database);
    database.stop("fast");
    let copy = database.copy("");
    gate.close();
    copy.boot();
    database.boot();
    database.sql("CREATE TABLE public.own (n int)").await;
    let size = database.segment_size;
    let [ours, theirs] = [flushed(&database).await, flushed(&copy).await]
        .map(|lsn| SegmentName::containing(TimelineId::FIRST, lsn, size));
    assert_eq!(ours, theirs);
    (database, copy, lineage, ours)
}

/// The names are the same, and nothing but the content tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn wal_of_a_copy_that_came_first_is_a_conflict() {
    let (_server, site) = site("agent-first");
    let gate = Gate::of(&site);
    let (database, copy, lineage, name) = copied(&site, &gate).await;
    let (mut watcher, _seen) = Running::watch(&database, &lineage).await.unwrap();
    let start = watcher_begin(&mut watcher).await;
    assert_eq!(start, name.start(database.segment_size));
    let covered = watcher.progress.borrow().covered;

    switch(&copy).await;
    site.push(&copy.data(), &name.to_string()).expect(0);
    drop(copy);
    assert!(lineage.has_entry(name).await.unwrap());
    switch(&database).await;
    gate.open(&database).await;
    let progress = watcher.progress.clone();
    let ended = tokio::time::timeout(LIMIT, watcher.task).await.unwrap();
    let error = ended.unwrap().unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(error.to_string().contains(&name.to_string()), "{error}");
    assert_eq!(progress.borrow().durable, Some(start));
    assert_eq!(progress.borrow().covered, covered);
}

/// It counts already when watching begins.
#[tokio::test(flavor = "multi_thread")]
async fn wal_of_a_copy_is_found_at_the_beginning() {
    let (_server, site) = site("agent-copy");
    let gate = Gate::of(&site);
    let (database, copy, lineage, name) = copied(&site, &gate).await;
    switch(&copy).await;
    site.push(&copy.data(), &name.to_string()).expect(0);
    drop(copy);
    let end = switch(&database).await;
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.whole_end(TimelineId::FIRST, &[]), Some(end));
    let opened = Running::watch(&database, &lineage).await;
    let error = opened.err().expect("another's segment counts");
    assert!(error.is_conflict(), "{error}");
    assert!(error.to_string().contains(&name.to_string()), "{error}");
}

/// PostgreSQL still wants to archive it, and it is the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_pushed_of_this_database_counts() {
    let (_server, site) = site("agent-by-hand");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let lineage = begin(&site, &database).await;
    let (mut watcher, _seen) = Running::watch(&database, &lineage).await.unwrap();
    let start = watcher_begin(&mut watcher).await;
    let name = SegmentName::containing(TimelineId::FIRST, start, database.segment_size);
    let end = switch(&database).await;
    site.push(&database.data(), &name.to_string()).expect(0);
    watcher.ship(end).await;
    assert!(ready(&database.data()).contains(&name.to_string()));
    watcher.end().await.unwrap();
    same_as_server(&database, &lineage).await;
}
