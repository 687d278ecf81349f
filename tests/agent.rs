//! The agent's WAL shipper between a real PostgreSQL and a directory archive, without Kubernetes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[allow(dead_code, reason = "shared with another test")]
#[path = "postgres/database.rs"]
mod database;

use std::{sync::Arc, time::Duration};

use database::{Database, PASSWORD};
use highwater::{
    agent::{
        Demand, Metrics, Progress,
        transport::Transports,
        wal::{Error, Path, Route, Server, Shipper, Signals, Source, Tap, TapError},
    },
    api::{PgArchiveSpec, Transport},
    archive::{Archive, Contents, FORMAT, Identity, Lineage, LineageId, MountedSecrets, store},
    clock::SystemClock,
    postgres::{
        Lsn, SegmentSize, TimelineId,
        server::{self, ServerFacts},
        slot, wal_reader,
    },
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const SLOT: &str = "highwater_test";
const LIMIT: Duration = Duration::from_secs(60);

/// An archive in a directory of its own.
struct Bucket {
    _directory: tempfile::TempDir,
    archive: Archive,
}

impl Bucket {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spec: PgArchiveSpec = serde_json::from_value(
            serde_json::json!({"directory": {"persistentVolumeClaim": "archive"}}),
        )
        .unwrap();
        let secrets = MountedSecrets {
            credentials: None,
            ca_file: None,
            directory: directory.path().to_owned(),
        };
        let store = store::open(&spec, &secrets).unwrap();
        Self {
            archive: Archive::new(store, &spec, "orders"),
            _directory: directory,
        }
    }

    async fn lineage(&self, facts: &ServerFacts) -> Lineage {
        let id = LineageId::from_random([7; 10]);
        let lineage = self.archive.lineage(id.clone());
        let identity = Identity {
            format: FORMAT,
            lineage: id,
            system_identifier: facts.system_identifier,
            major_version: i32::try_from(facts.major).unwrap(),
            segment_size: facts.segment_size,
            created_at: "2026-11-20T00:00:00Z".parse().unwrap(),
        };
        lineage.create_identity(&identity).await.unwrap();
        lineage
    }
}

/// A shipper at work, and what it hears and says.
struct Running {
    task: JoinHandle<Result<(), Error>>,
    demand: watch::Sender<Demand>,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
    _interval: watch::Sender<Duration>,
}

impl Running {
    async fn start(database: &Database, lineage: &Lineage, interval: Duration) -> Self {
        Self::start_with(Source::Sql, database, lineage, interval).await
    }

    async fn start_with(
        source: Source,
        database: &Database,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let client = Arc::new(database.client().await);
        let facts = server::facts(&client).await.unwrap();
        let archived = lineage
            .contents()
            .await
            .unwrap()
            .whole_end(facts.timeline, &[]);
        let route = Route {
            client,
            slot: SLOT.into(),
            size: facts.segment_size,
            path: Path {
                timeline: facts.timeline,
                ancestors: Vec::new(),
            },
            lineage: lineage.clone(),
            system_identifier: facts.system_identifier,
        };
        let (progress, seen) = watch::channel(Progress::default());
        let (demand, demanded) = watch::channel(Demand::default());
        let (sender, tail_interval) = watch::channel(interval);
        let stop = CancellationToken::new();
        let signals = Signals {
            tail_interval,
            demand: demanded,
            progress,
            stop: stop.clone(),
            metrics: Metrics::default(),
        };
        let epoch = uniq();
        let mut shipper = Shipper::open(route, signals, source, epoch, archived)
            .await
            .unwrap();
        Self {
            task: tokio::spawn(async move { shipper.run(|| {}).await }),
            demand,
            progress: seen,
            stop,
            _interval: sender,
        }
    }

    /// Asks for WAL up to `lsn` and waits until it is durable.
    async fn ship(&mut self, lsn: Lsn) {
        self.demand.send_modify(|demand| demand.lsn = Some(lsn));
        let mut progress = self.progress.clone();
        let durable = progress.wait_for(|p| p.durable >= Some(lsn));
        let waited = tokio::time::timeout(LIMIT, durable).await;
        assert!(
            waited.is_ok(),
            "{lsn} is not durable: {:?}",
            self.progress.borrow()
        );
    }

    async fn end(self) -> Result<(), Error> {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .unwrap()
            .unwrap()
    }
}

fn uniq() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("x{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn flushed(database: &Database) -> Lsn {
    let client = database.client().await;
    wal_reader::flush_position(&client).await.unwrap().lsn
}

/// Writes about `megabytes` of WAL that does not compress, and commits.
async fn write(database: &Database, megabytes: u32) {
    let rows = megabytes * 128;
    database
        .sql(&format!(
            "CREATE TABLE IF NOT EXISTS public.load (b bytea); \
             ALTER TABLE public.load ALTER b SET STORAGE EXTERNAL; \
             INSERT INTO public.load SELECT decode(string_agg(md5(random()::text), ''), 'hex') \
             FROM generate_series(1, {rows}) n, generate_series(1, 500) m GROUP BY n"
        ))
        .await;
}

/// Everything from the first to the last archived byte is there, and is what the server has.
async fn same_as_server(database: &Database, lineage: &Lineage) -> Contents {
    let size = database.segment_size;
    let contents = lineage.contents().await.unwrap();
    let ranges = contents.ranges(TimelineId::FIRST);
    assert_eq!(ranges.len(), 1, "holes: {ranges:?}");
    for piece in &ranges[0] {
        let name =
            highwater::postgres::SegmentName::containing(TimelineId::FIRST, piece.from, size);
        let Ok(theirs) = std::fs::read(database.wal().join(name.to_string())) else {
            continue;
        };
        let ours = lineage.fetch_segment(name, size, piece.to).await.unwrap();
        let valid = usize::try_from(piece.to.bytes_since(piece.from)).unwrap();
        assert!(ours[..valid] == theirs[..valid], "{name} differs");
    }
    contents
}

#[tokio::test(flavor = "multi_thread")]
async fn ships_by_sql_in_order_through_a_crash_of_the_server() {
    ships_in_order_through_a_crash(async |_| Source::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ships_a_stream_in_order_through_a_crash_of_the_server() {
    ships_in_order_through_a_crash(async |database| Source::streaming(server_of(database).await))
        .await;
}

/// For streams from a database.
async fn server_of(database: &Database) -> Server {
    let client = Arc::new(database.client().await);
    let facts = server::facts(&client).await.unwrap();
    Server {
        options: database.login("postgres", Some(PASSWORD)),
        system_identifier: facts.system_identifier,
        timeline: facts.timeline,
        client,
        clock: Arc::new(SystemClock),
    }
}

async fn ships_in_order_through_a_crash(source: impl AsyncFn(&Database) -> Source) {
    const NEVER: Duration = Duration::from_secs(3600);
    let database = Database::start(1, "");
    database.allow_replication().await;
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    let mut shipper =
        Running::start_with(source(&database).await, &database, &lineage, NEVER).await;
    write(&database, 8).await;
    let first = flushed(&database).await;
    shipper.ship(first).await;
    let contents = same_as_server(&database, &lineage).await;
    assert!(contents.segments.len() >= 8, "{}", contents.segments.len());
    assert!(contents.segments.values().any(|segment| {
        segment
            .records
            .is_some_and(|records| records.last_commit.is_some())
    }));

    // The slot lets the server remove what is shipped, and no more.
    let held = slot::find(&database.client().await, SLOT)
        .await
        .unwrap()
        .unwrap();
    let restart = held.restart_lsn.unwrap();
    assert!(
        restart <= first && first.bytes_since(restart) <= SegmentSize::new(1 << 20).unwrap().get()
    );

    database.stop("immediate");
    let ended = tokio::time::timeout(LIMIT, shipper.task)
        .await
        .unwrap()
        .unwrap();
    assert!(!ended.unwrap_err().is_archive());
    database.boot();
    let mut shipper =
        Running::start_with(source(&database).await, &database, &lineage, NEVER).await;
    write(&database, 4).await;
    let second = flushed(&database).await;
    shipper.ship(second).await;
    same_as_server(&database, &lineage).await;

    // At the end of the process the tail goes too, though nobody asked.
    write(&database, 0).await;
    database.sql("CREATE TABLE public.last (n int)").await;
    let third = flushed(&database).await;
    shipper.end().await.unwrap();
    let contents = same_as_server(&database, &lineage).await;
    let pieces = contents.pieces(TimelineId::FIRST);
    assert!(
        pieces.last().unwrap().to >= third,
        "{pieces:?} ends before {third}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_moves_on_while_the_database_is_idle() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    let mut shipper = Running::start(&database, &lineage, Duration::from_millis(100)).await;
    let covered = async |progress: &mut watch::Receiver<Progress>, after| {
        let wait = progress.wait_for(|p| p.covered > after);
        let found = tokio::time::timeout(LIMIT, wait)
            .await
            .expect("no clock pair");
        found.unwrap().covered
    };
    let first = covered(&mut shipper.progress, None).await;
    shipper.demand.send_modify(|demand| demand.clock += 1);
    let second = covered(&mut shipper.progress, first).await;
    let contents = lineage.contents().await.unwrap();
    assert!(contents.clocks.iter().any(|pair| Some(pair.at) >= second));
    shipper.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_under_the_same_name_is_a_conflict_and_nothing_is_overwritten() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    database.stop("fast");
    let other = database.copy("");
    database.boot();
    other.boot();
    let mut shipper = Running::start(&database, &lineage, Duration::from_secs(3600)).await;
    write(&database, 3).await;
    shipper.ship(flushed(&database).await).await;
    shipper.end().await.unwrap();
    let before = lineage.contents().await.unwrap().segments;

    let client = other.client().await;
    slot::create(&client, SLOT).await.unwrap();
    write(&other, 3).await;
    let shipper = Running::start(&other, &lineage, Duration::from_secs(3600)).await;
    let ended = tokio::time::timeout(LIMIT, shipper.task)
        .await
        .unwrap()
        .unwrap();
    let error = ended.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(lineage.contents().await.unwrap().segments, before);
}

/// How many sessions stream from the server.
async fn streams(database: &Database) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_replication";
    let row = database.client().await.query_one(count, &[]).await.unwrap();
    row.get(0)
}

async fn log(database: &Database) -> String {
    std::fs::read_to_string(database.directory().join("log")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_keeps_nobody_waiting_and_goes_quietly() {
    let database = Database::start(1, "wal_sender_timeout = '2s'\nmax_wal_size = '1GB'");
    database.allow_replication().await;
    let from = Lsn::new(flushed(&database).await.get() & !((1 << 20) - 1));
    let from_server = server_of(&database).await;
    let mut tap = Tap::open(&from_server, TimelineId::FIRST, from)
        .await
        .unwrap();
    // More than waits here, for longer than the server waits for an answer.
    write(&database, 32).await;
    database.sql("SELECT pg_sleep(5)").await;
    assert_eq!(streams(&database).await, 1, "{}", log(&database).await);
    let end = flushed(&database).await;
    let mut at = from;
    while at < end {
        assert!(tap.is_at(TimelineId::FIRST, at));
        // Across messages and within them.
        let bytes = tap.take(100_000).await.unwrap();
        at = at.advance(bytes.len() as u64);
    }
    tap.close().await;
    assert_eq!(streams(&database).await, 0);
    let said = log(&database).await;
    assert!(!said.contains("unexpected EOF"), "{said}");

    // It would wait for a stream that is neither read nor ended.
    let tap = Tap::open(&from_server, TimelineId::FIRST, from)
        .await
        .unwrap();
    let begin = std::time::Instant::now();
    write(&database, 32).await;
    database.stop("fast");
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
    drop(tap);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_at_the_address_is_noticed() {
    let database = Database::start(1, "");
    database.allow_replication().await;
    let at = flushed(&database).await;
    let known = server_of(&database).await;
    let mut stranger = known.clone();
    stranger.system_identifier = highwater::postgres::SystemIdentifier::new(1);
    let refused = Tap::open(&stranger, TimelineId::FIRST, at).await.err();
    assert_eq!(refused.unwrap().reason(), "AnotherServer");
    let mut later = known;
    later.timeline = TimelineId::new(2).unwrap();
    let refused = Tap::open(&later, TimelineId::FIRST, at).await.err();
    assert_eq!(refused.unwrap().reason(), "TimelineChanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_is_chosen_once_and_a_refusal_remembered() {
    let refusals = |database: &Database| {
        let log = std::fs::read_to_string(database.directory().join("log")).unwrap();
        log.matches("no pg_hba.conf entry for replication").count()
    };
    let database = Database::start(1, "");
    let server = server_of(&database).await;
    let transports = Transports::default();
    let choose = async |wanted| transports.choose(wanted, &server, "orders-0").await;
    for _ in 0..3 {
        let sql = choose(Transport::Auto).await.unwrap();
        assert_eq!(
            (sql.transport(), sql.reason),
            (Transport::Sql, "NoReplicationAccess")
        );
        assert!(sql.message.contains("host replication"), "{}", sql.message);
    }
    assert_eq!(
        refusals(&database),
        1,
        "the server is asked, and writes to its log, once"
    );
    let refused = choose(Transport::Streaming).await.err().unwrap();
    assert!(refused.to_string().contains("pg_hba.conf"), "{refused}");
    let asked_for = choose(Transport::Sql).await.unwrap();
    assert_eq!(
        (asked_for.transport(), asked_for.reason),
        (Transport::Sql, "Requested")
    );

    database.allow_replication().await;
    // Who asks for it by name is not told what was remembered, and what was is forgotten.
    let streaming = choose(Transport::Streaming).await.unwrap();
    assert_eq!(
        (streaming.transport(), streaming.reason),
        (Transport::Streaming, "Requested")
    );
    let streaming = choose(Transport::Auto).await.unwrap();
    assert_eq!(streaming.reason, "ReplicationAllowed");
    // A stream that breaks off again and again is given up for a while; one that works in between is not.
    let broken = || transports.broken("orders-0", &TapError::Silent);
    (0..4).for_each(|_| broken());
    transports.works();
    (0..4).for_each(|_| broken());
    assert_eq!(
        choose(Transport::Auto).await.unwrap().transport(),
        Transport::Streaming
    );
    broken();
    let sql = choose(Transport::Auto).await.unwrap();
    assert_eq!(
        (sql.transport(), sql.reason),
        (Transport::Sql, "SessionLost")
    );

    let none = Database::start(1, "max_wal_senders = 0");
    none.allow_replication().await;
    let server = server_of(&none).await;
    let sql = transports
        .choose(Transport::Auto, &server, "orders-1")
        .await
        .unwrap();
    assert_eq!(
        (sql.transport(), sql.reason),
        (Transport::Sql, "TooManyWalSenders")
    );
}
