//! What a process has learnt about a lineage, so that it does not ask twice. Everything here can be forgotten.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use object_store::path::Path;

use super::{Encoding, RestorePoint, Tail, TailName, contents::Segment, listing::Whole};
use crate::postgres::{SegmentName, wal::Carry};

/// What was learnt about a lineage.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The parts in the archive of segments that are not whole, as the writer knows them: listed once, then kept up.
    /// `None` if they must be listed.
    pub unfinished: tokio::sync::Mutex<Option<BTreeMap<SegmentName, Vec<Part>>>>,
    read: Mutex<Read>,
}

/// A part of an unfinished segment.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub name: TailName,
    pub key: Path,
    /// Whether only recovery can read it.
    pub encrypted: bool,
    /// Of the plain content; known of what this process wrote.
    pub sha256: Option<String>,
}

/// Objects that never change, and what they say.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub segments: BTreeMap<SegmentName, Segment>,
    /// What `pg_create_restore_point` wrote into the segments and tails that were read.
    pub restore_points: BTreeMap<SegmentName, Vec<RestorePoint>>,
    /// The whole segments that were listed last.
    pub listed: BTreeMap<SegmentName, Whole>,
    /// The ending that a segment was found under last.
    pub ending: Option<Encoding>,
    pub texts: BTreeMap<Path, String>,
    pub tails: BTreeMap<SegmentName, (Vec<Path>, Option<Tail>)>,
    /// The segment that was scanned last for what its end leaves to the next.
    pub carry: Option<(SegmentName, Option<Carry>)>,
}

impl Read {
    /// The restore points of a segment, instead of those that were known of its beginning.
    pub fn note_points(&mut self, name: SegmentName, points: Vec<RestorePoint>) {
        match points.is_empty() {
            true => drop(self.restore_points.remove(&name)),
            false => drop(self.restore_points.insert(name, points)),
        }
    }
}

impl Memory {
    /// Looks, or remembers. Never held over an await.
    pub fn read<T>(&self, look: impl FnOnce(&mut Read) -> T) -> T {
        look(&mut self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
