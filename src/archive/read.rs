//! Reading what a lineage holds, in few requests: lists, and what no earlier reading has seen.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error as StoreError, path::Path};
use serde::de::DeserializeOwned;

use super::{
    ClockPair, Contents, FORMAT, Identity, IndexEntry, Lineage, Manifest, ReadError,
    contents::{Segment, Tail},
    fetch::LISTS,
    handle::{corrupt, unavailable},
    listing::{Listing, Whole},
    memory::Part,
    retention::Expired,
    tails::TailRead,
};
use crate::postgres::{SegmentName, TimelineHistory, TimelineId};

/// Requests at once: enough to hide the store's latency, few enough for any store.
const PARALLEL: usize = 16;

/// What is listed.
#[derive(Clone, Copy)]
enum Lists {
    Everything,
    /// Of many whole segments the newest only.
    Newest,
}

impl Lineage {
    /// Reads everything that planning needs.
    ///
    /// # Errors
    /// `NotFound` if there is no such lineage; an outage is `Unavailable`.
    pub async fn contents(&self) -> Result<Contents, ReadError> {
        self.contents_by(Lists::Everything).await
    }

    /// As [`Self::contents`], for whoever asks again and again: of many whole segments only the newest are listed again.
    /// What comes or goes further back is seen by [`Self::contents`].
    ///
    /// # Errors
    /// As [`Self::contents`].
    pub async fn contents_again(&self) -> Result<Contents, ReadError> {
        self.contents_by(Lists::Newest).await
    }

    /// What was listed and is gone when it is read has become part of something else: without that, the log would seem to
    /// end before it.
    async fn contents_by(&self, lists: Lists) -> Result<Contents, ReadError> {
        let identity = self.identity().await?;
        self.readable(&identity)?;
        for _ in 0..LISTS {
            let listing = match lists {
                Lists::Everything => self.listing(identity.segment_size).await?,
                Lists::Newest => self.listing_again(identity.segment_size).await?,
            };
            if let Some(contents) = self.contents_of(identity.clone(), listing).await? {
                return Ok(contents);
            }
        }
        let cause = StoreError::Generic {
            store: "archive",
            source: "what is listed is gone again and again before it is read".into(),
        };
        Err(unavailable(&self.layout.root(), cause))
    }

    /// `None`: what was listed is there no more.
    async fn contents_of(
        &self,
        identity: Identity,
        listing: Listing,
    ) -> Result<Option<Contents>, ReadError> {
        self.forget_but(&listing);
        let clocks = self.read_all::<ClockPair>(listing.clocks.clone()).await?;
        let expired = match listing.expired {
            true => self.expired().await?,
            false => Expired::default(),
        };
        let mut contents = Contents {
            backups: self.backups(&listing).await?,
            histories: self.histories(&listing).await?,
            segments: self.segments(&listing, &identity).await?,
            tails: BTreeMap::new(),
            restore_points: Vec::new(),
            clocks: clocks.into_values().collect(),
            stored: listing.stored(),
            orphans: listing.complete.then_some(listing.orphans),
            on_their_way: listing.on_their_way,
            expired,
            identity,
        };
        for (name, parts) in listing.tails {
            if contents.segments.contains_key(&name) {
                continue;
            }
            match self.read_tail(name, parts, &contents).await? {
                TailRead::Overtaken => return Ok(None),
                TailRead::Nothing => {}
                TailRead::Known(tail) => drop(contents.tails.insert(name, tail)),
            }
        }
        contents.restore_points = self.memory.read(|read| {
            let points = read.restore_points.iter();
            let points = points.flat_map(|(name, points)| {
                points.iter().map(|point| (name.timeline(), point.clone()))
            });
            points.collect()
        });
        Ok(Some(contents))
    }

    /// What is there by names alone: histories, whole segments, and how far tails reach. For whoever asks whether
    /// something follows; nothing is said of records, backups and clocks.
    ///
    /// # Errors
    /// As [`Self::contents`].
    pub async fn outline(&self) -> Result<Contents, ReadError> {
        let identity = self.identity().await?;
        self.readable(&identity)?;
        let size = identity.segment_size;
        let listing = self.listing(size).await?;
        let whole = |(name, whole): (&SegmentName, &Whole)| {
            let segment = Segment {
                valid_end: name.end(size),
                records: None,
                ended: None,
                encrypted: whole.encrypted,
            };
            (*name, segment)
        };
        let tail = |(name, parts): (&SegmentName, &BTreeMap<Path, Part>)| {
            let to = parts.values().map(|part| part.name.to).max()?;
            let end = name.start(size).advance(to);
            let tail = Tail {
                end,
                records: None,
                encrypted: parts.values().any(|part| part.encrypted),
            };
            Some((*name, tail))
        };
        Ok(Contents {
            backups: Vec::new(),
            histories: self.histories(&listing).await?,
            segments: listing.segments.iter().map(whole).collect(),
            tails: listing.tails.iter().filter_map(tail).collect(),
            restore_points: Vec::new(),
            clocks: Vec::new(),
            stored: listing.stored(),
            orphans: listing.complete.then_some(listing.orphans),
            on_their_way: listing.on_their_way,
            expired: Expired::default(),
            identity,
        })
    }

    /// Whether this program knows where everything lies: what it does not find elsewhere would count as missing.
    pub(super) fn readable(&self, identity: &Identity) -> Result<(), ReadError> {
        if identity.format > FORMAT {
            let what = format!(
                "it is of format {}, this program reads up to {FORMAT}: use a newer one",
                identity.format
            );
            return Err(corrupt(&self.layout.identity(), what));
        }
        Ok(())
    }

    fn forget_but(&self, listing: &Listing) {
        self.memory.read(|read| {
            read.segments
                .retain(|name, _| listing.segments.contains_key(name));
            read.tails
                .retain(|name, _| listing.tails.contains_key(name));
            read.restore_points.retain(|name, _| {
                listing.segments.contains_key(name) || listing.tails.contains_key(name)
            });
            let texts: BTreeSet<&Path> = listing
                .histories
                .values()
                .chain(listing.manifests.values())
                .collect();
            read.texts.retain(|key, _| texts.contains(key));
            read.listed.clone_from(&listing.segments);
        });
    }

    /// Objects by key; one that vanished meanwhile is left out.
    pub(super) async fn read_all<T: DeserializeOwned>(
        &self,
        keys: Vec<Path>,
    ) -> Result<BTreeMap<Path, T>, ReadError> {
        let read = stream::iter(keys).map(|key| async move {
            let value = self.get_json::<T>(&key).await?;
            Ok::<_, ReadError>(value.map(|value| (key, value)))
        });
        let found: Vec<Option<(Path, T)>> = read.buffer_unordered(PARALLEL).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Texts that never change, by key: remembered, or read.
    async fn texts(&self, keys: Vec<Path>) -> Result<BTreeMap<Path, String>, ReadError> {
        let (known, new): (Vec<_>, Vec<_>) = self.memory.read(|read| {
            keys.into_iter()
                .map(|key| (read.texts.get(&key).cloned(), key))
                .partition(|(text, _)| text.is_some())
        });
        let fetched = stream::iter(new).map(|(_, key)| async move {
            let stored = self.get(&key).await?;
            let text = stored.map(|stored| String::from_utf8(stored.bytes.to_vec()));
            let text = text.transpose().map_err(|e| corrupt(&key, e.to_string()))?;
            Ok::<_, ReadError>((text, key))
        });
        let fetched: Vec<_> = fetched.buffer_unordered(PARALLEL).try_collect().await?;
        let all = known.into_iter().chain(fetched);
        let all: BTreeMap<Path, String> =
            all.filter_map(|(text, key)| Some((key, text?))).collect();
        self.memory.read(|read| read.texts.extend(all.clone()));
        Ok(all)
    }

    async fn backups(&self, listing: &Listing) -> Result<Vec<(String, Manifest)>, ReadError> {
        let texts = self
            .texts(listing.manifests.values().cloned().collect())
            .await?;
        let manifest = |(folder, key): (&String, &Path)| {
            match serde_json::from_str::<Manifest>(texts.get(key)?) {
                Ok(manifest) if manifest.format <= FORMAT => Some((folder.clone(), manifest)),
                Ok(newer) => {
                    tracing::warn!(%key, format = newer.format, "a backup of a newer format is left out");
                    None
                }
                // One broken manifest must not keep the others from being restored.
                Err(error) => {
                    tracing::error!(%key, %error, "a backup whose manifest cannot be read is left out");
                    None
                }
            }
        };
        Ok(listing.manifests.iter().filter_map(manifest).collect())
    }

    async fn histories(
        &self,
        listing: &Listing,
    ) -> Result<BTreeMap<TimelineId, TimelineHistory>, ReadError> {
        let texts = self
            .texts(listing.histories.values().cloned().collect())
            .await?;
        let mut histories = BTreeMap::new();
        for (timeline, key) in &listing.histories {
            let Some(text) = texts.get(key) else { continue };
            let parsed = TimelineHistory::parse(*timeline, text);
            let parsed = parsed.map_err(|error| corrupt(key, error.to_string()))?;
            histories.insert(*timeline, parsed);
        }
        Ok(histories)
    }

    /// What is known of the segments that are there. One without an entry, as after a crash between the two, counts as
    /// one whose records nobody read.
    async fn segments(
        &self,
        listing: &Listing,
        identity: &Identity,
    ) -> Result<BTreeMap<SegmentName, Segment>, ReadError> {
        let unknown: BTreeSet<SegmentName> = self.memory.read(|read| {
            let names = listing.segments.keys();
            names
                .filter(|name| !read.segments.contains_key(*name))
                .copied()
                .collect()
        });
        let rolled = listing.rollups.iter().filter(|(first, last, _)| {
            let mut names = unknown.range(first..=last);
            names.any(|name| !listing.entries.contains(name))
        });
        let rolled = rolled.map(|(_, _, key)| key.clone()).collect();
        let single = unknown.intersection(&listing.entries);
        let single = single.map(|name| self.layout.index_entry(*name)).collect();
        let rolled = self.read_all::<Vec<IndexEntry>>(rolled).await?;
        let single = self.read_all::<IndexEntry>(single).await?;
        let entries = rolled.into_values().flatten().chain(single.into_values());
        self.memory.read(|read| {
            for entry in entries {
                if unknown.contains(&entry.segment) {
                    read.segments.insert(entry.segment, Segment::from(&entry));
                    read.note_points(entry.segment, entry.restore_points);
                }
            }
            let segment = |(name, whole): (&SegmentName, &Whole)| {
                let known = read.segments.get(name).copied();
                let unread = Segment {
                    valid_end: name.end(identity.segment_size),
                    records: None,
                    ended: None,
                    encrypted: whole.encrypted,
                };
                let known = known.map(|known| Segment {
                    encrypted: whole.encrypted,
                    ..known
                });
                (*name, known.unwrap_or(unread))
            };
            Ok(listing.segments.iter().map(segment).collect())
        })
    }
}
