//! Pushes the file that PostgreSQL asks for, and the finished segments after it, several at once.

mod other_files;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Config, cluster,
    error::PushFailure,
    flights::{Asked, Carried, Ends, Flights, Outcome, Turn, is_ready},
    home::{Early, Home, Homes},
    name::WalFile,
    prepare::{Segment, carry_beside, previous},
};
use crate::{
    archive::{Archive, IndexEntry, OpenError, ProbeError, PushError},
    buffers::Buffers,
    clock::SystemClock,
    postgres::{SegmentName, SegmentSize, TimelineId, wal::Origin},
};

/// The epoch of tails that come from `.partial` files: the same file gives the same object.
const PARTIAL: &str = "partial";

/// Segments that are read, scanned and compressed at once, while others are on their way: that is work for a core each.
const READERS: usize = 2;

/// Segments that are on their way, those included whose bytes are there and that wait for one before them.
const MOST_FLIGHTS: usize = 256;

/// Pushes files of WAL; knows the lineage once it found it.
#[derive(Clone, Debug)]
pub struct Pusher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    archive: Archive,
    home: OnceCell<Home>,
    early: OnceCell<Option<Early>>,
    /// Somebody asks early.
    prepares: AtomicBool,
    creates_only: OnceCell<bool>,
    /// One per segment that is being pushed.
    slots: Arc<Semaphore>,
    /// One per segment in memory as PostgreSQL wrote it.
    readers: Semaphore,
    /// One per segment that goes to the store.
    uploads: Semaphore,
    /// Of segments, and of what is made of them.
    buffers: Buffers,
    frames: Buffers,
    flights: Mutex<Flights>,
    /// The archive has taken a segment, and refused none since.
    taken: watch::Sender<bool>,
    ahead: Mutex<Ahead>,
    /// Timelines whose history is in the archive.
    histories: Mutex<BTreeSet<TimelineId>>,
    /// Segments that may be pushed ahead after each that was asked for.
    most_ahead: usize,
}

/// How far segments are pushed ahead.
#[derive(Debug, Default)]
struct Ahead {
    /// The last that was begun, and its size.
    last: Option<(PathBuf, SegmentName, SegmentSize)>,
    /// How many more may be begun. None after a failure, until PostgreSQL asks again.
    left: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pusher {
    /// Pushes as `config` says, and up to `most_ahead` finished segments after each that is asked for.
    ///
    /// # Errors
    /// The archive's settings make no sense.
    pub fn new(config: Config, most_ahead: usize) -> Result<Self, OpenError> {
        let frames = Buffers::kept();
        Ok(Self(Arc::new(Inner {
            archive: config.open()?.with_frames(frames.clone()),
            home: OnceCell::new(),
            early: OnceCell::new(),
            prepares: AtomicBool::new(false),
            creates_only: OnceCell::new(),
            slots: Arc::new(Semaphore::new(config.parallel() + READERS)),
            readers: Semaphore::new(READERS),
            uploads: Semaphore::new(config.parallel()),
            buffers: Buffers::kept(),
            frames,
            flights: Mutex::default(),
            taken: watch::Sender::new(false),
            ahead: Mutex::default(),
            histories: Mutex::default(),
            most_ahead,
            config,
        })))
    }

    /// Archives the file at `path`, which is absolute and lies in `pg_wal`. `Ok`: it is durable in the archive.
    ///
    /// # Errors
    /// See [`PushFailure`].
    pub async fn push(&self, path: &Path) -> Outcome {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = WalFile::parse(&name).ok_or_else(|| PushFailure::Name(name.into_owned()))?;
        match file {
            WalFile::Segment(name) => return self.asked(path, name).await,
            WalFile::Partial(name) => {
                let pushed = self.partial(path, name).await;
                self.rest();
                pushed?;
            }
            WalFile::History(timeline) => self.history(path, timeline).await?,
            WalFile::BackupHistory(name) => {
                let (home, content) = self.small_file(path).await?;
                let pushed = home.lineage.push_backup_history(&name, content);
                pushed.await.map_err(PushFailure::Push)?;
            }
        }
        Ok(())
    }

    /// Begins no more, and waits for what is on its way; not for long, as all of it can be repeated. Returns how many
    /// segments it leaves.
    pub async fn drain(&self, within: Duration) -> usize {
        lock(&self.0.ahead).left = 0;
        let all = lock(&self.0.flights).all();
        let drained = async {
            for mut outcome in all {
                // It says so, or it is gone.
                let _ = outcome.wait_for(Option::is_some).await;
            }
        };
        let _ = tokio::time::timeout(within, drained).await;
        lock(&self.0.flights).len()
    }

    /// Asks the store, once, what the first push would have to wait for. What it does not say now, that push asks again.
    pub async fn prepare(&self) -> Option<&Early> {
        self.0.prepares.store(true, Ordering::Relaxed);
        let ask = || async {
            let homes = Homes::new(&self.0.archive, &self.0.config);
            homes.early().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "failed to ask for the lineage");
                None
            })
        };
        self.0.early.get_or_init(ask).await.as_ref()
    }

    /// Finds out, once, whether the store heeds the condition that an object be new. `None`: it cannot be said now.
    pub async fn creates_only(&self) -> Option<bool> {
        let archive = &self.0.archive;
        let probe = || async {
            match archive.probe(&SystemClock).await {
                // An archive command needs no right to delete.
                Ok(_) | Err(ProbeError::Store { verb: "delete", .. }) => Ok(archive.creates_only()),
                Err(error) => Err(error),
            }
        };
        match self.0.creates_only.get_or_try_init(probe).await {
            Ok(known) => Some(*known),
            Err(error) => {
                tracing::debug!(%error, "failed to probe the store");
                None
            }
        }
    }

    async fn asked(&self, path: &Path, name: SegmentName) -> Outcome {
        self.history_first(path, name.timeline()).await?;
        let (joined, outcome) = self.once(path, name).await;
        match &outcome {
            // Begun behind one that failed then, and is archived by now.
            Err(error) if joined && matches!(**error, PushFailure::Before(_)) => {
                self.once(path, name).await.1
            }
            _ => outcome,
        }
    }

    /// Whether it was being pushed already, and what came of it.
    async fn once(&self, path: &Path, name: SegmentName) -> (bool, Outcome) {
        let known = lock(&self.0.flights).ask(path);
        let (joined, outcome) = match known {
            Asked::Done => return (true, Ok(())),
            Asked::Flying(outcome) => (true, outcome),
            Asked::New => {
                let permit = self.slot().await;
                // While it waited, somebody else may have begun.
                let known = lock(&self.0.flights).ask(path);
                match known {
                    Asked::Done => return (true, Ok(())),
                    Asked::Flying(outcome) => (true, outcome),
                    Asked::New => match self.begin_asked(path, name, permit) {
                        Ok(outcome) => (false, outcome),
                        Err(error) => return (false, Err(Arc::new(error))),
                    },
                }
            }
        };
        self.ahead();
        (joined, outcome_of(outcome).await)
    }

    fn begin_asked(
        &self,
        path: &Path,
        name: SegmentName,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<watch::Receiver<Option<Outcome>>, PushFailure> {
        let size = size_on_disk(path, name)?;
        let outcome = self.begin(path, name, size, permit, true);
        *lock(&self.0.ahead) = Ahead {
            last: Some((path.to_owned(), name, size)),
            left: self.0.most_ahead,
        };
        Ok(outcome)
    }

    /// `None` never happens: the semaphore is never closed.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.0.slots.clone().acquire_owned().await.ok()
    }

    /// Begins to push the finished segments that follow, as far as there is room.
    fn ahead(&self) {
        loop {
            let mut ahead = lock(&self.0.ahead);
            let Some((last, name, size)) = ahead.last.clone().filter(|_| ahead.left > 0) else {
                return;
            };
            let next = name.next(size);
            let path = last.with_file_name(next.to_string());
            let flies = lock(&self.0.flights).holds(&path);
            if !flies {
                // Behind one that hangs what is put waits for it.
                if lock(&self.0.flights).len() >= MOST_FLIGHTS {
                    return;
                }
                let Ok(permit) = self.0.slots.clone().try_acquire_owned() else {
                    return;
                };
                if !is_ready(&path) {
                    return;
                }
                self.begin(&path, next, size, Some(permit), false);
            }
            ahead.left -= 1;
            ahead.last = Some((path, next, size));
        }
    }

    fn begin(
        &self,
        path: &Path,
        name: SegmentName,
        size: SegmentSize,
        permit: Option<OwnedSemaphorePermit>,
        asked: bool,
    ) -> watch::Receiver<Option<Outcome>> {
        let before = previous(name, size).map(|name| path.with_file_name(name.to_string()));
        let ends = lock(&self.0.flights).begin(path, before.as_deref(), asked);
        let outcome = ends.outcome.subscribe();
        let (this, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move { this.fly(path, name, permit, ends).await });
        outcome
    }

    async fn fly(
        &self,
        path: PathBuf,
        name: SegmentName,
        permit: Option<OwnedSemaphorePermit>,
        ends: Ends,
    ) {
        let Ends {
            outcome: said,
            carried,
            before,
            turn,
        } = ends;
        let (this, at) = (self.clone(), path.clone());
        let scans = Scans { carried, before };
        let pushed =
            tokio::spawn(async move { this.segment(&at, name, permit, scans, turn).await });
        let pushed = pushed.await.unwrap_or(Err(PushFailure::Panicked));
        let outcome = pushed.map_err(Arc::new);
        if outcome.is_err() {
            lock(&self.0.ahead).left = 0;
            self.0.taken.send_replace(false);
        }
        let mut flights = lock(&self.0.flights);
        let asked = flights.end(&path, &outcome);
        drop(flights);
        self.rest();
        if let (Err(error), false) = (&outcome, asked)
            && !matches!(**error, PushFailure::Before(_))
        {
            tracing::warn!("{error}; PostgreSQL asks for it in its turn");
        }
        said.send_replace(Some(outcome));
        self.ahead();
    }

    /// Where nothing is pushed nothing is kept in memory.
    fn rest(&self) {
        if lock(&self.0.flights).is_empty() {
            self.0.buffers.free();
            self.0.frames.free();
        }
    }

    async fn segment(
        &self,
        path: &Path,
        name: SegmentName,
        permit: Option<OwnedSemaphorePermit>,
        scans: Scans,
        mut turn: Turn,
    ) -> Result<(), PushFailure> {
        let Scans { carried, before } = scans;
        // Before there is a reader to wait for: those who read now may be the ones that are waited for.
        let before = carry_from(before).await;
        let reader = self.0.readers.acquire().await;
        let segment = self.read(path, name).await?;
        let origin = segment.origin;
        let (scanned, home) = tokio::join!(
            self.scan(path, segment, carried, before),
            self.home(origin, path)
        );
        let ((segment, entry), home) = (scanned?, home?);
        let lineage = &home.lineage;
        let encoded = lineage.encode_segment(name, segment.bytes, &entry).await?;
        drop(reader);
        if !turn.may_put(&self.0.taken).await {
            return Err(PushFailure::Before(name));
        }
        let upload = self.0.uploads.acquire().await;
        let put = match lineage.put_encoded(encoded).await {
            // Only with its plain bytes it can be said whether the archive holds all that is valid of it.
            Err(PushError::Conflict { .. }) => {
                let segment = self.read(path, name).await?;
                lineage.put_segment(name, segment.bytes, &entry).await
            }
            put => put,
        };
        drop(upload);
        // The small request that follows needs no memory: the next segment may come in.
        drop(permit);
        let put = put?;
        self.0.taken.send_replace(true);
        self.ahead();
        if !turn.comes().await {
            return Err(PushFailure::Before(name));
        }
        lineage.finish_segment(put, &entry).await?;
        Ok(())
    }

    async fn read(&self, path: &Path, name: SegmentName) -> Result<Segment, PushFailure> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let segment = Segment::read(&path, name, &this.0.buffers)?;
            cluster::same_directory(&path, &segment)?;
            Ok(segment)
        })
        .await
    }

    async fn scan(
        &self,
        path: &Path,
        segment: Segment,
        carried: watch::Sender<Carried>,
        known: Carried,
    ) -> Result<(Segment, IndexEntry), PushFailure> {
        let (this, path) = (self.clone(), path.to_owned());
        blocking(move || {
            let buffers = &this.0.buffers;
            let beside = || carry_beside(&path, segment.name, segment.size, buffers).map(Arc::new);
            let carry = known.unwrap_or_else(beside);
            let scan = segment.scan(carry.as_deref(), this.0.config.damaged_wal)?;
            carried.send_replace(Some(scan.carry.clone().map(Arc::new)));
            let entry = segment.entry(&scan);
            Ok((segment, entry))
        })
        .await
    }

    /// The lineage, found once, and whether the file at `path`, which is of `origin`, belongs into it.
    async fn home(&self, origin: Origin, path: &Path) -> Result<&Home, PushFailure> {
        let find = || async {
            let early = match self.0.prepares.load(Ordering::Relaxed) {
                true => self.prepare().await,
                false => None,
            };
            let homes = Homes::new(&self.0.archive, &self.0.config).with_early(early);
            homes.to_write(origin, self.creates_only()).await
        };
        let home = self.0.home.get_or_try_init(find).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.into_owned();
        cluster::no_copy(path, &self.0.config.archive_name, &home.identity.lineage)?;
        let want = home.identity.system_identifier;
        if want == origin.system_identifier {
            return match home.identity.segment_size == origin.segment_size {
                true => Ok(home),
                false => Err(PushFailure::OtherSize {
                    name,
                    found: origin.segment_size.get(),
                    want: home.identity.segment_size.get(),
                }),
            };
        }
        Err(PushFailure::OtherCluster {
            name,
            found: origin.system_identifier,
            keeper: format!("lineage {}", home.identity.lineage),
            want,
        })
    }
}

/// What a push gets from the scan before, and gives to the next.
struct Scans {
    carried: watch::Sender<Carried>,
    before: Option<watch::Receiver<Carried>>,
}

/// What the scan before leaves. `None`: there was none.
async fn carry_from(before: Option<watch::Receiver<Carried>>) -> Carried {
    // Where its sender is gone, its scan failed.
    let mut before = before?;
    let carry = before.wait_for(Option::is_some).await;
    carry.map_or(Some(None), |carry| carry.clone())
}

async fn outcome_of(mut outcome: watch::Receiver<Option<Outcome>>) -> Outcome {
    let panicked = || Err(Arc::new(PushFailure::Panicked));
    match outcome.wait_for(Option::is_some).await {
        Ok(said) => said.clone().unwrap_or_else(panicked),
        Err(_) => panicked(),
    }
}

fn size_on_disk(path: &Path, name: SegmentName) -> Result<SegmentSize, PushFailure> {
    let found = std::fs::metadata(path).map_err(|cause| PushFailure::Read {
        path: path.to_owned(),
        cause,
    })?;
    super::prepare::size_of(name, found.len())
}

/// Work that would keep other tasks waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PushFailure> + Send + 'static,
) -> Result<T, PushFailure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(PushFailure::Panicked))
}
