//! Pushing and fetching WAL: segments, tails, history files, clocks.

use bytes::Bytes;
use object_store::path::Path;

use super::{
    ClockPair, Codec, IndexEntry, Lineage, PushError, PushOutcome, ReadError,
    layout::{TailName, stem},
    sha256,
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// A segment has at most this many parts before they are merged into one.
const MOST_TAILS: usize = 32;

impl Lineage {
    /// Archives a whole segment and what is known of it. The segment comes first: an index entry never speaks of what is
    /// not there. Its tails go once it is durable, if they are its beginning.
    ///
    /// # Errors
    /// Other content lies there, or the store refuses; then nothing is archived.
    pub async fn push_segment(
        &self,
        name: SegmentName,
        plain: Bytes,
        entry: &IndexEntry,
    ) -> Result<PushOutcome, PushError> {
        let key = self.layout.segment(name, self.encoder.codec);
        let outcome = self
            .create(&key, &plain, self.encoded(&key, &plain)?)
            .await?;
        let index = self.layout.index_entry(name);
        match self.create_json(&index, entry).await {
            Ok(_) => {}
            // An entry of the same segment written by another version or run may know less or more; the content is the same.
            Err(PushError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        self.drop_tails(name, &plain).await?;
        Ok(outcome)
    }

    fn encoded(&self, key: &Path, plain: &[u8]) -> Result<Bytes, PushError> {
        let encoded = self.encoder.encode(plain);
        encoded.map(Bytes::from).map_err(|error| PushError::Encode {
            key: key.to_string(),
            what: error.to_string(),
        })
    }

    async fn drop_tails(&self, name: SegmentName, plain: &[u8]) -> Result<(), PushError> {
        for (part, key) in self.tails(name).await? {
            let content = self.get_plain(&key, plain.len()).await?;
            let range = usize::try_from(part.from)
                .ok()
                .zip(usize::try_from(part.to).ok());
            let same = range.and_then(|(from, to)| plain.get(from..to)) == content.as_deref();
            if content.is_none() || same {
                self.delete(&key).await?;
            } else {
                tracing::error!(%key, "this part differs from the whole segment; it is kept");
            }
        }
        Ok(())
    }

    /// The parts of an unfinished segment, by where they begin.
    async fn tails(&self, name: SegmentName) -> Result<Vec<(TailName, Path)>, ReadError> {
        let objects = self.list(&self.layout.tails(name)).await?;
        let named = objects.into_iter().filter_map(|object| {
            let (part, _) = TailName::parse(&object.location)?;
            Some((part, object.location))
        });
        Ok(named.collect())
    }

    /// Archives bytes of an unfinished segment. `segment` is all of it that there is so far, from its start; what lies
    /// before `from` is in the archive already. Where too many parts would pile up, they are merged.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn push_tail(
        &self,
        name: SegmentName,
        from: u64,
        segment: &[u8],
        epoch: &str,
    ) -> Result<(), PushError> {
        let parts = self.tails(name).await?;
        let merge = parts.len() + 1 >= MOST_TAILS;
        let first = if merge {
            0
        } else {
            usize::try_from(from).unwrap_or(usize::MAX)
        };
        let plain = segment.get(first..).unwrap_or_default();
        let part = TailName {
            segment: name,
            from: first as u64,
            to: segment.len() as u64,
            epoch: epoch.to_owned(),
        };
        let key = self.layout.tail(&part, self.encoder.codec);
        self.create(&key, plain, self.encoded(&key, plain)?).await?;
        if merge {
            self.drop_tails_but(&key, &parts, segment).await?;
        }
        Ok(())
    }

    async fn drop_tails_but(
        &self,
        kept: &Path,
        parts: &[(TailName, Path)],
        segment: &[u8],
    ) -> Result<(), PushError> {
        for (part, key) in parts
            .iter()
            .filter(|(part, key)| key != kept && part.to <= segment.len() as u64)
        {
            let content = self.get_plain(key, segment.len()).await?;
            let range = usize::try_from(part.from)
                .ok()
                .zip(usize::try_from(part.to).ok());
            if range.and_then(|(from, to)| segment.get(from..to)) == content.as_deref() {
                self.delete(key).await?;
            }
        }
        Ok(())
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
        self.create(&self.layout.history(timeline), &content, content.clone())
            .await
    }

    /// A timeline history file.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn fetch_history(&self, timeline: TimelineId) -> Result<String, ReadError> {
        let key = self.layout.history(timeline);
        let bytes = self.get(&key).await?.ok_or_else(|| ReadError::NotFound {
            key: key.to_string(),
        })?;
        String::from_utf8(bytes.to_vec()).map_err(|error| ReadError::Corrupt {
            key: key.to_string(),
            what: error.to_string(),
        })
    }

    /// The newest history file's timeline, if there is any.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn history_timelines(&self) -> Result<Vec<TimelineId>, ReadError> {
        let objects = self.list(&self.layout.histories()).await?;
        Ok(objects
            .iter()
            .filter_map(|object| stem(&object.location)?.parse().ok())
            .collect())
    }

    /// Says up to which time the archive is complete.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn write_clock(&self, pair: ClockPair) -> Result<(), PushError> {
        self.overwrite_json(&self.layout.clock(pair.timeline), &pair)
            .await
    }

    /// A segment as recovery reads it: whole, or put together from its tails; zeros from `up_to` on, and as long as a
    /// segment is.
    ///
    /// # Errors
    /// `NotFound`: neither the segment nor a tail of it up to `up_to` is there.
    pub async fn fetch_segment(
        &self,
        name: SegmentName,
        size: SegmentSize,
        up_to: Lsn,
    ) -> Result<Vec<u8>, ReadError> {
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let wanted =
            usize::try_from(up_to.bytes_since(name.start(size)).min(size.get())).unwrap_or(length);
        let mut plain = match self.whole(name, length).await? {
            Some(plain) => plain,
            None => self.from_tails(name, length, wanted).await?,
        };
        plain.truncate(wanted);
        plain.resize(length, 0);
        Ok(plain)
    }

    async fn whole(&self, name: SegmentName, length: usize) -> Result<Option<Vec<u8>>, ReadError> {
        for codec in Codec::ALL {
            let key = self.layout.segment(name, codec);
            let Some(plain) = self.get_plain(&key, length).await? else {
                continue;
            };
            let corrupt = |what| ReadError::Corrupt {
                key: key.to_string(),
                what,
            };
            if plain.len() != length {
                return Err(corrupt(format!(
                    "{} bytes, where a segment has {length}",
                    plain.len()
                )));
            }
            if let Some(entry) = self
                .get_json::<IndexEntry>(&self.layout.index_entry(name))
                .await?
            {
                let found = sha256(&plain);
                if entry.sha256 != found {
                    return Err(corrupt(format!(
                        "SHA-256 is {found}, the index says {}",
                        entry.sha256
                    )));
                }
            }
            return Ok(Some(plain));
        }
        Ok(None)
    }

    async fn from_tails(
        &self,
        name: SegmentName,
        length: usize,
        wanted: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let plain = self.tail(name, length).await?;
        if plain.len() >= wanted && wanted > 0 {
            return Ok(plain);
        }
        Err(ReadError::NotFound {
            key: self.layout.segment(name, self.encoder.codec).to_string(),
        })
    }

    /// The longest beginning of an unfinished segment that its parts make up.
    pub(super) async fn tail(
        &self,
        name: SegmentName,
        length: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let mut parts = self.tails(name).await?;
        let mut plain = Vec::new();
        loop {
            let reached = plain.len() as u64;
            // Of all parts that go on where we are, the one that goes furthest.
            let next = parts
                .iter()
                .enumerate()
                .filter(|(_, (part, _))| part.from <= reached && part.to > reached);
            let Some((index, _)) = next.max_by_key(|(_, (part, _))| part.to) else {
                return Ok(plain);
            };
            let (part, key) = parts.swap_remove(index);
            let Some(content) = self.get_plain(&key, length).await? else {
                continue;
            };
            if content.len() as u64 != part.to - part.from {
                return Err(ReadError::Corrupt {
                    key: key.to_string(),
                    what: "its length is not what its name says".into(),
                });
            }
            let skip = usize::try_from(reached - part.from).unwrap_or(usize::MAX);
            plain.extend_from_slice(content.get(skip..).unwrap_or_default());
        }
    }
}
