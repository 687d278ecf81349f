//! The limit of a request grows with what goes over the wire, and all of a large segment goes.

use std::time::Duration;

use bytes::Bytes;
use highwater::{
    archive::{Archive, IndexEntry, Patience, PushOutcome},
    postgres::{Lsn, SegmentName, SegmentSize, TimelineId},
    retry::Policy,
};

use crate::{
    proxy::Proxy,
    server::{self, BUCKET, KEY_ID, SECRET, Server},
    suite::{identity, lineage_id},
};

/// A segment that does not compress.
fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let words = (0..length / 8).flat_map(|_| next());
    words.collect::<Vec<u8>>().into()
}

type Pushed = Result<PushOutcome, highwater::archive::PushError>;

async fn push(archive: Archive, lineage: &str, size: u32) -> Pushed {
    let size = SegmentSize::new(size).unwrap();
    let lineage = archive.lineage(lineage_id(lineage));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    let at = Lsn::new(size.get() * 2);
    let name = SegmentName::containing(TimelineId::FIRST, at, size);
    let plain = noise(usize::try_from(size.get()).unwrap());
    let entry = IndexEntry::of(name, size, &plain);
    lineage.push_segment(name, plain, &entry).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_segment_has_more_time_than_a_small_one() {
    let server = Server::start();
    let proxy = Proxy::start(server.port()).await;
    let spec = server::spec(proxy.port, BUCKET);
    let archive = Archive::new(server::open(&spec, KEY_ID, SECRET), &spec, "shop-orders").unwrap();
    let archive = archive.with_policy(Policy::ONCE).with_patience(Patience {
        request: Duration::from_secs(10),
        per_mib: Duration::from_secs(1),
    });
    // The link is so slow that neither is through before the other's time is up.
    let [large, small] = ["aaaaaaaaaa", "bbbbbbbbbb"].map(|lineage| {
        let gate = proxy.hold("PUT", format!("/{lineage}/wal/00000001/"));
        (lineage, gate)
    });
    let large_push = tokio::spawn(push(archive.clone(), large.0, 64 << 20));
    large.1.arrived().await;
    let refused = push(archive, small.0, 1 << 20)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no answer within"), "{refused}");
    assert!(!large_push.is_finished(), "it has more than a minute");
    assert_eq!(large.1.let_through().await, "200");
    let outcome = large_push.await.unwrap().unwrap();
    assert_eq!(outcome, PushOutcome::Created);
}
