//! The keys of a lineage by what they name, and those that nothing names. Pure.

use std::collections::{BTreeMap, BTreeSet};

use object_store::{ObjectMeta, path::Path};

use super::super::{
    Encoding, Layout,
    layout::{Key, TailName},
    on_their_way::has_entry,
};
use crate::postgres::{SegmentName, TimelineId};

/// The objects of a lineage, by what their keys name.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) identity: Option<ObjectMeta>,
    pub(super) segments: BTreeMap<SegmentName, Vec<(Encoding, ObjectMeta)>>,
    pub(super) entries: BTreeMap<SegmentName, ObjectMeta>,
    pub(super) rollups: BTreeMap<(SegmentName, SegmentName), ObjectMeta>,
    pub(super) tails: BTreeMap<SegmentName, Vec<(TailName, Encoding, ObjectMeta)>>,
    pub(super) histories: BTreeMap<TimelineId, ObjectMeta>,
    pub(super) backup_histories: Vec<ObjectMeta>,
    pub(super) clocks: BTreeMap<TimelineId, ObjectMeta>,
    /// Which WAL nothing needs any more.
    pub(super) expired: Option<ObjectMeta>,
    /// By folder and file.
    pub(super) backups: BTreeMap<String, BTreeMap<String, ObjectMeta>>,
    pub(super) orphans: Vec<Path>,
}

impl Inventory {
    /// Sorts `objects`, which may hold some twice.
    pub(super) fn sort(layout: &Layout, objects: impl IntoIterator<Item = ObjectMeta>) -> Self {
        let mut inventory = Self::default();
        let mut seen = BTreeSet::new();
        for object in objects {
            if seen.insert(object.location.clone()) {
                inventory.add(layout, object);
            }
        }
        for parts in inventory.tails.values_mut() {
            parts.sort_by_key(|(name, _, _)| (name.from, name.to));
        }
        inventory
    }

    /// Whether `name` has an index entry, rolled up or not.
    pub(super) fn has_entry(&self, name: SegmentName) -> bool {
        let rolled_up = self.rollups.keys().map(|(first, last)| (first, last));
        has_entry(name, self.entries.contains_key(&name), rolled_up)
    }

    /// How many objects there are to read, and their bytes; clocks were read before.
    pub(super) fn volume(&self, in_scope: impl Fn(&SegmentName) -> bool) -> (u64, u64) {
        let segments = self.segments.iter().filter(|(name, _)| in_scope(name));
        let segments = segments.flat_map(|(_, objects)| objects.iter().map(|(_, object)| object));
        let tails = self.tails.iter().filter(|(name, _)| in_scope(name));
        let tails = tails.flat_map(|(_, parts)| parts.iter().map(|(_, _, object)| object));
        let backups = self.backups.values().flat_map(BTreeMap::values);
        let sizes = segments
            .chain(tails)
            .chain(self.entries.values())
            .chain(self.rollups.values())
            .chain(self.histories.values())
            .chain(&self.backup_histories)
            .chain(&self.identity)
            .chain(&self.expired)
            .chain(backups)
            .map(|object| object.size);
        sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size))
    }

    fn add(&mut self, layout: &Layout, object: ObjectMeta) {
        let Some(key) = layout.names(&object.location) else {
            self.orphans.push(object.location);
            return;
        };
        match key {
            Key::Identity => self.identity = Some(object),
            Key::History(timeline) => drop(self.histories.insert(timeline, object)),
            Key::BackupHistory(_) => self.backup_histories.push(object),
            Key::Segment(name, encoding) => {
                self.segments
                    .entry(name)
                    .or_default()
                    .push((encoding, object));
            }
            Key::Entry(name) => drop(self.entries.insert(name, object)),
            Key::Rollup(first, last) => drop(self.rollups.insert((first, last), object)),
            Key::Tail(name, encoding) => {
                let parts = self.tails.entry(name.segment).or_default();
                parts.push((name, encoding, object));
            }
            Key::Clock(timeline) => drop(self.clocks.insert(timeline, object)),
            Key::Expired => self.expired = Some(object),
            Key::BackupFile(folder, file) => {
                self.backups.entry(folder).or_default().insert(file, object);
            }
        }
    }
}
