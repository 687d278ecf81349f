//! kill -9 of the shipper at random moments, under load and with a server that crashes too: afterwards the archive has
//! every byte that PostgreSQL wrote.
//!
//! `HIGHWATER_SEED` repeats a run, `HIGHWATER_KILLS` says how many (default 20, half by each transport).

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use highwater::{
    agent::wal::{Server, Source},
    archive::{Contents, Lineage},
    clock::{Clock, SystemClock},
    postgres::{
        Lsn, SegmentName, TimelineId, server,
        session::{ConnectOptions, connect},
    },
};

use crate::{
    database::{Database, PASSWORD},
    running::{Bucket, LIMIT, Running, archive_in, flushed, lineage_id, verified},
};

/// What a shipper says when it ships.
const BEGUN: &str = "ships";
const ORDER: &str = "HIGHWATER_SHIP";
const TAILS: Duration = Duration::from_millis(100);
/// Segments that those must archive that are killed, or nothing is told.
const LEAST: usize = 5;

/// That of the environment, or one that was not there before.
pub fn seed() -> u64 {
    number("HIGHWATER_SEED").unwrap_or_else(|| SystemClock.now().as_microsecond().cast_unsigned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shipper_leaves_no_hole_and_no_false_byte() {
    let seed = seed();
    let kills = number("HIGHWATER_KILLS").unwrap_or(20);
    println!("seed {seed}, {kills} kills");
    let mut random = Random(seed | 1);
    let database = Arc::new(Database::start(
        1,
        "wal_keep_size = '20GB'\nmax_wal_size = '64MB'",
    ));
    database.allow_replication().await;
    database.pgbench(&["-i", "-q", "-s", "2"]);
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    // From the first moment on: what the slot holds from then is what is owed.
    let owed = flushed(&database).await;

    let busy = Busy::start(database.clone());
    let archived =
        async || between(&lineage.contents().await.unwrap(), owed, Lsn::new(u64::MAX)).len();
    for kill in 0..kills {
        let transport = if kill % 2 == 0 { "sql" } else { "streaming" };
        let mut child = ship(&database, bucket.directory.path(), transport, TAILS);
        // Also while it begins, but most while it ships.
        if random.below(4) > 0 {
            begun(&mut child).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(900))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        if random.below(7) == 0 {
            busy.hold(|| {
                database.stop("immediate");
                database.boot();
            });
        }
    }
    busy.stop();
    let by_the_killed = archived().await;
    assert!(
        by_the_killed >= LEAST,
        "they archived {by_the_killed} segments"
    );

    let mut shipper = Running::start(&database, &lineage, TAILS).await;
    let end = flushed(&database).await;
    shipper.ship(end).await;
    shipper.end().await.unwrap();
    let compared = compare(&database, &lineage, owed, end).await.unwrap();
    println!("{compared} segments compared");
    verified(&lineage).await;
    assert!(compared >= 10, "too little was written to tell: {compared}");
    the_oracle_sees(&database, &bucket, owed, end).await;
}

/// Every byte from `from` to `to` is there and is the server's; returns how many segments that were.
pub async fn compare(
    database: &Database,
    lineage: &Lineage,
    from: Lsn,
    to: Lsn,
) -> Result<usize, String> {
    let size = database.segment_size;
    let contents = lineage.contents().await.map_err(|e| e.to_string())?;
    if let Some(missing) = contents.first_missing(TimelineId::FIRST, from, to) {
        return Err(format!("{missing} is missing"));
    }
    let mut compared = 0;
    for piece in contents.pieces(TimelineId::FIRST) {
        let name = SegmentName::containing(TimelineId::FIRST, piece.from, size);
        let theirs = database.segment(name);
        let ours = lineage.fetch_segment(name, size, piece.to).await;
        let ours = ours.map_err(|e| e.to_string())?;
        let valid = usize::try_from(piece.to.bytes_since(piece.from)).unwrap();
        if ours[..valid] != theirs[..valid] {
            return Err(format!("{name} differs"));
        }
        compared += 1;
    }
    Ok(compared)
}

/// The whole segments that begin from `from` on and before `to`: before lies what a slot held when it was made.
fn between(contents: &Contents, from: Lsn, to: Lsn) -> Vec<SegmentName> {
    let size = contents.identity.segment_size;
    let names = contents.segments.keys().copied();
    names
        .filter(|name| (from..to).contains(&name.start(size)))
        .collect()
}

/// A segment that is gone and a byte that is false do not pass.
async fn the_oracle_sees(database: &Database, bucket: &Bucket, from: Lsn, to: Lsn) {
    let contents = bucket
        .archive
        .lineage(lineage_id())
        .contents()
        .await
        .unwrap();
    let all = between(&contents, from, to);
    let middle = all[all.len() / 2];
    let file = find(bucket.directory.path(), &format!("{middle}.zst"));
    let bytes = std::fs::read(&file).unwrap();
    let mut broken = bytes.clone();
    let at = broken.len() / 2;
    broken[at] ^= 1;
    // A new handle each time: nothing is remembered.
    let judged = async || {
        let lineage = archive_in(bucket.directory.path(), &[]).lineage(lineage_id());
        compare(database, &lineage, from, to).await
    };
    std::fs::write(&file, broken).unwrap();
    assert!(judged().await.is_err(), "a false byte passed");
    std::fs::remove_file(&file).unwrap();
    assert!(judged().await.is_err(), "a missing segment passed");
    std::fs::write(&file, bytes).unwrap();
    judged().await.unwrap();
}

fn find(directory: &Path, name: &str) -> std::path::PathBuf {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let mut found = entries.filter_map(|entry| match entry.path() {
        path if path.is_dir() => Some(find(&path, name)).filter(|p| !p.as_os_str().is_empty()),
        path => path.ends_with(name).then_some(path),
    });
    found.next().unwrap_or_default()
}

/// Load without an end, which can be held.
pub struct Busy {
    stop: Arc<AtomicBool>,
    held: Arc<std::sync::Mutex<()>>,
    thread: std::thread::JoinHandle<()>,
}

impl Busy {
    pub fn start(database: Arc<Database>) -> Self {
        Self::at_most(None, database)
    }

    /// No more than so many transactions per second.
    pub fn at_most(rate: Option<u64>, database: Arc<Database>) -> Self {
        let rate = rate.map(|rate| format!("--rate={rate}"));
        let (stop, held) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, lock) = (stop.clone(), Arc::<std::sync::Mutex<()>>::clone(&held));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let held = lock.lock().unwrap();
                let mut arguments = vec!["-c", "2", "-t", "100"];
                arguments.extend(rate.as_deref());
                database.pgbench(&arguments);
                drop(held);
                std::thread::yield_now();
            }
        });
        Self { stop, held, thread }
    }

    fn hold(&self, work: impl FnOnce()) {
        let _held = self.held.lock().unwrap();
        work();
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A number of the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// xorshift64: the same numbers for the same seed, wherever it runs.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// This program again, as the shipper that is killed. By `sql`, `streaming`, or `synchronous`.
pub fn ship(
    database: &Database,
    directory: &Path,
    transport: &str,
    tails: Duration,
) -> std::process::Child {
    let port = database.login("postgres", None).port;
    let (tails, directory) = (tails.as_millis(), directory.display());
    Command::new(std::env::current_exe().unwrap())
        .args(["killed::ships_until_it_is_killed", "--exact", "--ignored"])
        .env(ORDER, format!("{port} {transport} {tails} {directory}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until the process ships.
async fn begun(child: &mut std::process::Child) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = lines.map_while(Result::ok);
        lines.any(|line| line.ends_with(BEGUN))
    });
    let told = tokio::time::timeout(LIMIT, told).await;
    assert!(told.unwrap().unwrap(), "the shipper ended before it began");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is the process that the test above kills"]
async fn ships_until_it_is_killed() {
    let order = std::env::var(ORDER).unwrap();
    let mut words = order.splitn(4, ' ');
    let port: u16 = words.next().unwrap().parse().unwrap();
    let transport = words.next().unwrap();
    let tails = Duration::from_millis(words.next().unwrap().parse().unwrap());
    let lineage = archive_in(Path::new(words.next().unwrap()), &[]).lineage(lineage_id());
    let mut options = Database::options(port, "postgres", Some(PASSWORD));
    options.timeout = Duration::from_secs(2);
    loop {
        // The server may be starting.
        let Ok(client) = connect(&options).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(facts) = server::facts(&client).await else {
            continue;
        };
        let source = source(transport, &options, client, &facts);
        let shipper = Running::start_all(source, facts, Vec::new(), &options, &lineage, tails);
        let shipper = shipper.await;
        // The test's own output is held back.
        writeln!(std::io::stdout(), "{BEGUN}").unwrap();
        let ended = shipper.task.await.unwrap();
        eprintln!("{ended:?}");
    }
}

/// From the server that answered, by `sql`, `streaming`, or `synchronous`.
pub fn source(
    transport: &str,
    options: &ConnectOptions,
    client: highwater::postgres::session::Client,
    facts: &server::ServerFacts,
) -> Source {
    match transport {
        "sql" => Source::Sql,
        _ => Source::streaming(server(options, client, facts), transport == "synchronous"),
    }
}

fn server(
    options: &ConnectOptions,
    client: highwater::postgres::session::Client,
    facts: &server::ServerFacts,
) -> Server {
    Server {
        options: options.clone(),
        system_identifier: facts.system_identifier,
        timeline: facts.timeline,
        client: Arc::new(client),
        clock: Arc::new(SystemClock),
    }
}
