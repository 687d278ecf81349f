//! Somebody drops the slot while WAL is shipped, as Patroni does with slots that it does not know: shipping ends and can
//! begin anew, and only what PostgreSQL has removed meanwhile is missing.

use std::{fs, time::Duration};

use highwater::{
    agent::wal::{GapCause, Notice, Source},
    archive::{IndexEntry, Lineage, window::window},
    postgres::{Lsn, SegmentName, TimelineId, server, slot},
};

use crate::{
    database::Database,
    running::{Bucket, LIMIT, Running, SLOT, flushed, same_as_server, server_of, write},
};

const NEVER: Duration = Duration::from_secs(3600);

/// A database whose slot was dropped under a shipper, which has ended since.
struct Dropped {
    database: Database,
    lineage: Lineage,
    /// Where the archive's whole segments end.
    archived: Lsn,
    _bucket: Bucket,
}

impl Dropped {
    async fn begin(source: impl AsyncFn(&Database) -> Source, settings: &str) -> Self {
        let (database, bucket) = (Database::start(1, settings), Bucket::new());
        database.allow_replication().await;
        let facts = server::facts(&database.client().await).await.unwrap();
        let lineage = bucket.lineage(&facts).await;
        let by = source(&database).await;
        let mut shipper = Running::start_with(by, &database, &lineage, NEVER).await;
        write(&database, 3).await;
        shipper.ship(flushed(&database).await).await;
        database
            .sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"))
            .await;
        // One segment, so that nothing else is on its way when shipping ends.
        database
            .sql("SELECT pg_logical_emit_message(true, 'test', 'end'); SELECT pg_switch_wal()")
            .await;
        let ended = tokio::time::timeout(LIMIT, shipper.task).await.unwrap();
        let error = ended.unwrap().unwrap_err();
        assert!(!error.is_archiving(), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(SLOT) && said.contains("does not exist"),
            "{said}"
        );
        assert_eq!(error.reason(), "QueryFailed");
        assert!(shipper.notices.try_recv().is_err());
        let contents = lineage.contents().await.unwrap();
        Self {
            archived: contents.whole_end(TimelineId::FIRST, &[]).unwrap(),
            database,
            lineage,
            _bucket: bucket,
        }
    }

    /// PostgreSQL removes what nothing holds.
    async fn checkpoint(&self) {
        self.database.sql("CHECKPOINT; CHECKPOINT").await;
    }

    /// Puts the next segment as a shipper leaves it that ends before its index entry follows.
    async fn put_without_entry(&self, change: impl FnOnce(&mut Vec<u8>)) -> SegmentName {
        let size = self.database.segment_size;
        let name = SegmentName::containing(TimelineId::FIRST, self.archived, size);
        let mut bytes = self.database.segment(name);
        change(&mut bytes);
        let entry = IndexEntry::of(name, size, &bytes);
        let put = self.lineage.put_segment(name, bytes.into(), &entry);
        put.await.unwrap();
        assert!(!self.lineage.has_entry(name).await.unwrap());
        name
    }

    /// Where the oldest segment begins that PostgreSQL still has.
    fn oldest(&self) -> Lsn {
        let names = fs::read_dir(self.database.wal()).unwrap().flatten();
        let names = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let oldest: SegmentName = names.min().unwrap();
        oldest.start(self.database.segment_size)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sql_shipping_begins_anew_after_the_slot_was_dropped() {
    begins_anew(async |_| Source::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_anew_after_the_slot_was_dropped() {
    begins_anew(async |database| Source::streaming(server_of(database).await, false)).await;
}

async fn begins_anew(source: impl AsyncFn(&Database) -> Source) {
    let dropped = Dropped::begin(&source, "wal_keep_size = '1GB'").await;
    let Dropped {
        database, lineage, ..
    } = &dropped;
    write(database, 4).await;
    dropped.checkpoint().await;
    assert!(dropped.oldest() < dropped.archived);
    let unindexed = dropped.put_without_entry(|_| ()).await;
    let by = source(database).await;
    let mut shipper = Running::start_with(by, database, lineage, NEVER).await;
    let end = flushed(database).await;
    shipper.ship(end).await;
    assert!(shipper.notices.try_recv().is_err(), "a gap was told");
    // It holds WAL again, and no more than is missing.
    let held = slot::find(&database.client().await, SLOT).await.unwrap();
    let restart = held.unwrap().restart_lsn.unwrap();
    assert!(
        restart <= end && end.bytes_since(restart) <= database.segment_size.get(),
        "{restart}, {end}"
    );
    shipper.end().await.unwrap();
    assert!(lineage.has_entry(unindexed).await.unwrap());
    let contents = same_as_server(database, lineage).await;
    let pieces = contents.pieces(TimelineId::FIRST);
    assert!(pieces.last().unwrap().to >= end, "{pieces:?}");
}

/// Nobody can tell whose it is, and that keeps nothing from being shipped.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_databases_own_stays_without_an_entry() {
    let dropped = Dropped::begin(async |_| Source::Sql, "wal_keep_size = '1GB'").await;
    let Dropped {
        database, lineage, ..
    } = &dropped;
    write(database, 4).await;
    dropped.checkpoint().await;
    let foreign = dropped.put_without_entry(|bytes| bytes[500_000] ^= 1).await;
    let mut shipper = Running::start(database, lineage, NEVER).await;
    let end = flushed(database).await;
    shipper.ship(end).await;
    assert!(shipper.notices.try_recv().is_err(), "something was told");
    shipper.end().await.unwrap();
    assert!(!lineage.has_entry(foreign).await.unwrap());
    let contents = lineage.contents().await.unwrap();
    let pieces = contents.pieces(TimelineId::FIRST);
    assert!(pieces.last().unwrap().to >= end, "{pieces:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sql_what_was_removed_after_the_slot_was_dropped_is_a_gap() {
    what_was_removed_is_a_gap(async |_| Source::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_stream_what_was_removed_after_the_slot_was_dropped_is_a_gap() {
    what_was_removed_is_a_gap(async |database| Source::streaming(server_of(database).await, false))
        .await;
}

async fn what_was_removed_is_a_gap(source: impl AsyncFn(&Database) -> Source) {
    let dropped = Dropped::begin(&source, "").await;
    let Dropped {
        database,
        lineage,
        archived,
        ..
    } = &dropped;
    write(database, 4).await;
    dropped.checkpoint().await;
    let gap = Notice::Gap {
        from: *archived,
        to: dropped.oldest(),
        cause: GapCause::Removed,
    };
    assert!(dropped.oldest() > *archived);
    write(database, 2).await;
    let by = source(database).await;
    let mut shipper = Running::start_with(by, database, lineage, NEVER).await;
    shipper.ship(flushed(database).await).await;
    assert_eq!(shipper.notices.try_recv(), Ok(gap));
    assert!(shipper.notices.try_recv().is_err(), "more was told");
    shipper.end().await.unwrap();
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.ranges(TimelineId::FIRST).len(), 2);
    assert_eq!(window(&contents).backup_needed_from, Some(dropped.oldest()));
}
