//! Pushing WAL: segments, tails, history files, clocks.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::{PutPayload, path::Path};

use super::{
    ClockPair, Encoder, IndexEntry, Lineage, PushError, PushOutcome, ReadError, Records,
    encryption::Notes,
    handle::{not_found, undecided},
    layout::TailName,
    memory::Part,
    sha256,
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// A segment has at most this many parts before they are merged into one.
pub const MOST_TAILS: usize = 32;

/// A segment as it goes to the store: the plain bytes are not needed any more.
#[derive(Debug)]
pub struct SegmentEncoded {
    key: Path,
    sha256: String,
    payload: PutPayload,
    replaced: Vec<Path>,
    length: usize,
}

impl SegmentEncoded {
    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.payload.content_length()
    }
}

/// A segment whose bytes are durable in the archive, and whose index entry is not.
#[derive(Debug)]
pub struct SegmentPut {
    key: Path,
    /// `None`: the archive held all its valid WAL, and says so itself.
    outcome: Option<PushOutcome>,
    replaced: Vec<Path>,
    length: usize,
}

impl Lineage {
    /// Archives a whole segment and what is known of it. The segment comes first: an index entry never speaks of what is
    /// not there, and a segment without one is still found. Its tails go last, once both are durable.
    ///
    /// # Errors
    /// Other content lies there, a tail is not its beginning, or the store refuses; then nothing is overwritten, and the
    /// same push can be repeated.
    pub async fn push_segment(
        &self,
        name: SegmentName,
        plain: Bytes,
        entry: &IndexEntry,
    ) -> Result<PushOutcome, PushError> {
        let put = self.put_segment(name, plain, entry).await?;
        self.finish_segment(put, entry).await
    }

    /// The first half of [`Self::push_segment`]: after it the bytes are durable and not needed any more.
    ///
    /// # Errors
    /// As [`Self::push_segment`].
    pub async fn put_segment(
        &self,
        name: SegmentName,
        plain: Bytes,
        entry: &IndexEntry,
    ) -> Result<SegmentPut, PushError> {
        let encoded = self.encode_segment(name, plain.clone(), entry).await?;
        let held = SegmentPut {
            key: encoded.key.clone(),
            outcome: None,
            replaced: encoded.replaced.clone(),
            length: encoded.length,
        };
        match self.put_encoded(encoded).await {
            // Two servers may hold what differs behind the end of valid WAL only, as after a failover.
            Err(PushError::Conflict { key, ours, theirs }) => {
                match self.holds(name, &plain, entry, &theirs).await? {
                    true => Ok(held),
                    false => Err(PushError::Conflict { key, ours, theirs }),
                }
            }
            put => put,
        }
    }

    /// What [`Self::put_encoded`] puts.
    ///
    /// # Errors
    /// A tail is not the segment's beginning, or the store refuses.
    pub async fn encode_segment(
        &self,
        name: SegmentName,
        plain: Bytes,
        entry: &IndexEntry,
    ) -> Result<SegmentEncoded, PushError> {
        let encoded = self.encode_whole(name, plain, entry).await;
        self.list_again_after_errors(encoded).await
    }

    async fn encode_whole(
        &self,
        name: SegmentName,
        plain: Bytes,
        entry: &IndexEntry,
    ) -> Result<SegmentEncoded, PushError> {
        let parts = self.parts_of(name).await?;
        let replaced = self.same(&parts, &plain).await?;
        let key = self.layout.segment(name, self.encoder.encoding());
        let notes = Notes {
            sha256: Some(entry.sha256.clone()),
            records: None,
        };
        Ok(SegmentEncoded {
            payload: encoded(&key, &self.encoder, &plain, notes).await?,
            key,
            sha256: entry.sha256.clone(),
            replaced,
            length: plain.len(),
        })
    }

    /// As [`Self::put_segment`], for whoever has no room for the plain bytes meanwhile.
    ///
    /// # Errors
    /// As [`Self::push_segment`], and also where only [`Self::push_segment`] could find out that the archive holds all
    /// valid WAL of it.
    pub async fn put_encoded(&self, encoded: SegmentEncoded) -> Result<SegmentPut, PushError> {
        let SegmentEncoded {
            key,
            sha256,
            payload,
            replaced,
            length,
        } = encoded;
        let put = self.create(&key, &sha256, payload).await;
        let outcome = Some(self.list_again_after_errors(put).await?);
        Ok(SegmentPut {
            key,
            outcome,
            replaced,
            length,
        })
    }

    /// The second half of [`Self::push_segment`]: the segment counts as archived only after it.
    ///
    /// # Errors
    /// As [`Self::push_segment`].
    pub async fn finish_segment(
        &self,
        put: SegmentPut,
        entry: &IndexEntry,
    ) -> Result<PushOutcome, PushError> {
        let SegmentPut {
            key,
            outcome,
            replaced,
            length,
        } = put;
        let finished = async {
            if outcome.is_some() {
                self.put_entry(&key, entry).await?;
            }
            self.delete(replaced).await
        };
        self.list_again_after_errors(finished.await).await?;
        if let Some(known) = self.memory.unfinished.lock().await.as_mut() {
            known.remove(&entry.segment);
        }
        self.roll_up_before(entry.segment, length).await;
        Ok(outcome.unwrap_or(PushOutcome::AlreadyThere))
    }

    /// Puts the index entry of a segment that is archived with the content that `entry` speaks of.
    ///
    /// # Errors
    /// Another entry lies there, or the store refuses.
    pub async fn enter_segment(&self, entry: &IndexEntry) -> Result<(), PushError> {
        let key = self.layout.index_entry(entry.segment);
        self.create_json(&key, entry).await.map(drop)
    }

    async fn list_again_after_errors<T>(
        &self,
        result: Result<T, PushError>,
    ) -> Result<T, PushError> {
        if result.is_err() {
            *self.memory.unfinished.lock().await = None;
        }
        result
    }

    /// The parts of one segment. The lock is not held while it is pushed: segments go in parallel.
    async fn parts_of(&self, name: SegmentName) -> Result<Vec<Part>, ReadError> {
        let mut unfinished = self.memory.unfinished.lock().await;
        let known = self.known_parts(unfinished.take()).await?;
        let parts = known.get(&name).cloned().unwrap_or_default();
        *unfinished = Some(known);
        Ok(parts)
    }

    /// The first entry stays: whose segment it is decides between two writers. `segment` has the content that `entry`
    /// speaks of.
    async fn put_entry(&self, segment: &Path, entry: &IndexEntry) -> Result<(), PushError> {
        let key = self.layout.index_entry(entry.segment);
        let conflict = match self.create_json(&key, entry).await {
            Ok(_) => return Ok(()),
            Err(conflict @ PushError::Conflict { .. }) => conflict,
            Err(error) => return Err(error),
        };
        // It may have been rolled up since.
        let known = self.entry(entry.segment).await?;
        let known = known.ok_or_else(|| not_found(&key))?;
        // Another version or run may know less or more of the same segment.
        if known.sha256 == entry.sha256 {
            return Ok(());
        }
        let rolled_up = self.rolled_up_entry(entry.segment).await?;
        let is_first = rolled_up.is_some_and(|first| first.sha256 == entry.sha256);
        // Where the store overwrites, what lies there now may be another's by the time it is deleted.
        if self.objects.creates_only() && !is_first {
            // The segment is there with other content, under the ending of another codec: ours must not stay beside it,
            // whoever put it. No entry will ever speak of it.
            self.delete(vec![segment.clone()]).await?;
        }
        Err(conflict)
    }

    /// Whether the archived segment, whose content has the hash `archived`, holds all valid WAL of `plain`.
    async fn holds(
        &self,
        name: SegmentName,
        plain: &[u8],
        entry: &IndexEntry,
        archived: &str,
    ) -> Result<bool, ReadError> {
        let Some(theirs) = self.entry(name).await? else {
            return Ok(false);
        };
        let read = entry.sha256_valid.is_some() && theirs.sha256_valid.is_some();
        if !read || theirs.valid_end < entry.valid_end {
            return Ok(false);
        }
        // Their valid WAL is ours, too, and reaches as far as ours: nobody has to read theirs for that.
        let theirs_of_ours = plain.get(..valid_length(theirs.valid_end, plain.len()));
        if theirs.sha256 == archived && theirs.sha256_valid == theirs_of_ours.map(sha256) {
            return Ok(true);
        }
        let valid = valid_length(entry.valid_end, plain.len());
        match self.whole(name, plain.len()).await {
            Ok(archived) => {
                Ok(archived.is_some_and(|archived| archived.get(..valid) == plain.get(..valid)))
            }
            // Theirs goes on behind ours. Whether it is the same up to there is not known.
            Err(error) if error.wants_key() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Archives bytes of an unfinished segment. `segment` is all of it that there is so far, from its start; what lies
    /// before `from` is in the archive already. Where too many parts would pile up, they are merged. `records` is what the
    /// records in `segment` say: nobody can find out later if it is encrypted.
    ///
    /// # Errors
    /// Another part has other content, or the store refuses.
    pub async fn push_tail(
        &self,
        name: SegmentName,
        from: u64,
        segment: &[u8],
        epoch: &str,
        records: Option<Records>,
    ) -> Result<(), PushError> {
        let mut unfinished = self.memory.unfinished.lock().await;
        let mut known = self.known_parts(unfinished.take()).await?;
        let mut parts = known.remove(&name).unwrap_or_default();
        let merge = parts.len() + 1 >= MOST_TAILS;
        let from = if merge { 0 } else { from };
        let first = usize::try_from(from).unwrap_or(usize::MAX);
        let plain = Bytes::copy_from_slice(segment.get(first..).unwrap_or_default());
        if !plain.is_empty() {
            let part = self.put_part(name, from, plain, epoch, records).await?;
            parts.retain(|other| other.key != part.key);
            if merge {
                let replaced = self.same(&parts, segment).await?;
                self.delete(replaced.clone()).await?;
                parts.retain(|other| !replaced.contains(&other.key));
            }
            parts.push(part);
        }
        known.insert(name, parts);
        *unfinished = Some(known);
        Ok(())
    }

    async fn put_part(
        &self,
        segment: SegmentName,
        from: u64,
        plain: Bytes,
        epoch: &str,
        records: Option<Records>,
    ) -> Result<Part, PushError> {
        let name = TailName {
            segment,
            from,
            to: from + plain.len() as u64,
            epoch: epoch.to_owned(),
        };
        let encoding = self.encoder.encoding();
        let key = self.layout.tail(&name, encoding);
        let hash = sha256(&plain);
        let notes = Notes {
            sha256: Some(hash.clone()),
            records,
        };
        let payload = encoded(&key, &self.encoder, &plain, notes).await?;
        self.create(&key, &hash, payload).await?;
        Ok(Part {
            name,
            key,
            encrypted: encoding.encrypted,
            sha256: Some(hash),
        })
    }

    /// The parts of all unfinished segments: as known, or listed.
    pub(super) async fn known_parts(
        &self,
        known: Option<BTreeMap<SegmentName, Vec<Part>>>,
    ) -> Result<BTreeMap<SegmentName, Vec<Part>>, ReadError> {
        if let Some(known) = known {
            return Ok(known);
        }
        let mut parts: BTreeMap<SegmentName, Vec<Part>> = BTreeMap::new();
        for part in self.parts_below(&self.layout.all_tails()).await? {
            parts.entry(part.name.segment).or_default().push(part);
        }
        Ok(parts)
    }

    /// The parts of one unfinished segment.
    pub(super) async fn listed_parts(&self, name: SegmentName) -> Result<Vec<Part>, ReadError> {
        self.parts_below(&self.layout.tails(name)).await
    }

    async fn parts_below(&self, folder: &Path) -> Result<Vec<Part>, ReadError> {
        let objects = self.list(folder).await?;
        let named = objects.into_iter().filter_map(|object| {
            let (name, encoding) = TailName::parse(&object.location)?;
            Some(Part {
                name,
                key: object.location,
                encrypted: encoding.encrypted,
                sha256: None,
            })
        });
        Ok(named.collect())
    }

    /// The keys of those parts that `segment` can replace: they lie within it, and are the same.
    ///
    /// # Errors
    /// One of them is not: two histories.
    pub(super) async fn same(
        &self,
        parts: &[Part],
        segment: &[u8],
    ) -> Result<Vec<Path>, PushError> {
        let mut same = Vec::new();
        for part in parts {
            let Part {
                name,
                key,
                encrypted: _,
                sha256,
            } = part;
            let range = usize::try_from(name.from)
                .ok()
                .zip(usize::try_from(name.to).ok());
            let Some(ours) = range.and_then(|(from, to)| segment.get(from..to)) else {
                continue;
            };
            let ours = super::sha256(ours);
            let theirs = match sha256 {
                Some(known) => Some(known.clone()),
                None => {
                    let hash = self.hash(key).await;
                    hash.map_err(|error| undecided(error, &ours))?
                }
            };
            match theirs {
                Some(theirs) if theirs != ours => {
                    return Err(PushError::Conflict {
                        key: key.to_string(),
                        ours,
                        theirs,
                    });
                }
                Some(_) | None => same.push(key.clone()),
            }
        }
        Ok(same)
    }

    /// Archives a timeline history file as PostgreSQL wrote it.
    ///
    /// # Errors
    /// Another history of that timeline lies there, or the store refuses.
    pub async fn push_history(
        &self,
        timeline: TimelineId,
        content: Bytes,
    ) -> Result<PushOutcome, PushError> {
        let key = self.layout.history(timeline);
        self.create(&key, &sha256(&content), content.into()).await
    }

    /// Says up to which time the archive is complete.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn write_clock(&self, pair: ClockPair) -> Result<(), PushError> {
        self.overwrite_json(&self.layout.clock(pair.timeline), &pair)
            .await
    }

    /// After the last segment of a group: nothing depends on it, and the next time it is tried again.
    async fn roll_up_before(&self, name: SegmentName, length: usize) {
        let size = u32::try_from(length).ok().map(SegmentSize::new);
        let Some(Ok(size)) = size else { return };
        if super::rollup::group(name, size) == super::rollup::group(name.next(size), size) {
            return;
        }
        if let Err(error) = self.roll_up(name.next(size), size).await {
            tracing::warn!(%error, "failed to roll up index entries; it is tried again later");
        }
    }
}

/// How much of a segment of `length` bytes lies before `end`, which is in it or its end.
fn valid_length(end: Lsn, length: usize) -> usize {
    let offset = end.get() % length.max(1) as u64;
    // It is the segment's end where the remainder is nothing.
    match usize::try_from(offset) {
        Ok(0) | Err(_) => length,
        Ok(offset) => offset,
    }
}

/// Compressing a segment takes long enough to keep other tasks waiting.
async fn encoded(
    key: &Path,
    encoder: &Encoder,
    plain: &Bytes,
    notes: Notes,
) -> Result<PutPayload, PushError> {
    let failed = |what: String| PushError::Encode {
        key: key.to_string(),
        what,
    };
    let (plain, encoder) = (plain.clone(), encoder.clone());
    let encoded = tokio::task::spawn_blocking(move || encoder.encode(&plain, &notes)).await;
    match encoded {
        Ok(Ok(payload)) => Ok(payload),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}
