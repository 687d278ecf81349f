//! What is being pushed: no file twice at once, finished segments ahead of PostgreSQL's asking, and who tells PostgreSQL.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;

use super::error::PushFailure;
use crate::postgres::wal::Carry;

/// What came of a push.
pub type Outcome = Result<(), Arc<PushFailure>>;
/// What a scan leaves to the next: `None` until it is scanned.
pub type Carried = Option<Option<Arc<Carry>>>;

/// How many of the segments that were pushed ahead are remembered: PostgreSQL may just be asking for one of them.
const RECENT: usize = 256;
/// How many scans are remembered.
const SCANS: usize = 4;

/// One push.
#[derive(Debug)]
struct Flight {
    /// PostgreSQL itself waits for it, and will rename its status file.
    asked: bool,
    outcome: watch::Receiver<Option<Outcome>>,
    carried: watch::Receiver<Carried>,
    durable: watch::Receiver<bool>,
}

/// All pushes of segments, by path.
#[derive(Debug, Default)]
pub struct Flights {
    flying: BTreeMap<PathBuf, Flight>,
    /// Pushed ahead and said to be done.
    recent: VecDeque<PathBuf>,
    /// The last scans.
    scans: VecDeque<(PathBuf, Option<Arc<Carry>>)>,
}

/// What there is to do for a segment that PostgreSQL asks for.
#[derive(Debug)]
pub enum Asked {
    /// It is being pushed.
    Flying(watch::Receiver<Option<Outcome>>),
    /// It was pushed while PostgreSQL was about to ask.
    Done,
    /// Nobody pushes it.
    New,
}

/// The ends that a push holds.
#[derive(Debug)]
pub struct Ends {
    /// Says what came of it.
    pub outcome: watch::Sender<Option<Outcome>>,
    /// Says what the scan leaves.
    pub carried: watch::Sender<Carried>,
    /// What the scan before leaves.
    pub before: Option<watch::Receiver<Carried>>,
    /// When it may count.
    pub turn: Turn,
}

/// When a segment may count: when it and all before it that are being pushed too are durable.
#[derive(Debug)]
pub struct Turn {
    durable: watch::Sender<bool>,
    before: Option<watch::Receiver<bool>>,
}

impl Turn {
    /// Waits until its bytes may be put: nothing goes behind a segment that the archive refuses. Until one was taken, as
    /// `taken` says, a segment waits for the one before it. `false`: that one failed.
    pub async fn may_put(&mut self, taken: &watch::Sender<bool>) -> bool {
        let Some(before) = &mut self.before else {
            return true;
        };
        let mut taken = taken.subscribe();
        tokio::select! {
            biased;
            durable = before.wait_for(|durable| *durable) => durable.is_ok(),
            any = taken.wait_for(|taken| *taken) => any.is_ok(),
        }
    }

    /// The segment is durable: waits until all before it are, and lets the next one go on. `false`: one of them failed.
    pub async fn comes(self) -> bool {
        let Self { durable, before } = self;
        if let Some(mut before) = before
            && before.wait_for(|durable| *durable).await.is_err()
        {
            return false;
        }
        durable.send_replace(true);
        true
    }
}

impl Flights {
    /// PostgreSQL asks for `path`.
    pub fn ask(&mut self, path: &Path) -> Asked {
        if let Some(flight) = self.flying.get_mut(path) {
            flight.asked = true;
            return Asked::Flying(flight.outcome.clone());
        }
        // PostgreSQL saw the status file before it was renamed; it will rename it itself now, and warn if it is gone.
        let known = self.recent.iter().any(|recent| recent == path);
        match known && !is_ready(path) && rename_status(path, "done", "ready").is_ok() {
            true => Asked::Done,
            false => Asked::New,
        }
    }

    /// Whether `path` is being pushed.
    pub fn holds(&self, path: &Path) -> bool {
        self.flying.contains_key(path)
    }

    /// The push of `path` begins; `before` is the path of the segment before it.
    pub fn begin(&mut self, path: &Path, before: Option<&Path>, asked: bool) -> Ends {
        let (outcome, seen) = watch::channel(None);
        let (carried, scanned) = watch::channel(None);
        let (durable, counts) = watch::channel(false);
        let flying = before.and_then(|before| self.flying.get(before));
        let turn = Turn {
            durable,
            before: flying.map(|flight| flight.durable.clone()),
        };
        let before = before.and_then(|before| self.carry_of(before));
        let flight = Flight {
            asked,
            outcome: seen,
            carried: scanned,
            durable: counts,
        };
        self.flying.insert(path.to_owned(), flight);
        Ends {
            outcome,
            carried,
            before,
            turn,
        }
    }

    fn carry_of(&self, path: &Path) -> Option<watch::Receiver<Carried>> {
        if let Some(flight) = self.flying.get(path) {
            return Some(flight.carried.clone());
        }
        let (_, carry) = self.scans.iter().find(|(scanned, _)| scanned == path)?;
        Some(watch::channel(Some(carry.clone())).1)
    }

    /// The push of `path` ended. What nobody asked for is said to be done here, so that PostgreSQL never asks. Whether
    /// somebody asked, and so hears what came of it.
    pub fn end(&mut self, path: &Path, outcome: &Outcome) -> bool {
        let Some(flight) = self.flying.remove(path) else {
            return false;
        };
        if let Some(carry) = flight.carried.borrow().clone() {
            self.scans.push_back((path.to_owned(), carry));
        }
        if outcome.is_ok() && !flight.asked {
            match rename_status(path, "ready", "done") {
                Ok(()) => self.recent.push_back(path.to_owned()),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "failed to rename the status file: PostgreSQL will ask again");
                }
            }
        }
        self.scans.drain(..self.scans.len().saturating_sub(SCANS));
        self.recent
            .drain(..self.recent.len().saturating_sub(RECENT));
        flight.asked
    }

    /// How many are being pushed.
    pub fn len(&self) -> usize {
        self.flying.len()
    }

    /// Whether nothing is being pushed.
    pub fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// What comes of all that is being pushed.
    pub fn all(&self) -> Vec<watch::Receiver<Option<Outcome>>> {
        let flights = self.flying.values();
        flights.map(|flight| flight.outcome.clone()).collect()
    }
}

/// Whether PostgreSQL says that the file of WAL at `path` is finished and not archived.
pub fn is_ready(path: &Path) -> bool {
    status(path, "ready").exists()
}

/// Says that the file of WAL at `path` is archived. Not durable: after a crash PostgreSQL asks for it again.
///
/// # Errors
/// The file system's.
pub fn say_done(path: &Path) -> io::Result<()> {
    rename_status(path, "ready", "done")
}

fn rename_status(path: &Path, from: &str, to: &str) -> io::Result<()> {
    fs::rename(status(path, from), status(path, to))
}

fn status(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = format!("archive_status/{name}.{ending}");
    path.parent().unwrap_or(Path::new("")).join(file)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn segment(status: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("archive_status")).unwrap();
        let path = directory.path().join("000000010000000000000001");
        fs::write(super::status(&path, status), "").unwrap();
        (directory, path)
    }

    #[test]
    fn only_what_nobody_asked_for_is_said_to_be_done() {
        let (_directory, path) = segment("ready");
        let mut flights = Flights::default();
        drop(flights.begin(&path, None, true));
        flights.end(&path, &Ok(()));
        assert!(is_ready(&path), "PostgreSQL asked from the start");

        drop(flights.begin(&path, None, false));
        assert!(matches!(flights.ask(&path), Asked::Flying(_)));
        flights.end(&path, &Ok(()));
        assert!(is_ready(&path), "PostgreSQL asked on the way");

        drop(flights.begin(&path, None, false));
        flights.end(&path, &Err(Arc::new(PushFailure::Panicked)));
        assert!(is_ready(&path), "it failed");

        drop(flights.begin(&path, None, false));
        flights.end(&path, &Ok(()));
        assert!(!is_ready(&path) && status(&path, "done").exists());
    }

    /// A turn, and what the next one waits for.
    fn turn(before: Option<watch::Receiver<bool>>) -> (Turn, watch::Receiver<bool>) {
        let (durable, counts) = watch::channel(false);
        (Turn { durable, before }, counts)
    }

    #[tokio::test]
    async fn until_one_was_taken_nothing_is_put_behind_what_is_not_durable() {
        let taken = watch::Sender::new(false);
        let (mut first, counts) = turn(None);
        let (mut second, _) = turn(Some(counts.clone()));
        assert!(first.may_put(&taken).await);
        assert!(second.may_put(&taken).now_or_never().is_none());
        taken.send_replace(true);
        assert!(second.may_put(&taken).await);

        taken.send_replace(false);
        let (mut third, _) = turn(Some(counts));
        assert!(third.may_put(&taken).now_or_never().is_none());
        assert!(first.comes().await);
        assert!(third.may_put(&taken).await);
    }

    #[tokio::test]
    async fn a_segment_counts_after_those_before_it() {
        let (first, counts) = turn(None);
        let (second, counts_too) = turn(Some(counts));
        let (third, _) = turn(Some(counts_too));
        let mut third = Box::pin(third.comes());
        assert!((&mut third).now_or_never().is_none());
        let mut second = Box::pin(second.comes());
        assert!((&mut second).now_or_never().is_none());
        assert!(first.comes().await);
        assert!(second.await && third.await);
    }

    #[tokio::test]
    async fn what_failed_is_told_to_all_behind_it() {
        let taken = watch::Sender::new(true);
        let (first, counts) = turn(None);
        let (mut second, counts_too) = turn(Some(counts));
        let (third, _) = turn(Some(counts_too));
        drop(first);
        // Also where the archive takes others: which of the two is seen first must not decide.
        assert!(!second.may_put(&taken).await);
        assert!(!second.comes().await);
        assert!(!third.comes().await);
    }

    #[test]
    fn postgresql_that_asks_for_what_was_just_done_finds_its_status_file_again() {
        let (_directory, path) = segment("ready");
        let mut flights = Flights::default();
        drop(flights.begin(&path, None, false));
        flights.end(&path, &Ok(()));
        assert!(matches!(flights.ask(&path), Asked::Done));
        assert!(is_ready(&path));
        // Asked for once more it is pushed again: it may be another file by now.
        assert!(matches!(flights.ask(&path), Asked::New));
    }
}
