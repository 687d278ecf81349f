//! A database that was set back begins a new lineage, also where only segments that do not count yet tell: an agent was
//! killed while they were on their way.

use std::{sync::Arc, time::Duration};

use highwater::{
    agent::{
        Why, goes_on,
        wal::{Path, Server},
    },
    archive::{IndexEntry, Lineage},
    postgres::{Lsn, SegmentName, TimelineId, server},
};

use crate::{
    database::Database,
    running::{Bucket, Running, flushed, same_as_server, server_of, write},
};

const NEVER: Duration = Duration::from_secs(3600);

/// What the agent decides for `database`.
async fn decided(database: &Database, lineage: &Lineage) -> Result<Option<Lsn>, Why> {
    let Server { client, .. } = server_of(database).await;
    let client: Arc<_> = client;
    let facts = server::facts(&client).await.unwrap();
    let path = Path {
        timeline: facts.timeline,
        ancestors: Vec::new(),
    };
    goes_on(&client, &facts, &path, lineage).await.unwrap()
}

/// Puts the segment that holds `lsn` as an agent does that is killed before those ahead of it are there.
async fn stray(database: &Database, lineage: &Lineage, lsn: Lsn) -> SegmentName {
    let size = database.segment_size;
    let name = SegmentName::containing(TimelineId::FIRST, lsn, size);
    let bytes = database.segment(name);
    let entry = IndexEntry::of(name, size, &bytes);
    lineage
        .put_segment(name, bytes.into(), &entry)
        .await
        .unwrap();
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_do_not_count_tell_that_a_database_was_set_back() {
    let (database, bucket) = (Database::start(1, "wal_keep_size = '1GB'"), Bucket::new());
    let size = database.segment_size.get();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    write(&database, 3).await;
    let mut shipper = Running::start(&database, &lineage, NEVER).await;
    let end = flushed(&database).await;
    shipper.ship(end).await;
    shipper.end().await.unwrap();
    database.stop("fast");
    let set_back = database.copy("wal_keep_size = '1GB'");
    database.boot();

    write(&database, 8).await;
    let archived = decided(&database, &lineage).await.unwrap().unwrap();
    let stray = stray(&database, &lineage, archived.advance(4 * size)).await;
    let contents = lineage.contents().await.unwrap();
    assert!(contents.on_their_way.contains_key(&stray));

    // The database that wrote it goes on, and ships what is missing before it.
    assert_eq!(decided(&database, &lineage).await, Ok(Some(archived)));

    // Set back to before it: whether it has overtaken the stray segment by now or not.
    set_back.boot();
    let found = decided(&set_back, &lineage).await;
    assert!(matches!(found, Err(Why::SetBack { .. })), "{found:?}");
    write(&set_back, 8).await;
    assert!(flushed(&set_back).await > stray.end(set_back.segment_size));
    let found = decided(&set_back, &lineage).await;
    assert!(matches!(found, Err(Why::Conflict(_))), "{found:?}");

    let mut shipper = Running::start(&database, &lineage, NEVER).await;
    let end = flushed(&database).await;
    shipper.ship(end).await;
    shipper.end().await.unwrap();
    let contents = same_as_server(&database, &lineage).await;
    assert!(contents.segments.contains_key(&stray) && contents.on_their_way.is_empty());
}
