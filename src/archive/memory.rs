//! What a process has learnt about a lineage, so that it does not ask twice. Everything here can be forgotten.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use object_store::path::Path;

use super::{Encoding, Tail, TailName, contents::Segment, listing::Whole};
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
    /// The whole segments that were listed last.
    pub listed: BTreeMap<SegmentName, Whole>,
    /// The ending that a segment was found under last.
    pub ending: Option<Encoding>,
    pub texts: BTreeMap<Path, String>,
    pub tails: BTreeMap<SegmentName, (Vec<Path>, Option<Tail>)>,
    /// The segment that was scanned last for what its end leaves to the next.
    pub carry: Option<(SegmentName, Option<Carry>)>,
}

impl Memory {
    /// Looks, or remembers. Never held over an await.
    pub fn read<T>(&self, look: impl FnOnce(&mut Read) -> T) -> T {
        look(&mut self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
