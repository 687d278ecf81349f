//! Two agents at once, as where the old one's node cannot be reached: neither harms the other, and what the old one leaves
//! on its way lands late and changes nothing.

use std::time::Duration;

use highwater::{
    agent::wal::Notice,
    archive::Lineage,
    postgres::{Lsn, SegmentName, TimelineId, server, slot},
};
use tokio::time::timeout;

use crate::{
    database::Database,
    gates::Proxy,
    running::{
        LIMIT, Running, SLOT, archive_behind, begin, flushed, lineage_id, same_as_server, write,
    },
    server::Server,
};

/// Short: both put tails, too.
const TAILS: Duration = Duration::from_millis(50);

/// Which agent's PUT of one segment reaches the store first, where both are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Of the agent that goes on.
    Survivor,
    /// Of the one that is gone by then.
    Gone,
}

/// An agent, and what lies between it and the store.
struct Agent {
    proxy: Proxy,
    running: Running,
}

impl Agent {
    async fn start(database: &Database, server: &Server) -> Self {
        let proxy = Proxy::start(server.port()).await;
        let archive = archive_behind(proxy.port, serde_json::json!({}));
        let lineage = archive.lineage(lineage_id());
        let running = Running::start(database, &lineage, TAILS).await;
        Self { proxy, running }
    }
}

/// The next segment but one: whatever the server writes by itself, nobody has put it yet.
fn segment_ahead(database: &Database, end: Lsn) -> SegmentName {
    let size = database.segment_size;
    SegmentName::containing(TimelineId::FIRST, end, size).next(size)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_leaves_on_its_way_changes_nothing_behind_the_other() {
    the_put_of_one_that_is_gone_lands(First::Survivor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_leaves_on_its_way_counts_for_the_other() {
    the_put_of_one_that_is_gone_lands(First::Gone).await;
}

async fn the_put_of_one_that_is_gone_lands(first: First) {
    let (database, server) = (Database::start(1, "wal_keep_size = '1GB'"), Server::start());
    let facts = server::facts(&database.client().await).await.unwrap();
    let direct = archive_behind(server.port(), serde_json::json!({}));
    let lineage = begin(&direct, &facts).await;
    slot::create(&database.client().await, SLOT).await.unwrap();
    let mut gone = Agent::start(&database, &server).await;
    let mut survivor = Agent::start(&database, &server).await;
    write(&database, 6).await;
    let end = flushed(&database).await;
    tokio::join!(gone.running.ship(end), survivor.running.ship(end));

    let name = segment_ahead(&database, end);
    let key = format!("/wal/00000001/{name}");
    let held = gone.proxy.hold("PUT", &key);
    let held_too = (first == First::Gone).then(|| survivor.proxy.hold("PUT", &key));
    write(&database, 4).await;
    let end = flushed(&database).await;
    timeout(LIMIT, held.arrived()).await.unwrap();
    match &held_too {
        Some(gate) => timeout(LIMIT, gate.arrived()).await.unwrap(),
        None => survivor.running.ship(end).await,
    }
    gone.running.task.abort();
    assert!(gone.running.task.await.unwrap_err().is_cancelled());
    let answer = timeout(LIMIT, held.let_through()).await.unwrap();
    match &held_too {
        Some(gate) => {
            assert_eq!(answer, "200");
            let answer = timeout(LIMIT, gate.let_through()).await.unwrap();
            assert_eq!(answer, "412");
        }
        None => assert_eq!(answer, "412"),
    }
    write(&database, 2).await;
    let end = flushed(&database).await;
    survivor.running.ship(end).await;
    is_alone_with_all(&database, &lineage, survivor.running, end).await;
}

/// Nothing was told, and up to `end` everything is there.
async fn is_alone_with_all(
    database: &Database,
    lineage: &Lineage,
    mut survivor: Running,
    end: Lsn,
) {
    let told: Option<Notice> = survivor.notices.try_recv().ok();
    assert_eq!(told, None);
    survivor.end().await.unwrap();
    let contents = same_as_server(database, lineage).await;
    let pieces = contents.pieces(TimelineId::FIRST);
    assert!(pieces.last().unwrap().to >= end, "{pieces:?}");
    assert!(contents.segments.len() >= 10 && contents.on_their_way.is_empty());
}

/// Each looks where the slot is before it moves it, and the other may have moved it since.
#[tokio::test(flavor = "multi_thread")]
async fn two_may_move_one_slot() {
    let database = Database::start(1, "wal_keep_size = '1GB'");
    let client = database.client().await;
    let from = slot::create(&client, SLOT).await.unwrap();
    let from = from.restart_lsn.unwrap();
    write(&database, 2).await;
    let end = flushed(&database).await;
    let steps = 1000;
    let each = end.bytes_since(from) / steps;
    let moving = [database.client().await, database.client().await].map(|client| {
        tokio::spawn(async move {
            for step in 1..=steps {
                let to = from.advance(step * each);
                let at = slot::advance(&client, SLOT, to).await.unwrap();
                assert!(at >= to, "{at} is before {to}");
            }
        })
    });
    for one in moving {
        one.await.unwrap();
    }
    let at = slot::find(&client, SLOT).await.unwrap().unwrap();
    assert_eq!(at.restart_lsn, Some(from.advance(steps * each)));
}
