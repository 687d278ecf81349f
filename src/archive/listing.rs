//! Listing a lineage: all of it, or again what may have changed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use object_store::{ObjectMeta, path::Path};

use super::{
    GROUP, Layout, Lineage, ReadError,
    backups::{MANIFEST, TOMBSTONE},
    handle::unavailable,
    layout::Key,
    memory::Part,
    on_their_way::{has_entry, on_their_way},
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

/// From this many whole segments on, two lists of everything cost more than a list of each folder's end.
const MANY: usize = 1000;
/// Whole segments of a timeline that are listed again: pushes overtake each other, and entries are rolled up.
const AGAIN: u64 = 2 * GROUP;

/// The keys of a lineage, sorted out.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) segments: BTreeMap<SegmentName, Whole>,
    pub(super) entries: BTreeSet<SegmentName>,
    pub(super) rollups: Vec<(SegmentName, SegmentName, Path)>,
    pub(super) tails: BTreeMap<SegmentName, BTreeMap<Path, Part>>,
    pub(super) histories: BTreeMap<TimelineId, Path>,
    pub(super) clocks: Vec<Path>,
    /// Whether it is written down which WAL nothing needs.
    pub(super) expired: bool,
    pub(super) manifests: BTreeMap<String, Path>,
    /// Whole segments that do not count yet, and when they were put.
    pub(super) on_their_way: BTreeMap<SegmentName, Timestamp>,
    /// What no reader looks for, of what was listed.
    pub(super) orphans: BTreeSet<Path>,
    /// Whether everything was listed.
    pub(super) complete: bool,
}

/// What a list says of a whole segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Whether there is no copy that is not encrypted.
    pub(super) encrypted: bool,
    /// Bytes of all copies, as they lie there.
    pub(super) stored: u64,
    /// When its newest copy was put.
    pub(super) put_at: Timestamp,
}

impl Whole {
    /// Before its first copy is seen.
    const NONE: Self = Self {
        encrypted: true,
        stored: 0,
        put_at: Timestamp::MIN,
    };
}

impl Listing {
    /// Sorts what was listed; an object that was listed twice counts once.
    fn sort(layout: &Layout, objects: Vec<ObjectMeta>) -> Self {
        let mut listing = Self::default();
        let mut buried = BTreeSet::new();
        for ObjectMeta {
            location: key,
            size,
            last_modified,
            ..
        } in objects
        {
            match layout.names(&key) {
                Some(Key::Segment(name, encoding)) => {
                    let whole = listing.segments.entry(name).or_insert(Whole::NONE);
                    whole.encrypted &= encoding.encrypted;
                    whole.stored += size;
                    let put_at = Timestamp::from_second(last_modified.timestamp());
                    whole.put_at = whole.put_at.max(put_at.unwrap_or_default());
                }
                Some(Key::Entry(name)) => drop(listing.entries.insert(name)),
                Some(Key::Rollup(first, last)) => listing.rollups.push((first, last, key)),
                Some(Key::Tail(name, encoding)) => {
                    let part = Part {
                        key: key.clone(),
                        encrypted: encoding.encrypted,
                        sha256: None,
                        name,
                    };
                    let parts = listing.tails.entry(part.name.segment).or_default();
                    parts.insert(key, part);
                }
                Some(Key::History(timeline)) => drop(listing.histories.insert(timeline, key)),
                Some(Key::Clock(_)) => listing.clocks.push(key),
                Some(Key::Expired) => listing.expired = true,
                Some(Key::BackupFile(folder, file)) if file == MANIFEST => {
                    listing.manifests.insert(folder, key);
                }
                Some(Key::BackupFile(folder, file)) if file == TOMBSTONE => {
                    buried.insert(folder);
                }
                Some(Key::BackupFile(..) | Key::BackupHistory(_) | Key::Identity) => {}
                None => drop(listing.orphans.insert(key)),
            }
        }
        listing
            .manifests
            .retain(|folder, _| !buried.contains(folder));
        listing
    }

    /// Without what is on its way only. `remembered`: whole segments whose index entries were not listed again.
    fn settled(mut self, remembered: BTreeMap<SegmentName, Whole>, size: SegmentSize) -> Self {
        let known = |name: &SegmentName| {
            let rolled_up = self.rollups.iter().map(|(first, last, _)| (first, last));
            remembered.contains_key(name)
                || has_entry(*name, self.entries.contains(name), rolled_up)
        };
        let names = self.segments.keys().chain(remembered.keys()).copied();
        for name in on_their_way(names, known, size) {
            let whole = self.segments.remove(&name);
            self.on_their_way
                .extend(whole.map(|whole| (name, whole.put_at)));
        }
        self.segments.extend(remembered);
        self
    }

    /// Bytes of each timeline's whole segments, as they lie there.
    pub(super) fn stored(&self) -> BTreeMap<TimelineId, u64> {
        let mut stored = BTreeMap::new();
        for (name, whole) in &self.segments {
            *stored.entry(name.timeline()).or_default() += whole.stored;
        }
        stored
    }
}

impl Lineage {
    /// Lists everything, and sorts out what does not count yet.
    pub(super) async fn listing(&self, size: SegmentSize) -> Result<Listing, ReadError> {
        // Tails first: a segment that becomes whole is there before its tails go.
        let mut objects = self.list(&self.layout.all_tails()).await?;
        objects.extend(self.list(&self.layout.root()).await?);
        let mut listing = Listing::sort(&self.layout, objects);
        listing.complete = true;
        Ok(listing.settled(BTreeMap::new(), size))
    }

    /// As [`Self::listing`]; whole segments that were listed before are remembered, but for the newest of each timeline.
    pub(super) async fn listing_again(&self, size: SegmentSize) -> Result<Listing, ReadError> {
        let known = self.memory.read(|read| read.listed.clone());
        if known.len() < MANY {
            return self.listing(size).await;
        }
        let mut objects = self.list(&self.layout.all_tails()).await?;
        let wal = self.layout.wal();
        let timelines = self.objects.folders(&wal).await;
        let timelines = timelines.map_err(|cause| unavailable(&wal, cause))?;
        let mut remembered = BTreeMap::new();
        for timeline in timelines.iter().filter_map(|name| name.parse().ok()) {
            let from = again_from(&known, timeline, size);
            let before = known.range(first(timeline, size)..from);
            remembered.extend(before.map(|(name, whole)| (*name, *whole)));
            for folder in [self.layout.wal_of(timeline), self.layout.index_of(timeline)] {
                let offset = folder.clone().join(from.to_string());
                let listed = self.objects.list_from(&folder, &offset).await;
                objects.extend(listed.map_err(|cause| unavailable(&folder, cause))?);
            }
        }
        for folder in self.layout.small() {
            objects.extend(self.list(&folder).await?);
        }
        let listing = Listing::sort(&self.layout, objects);
        Ok(listing.settled(remembered, size))
    }
}

/// The first name that a timeline's segments can have.
fn first(timeline: TimelineId, size: SegmentSize) -> SegmentName {
    SegmentName::containing(timeline, Lsn::new(0), size)
}

/// From which segment of a timeline on is listed again.
fn again_from<T>(
    known: &BTreeMap<SegmentName, T>,
    timeline: TimelineId,
    size: SegmentSize,
) -> SegmentName {
    let last = SegmentName::containing(timeline, Lsn::new(u64::MAX), size);
    let newest = known.range(first(timeline, size)..=last).next_back();
    let newest = newest.map_or(0, |(name, _)| name.start(size).get());
    let from = newest.saturating_sub(AGAIN * size.get());
    SegmentName::containing(timeline, Lsn::new(from), size)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use serde_json::json;

    use super::*;
    use crate::archive::{Archive, IndexEntry, examples::*};

    #[test]
    fn the_newest_of_each_timeline_are_listed_again() {
        let mut known = BTreeMap::new();
        for number in 0..2000 {
            known.insert(segment(1, number), ());
        }
        known.insert(segment(3, 5), ());
        assert_eq!(
            again_from(&known, timeline(1), SIZE),
            segment(1, 1999 - AGAIN)
        );
        assert_eq!(again_from(&known, timeline(2), SIZE), segment(2, 0));
        assert_eq!(again_from(&known, timeline(3), SIZE), segment(3, 0));
    }

    /// An object where no reader looks is no segment, though its name is one's.
    #[tokio::test]
    async fn what_no_restore_reads_does_not_count() {
        let spec = json!({"directory": {"persistentVolumeClaim": "wal"}});
        let spec = serde_json::from_value(spec).unwrap();
        let archive = Archive::new(Arc::new(InMemory::new()), &spec, "orders").unwrap();
        let lineage = archive.lineage(identity().lineage);
        lineage.create_identity(&identity()).await.unwrap();
        let orphans = async || lineage.contents().await.unwrap().orphans.unwrap();
        assert!(orphans().await.is_empty());
        let elsewhere = lineage.layout.root().join("wal").join("00000002");
        for key in [
            lineage.layout.root().join("notes.txt"),
            elsewhere.join(format!("{}.zst", segment(1, 7))),
        ] {
            let put = lineage.create(&key, "hash", b"stored".to_vec().into());
            put.await.unwrap();
        }
        let contents = lineage.contents().await.unwrap();
        assert_eq!(contents.segments.len(), 0);
        assert_eq!(orphans().await.len(), 2);
    }

    /// What is listed again is what a list of everything says, but for what changes behind the newest.
    #[tokio::test]
    async fn many_segments_are_not_listed_again() {
        let store = Arc::new(InMemory::new());
        let spec = json!({"directory": {"persistentVolumeClaim": "wal"}});
        let archive =
            Archive::new(store, &serde_json::from_value(spec).unwrap(), "orders").unwrap();
        let lineage = archive.lineage(identity().lineage);
        lineage.create_identity(&identity()).await.unwrap();
        let key = |tli, number| {
            let encoding = lineage.encoder.encoding();
            lineage.layout.segment(segment(tli, number), encoding)
        };
        let put = async |tli, number| {
            let payload = b"stored".to_vec().into();
            let segment_key = key(tli, number);
            let put = lineage.create(&segment_key, "hash", payload);
            put.await.unwrap();
            let entry = IndexEntry::of(segment(tli, number), SIZE, b"stored");
            let key = lineage.layout.index_entry(entry.segment);
            lineage.create_json(&key, &entry).await.unwrap();
        };
        for number in 1..1500 {
            put(1, number).await;
        }
        let all = lineage.contents().await.unwrap();
        assert_eq!(all.stored[&timeline(1)], 1499 * 6);
        // New, overtaken and on a new timeline: seen. Gone far behind: remembered.
        put(1, 1501).await;
        put(2, 1400).await;
        lineage.delete(vec![key(1, 1490), key(1, 3)]).await.unwrap();
        let again = lineage.contents_again().await.unwrap();
        let has = |contents: &crate::archive::Contents, tli, number| {
            contents.segments.contains_key(&segment(tli, number))
        };
        assert!(has(&again, 1, 1501) && has(&again, 2, 1400));
        assert!(!has(&again, 1, 1490) && has(&again, 1, 3));
        assert_eq!(again.segments.len(), 1499 + 2 - 1);
        assert_eq!(again.orphans, None);
        let full = lineage.contents().await.unwrap();
        assert!(!has(&full, 1, 3));
        assert_eq!(full.segments.len(), 1499);
    }
}
