//! Segments that are ready or on their way, and which come next.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::task::AbortOnDropHandle;

use super::super::{
    fetch::{FetchConfig, Part, Stretch, WalSource, ahead, part, width},
    files,
};
use crate::{
    buffers::Buffers,
    postgres::{SegmentName, SegmentSize},
};

/// Segments for which a disk must have room besides, before something is written to it that nobody has asked for.
const ROOM: u64 = 16;

/// A segment, whole and verified.
#[derive(Debug)]
pub enum Ready {
    /// In memory.
    Content(Vec<u8>),
    /// In a file without a name.
    Written(File),
}

/// A segment on its way, or ready. `None`: the archive did not give it.
type Fetching = AbortOnDropHandle<Option<Ready>>;

/// A bounded number of segments, ready or on their way, and files to write them to.
pub struct Shelf {
    source: Arc<dyn WalSource>,
    /// The source's: what was written is given back.
    buffers: Buffers,
    line: Vec<Stretch>,
    size: SegmentSize,
    /// Segments that are held at once, that which is handed out among them.
    width: usize,
    held: Mutex<Held>,
    spare: Arc<Mutex<Vec<File>>>,
}

#[derive(Default)]
struct Held {
    /// What PostgreSQL asked for last.
    last: Option<SegmentName>,
    segments: BTreeMap<SegmentName, Fetching>,
}

impl Shelf {
    /// An empty one, of at most `most` segments and `bytes` bytes, or one segment.
    pub fn new(
        source: Arc<dyn WalSource>,
        buffers: Buffers,
        config: &FetchConfig,
        most: usize,
        bytes: u64,
    ) -> Self {
        Self {
            source,
            buffers,
            line: config.line.clone(),
            size: config.segment_size,
            width: width(most, bytes, config.segment_size),
            held: Mutex::default(),
            spare: Arc::default(),
        }
    }

    /// Empty files without a name, for what comes next.
    pub fn put_by(&self, files: Vec<File>) {
        let mut spare = lock(&self.spare);
        spare.extend(files);
        spare.truncate(self.width + 1);
    }

    /// Writes a segment into `file`, if that can be done: whoever asked for it finds out why not.
    pub async fn write(&self, file: File, content: Vec<u8>) -> Option<File> {
        let buffers = self.buffers.clone();
        let write = move || write(file, content, &buffers);
        tokio::task::spawn_blocking(write).await.ok()?
    }

    /// The segment that PostgreSQL asks for; those after it are on their way from now on. `None`: it belongs to no part of
    /// the plan, or the archive did not give it. What an attempt before found wrong is not remembered.
    pub async fn take(&self, name: SegmentName) -> Option<Ready> {
        if !matches!(part(name, self.size, &self.line), Part::UpTo(_)) {
            return None;
        }
        self.aim(name)?.await.ok()?
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
        let (source, spare, size) = (self.source.clone(), self.spare.clone(), self.size.get());
        let buffers = self.buffers.clone();
        let fetching = tokio::spawn(async move {
            let content = source.segment(name, up_to).await.ok()?;
            if content.len() as u64 != size {
                return None;
            }
            let Some(file) = lock(&spare).pop() else {
                return Some(Ready::Content(content));
            };
            let shelve = move || match has_room(&file, ROOM * size) {
                true => write(file, content, &buffers).map(Ready::Written),
                false => Some(Ready::Content(content)),
            };
            tokio::task::spawn_blocking(shelve).await.ok()?
        });
        Some(AbortOnDropHandle::new(fetching))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: it cannot be written.
fn write(mut file: File, content: Vec<u8>, buffers: &Buffers) -> Option<File> {
    let written = files::write(&mut file, &content);
    buffers.give(content);
    written.ok().map(|()| file)
}

/// Whether the disk that `file` is on has room for so many bytes.
fn has_room(file: &File, bytes: u64) -> bool {
    rustix::fs::fstatvfs(file)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= bytes)
}

#[cfg(test)]
mod tests;
