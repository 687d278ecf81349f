//! A segment that two servers wrote: after a failover what lies behind the end of valid WAL may differ, nothing else.

use bytes::Bytes;
use highwater::{
    archive::{Archive, IndexEntry, PushOutcome, sha256},
    postgres::Lsn,
};

use crate::suite::{MIB, SIZE, content, fetch, identity, is_conflict, lineage_id, push, segment};

/// The end of valid WAL.
pub const VALID: usize = 5000;
pub const NUMBER: u64 = 2;

/// The same segment with the byte at `place` changed, and its entry.
pub fn changed(place: usize) -> (Bytes, IndexEntry) {
    let mut plain = content(NUMBER, 0).to_vec();
    plain[place] ^= 1;
    let entry = read(&plain);
    (plain.into(), entry)
}

/// What is known of a segment whose records were read.
pub fn read(plain: &[u8]) -> IndexEntry {
    IndexEntry {
        valid_end: Lsn::new(NUMBER * MIB as u64 + VALID as u64),
        sha256_valid: Some(sha256(&plain[..VALID])),
        ..IndexEntry::of(segment(NUMBER), SIZE, plain)
    }
}

pub async fn the_unused_rest_may_differ(archive: &Archive) {
    let lineage = archive.lineage(lineage_id("1111111111"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    let first = content(NUMBER, 0);
    let push_read = async |plain: Bytes, entry: IndexEntry| {
        lineage.push_segment(segment(NUMBER), plain, &entry).await
    };
    let outcome = push_read(first.clone(), read(&first)).await.unwrap();
    assert_eq!(outcome, PushOutcome::Created);
    for place in [VALID, MIB - 1] {
        let (plain, entry) = changed(place);
        let outcome = push_read(plain, entry).await.unwrap();
        assert_eq!(outcome, PushOutcome::AlreadyThere, "{place}");
    }
    for place in [0, VALID - 1] {
        let (plain, entry) = changed(place);
        is_conflict(push_read(plain.clone(), entry).await, &plain, &first);
    }
    // Where nobody read the records, any byte may be one that counts.
    let (plain, _) = changed(VALID);
    let unread = IndexEntry::of(segment(NUMBER), SIZE, &plain);
    is_conflict(push_read(plain.clone(), unread).await, &plain, &first);
    assert_eq!(
        push(&lineage, NUMBER, 0).await.unwrap(),
        PushOutcome::AlreadyThere
    );
    assert_eq!(fetch(&lineage, NUMBER, MIB).await.unwrap(), first);
}
