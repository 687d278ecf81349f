//! Fetching WAL: segments, whole or put together from their tails, and history files.

use futures::future::join_all;
use object_store::{Error as StoreError, path::Path};

use super::{
    Encoding, IndexEntry, Lineage, ReadError,
    handle::{check, corrupt, not_found, said_hash, unavailable},
    memory::Part,
    objects::Stored,
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// How often is listed again what goes while it is read: parts are merged every few seconds at most.
pub(super) const LISTS: usize = 10;

/// What the parts of an unfinished segment make up.
pub(super) struct Beginning {
    /// From the segment's first byte on.
    pub(super) plain: Vec<u8>,
    /// A part is there no more: it was merged, or the segment is whole.
    pub(super) overtaken: bool,
}

impl Lineage {
    /// A segment as recovery reads it: whole, or put together from its tails; zeros from `up_to` on, and as long as a
    /// segment is.
    ///
    /// # Errors
    /// `NotFound`: neither the segment nor tails of it up to `up_to` are there, in an archive whose identity object can be
    /// read.
    pub async fn fetch_segment(
        &self,
        name: SegmentName,
        size: SegmentSize,
        up_to: Lsn,
    ) -> Result<Vec<u8>, ReadError> {
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let wanted = up_to.bytes_since(name.start(size)).min(size.get());
        let wanted = usize::try_from(wanted).unwrap_or(length);
        let mut plain = match self.any(name, length, wanted).await? {
            Some(plain) => plain,
            // Between the two looks the segment may have become whole and its tails may have gone.
            None => match self.whole(name, length).await? {
                Some(plain) => plain,
                None => return Err(self.missing(name).await),
            },
        };
        plain.truncate(wanted);
        plain.resize(length, 0);
        Ok(plain)
    }

    async fn any(
        &self,
        name: SegmentName,
        length: usize,
        wanted: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        if let Some(plain) = self.whole(name, length).await? {
            return Ok(Some(plain));
        }
        let Beginning {
            plain,
            overtaken: _,
        } = self.listed_tail(name, length).await?;
        Ok(Some(plain).filter(|plain| wanted > 0 && plain.len() >= wanted))
    }

    /// Not there, or the store says so of everything.
    pub(super) async fn missing(&self, name: SegmentName) -> ReadError {
        let key = self.layout.segment(name, self.encoder.encoding());
        match self.objects.get(&self.layout.identity()).await {
            Ok(_) => not_found(&key),
            Err(cause) => unavailable(&key, cause),
        }
    }

    /// The whole segment, if the store has it under any ending: the one that was found last, or is written now, is tried
    /// first. `None` is to be believed only while the identity object can be read.
    pub(super) async fn whole(
        &self,
        name: SegmentName,
        length: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let last = self.memory.read(|read| read.ending);
        let likely = last.unwrap_or_else(|| self.encoder.encoding());
        let mut failed = match self.whole_as(name, likely, length).await {
            Ok(Some(plain)) => return Ok(Some(plain)),
            Ok(None) => None,
            // Another copy may be readable, as where encryption was begun or given up.
            Err(error) if error.wants_key() => Some(error),
            Err(error) => return Err(error),
        };
        let others = Encoding::ALL.into_iter().filter(|other| *other != likely);
        let tried = others.map(async |other| (other, self.whole_as(name, other, length).await));
        for (ending, outcome) in join_all(tried).await {
            match outcome {
                Ok(Some(plain)) => {
                    self.memory.read(|read| read.ending = Some(ending));
                    return Ok(Some(plain));
                }
                Ok(None) => {}
                // An outage may hide a copy that can be read.
                Err(error) if error.wants_key() => failed = failed.or(Some(error)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn whole_as(
        &self,
        name: SegmentName,
        encoding: Encoding,
        length: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let key = self.layout.segment(name, encoding);
        match self.objects.get(&key).await {
            Ok(stored) => self.checked(name, key, stored, length).await.map(Some),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(&key, error)),
        }
    }

    async fn checked(
        &self,
        name: SegmentName,
        key: Path,
        stored: Stored,
        length: usize,
    ) -> Result<Vec<u8>, ReadError> {
        // Where the store overwrites, another's object may have come with another's hash.
        let known = said_hash(&key, &stored)?.is_some() && self.objects.creates_only();
        // The frame has a checksum of its own: without an entry that is all there is.
        let entry: Option<IndexEntry> = match known {
            true => None,
            false => self.get_json(&self.layout.index_entry(name)).await?,
        };
        let lineage = self.clone();
        let read = blocking(key, move |key| {
            let plain = lineage.plain(key, &stored, length)?;
            if plain.len() != length {
                let found = plain.len();
                return Err(corrupt(key, format!("{found} bytes, want {length}")));
            }
            if let Some(IndexEntry { sha256, .. }) = entry {
                check(key, &plain, &sha256)?;
            }
            Ok(plain)
        });
        read.await
    }

    /// The longest beginning of an unfinished segment that its parts make up.
    pub(super) async fn tail(
        &self,
        mut parts: Vec<Part>,
        length: usize,
    ) -> Result<Beginning, ReadError> {
        let (mut plain, mut overtaken) = (Vec::new(), false);
        while let Some(index) = furthest(&parts, plain.len() as u64) {
            let Part { name, key, .. } = parts.swap_remove(index);
            let Some(content) = self.get_plain(&key, length).await? else {
                overtaken = true;
                continue;
            };
            append(&mut plain, name.from, name.to, &content, &key)?;
        }
        Ok(Beginning { plain, overtaken })
    }

    /// As [`Self::tail`], of what is listed now.
    pub(super) async fn listed_tail(
        &self,
        name: SegmentName,
        length: usize,
    ) -> Result<Beginning, ReadError> {
        let mut beginning = self.tail(self.listed_parts(name).await?, length).await?;
        for _ in 0..LISTS {
            if !beginning.overtaken {
                break;
            }
            beginning = self.tail(self.listed_parts(name).await?, length).await?;
        }
        Ok(beginning)
    }

    /// SHA-256 of each copy of a whole segment, as far as that is known without a private key.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn hashes_of(&self, name: SegmentName) -> Result<Vec<String>, ReadError> {
        let keys = Encoding::ALL.map(|encoding| self.layout.segment(name, encoding));
        let said = join_all(keys.iter().map(|key| self.hash(key))).await;
        let mut hashes = Vec::new();
        for hash in said {
            match hash {
                Ok(hash) => hashes.extend(hash),
                Err(error) if error.wants_key() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(hashes)
    }

    /// A timeline history file.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn fetch_history(&self, timeline: TimelineId) -> Result<String, ReadError> {
        let key = self.layout.history(timeline);
        let stored = self.get(&key).await?.ok_or_else(|| not_found(&key))?;
        let text = String::from_utf8(stored.bytes.to_vec());
        text.map_err(|error| corrupt(&key, error.to_string()))
    }

    /// Whether a whole segment is known to be archived, by its own index entry: one request. Of one whose entry was rolled up
    /// only a list says it.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn has_entry(&self, name: SegmentName) -> Result<bool, ReadError> {
        let key = self.layout.index_entry(name);
        Ok(self.get_json::<IndexEntry>(&key).await?.is_some())
    }

    /// The index entry of a whole segment, alone or rolled up.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn entry(&self, name: SegmentName) -> Result<Option<IndexEntry>, ReadError> {
        if let Some(entry) = self.get_json(&self.layout.index_entry(name)).await? {
            return Ok(Some(entry));
        }
        self.rolled_up_entry(name).await
    }

    /// The index entry of a segment in a roll-up.
    pub(super) async fn rolled_up_entry(
        &self,
        name: SegmentName,
    ) -> Result<Option<IndexEntry>, ReadError> {
        for object in self.list(&self.layout.rollups()).await? {
            let holds = super::layout::rollup_range(&object.location)
                .is_some_and(|(first, last)| first <= name && name <= last);
            if holds
                && let Some(entries) = self.get_json::<Vec<IndexEntry>>(&object.location).await?
            {
                let found = entries.into_iter().find(|entry| entry.segment == name);
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

/// Decompressing and hashing a segment takes longer than whatever else this thread does can wait, and there is more than
/// one processor.
async fn blocking<T: Send + 'static>(
    key: Path,
    read: impl FnOnce(&Path) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let about = key.clone();
    let done = tokio::task::spawn_blocking(move || read(&key)).await;
    done.unwrap_or_else(|source| Err(unavailable(&about, StoreError::JoinError { source })))
}

/// Of all parts that go on at `reached`, the one that goes furthest.
pub(super) fn furthest(parts: &[Part], reached: u64) -> Option<usize> {
    let goes_on = |part: &Part| part.name.from <= reached && part.name.to > reached;
    let next = parts.iter().enumerate().filter(|(_, part)| goes_on(part));
    next.max_by_key(|(_, part)| part.name.to)
        .map(|(index, _)| index)
}

/// Appends a part, which may begin within `plain` and must then agree with it.
fn append(
    plain: &mut Vec<u8>,
    from: u64,
    to: u64,
    content: &[u8],
    key: &Path,
) -> Result<(), ReadError> {
    if content.len() as u64 != to - from {
        return Err(corrupt(key, "its length is not what its name says"));
    }
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let known = plain.get(from..).unwrap_or_default();
    let (again, new) = content.split_at(known.len().min(content.len()));
    if again != known {
        return Err(corrupt(key, "it differs from another part of its segment"));
    }
    plain.extend_from_slice(new);
    Ok(())
}
