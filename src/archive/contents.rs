//! Everything in a lineage that planning needs: read in few requests, then only looked at.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::path::Path;
use serde::de::DeserializeOwned;

use super::{
    ClockPair, Identity, IndexEntry, Lineage, Manifest, ReadError, backups::MANIFEST,
    layout::TailName,
};
use crate::postgres::{Lsn, SegmentName, TimelineHistory, TimelineId, wal};

/// Requests at once: enough to hide the store's latency, few enough for any store.
const PARALLEL: usize = 16;

/// What a lineage holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Whose it is.
    pub identity: Identity,
    /// Its backups, with the folder of each.
    pub backups: Vec<(String, Manifest)>,
    /// The histories of its timelines but the first.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Its whole segments.
    pub segments: BTreeMap<SegmentName, IndexEntry>,
    /// Its unfinished segments.
    pub tails: BTreeMap<SegmentName, Tail>,
    /// Up to when each timeline is covered.
    pub clocks: Vec<ClockPair>,
}

/// The shipped beginning of a segment that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Bytes before here are there.
    pub end: Lsn,
    /// Where the last whole record begins.
    pub last_record: Option<Lsn>,
    /// The latest commit or abort time.
    pub last_commit: Option<Timestamp>,
}

/// A stretch of WAL that is there: a whole segment or a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte.
    pub from: Lsn,
    /// The byte after its last.
    pub to: Lsn,
    /// Where the last record that begins in it begins.
    pub last_record: Option<Lsn>,
    /// The latest commit or abort time in it.
    pub last_commit: Option<Timestamp>,
}

impl Contents {
    /// The log as the timeline `timeline` sees it: whole segments, then the tail, in the order of the log.
    pub fn pieces(&self, timeline: TimelineId) -> Vec<Piece> {
        let size = self.identity.segment_size;
        let ancestors = self.ancestors(timeline);
        // PostgreSQL copies the part of a segment before a switch into the new timeline's segment: that one counts.
        let belongs = |name: SegmentName| {
            let end = name.end(size);
            let expected = ancestors
                .iter()
                .find(|(_, left_at)| end <= *left_at)
                .map_or(timeline, |(id, _)| *id);
            expected == name.timeline()
        };
        let whole = self
            .segments
            .values()
            .filter(|entry| belongs(entry.segment))
            .map(|entry| Piece {
                from: entry.segment.start(size),
                to: entry.segment.end(size),
                last_record: entry.last_record,
                last_commit: entry.last_commit,
            });
        let tails = self
            .tails
            .iter()
            .filter(|(name, _)| belongs(**name) && !self.segments.contains_key(*name));
        let tails = tails.map(|(name, tail)| Piece {
            from: name.start(size),
            to: tail.end,
            last_record: tail.last_record,
            last_commit: tail.last_commit,
        });
        let mut pieces: Vec<Piece> = whole.chain(tails).collect();
        pieces.sort_by_key(|piece| (piece.from, piece.to));
        pieces
    }

    /// [`Self::pieces`], cut where bytes are missing.
    pub fn ranges(&self, timeline: TimelineId) -> Vec<Vec<Piece>> {
        let mut ranges: Vec<Vec<Piece>> = Vec::new();
        for piece in self.pieces(timeline) {
            match ranges.last_mut() {
                Some(range) if range.last().is_some_and(|last| last.to == piece.from) => {
                    range.push(piece)
                }
                Some(_) | None => ranges.push(vec![piece]),
            }
        }
        ranges
    }

    /// The ancestors of a timeline, oldest first, each with the position where the history leaves it.
    pub fn ancestors(&self, timeline: TimelineId) -> Vec<(TimelineId, Lsn)> {
        let entries = self
            .histories
            .get(&timeline)
            .map(TimelineHistory::entries)
            .unwrap_or_default();
        entries
            .iter()
            .map(|entry| (entry.timeline, entry.switch_lsn))
            .collect()
    }

    /// The timelines that there is WAL or a history of.
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        let segments = self
            .segments
            .keys()
            .chain(self.tails.keys())
            .map(|name| name.timeline());
        segments.chain(self.histories.keys().copied()).collect()
    }

    /// Whether a backup is on the line of `timeline`: a backup that stopped after its timeline was left is on a dead branch.
    pub fn on_line(&self, manifest: &Manifest, timeline: TimelineId) -> bool {
        if manifest.timeline == timeline {
            return true;
        }
        let ancestors = self.ancestors(timeline);
        ancestors
            .iter()
            .any(|(id, left_at)| *id == manifest.timeline && manifest.stop_lsn <= *left_at)
    }

    /// Where each timeline's valid WAL ends.
    pub fn valid_ends(&self) -> Vec<(TimelineId, Lsn)> {
        let whole = self
            .segments
            .values()
            .map(|entry| (entry.segment.timeline(), entry.valid_end));
        let tails = self
            .tails
            .iter()
            .map(|(name, tail)| (name.timeline(), tail.end));
        let mut ends: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
        for (timeline, end) in whole.chain(tails) {
            let known = ends.entry(timeline).or_insert(end);
            *known = end.max(*known);
        }
        ends.into_iter().collect()
    }

    /// Where the whole segments end on the way to `timeline`.
    pub fn whole_end(&self, timeline: TimelineId, ancestors: &[(TimelineId, Lsn)]) -> Option<Lsn> {
        let size = self.identity.segment_size;
        let line = |name: &SegmentName| {
            let left_at = ancestors
                .iter()
                .find(|(id, _)| *id == name.timeline())
                .map(|(_, left_at)| *left_at);
            name.timeline() == timeline || left_at.is_some_and(|left_at| name.end(size) <= left_at)
        };
        self.segments
            .keys()
            .filter(|name| line(name))
            .map(|name| name.end(size))
            .max()
    }
}

impl Lineage {
    /// Reads everything that planning needs.
    ///
    /// # Errors
    /// `NotFound` if there is no such lineage; an outage is `Unavailable`.
    pub async fn contents(&self) -> Result<Contents, ReadError> {
        let identity = self.identity().await?;
        let (backups, histories) = (self.backups().await?, self.histories().await?);
        let segments = self.index().await?;
        let clock_keys = self.list(&self.layout.clocks()).await?;
        let clocks = self
            .read_all(
                clock_keys
                    .into_iter()
                    .map(|object| object.location)
                    .collect(),
            )
            .await?;
        let mut contents = Contents {
            identity,
            backups,
            histories,
            segments,
            tails: BTreeMap::new(),
            clocks: clocks.into_values().collect(),
        };
        contents.tails = self.unfinished(&contents).await?;
        Ok(contents)
    }

    /// Objects by key; one that vanished meanwhile is left out.
    async fn read_all<T: DeserializeOwned>(
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

    async fn backups(&self) -> Result<Vec<(String, Manifest)>, ReadError> {
        let objects = self.list(&self.layout.backups()).await?;
        let manifests = objects
            .into_iter()
            .map(|object| object.location)
            .filter(|key| key.filename() == Some(MANIFEST));
        let read = self.read_all::<Manifest>(manifests.collect()).await?;
        let folder = |key: &Path| {
            key.as_ref()
                .rsplit('/')
                .nth(1)
                .unwrap_or_default()
                .to_owned()
        };
        Ok(read
            .into_iter()
            .map(|(key, manifest)| (folder(&key), manifest))
            .collect())
    }

    async fn histories(&self) -> Result<BTreeMap<TimelineId, TimelineHistory>, ReadError> {
        let mut histories = BTreeMap::new();
        for timeline in self.history_timelines().await? {
            let text = self.fetch_history(timeline).await?;
            let parsed =
                TimelineHistory::parse(timeline, &text).map_err(|error| ReadError::Corrupt {
                    key: self.layout.history(timeline).to_string(),
                    what: error.to_string(),
                })?;
            histories.insert(timeline, parsed);
        }
        Ok(histories)
    }

    async fn index(&self) -> Result<BTreeMap<SegmentName, IndexEntry>, ReadError> {
        // Roll-ups first: an entry is deleted only after the roll-up that holds it was written.
        let single = self.list(&self.layout.index()).await?;
        let rolled = self.list(&self.layout.rollups()).await?;
        let keys = |objects: Vec<object_store::ObjectMeta>| {
            objects.into_iter().map(|object| object.location).collect()
        };
        let rolled = self.read_all::<Vec<IndexEntry>>(keys(rolled)).await?;
        let single = self.read_all::<IndexEntry>(keys(single)).await?;
        let entries = rolled.into_values().flatten().chain(single.into_values());
        Ok(entries.map(|entry| (entry.segment, entry)).collect())
    }

    async fn unfinished(
        &self,
        contents: &Contents,
    ) -> Result<BTreeMap<SegmentName, Tail>, ReadError> {
        let objects = self.list(&self.layout.all_tails()).await?;
        let names: BTreeSet<SegmentName> = objects
            .iter()
            .filter_map(|object| Some(TailName::parse(&object.location)?.0.segment))
            .collect();
        let mut tails = BTreeMap::new();
        for name in names
            .into_iter()
            .filter(|name| !contents.segments.contains_key(name))
        {
            if let Some(tail) = self.scan_tail(name, contents).await? {
                tails.insert(name, tail);
            }
        }
        Ok(tails)
    }

    async fn scan_tail(
        &self,
        name: SegmentName,
        contents: &Contents,
    ) -> Result<Option<Tail>, ReadError> {
        let size = contents.identity.segment_size;
        let plain = self
            .tail(name, usize::try_from(size.get()).unwrap_or(usize::MAX))
            .await?;
        if plain.is_empty() {
            return Ok(None);
        }
        let end = name.start(size).advance(plain.len() as u64);
        let identifier = Some(contents.identity.system_identifier);
        let scan = wal::scan(&plain, name, size, identifier, None);
        Ok(Some(match scan {
            Ok(scan) => Tail {
                end,
                last_record: scan.last_record_start,
                last_commit: scan.last_commit,
            },
            // Shorter than a page, or it begins within a record: there, but nothing is known of it.
            Err(_) => Tail {
                end,
                last_record: None,
                last_commit: None,
            },
        }))
    }
}
