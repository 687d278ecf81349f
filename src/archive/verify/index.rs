//! Index entries and roll-ups: read, and compared with what they speak of.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, path::Path};

use super::super::{IndexEntry, Lineage, ReadError, rollup::group};
use super::{
    Problem, Run,
    inventory::Inventory,
    objects::{Outcome, read_json},
};
use crate::postgres::{SegmentName, SegmentSize};

/// Small objects at once.
pub(super) const PARALLEL: usize = 16;

/// What is known of segments, and where it stands.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: BTreeMap<SegmentName, (Path, IndexEntry)>,
    /// Roll-ups that cannot be read: what they said is one finding, not one per segment.
    broken: Vec<(SegmentName, SegmentName)>,
    /// Segments whose own entry cannot be read.
    unreadable: Vec<SegmentName>,
}

impl Index {
    /// Reads all of it.
    ///
    /// # Errors
    /// The store does not say definitely what lies there.
    pub(super) async fn read(
        lineage: &Lineage,
        inventory: &Inventory,
        size: SegmentSize,
        run: &Run,
    ) -> Result<Self, ReadError> {
        let mut index = Self::default();
        let rolled = stream::iter(inventory.rollups.iter()).map(async |(range, object)| {
            let read = read_json::<Vec<IndexEntry>>(lineage, object, run).await?;
            Ok::<_, ReadError>((*range, object, read))
        });
        let rolled: Vec<_> = rolled.buffered(PARALLEL).try_collect().await?;
        for (range, object, read) in rolled {
            index.add_rollup(range, object, read, size, run);
        }
        let single = stream::iter(inventory.entries.iter()).map(async |(name, object)| {
            let read = read_json::<IndexEntry>(lineage, object, run).await?;
            Ok::<_, ReadError>((*name, object, read))
        });
        let single: Vec<_> = single.buffered(PARALLEL).try_collect().await?;
        for (name, object, read) in single {
            index.add_entry(name, object, read, run);
        }
        Ok(index)
    }

    fn add_rollup(
        &mut self,
        range: (SegmentName, SegmentName),
        object: &ObjectMeta,
        read: Outcome<Vec<IndexEntry>>,
        size: SegmentSize,
        run: &Run,
    ) {
        let key = &object.location;
        let entries = match read {
            Outcome::Sound(entries) => entries,
            other => {
                run.find(Problem::EntryDamaged, key, trouble(other));
                self.broken.push(range);
                return;
            }
        };
        if let Some(what) = disorder(&entries, range, size) {
            run.find(Problem::EntryDamaged, key, what);
        }
        for entry in entries {
            self.insert(key, entry, run);
        }
    }

    fn add_entry(
        &mut self,
        name: SegmentName,
        object: &ObjectMeta,
        read: Outcome<IndexEntry>,
        run: &Run,
    ) {
        let key = &object.location;
        match read {
            Outcome::Sound(entry) if entry.segment == name => self.insert(key, entry, run),
            Outcome::Sound(entry) => {
                let what = format!("it speaks of segment {}", entry.segment);
                run.find(Problem::EntryWrong, key, what);
                self.unreadable.push(name);
            }
            // Rolled up meanwhile: it is looked for again.
            Outcome::Gone => {}
            other => {
                run.find(Problem::EntryDamaged, key, trouble(other));
                self.unreadable.push(name);
            }
        }
    }

    fn insert(&mut self, key: &Path, entry: IndexEntry, run: &Run) {
        let known = self.entries.get(&entry.segment);
        match known.filter(|(_, known)| known.sha256 != entry.sha256) {
            Some((other, known)) => {
                let what = format!(
                    "it says SHA-256 {} of segment {}, {other} says {}",
                    entry.sha256, entry.segment, known.sha256
                );
                run.find(Problem::EntryWrong, key, what);
            }
            None => drop(self.entries.insert(entry.segment, (key.clone(), entry))),
        }
    }

    /// Whether a finding says already why nothing is known of `name`.
    pub(super) fn is_excused(&self, name: SegmentName) -> bool {
        let within = |(first, last): &(SegmentName, SegmentName)| *first <= name && name <= *last;
        self.unreadable.contains(&name) || self.broken.iter().any(within)
    }
}

/// Why an object of JSON is not usable.
pub(super) fn trouble<T>(outcome: Outcome<T>) -> String {
    match outcome {
        Outcome::Sound(_) => "it is not what its name says".to_owned(),
        Outcome::Broken(what) => what,
        Outcome::Gone => "it was listed, and is not there".to_owned(),
        Outcome::Locked { .. } | Outcome::WrongKey => "it is encrypted, and must not be".to_owned(),
    }
}

/// What keeps entries from being the roll-up that their key says.
fn disorder(
    entries: &[IndexEntry],
    (first, last): (SegmentName, SegmentName),
    size: SegmentSize,
) -> Option<String> {
    let named = |entry: Option<&IndexEntry>| entry.map(|entry| entry.segment);
    if named(entries.first()) != Some(first) || named(entries.last()) != Some(last) {
        return Some("its first and last entry are not those of its name".to_owned());
    }
    let ordered = entries
        .windows(2)
        .all(|pair| pair[0].segment < pair[1].segment);
    let one = entries
        .iter()
        .all(|entry| group(entry.segment, size) == group(first, size));
    (!(ordered && one)).then(|| "its entries are not ordered, or not of one group".to_owned())
}

/// The fields in which `entry` says something else than `expected`. If that was found without the segment before, whoever
/// archived it may have known more of the records.
pub(super) fn differences(
    entry: &IndexEntry,
    expected: &IndexEntry,
    joined: bool,
) -> Vec<&'static str> {
    let IndexEntry {
        segment,
        valid_end,
        sha256,
        sha256_valid,
        last_record,
        first_commit,
        last_commit,
        first_xid,
        last_xid,
        restore_points,
    } = entry;
    let of_content = [
        ("segment", *segment == expected.segment),
        ("validEnd", *valid_end == expected.valid_end),
        ("sha256", *sha256 == expected.sha256),
        ("sha256Valid", *sha256_valid == expected.sha256_valid),
    ];
    let of_records = [
        ("lastRecord", *last_record == expected.last_record),
        ("firstCommit", *first_commit == expected.first_commit),
        ("lastCommit", *last_commit == expected.last_commit),
        ("firstXid", *first_xid == expected.first_xid),
        ("lastXid", *last_xid == expected.last_xid),
        ("restorePoints", *restore_points == expected.restore_points),
    ];
    let of_records = of_records.into_iter().filter(|_| joined);
    let all = of_content.into_iter().chain(of_records);
    let differ = all.filter(|(_, same)| !same);
    differ.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::examples::*;

    fn entry(number: u64) -> IndexEntry {
        IndexEntry::of(segment(1, number), SIZE, b"content")
    }

    #[test]
    fn a_roll_up_is_ordered_and_of_one_group() {
        let range = (segment(1, 3), segment(1, 6));
        let disordered = |numbers: &[u64]| {
            let entries: Vec<IndexEntry> = numbers.iter().map(|number| entry(*number)).collect();
            disorder(&entries, range, SIZE).is_some()
        };
        // A segment that was missing then may be missing here.
        assert!(!disordered(&[3, 4, 6]));
        for wrong in [&[][..], &[3, 5], &[4, 6], &[3, 5, 4, 6], &[3, 300, 6]] {
            assert!(disordered(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn who_had_the_segment_before_may_have_known_more() {
        let found = entry(3);
        let mut more = found.clone();
        more.last_commit = Some(at(3.5));
        assert_eq!(differences(&more, &found, true), ["lastCommit"]);
        assert!(differences(&more, &found, false).is_empty());
        more.sha256 = entry(4).sha256 + "0";
        assert_eq!(differences(&more, &found, false), ["sha256"]);
    }
}
