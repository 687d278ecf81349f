//! Deleting WAL that nothing needs, and what is known of it.

use std::collections::BTreeSet;

use object_store::{ObjectMeta, path::Path};
use tokio_util::sync::CancellationToken;

use super::{
    Lineage, PushError, ReadError,
    layout::Key,
    retention::{Due, Expired},
};
use crate::postgres::SegmentName;

/// Objects in one request, where the store takes so many: what is deleted between two looks at whether to stop.
const AT_ONCE: usize = 1000;
/// Segments and tails that are deleted at one go: whoever deletes has other things to do. The rest is for the next.
const MOST: usize = 50_000;

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Whole segments.
    pub segments: u64,
    /// Bytes of them and of tails, as they lay there.
    pub bytes: u64,
}

/// What may be deleted, in the order in which it goes: segments and tails, the oldest first, then what is known of them. A crash
/// between leaves entries of segments that are gone, which the next try deletes.
#[derive(Debug, Default)]
pub struct Doomed {
    wal: Vec<(SegmentName, ObjectMeta)>,
    known: Vec<Path>,
}

impl Doomed {
    /// The segments that it has, or parts of which.
    pub fn segments(&self) -> BTreeSet<SegmentName> {
        self.wal.iter().map(|(name, _)| *name).collect()
    }
}

impl Lineage {
    /// Which WAL nothing needs any more, as it was written down last. One that cannot be read keeps nobody from restoring: what is
    /// missing counts as lost then.
    ///
    /// # Errors
    /// An outage.
    pub(super) async fn expired(&self) -> Result<Expired, ReadError> {
        let key = self.layout.expired();
        match self.get_json::<Expired>(&key).await {
            Ok(expired) => Ok(expired.unwrap_or_default()),
            Err(ReadError::Corrupt { key, what }) => {
                tracing::error!(
                    key,
                    what,
                    "which WAL nothing needs cannot be read: what was deleted counts as lost"
                );
                Ok(Expired::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes down which WAL nothing needs: before any of it is deleted.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn put_expired(&self, expired: &Expired) -> Result<(), PushError> {
        self.overwrite_json(&self.layout.expired(), expired).await
    }

    /// What of the objects that are there now may be deleted.
    ///
    /// # Errors
    /// An outage.
    pub async fn doomed(&self, due: &Due<'_>) -> Result<Doomed, ReadError> {
        let mut doomed = Doomed::default();
        let (mut rollups, mut stays) = (Vec::new(), BTreeSet::new());
        for folder in self.layout.of_wal() {
            for object in self.list(&folder).await? {
                let goes = |name| due.has(name);
                match self.layout.names(&object.location) {
                    Some(Key::Segment(name, _)) if goes(name) => doomed.wal.push((name, object)),
                    Some(Key::Tail(part, _)) if goes(part.segment) => {
                        doomed.wal.push((part.segment, object));
                    }
                    Some(Key::Segment(name, _)) => drop(stays.insert(name)),
                    Some(Key::Entry(name)) if goes(name) => doomed.known.push(object.location),
                    Some(Key::Rollup(first, last)) => rollups.push((first, last, object.location)),
                    Some(
                        Key::Tail(..)
                        | Key::Entry(_)
                        | Key::Identity
                        | Key::History(_)
                        | Key::BackupHistory(_)
                        | Key::Clock(_)
                        | Key::Expired
                        | Key::BackupFile(..),
                    )
                    | None => {}
                }
            }
        }
        // It says something of all between its first and its last.
        let goes = |(first, last, _): &(SegmentName, SegmentName, Path)| {
            due.spans(*first, *last) && stays.range(*first..=*last).next().is_none()
        };
        let rollups = rollups.into_iter().filter(goes);
        doomed.known.extend(rollups.map(|(_, _, key)| key));
        doomed.wal.sort_by_key(|(name, _)| *name);
        if doomed.wal.len() > MOST {
            doomed.wal.truncate(MOST);
            // What is known of them goes with the last of them.
            doomed.known.clear();
        }
        Ok(doomed)
    }

    /// Deletes it, until `stop`. What was deleted is in `deleted`, also if this ends early.
    ///
    /// # Errors
    /// The store refuses; what was begun is finished by the next try.
    pub async fn delete_doomed(
        &self,
        doomed: Doomed,
        stop: &CancellationToken,
        deleted: &mut Deleted,
    ) -> Result<(), PushError> {
        let Doomed { wal, known } = doomed;
        for some in wal.chunks(AT_ONCE) {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.delete(some.iter().map(|(_, it)| it.location.clone()).collect())
                .await?;
            for (name, object) in some {
                let is_whole =
                    matches!(self.layout.names(&object.location), Some(Key::Segment(..)));
                deleted.segments += u64::from(is_whole);
                deleted.bytes += object.size;
                self.memory.read(|read| read.listed.remove(name));
            }
        }
        for some in known.chunks(AT_ONCE) {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.delete(some.to_vec()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
