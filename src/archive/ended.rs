//! Looking transactions up in archived WAL.

use super::{
    Contents, Lineage, ReadError, Request,
    plan::{Ended, to_look_up},
};
use crate::postgres::{
    SegmentName,
    wal::{self, Carry, Content, Record},
};

impl Lineage {
    /// Where the transaction that `request` asks for ends. Why nothing can be planned the plan says.
    ///
    /// # Errors
    /// The archive cannot be read.
    pub async fn look_up(
        &self,
        request: &Request,
        contents: &Contents,
    ) -> Result<Vec<Ended>, ReadError> {
        let target = request.target.as_ref();
        match (target.and_then(|it| it.xid), to_look_up(request, contents)) {
            (Some(xid), Ok(names)) => self.ended(&names, xid.in_wal(), contents).await,
            (None, _) | (_, Err(_)) => Ok(Vec::new()),
        }
    }

    /// Where transaction `xid` ends in these segments, whole or not, in their order. What can be read with a private key only
    /// is left out.
    ///
    /// # Errors
    /// The archive cannot be read, or one of them is there no more.
    pub async fn ended(
        &self,
        names: &[SegmentName],
        xid: u32,
        contents: &Contents,
    ) -> Result<Vec<Ended>, ReadError> {
        let mut found = Vec::new();
        for name in names {
            match self.ended_in(*name, xid, contents).await {
                Ok(ended) => found.extend(ended),
                Err(error) if error.wants_key() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// As much of a segment as was there when `contents` were read, or more.
    async fn still_there(
        &self,
        name: SegmentName,
        contents: &Contents,
    ) -> Result<Vec<u8>, ReadError> {
        let size = contents.identity.segment_size;
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        if let Some(tail) = contents.tails.get(&name) {
            let plain = self.listed_tail(name, length).await?.plain;
            if plain.len() as u64 >= tail.end.bytes_since(name.start(size)) {
                return Ok(plain);
            }
        }
        // A tail may have become a whole segment meanwhile.
        match self.whole(name, length).await? {
            Some(plain) => Ok(plain),
            None => Err(self.missing(name).await),
        }
    }

    async fn ended_in(
        &self,
        name: SegmentName,
        xid: u32,
        contents: &Contents,
    ) -> Result<Vec<Ended>, ReadError> {
        let identity = &contents.identity;
        let (size, system) = (identity.segment_size, identity.system_identifier);
        let plain = self.still_there(name, contents).await?;
        // The record may begin in the segment before. Where that one is encrypted, all but this record is looked into.
        let carry = match self.carry_into(name, name.start(size), contents).await {
            Err(error) if error.wants_key() => None,
            carry => carry?,
        };
        let work = move || {
            let mut found = Vec::new();
            let mut seen = |record: &Record| found.extend(end_of(record, xid, name));
            let carry: Option<&Carry> = carry.as_ref();
            let scan = wal::scan_records(&plain, name, size, Some(system), carry, &mut seen);
            if let Err(error) = scan {
                tracing::warn!(%name, %error, "archived WAL is not understood");
            }
            found
        };
        Ok(tokio::task::spawn_blocking(work).await.unwrap_or_default())
    }
}

fn end_of(record: &Record, wanted: u32, name: SegmentName) -> Option<Ended> {
    let (xid, committed) = match &record.content {
        Content::Commit { at, xid } => (*xid, Some(*at)),
        Content::Abort { xid } => (*xid, None),
        Content::RestorePoint { .. }
        | Content::Switch
        | Content::NewTimeline { .. }
        | Content::Overwrite
        | Content::FullPageWritesChange
        | Content::Other => return None,
    };
    (xid == wanted).then_some(Ended {
        timeline: name.timeline(),
        start: record.start,
        end: record.end,
        committed,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use object_store::{ObjectStore, memory::InMemory};
    use serde_json::json;

    use super::*;
    use crate::{
        archive::{Archive, IndexEntry, examples::*},
        postgres::wal::tests::{Writer, commit},
    };

    /// Two segments from the first on; 77 ends in the first, 88 in the second, behind a record that begins in the first.
    fn log() -> [Bytes; 2] {
        let mut writer = Writer::new(0xD110);
        writer.record(1, 0, 77, &commit(0, &[]));
        writer.record(10, 0, 0, &vec![7; (MIB + MIB / 2) as usize]);
        writer.record(1, 0, 88, &commit(0, &[]));
        writer.record(10, 0, 0, &vec![7; MIB as usize]);
        let segment = |number: u64| {
            let from = usize::try_from((number - 1) * MIB).unwrap();
            let bytes = &writer.bytes[from..from + usize::try_from(MIB).unwrap()];
            Bytes::copy_from_slice(bytes)
        };
        [segment(1), segment(2)]
    }

    fn open(store: &Arc<dyn ObjectStore>, recipients: &[String]) -> Lineage {
        let mut spec = json!({"directory": {"persistentVolumeClaim": "wal"}});
        if !recipients.is_empty() {
            spec["encryption"] = json!({ "recipients": recipients });
        }
        let spec = serde_json::from_value(spec).unwrap();
        let archive = Archive::new(store.clone(), &spec, "orders").unwrap();
        archive.lineage(identity().lineage)
    }

    async fn begun(store: &Arc<dyn ObjectStore>) -> Lineage {
        let lineage = open(store, &[]);
        lineage.create_identity(&identity()).await.unwrap();
        lineage
    }

    async fn push(lineage: &Lineage, number: u64, plain: &Bytes) {
        let name = segment(1, number);
        let entry = IndexEntry::of(name, SIZE, plain);
        let pushed = lineage.push_segment(name, plain.clone(), &entry).await;
        pushed.unwrap();
    }

    #[tokio::test]
    async fn a_tail_that_becomes_a_whole_segment_meanwhile_is_read_as_that() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let lineage = begun(&store).await;
        let [first, _] = log();
        let tail = lineage.push_tail(segment(1, 1), 0, &first[..8192], "a", None);
        tail.await.unwrap();
        let contents = lineage.contents().await.unwrap();
        assert!(contents.tails.contains_key(&segment(1, 1)));
        push(&lineage, 1, &first).await;
        let found = lineage.ended(&[segment(1, 1)], 77, &contents).await;
        assert_eq!(found.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_was_listed_and_is_gone_is_not_taken_for_empty() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let lineage = begun(&store).await;
        let [first, second] = log();
        push(&lineage, 1, &first).await;
        let tail = lineage.push_tail(segment(1, 2), 0, &second[..8192], "a", None);
        tail.await.unwrap();
        let contents = lineage.contents().await.unwrap();
        let listed = lineage.list(&lineage.layout.root()).await.unwrap();
        let all = listed.into_iter().map(|object| object.location);
        let wal = all.filter(|key| !key.as_ref().ends_with("identity.json"));
        lineage.delete(wal.collect()).await.unwrap();
        for number in [1, 2] {
            let found = lineage.ended(&[segment(1, number)], 77, &contents).await;
            assert!(
                matches!(found, Err(ReadError::NotFound { .. })),
                "{number}: {found:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_first_segment_behind_an_encrypted_one_is_looked_into() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let lineage = begun(&store).await;
        let key = age::x25519::Identity::generate().to_public().to_string();
        let [first, second] = log();
        push(&open(&store, &[key]), 1, &first).await;
        push(&lineage, 2, &second).await;
        let contents = lineage.contents().await.unwrap();
        assert!(contents.segments[&segment(1, 1)].encrypted);
        let both = [segment(1, 1), segment(1, 2)];
        let found = lineage.ended(&both, 88, &contents).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(lineage.ended(&both, 77, &contents).await.unwrap(), []);
    }
}
