//! The recovery point: database, volume and shipper are gone at once, at random moments; of what was acknowledged a restore
//! lacks no more than the policy allows, and has nothing that was never written.
//!
//! `HIGHWATER_SEED` repeats a run, `HIGHWATER_KILLS` says how many per way of shipping (default 2).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use highwater::{
    archive::Lineage,
    postgres::{TimelineId, server, session::connect, slot},
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    database::{Database, PASSWORD},
    killed::{Random, number, seed, ship},
    restored::BaseBackup,
    running::{Bucket, LIMIT, SLOT, archive_in, lineage_id},
    synchronous::is_synchronous,
};

/// What a commit may be older than the tail interval.
const ALLOWED: Duration = Duration::from_secs(1);
/// Between two commits of a writer whose kill falls into a tail: it fills no segment.
const PACE: Duration = Duration::from_millis(5);
const WRITERS: usize = 2;
/// Commits of each writer, fewer of which would say little.
const LEAST: usize = 50;

/// What one writer knows: each number whose commit was acknowledged, and when; and how many it has begun to write.
struct Written {
    acknowledged: Vec<Instant>,
    begun: i64,
}

/// What is found of one writer after a restore.
#[derive(Clone, Copy, Debug)]
struct Found {
    rows: i64,
    last: i64,
    as_written: bool,
}

/// The oldest acknowledged commit that a restore lacks, as its age when everything was killed. Rows that nobody wrote, and
/// holes, are no state that the database was ever in.
fn lost(
    written: &[Written],
    found: &BTreeMap<i64, Found>,
    killed: Instant,
) -> Result<Option<Duration>, String> {
    let mut oldest = None;
    for (writer, written) in (0..).zip(written) {
        let kept = match found.get(&writer) {
            None => 0,
            Some(found)
                if found.as_written
                    && found.rows == found.last + 1
                    && found.rows <= written.begun =>
            {
                found.rows
            }
            Some(found) => {
                return Err(format!(
                    "of the {} rows that writer {writer} began there is {found:?}",
                    written.begun
                ));
            }
        };
        let first = written.acknowledged.get(usize::try_from(kept).unwrap());
        let age = first.map(|at| killed.saturating_duration_since(*at));
        oldest = oldest.max(age);
    }
    Ok(oldest)
}

/// What must hold of what is lost. `tails` is none where commits wait for the archive.
fn judge(lost: Option<Duration>, tails: Option<Duration>) -> Result<(), String> {
    match (lost, tails) {
        (None, _) => Ok(()),
        (Some(age), Some(tails)) if age <= tails + ALLOWED => Ok(()),
        (Some(age), _) => Err(format!(
            "a commit is lost that was acknowledged {age:?} before the end"
        )),
    }
}

/// Commits numbered rows until the server is gone; `told` is how many were acknowledged.
fn write(
    database: &Database,
    writer: i64,
    pace: Duration,
    told: watch::Sender<usize>,
) -> JoinHandle<Written> {
    let options = database.login("postgres", Some(PASSWORD));
    tokio::spawn(async move {
        let client = connect(&options).await.unwrap();
        let (mut begun, mut acknowledged) = (0, Vec::new());
        loop {
            let row = format!(
                "INSERT INTO public.ledger VALUES ({writer}, {begun}, md5('{writer}/{begun}'))"
            );
            begun += 1;
            if client.batch_execute(&row).await.is_err() {
                return Written {
                    acknowledged,
                    begun,
                };
            }
            acknowledged.push(Instant::now());
            told.send_replace(acknowledged.len());
            tokio::time::sleep(pace).await;
        }
    })
}

async fn found(restored: &Database) -> BTreeMap<i64, Found> {
    let query = "SELECT writer, count(*), max(n), bool_and(filler = md5(writer || '/' || n)) \
        FROM public.ledger GROUP BY writer";
    let rows = restored.client().await.query(query, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| {
        let found = Found {
            rows: row.get(1),
            last: row.get(2),
            as_written: row.get(3),
        };
        (row.get(0), found)
    };
    rows.iter().map(row).collect()
}

/// What is left when everything was killed.
struct Left {
    bucket: Bucket,
    base: BaseBackup,
    written: Vec<Written>,
    killed: Instant,
}

impl Left {
    /// A handle that remembers nothing.
    fn lineage(&self) -> Lineage {
        archive_in(self.bucket.directory.path(), &[]).lineage(lineage_id())
    }

    /// Restores, and says what is lost.
    async fn lost(&self) -> Result<Option<Duration>, String> {
        let (directory, lineage) = (self.bucket.directory.path(), self.lineage());
        let restored = self.base.restore(directory, &lineage).await;
        let found = found(&restored).await;
        lost(&self.written, &found, self.killed)
    }

    /// Removes what the archive has of the segment that was being written.
    async fn lose_tail(&self) {
        let tails = self.lineage().contents().await.unwrap().tails;
        let (name, _) = tails.last_key_value().expect("no tail");
        let folder = format!("tail/{:08X}/{name}", name.timeline());
        let root = self.bucket.directory.path().join("orders");
        let folder: PathBuf = root.join(lineage_id().to_string()).join(folder);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    fn acknowledged(&self) -> usize {
        self.written.iter().map(|one| one.acknowledged.len()).sum()
    }
}

/// The processes whose working directory this is.
fn working_in(directory: &Path) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let works_there = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|found| found == directory)
    };
    all.filter(works_there).collect()
}

/// Of a server, the first one of all first: without it no other is started.
fn processes(database: &Database) -> Vec<u32> {
    let data = database.data();
    let first = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let first: u32 = first.lines().next().unwrap().parse().unwrap();
    let mut found = working_in(&data);
    assert!(found.contains(&first), "{first} of {found:?} is not there");
    found.sort_by_key(|pid| *pid != first);
    found
}

/// Kills the server with all its processes and the shipper by one call.
async fn kill(
    database: Database,
    mut shipper: Child,
    writers: Vec<JoinHandle<Written>>,
) -> (Instant, Vec<Written>) {
    let pids = processes(&database).into_iter().chain([shipper.id()]);
    let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
    let command = format!("kill -KILL {}", pids.join(" "));
    let killed = Instant::now();
    // Without the first process the others may go by themselves before it is their turn.
    Command::new("sh").args(["-c", &command]).status().unwrap();
    shipper.wait().unwrap();
    let gone = async {
        while !working_in(&database.data()).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let gone = tokio::time::timeout(LIMIT, gone).await;
    gone.expect("a process of the server is left");
    let mut written = Vec::new();
    for writer in writers {
        let writer = tokio::time::timeout(LIMIT, writer).await;
        written.push(writer.expect("the server goes on").unwrap());
    }
    // The volume goes with it.
    drop(database);
    (killed, written)
}

/// Writes under a shipper, and kills all of it `after` a while.
async fn run(
    template: &Database,
    (transport, tails): (&str, Duration),
    pace: Duration,
    after: Duration,
) -> Left {
    let database = template.copy("");
    database.boot();
    database.allow_replication().await;
    let client = database.client().await;
    let facts = server::facts(&client).await.unwrap();
    let bucket = Bucket::new();
    let lineage = bucket.lineage(&facts).await;
    slot::create(&client, SLOT).await.unwrap();
    let base = BaseBackup::take(&database, &lineage).await;
    let shipper = ship(&database, bucket.directory.path(), transport, tails);
    is_archived(&lineage, &base).await;
    if transport == SYNCHRONOUS {
        let wait =
            "ALTER SYSTEM SET synchronous_standby_names = 'highwater'; SELECT pg_reload_conf()";
        database.sql(wait).await;
        is_synchronous(&database).await;
    }
    let told = (0..WRITERS).map(|_| watch::Sender::new(0));
    let told: Vec<watch::Sender<usize>> = told.collect();
    let writers = (0..).zip(&told);
    let writers = writers.map(|(writer, told)| write(&database, writer, pace, told.clone()));
    let writers = writers.collect();
    have_written(&told, 1).await;
    tokio::time::sleep(after).await;
    have_written(&told, LEAST).await;
    let (killed, written) = kill(database, shipper, writers).await;
    Left {
        bucket,
        base,
        written,
        killed,
    }
}

/// Waits until each writer has so many commits.
async fn have_written(told: &[watch::Sender<usize>], least: usize) {
    for one in told {
        let mut seen = one.subscribe();
        let enough = seen.wait_for(|acknowledged| *acknowledged >= least);
        let enough = tokio::time::timeout(LIMIT, enough).await;
        enough.expect("a writer is stuck").unwrap();
    }
}

/// From here on the shipper keeps its promise.
async fn is_archived(lineage: &Lineage, base: &BaseBackup) {
    let archived = async {
        loop {
            let contents = lineage.contents().await.unwrap();
            if contents
                .first_missing(TimelineId::FIRST, base.start, base.stop)
                .is_none()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, archived).await;
    assert!(waited.is_ok(), "the backup's WAL is not archived");
}

const SYNCHRONOUS: &str = "synchronous";

/// A stopped server with a table for the writers.
async fn template() -> Database {
    let database = Database::start(1, "");
    let table = "CREATE TABLE public.ledger (writer bigint, n bigint, filler text)";
    database.sql(table).await;
    database.stop("fast");
    database
}

/// As often as asked, by one way of shipping. In every second run WAL fills segments.
async fn kills(transport: &str) {
    let seed = seed();
    let kills = number("HIGHWATER_KILLS").unwrap_or(2);
    println!("{transport}: seed {seed}, {kills} kills");
    let (mut random, template) = (Random(seed | 1), template().await);
    for kill in 0..kills {
        let tails = Duration::from_millis(500 + random.below(1000));
        let after = tails + ALLOWED + Duration::from_millis(random.below(1500));
        let paced = kill % 2 == 0;
        let pace = if paced { PACE } else { Duration::ZERO };
        let told = (transport != SYNCHRONOUS).then_some(tails);
        let killed = async || {
            let left = run(&template, (transport, tails), pace, after).await;
            let lost = left.lost().await.unwrap();
            println!(
                "{transport}, killed after {after:?}: {} acknowledged, tail interval {tails:?}, lost {lost:?}",
                left.acknowledged()
            );
            (left, judge(lost, told))
        };
        let (mut left, mut judged) = killed().await;
        if judged.is_err() && told.is_some() {
            // The machine may have stood still for that second, but not twice.
            (left, judged) = killed().await;
        }
        judged.unwrap();
        if kill == 0 {
            // All that was written since the backup lies in a tail: an archive without it does not pass.
            left.lose_tail().await;
            let lost = left.lost().await.unwrap();
            assert!(
                judge(lost, told).is_err(),
                "the tail is gone, lost {lost:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sql_what_is_lost_is_no_older_than_the_tail_interval() {
    kills("sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_streaming_what_is_lost_is_no_older_than_the_tail_interval() {
    kills("streaming").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_commits_that_wait_for_the_archive_none_is_lost() {
    kills(SYNCHRONOUS).await;
}

/// The same oracle sees a shipper that takes longer than it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_tail_interval_that_is_not_kept_is_seen() {
    let (said, real) = (Duration::from_millis(500), Duration::from_secs(3600));
    let after = said + ALLOWED + Duration::from_millis(500);
    let left = run(&template().await, ("streaming", real), PACE, after).await;
    let lost = left.lost().await.unwrap();
    assert!(judge(lost, Some(said)).is_err(), "lost {lost:?}");
}

/// So it does rows that nobody wrote, holes, and other content.
#[test]
fn what_was_never_written_is_seen() {
    let now = Instant::now();
    let written = [Written {
        acknowledged: vec![now; 3],
        begun: 4,
    }];
    let judged = |rows, last, as_written| {
        let found = Found {
            rows,
            last,
            as_written,
        };
        lost(&written, &BTreeMap::from([(0, found)]), now)
    };
    assert_eq!(judged(3, 2, true), Ok(None));
    // The server had it, and was killed before it said so.
    assert_eq!(judged(4, 3, true), Ok(None));
    assert_eq!(judged(2, 1, true), Ok(Some(Duration::ZERO)));
    assert_eq!(
        lost(&written, &BTreeMap::new(), now),
        Ok(Some(Duration::ZERO))
    );
    assert!(judged(5, 4, true).is_err(), "more than were written");
    assert!(judged(2, 2, true).is_err(), "a hole");
    assert!(judged(3, 2, false).is_err(), "another content");
}
