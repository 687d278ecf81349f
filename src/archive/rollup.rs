//! Rolling up index entries: many in one object, so that a reader asks for few.

use object_store::path::Path;

use super::{IndexEntry, Lineage, PushError, PushOutcome, handle::to_json, layout::stem, sha256};
use crate::postgres::{SegmentName, SegmentSize, TimelineId};

/// Segments whose entries are rolled up together: those whose number divided by this is the same.
pub const GROUP: u64 = 256;

/// The group that a segment belongs to.
pub(super) fn group(name: SegmentName, size: SegmentSize) -> (TimelineId, u64) {
    let number = name.start(size).get() / size.get();
    (name.timeline(), number / GROUP)
}

impl Lineage {
    /// Rolls up the entries of each group before that of `current`, on its timeline. The roll-up is put before its entries
    /// are deleted, and never changes: a crash leaves entries that are in both, which say the same.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn roll_up(&self, current: SegmentName, size: SegmentSize) -> Result<(), PushError> {
        let folder = self.layout.index_of(current.timeline());
        let listed = self.list(&folder).await?;
        let names = listed
            .iter()
            .filter_map(|object| stem(&object.location)?.parse::<SegmentName>().ok())
            .filter(|name| group(*name, size) < group(current, size));
        let names: Vec<SegmentName> = names.collect();
        for names in names.chunk_by(|a, b| group(*a, size) == group(*b, size)) {
            self.roll_up_group(names).await?;
        }
        Ok(())
    }

    async fn roll_up_group(&self, names: &[SegmentName]) -> Result<(), PushError> {
        let keys: Vec<Path> = names.iter().map(|n| self.layout.index_entry(*n)).collect();
        let entries = self.read_all::<IndexEntry>(keys.clone()).await?;
        let entries: Vec<IndexEntry> = entries.into_values().collect();
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let key = self.layout.rollup(first.segment, last.segment);
        let bytes = to_json(&key, &entries)?;
        match self.create(&key, &sha256(&bytes), bytes.into()).await {
            Ok(PushOutcome::Created | PushOutcome::AlreadyThere) => self.delete(keys).await,
            // A roll-up of the same range that lacks some of these: they stay beside it.
            Err(PushError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
