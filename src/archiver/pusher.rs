//! Pushes the file that PostgreSQL asks for, and the finished segments after it, several at once.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Config, cluster,
    error::PushFailure,
    flights::{Asked, Carried, Ends, Flights, Outcome, is_ready, say_done},
    home::{Home, Homes},
    name::WalFile,
    prepare::{Segment, carry_beside, previous},
};
use crate::{
    archive::{Archive, IndexEntry, OpenError, ProbeError, PushError, ReadError, Records, sha256},
    buffers::Buffers,
    clock::SystemClock,
    postgres::{SegmentName, SegmentSize, TimelineHistory, TimelineId, wal::Origin},
};

/// The epoch of tails that come from `.partial` files: the same file gives the same object.
const PARTIAL: &str = "partial";

/// Segments that are read, scanned and compressed at once, while others are on their way: that is work for a core each.
const READERS: usize = 2;

/// Pushes files of WAL; knows the lineage once it found it.
#[derive(Clone, Debug)]
pub struct Pusher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    archive: Archive,
    home: OnceCell<Home>,
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
            archive: config.open()?.with_buffers(frames.clone()),
            home: OnceCell::new(),
            creates_only: OnceCell::new(),
            slots: Arc::new(Semaphore::new(config.parallel() + READERS)),
            readers: Semaphore::new(READERS),
            uploads: Semaphore::new(config.parallel()),
            buffers: Buffers::kept(),
            frames,
            flights: Mutex::default(),
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

    /// Begins no more, and waits for what is on its way; not for long, as all of it can be repeated.
    pub async fn drain(&self, within: Duration) {
        lock(&self.0.ahead).left = 0;
        let all = lock(&self.0.flights).all();
        let drained = async {
            for mut outcome in all {
                // It says so, or it is gone.
                let _ = outcome.wait_for(Option::is_some).await;
            }
        };
        let _ = tokio::time::timeout(within, drained).await;
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
        let known = lock(&self.0.flights).ask(path);
        let outcome = match known {
            Asked::Done => return Ok(()),
            Asked::Flying(outcome) => outcome,
            Asked::New => {
                let permit = self.slot().await;
                // While it waited, somebody else may have begun.
                let known = lock(&self.0.flights).ask(path);
                match known {
                    Asked::Done => return Ok(()),
                    Asked::Flying(outcome) => outcome,
                    Asked::New => self.begin_asked(path, name, permit)?,
                }
            }
        };
        self.ahead();
        outcome_of(outcome).await
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

    /// PostgreSQL archives a history before the WAL of its timeline; whoever calls by hand may not.
    async fn history_first(&self, path: &Path, timeline: TimelineId) -> Result<(), PushFailure> {
        let path = path.with_file_name(TimelineHistory::file_name(timeline));
        // One that another tool has archived, or that came with a copy, is ready no more, and wanted here all the same.
        let told = lock(&self.0.histories).contains(&timeline);
        if timeline == TimelineId::FIRST || told || !path.exists() {
            return Ok(());
        }
        self.history(&path, timeline).await?;
        lock(&self.0.histories).insert(timeline);
        if !is_ready(&path) {
            return Ok(());
        }
        if let Err(error) = say_done(&path) {
            tracing::debug!(path = %path.display(), %error, "failed to rename the status file");
        }
        Ok(())
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
        } = ends;
        let (this, at) = (self.clone(), path.clone());
        let scans = Scans { carried, before };
        let pushed = tokio::spawn(async move { this.segment(&at, name, permit, scans).await });
        let pushed = pushed.await.unwrap_or(Err(PushFailure::Panicked));
        let outcome = pushed.map_err(Arc::new);
        if outcome.is_err() {
            lock(&self.0.ahead).left = 0;
        }
        let mut flights = lock(&self.0.flights);
        let asked = flights.end(&path, &outcome);
        drop(flights);
        self.rest();
        if let (Err(error), false) = (&outcome, asked) {
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
    ) -> Result<(), PushFailure> {
        let Scans { carried, before } = scans;
        // Before there is a reader to wait for: those who read now may be the ones that are waited for.
        let before = carry_from(before).await;
        let reader = self.0.readers.acquire().await;
        let segment = self.read(path, name).await?;
        let origin = segment.origin;
        let (scanned, home) = tokio::join!(
            self.scan(path, segment, carried, before),
            self.home(origin, name.to_string())
        );
        let ((segment, entry), home) = (scanned?, home?);
        let lineage = &home.lineage;
        let encoded = lineage.encode_segment(name, segment.bytes, &entry).await?;
        drop(reader);
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
        self.ahead();
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

    /// The lineage, found once, and whether a file of `origin` belongs into it.
    async fn home(&self, origin: Origin, file: String) -> Result<&Home, PushFailure> {
        let find = || async {
            let homes = Homes::new(&self.0.archive, &self.0.config);
            homes.to_write(origin, self.creates_only()).await
        };
        let home = self.0.home.get_or_try_init(find).await?;
        let want = home.identity.system_identifier;
        if want == origin.system_identifier {
            return match home.identity.segment_size == origin.segment_size {
                true => Ok(home),
                false => Err(PushFailure::OtherSize {
                    name: file,
                    found: origin.segment_size.get(),
                    want: home.identity.segment_size.get(),
                }),
            };
        }
        Err(PushFailure::OtherCluster {
            name: file,
            found: origin.system_identifier,
            keeper: format!("lineage {}", home.identity.lineage),
            want,
        })
    }

    /// A small file, and where it goes: `pg_control` says whose it is.
    async fn small_file(&self, path: &Path) -> Result<(&Home, Bytes), PushFailure> {
        let origin = cluster::of_directory(cluster::data_directory(path));
        let origin = origin.ok_or(super::home::HomeError::Unknown)?;
        let home = self.home(origin, path.display().to_string()).await?;
        let content = std::fs::read(path).map_err(|cause| PushFailure::Read {
            path: path.to_owned(),
            cause,
        })?;
        Ok((home, content.into()))
    }

    async fn history(&self, path: &Path, timeline: TimelineId) -> Result<(), PushFailure> {
        let (home, content) = self.small_file(path).await?;
        TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content)).map_err(|cause| {
            PushFailure::History {
                name: TimelineHistory::file_name(timeline),
                cause,
            }
        })?;
        home.lineage.push_history(timeline, content).await?;
        Ok(())
    }

    /// The last segment of a timeline that was left is its last tail: what is valid of it, and never a segment.
    async fn partial(&self, path: &Path, name: SegmentName) -> Result<(), PushFailure> {
        let _slot = self.slot().await;
        let segment = self.read(path, name).await?;
        let home = self.home(segment.origin, name.to_string()).await?;
        let size = segment.size;
        let carry = carry_beside(path, name, size, &self.0.buffers);
        // It ends somewhere, and no damage can be told from that.
        let scan = segment.scan(carry.as_ref(), super::config::DamagedWal::Archive)?;
        let length = scan.valid_end.bytes_since(name.start(size));
        let length = usize::try_from(length).unwrap_or_default();
        let valid = segment.bytes.get(..length).unwrap_or(&segment.bytes);
        if valid.is_empty() {
            return Ok(());
        }
        let lineage = &home.lineage;
        match lineage.fetch_segment(name, size, scan.valid_end).await {
            Ok(archived) if archived.get(..length) == Some(valid) => Ok(()),
            Ok(archived) => Err(PushFailure::Push(PushError::Conflict {
                key: name.to_string(),
                ours: sha256(valid),
                theirs: sha256(archived.get(..length).unwrap_or(&archived)),
            })),
            Err(error) if error.wants_key() || matches!(error, ReadError::NotFound { .. }) => {
                // What cannot be read is compared by its hash.
                let records = Records {
                    last_record: scan.last_record_start,
                    last_commit: scan.last_commit,
                };
                let put = lineage.push_tail(name, 0, valid, PARTIAL, Some(records));
                Ok(put.await?)
            }
            Err(error) => Err(PushError::Compare(error).into()),
        }
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
