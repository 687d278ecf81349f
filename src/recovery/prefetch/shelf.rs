//! Segments that are ready or on their way, and which come next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::task::AbortOnDropHandle;

use super::super::fetch::{FetchConfig, Part, SourceError, Stretch, WalSource, ahead, part, width};
use crate::postgres::{SegmentName, SegmentSize};

/// A segment on its way, or ready.
type Fetching = AbortOnDropHandle<Result<Vec<u8>, SourceError>>;

/// A bounded number of segments, whole and verified or on their way.
pub struct Shelf {
    source: Arc<dyn WalSource>,
    line: Vec<Stretch>,
    size: SegmentSize,
    /// Segments in memory at once, that which is handed out among them.
    width: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// What PostgreSQL asked for last.
    last: Option<SegmentName>,
    segments: BTreeMap<SegmentName, Fetching>,
}

impl Shelf {
    /// An empty one, of at most `most` segments and `bytes` bytes, or one segment.
    pub fn new(source: Arc<dyn WalSource>, config: &FetchConfig, most: usize, bytes: u64) -> Self {
        Self {
            source,
            line: config.line.clone(),
            size: config.segment_size,
            width: width(most, bytes, config.segment_size),
            held: Mutex::default(),
        }
    }

    /// The segment that PostgreSQL asks for; those after it are on their way from now on. `None`: it belongs to no part of
    /// the plan, or the archive did not give it. What an attempt before found wrong is not remembered.
    pub async fn take(&self, name: SegmentName) -> Option<Vec<u8>> {
        if !matches!(part(name, self.size, &self.line), Part::UpTo(_)) {
            return None;
        }
        let fetching = self.aim(name)?;
        let content = fetching.await.ok()?.ok()?;
        (content.len() as u64 == self.size.get()).then_some(content)
    }

    /// After `name` was handed out and its memory is free: one more may be on its way.
    pub fn refill(&self, name: SegmentName) {
        let mut held = self.held();
        // Somebody asked for another one meanwhile: then that counts.
        if held.last == Some(name) {
            self.begin(&mut held, &self.after(name, None, self.width));
        }
    }

    /// Lets go of what is not next any more, begins what is, and returns what was asked for.
    fn aim(&self, asked: SegmentName) -> Option<Fetching> {
        let mut held = self.held();
        let fetching = held.segments.remove(&asked);
        let fetching = fetching.or_else(|| self.fetch(asked));
        let next = self.after(asked, held.last.replace(asked), self.width - 1);
        held.segments.retain(|name, _| next.contains(name));
        self.begin(&mut held, &next);
        fetching
    }

    fn after(
        &self,
        asked: SegmentName,
        last: Option<SegmentName>,
        count: usize,
    ) -> Vec<SegmentName> {
        ahead(asked, last, count, self.size, &self.line)
    }

    fn begin(&self, held: &mut Held, names: &[SegmentName]) {
        for name in names {
            if !held.segments.contains_key(name)
                && let Some(fetching) = self.fetch(*name)
            {
                held.segments.insert(*name, fetching);
            }
        }
    }

    fn fetch(&self, name: SegmentName) -> Option<Fetching> {
        let Part::UpTo(up_to) = part(name, self.size, &self.line) else {
            return None;
        };
        let source = Arc::clone(&self.source);
        let fetching = tokio::spawn(async move { source.segment(name, up_to).await });
        Some(AbortOnDropHandle::new(fetching))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
