//! Reading what the parts of an unfinished segment hold: how far they go, and what their records say.

use std::collections::BTreeMap;

use object_store::path::Path;

use super::{
    Contents, Lineage, ReadError, RestorePoint,
    contents::{Records, Tail},
    fetch::{Beginning, furthest},
    memory::Part,
};
use crate::postgres::{
    Lsn, SegmentName, SegmentSize, SystemIdentifier,
    wal::{self, Carry, ScanEnd, SegmentScan},
};

/// What the parts of an unfinished segment are, read one after the other.
#[derive(Clone, Copy)]
pub(super) enum TailRead {
    /// One that was listed is gone: it was merged, or the segment is whole.
    Overtaken,
    /// They make up no beginning.
    Nothing,
    /// So much.
    Known(Tail),
}

impl Lineage {
    pub(super) async fn read_tail(
        &self,
        name: SegmentName,
        parts: BTreeMap<Path, Part>,
        contents: &Contents,
    ) -> Result<TailRead, ReadError> {
        let (keys, parts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let known = self.memory.read(|read| read.tails.get(&name).cloned());
        if let Some((_, tail)) = known.filter(|(seen, _)| *seen == keys) {
            return Ok(tail.map_or(TailRead::Nothing, TailRead::Known));
        }
        let start = name.start(contents.identity.segment_size);
        let tail = match parts.iter().any(|part| part.encrypted) {
            true => self.encrypted_tail(start, parts).await?,
            false => self.plain_tail(name, parts, contents).await?,
        };
        let known = match tail {
            TailRead::Overtaken => return Ok(tail),
            TailRead::Nothing => None,
            TailRead::Known(tail) => Some(tail),
        };
        self.memory
            .read(|read| read.tails.insert(name, (keys, known)));
        Ok(tail)
    }

    async fn plain_tail(
        &self,
        name: SegmentName,
        parts: Vec<Part>,
        contents: &Contents,
    ) -> Result<TailRead, ReadError> {
        let size = contents.identity.segment_size;
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let Beginning { plain, overtaken } = self.tail(parts, length).await?;
        if overtaken {
            return Ok(TailRead::Overtaken);
        }
        if plain.is_empty() {
            return Ok(TailRead::Nothing);
        }
        let end = name.start(size).advance(plain.len() as u64);
        let scan = self.read_records(name, plain, contents).await?;
        let points = scan.iter().flat_map(|scan| &scan.restore_points);
        let points = points.map(RestorePoint::from).collect();
        self.memory.read(|read| read.note_points(name, points));
        Ok(TailRead::Known(Tail {
            end,
            records: scan.map(|scan| Records {
                last_record: scan.last_record_start,
                last_commit: scan.last_commit,
            }),
            encrypted: false,
        }))
    }

    /// What names and headers say: the parts' names how far it goes, the last part's header what the records up to there
    /// say.
    async fn encrypted_tail(
        &self,
        start: Lsn,
        mut parts: Vec<Part>,
    ) -> Result<TailRead, ReadError> {
        let mut last: Option<Part> = None;
        let reached = |last: &Option<Part>| last.as_ref().map_or(0, |part| part.name.to);
        while let Some(index) = furthest(&parts, reached(&last)) {
            last = Some(parts.swap_remove(index));
        }
        let Some(last) = last else {
            return Ok(TailRead::Nothing);
        };
        let notes = match last.encrypted {
            true => match self.notes(&last.key).await? {
                Some(notes) => Some(notes),
                None => return Ok(TailRead::Overtaken),
            },
            // What comes before it cannot be read.
            false => None,
        };
        Ok(TailRead::Known(Tail {
            end: start.advance(last.name.to),
            records: notes.and_then(|notes| notes.records),
            encrypted: true,
        }))
    }

    async fn read_records(
        &self,
        name: SegmentName,
        plain: Vec<u8>,
        contents: &Contents,
    ) -> Result<Option<SegmentScan>, ReadError> {
        let start = name.start(contents.identity.segment_size);
        let first = Scan::new(name, contents, None);
        let (scan, plain) = first.run(plain).await;
        let scan = match scan {
            // A record that begins in the segment before may be a commit.
            Some(scan) if scan.unchecked_until.is_some() => {
                match self.carry_into(name, start, contents).await {
                    Ok(Some(carry)) => Scan::new(name, contents, Some(carry)).run(plain).await.0,
                    // No backup can begin before a segment whose predecessor is missing: what is cut does not matter.
                    Ok(None) => Some(scan),
                    Err(error) if error.wants_key() => None,
                    Err(error) => return Err(error),
                }
            }
            other => other,
        };
        Ok(scan.filter(is_read))
    }

    /// What the end of the segment before leaves to `name`.
    pub(super) async fn carry_into(
        &self,
        name: SegmentName,
        start: Lsn,
        contents: &Contents,
    ) -> Result<Option<Carry>, ReadError> {
        let size = contents.identity.segment_size;
        let mut pieces = contents.pieces(name.timeline()).into_iter();
        let Some(before) = pieces.rfind(|piece| piece.to == start) else {
            return Ok(None);
        };
        let before = SegmentName::containing(before.timeline, before.from, size);
        let known = self.memory.read(|read| read.carry.clone());
        if let Some((_, carry)) = known.filter(|(segment, _)| *segment == before) {
            return Ok(carry);
        }
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let carry = match self.whole(before, length).await? {
            Some(plain) => {
                let (scan, _) = Scan::new(before, contents, None).run(plain).await;
                scan.and_then(|scan| scan.carry)
            }
            None => None,
        };
        self.memory
            .read(|read| read.carry = Some((before, carry.clone())));
        Ok(carry)
    }
}

/// The chain of records reaches the end of what there is.
fn is_read(scan: &SegmentScan) -> bool {
    match scan.end {
        ScanEnd::Full | ScanEnd::Switch | ScanEnd::Data => true,
        ScanEnd::Invalid { .. } => false,
    }
}

/// A scan that does not keep other tasks waiting.
struct Scan {
    name: SegmentName,
    size: SegmentSize,
    system_identifier: SystemIdentifier,
    carry: Option<Carry>,
}

impl Scan {
    fn new(name: SegmentName, contents: &Contents, carry: Option<Carry>) -> Self {
        Self {
            name,
            size: contents.identity.segment_size,
            system_identifier: contents.identity.system_identifier,
            carry,
        }
    }

    async fn run(self, plain: Vec<u8>) -> (Option<SegmentScan>, Vec<u8>) {
        let work = move || {
            let Self {
                name,
                size,
                system_identifier,
                carry,
            } = self;
            let scan = wal::scan(&plain, name, size, Some(system_identifier), carry.as_ref());
            let scan = scan.inspect_err(
                |error| tracing::warn!(%name, %error, "archived WAL is not understood"),
            );
            (scan.ok(), plain)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }
}
