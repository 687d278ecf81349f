//! A shipper between a real PostgreSQL and a directory archive.

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use highwater::{
    agent::{
        Demand, Metrics, Progress,
        wal::{
            Delays, Error, Notice, Other, Path, Route, Server, Shipper, Signals, Source, Watched,
            Watcher, ancestors,
        },
    },
    api::PgArchiveSpec,
    archive::{
        Archive, Contents, FORMAT, Identity, Lineage, LineageId, MountedSecrets, store,
        verify::{Run, Scope},
    },
    clock::{Clock, SystemClock},
    postgres::{
        Lsn, TimelineId,
        server::{self, ServerFacts},
        session::{ConnectOptions, connect},
        wal_reader,
    },
};
use jiff::SignedDuration;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, PASSWORD},
    server::{BUCKET, KEY_ID, SECRET, open, spec as server_spec},
};

pub const SLOT: &str = "highwater_test";
pub const LIMIT: Duration = Duration::from_secs(180);
/// Segments of a backlog that are on their way at once, unless a test says otherwise.
pub const PARALLEL: usize = 4;

/// An archive in a directory of its own.
pub struct Bucket {
    pub directory: tempfile::TempDir,
    pub archive: Archive,
}

/// The archive in a directory.
pub fn archive_in(directory: &std::path::Path, recipients: &[String]) -> Archive {
    let mut spec = serde_json::json!({"directory": {"persistentVolumeClaim": "archive"}});
    if !recipients.is_empty() {
        spec["encryption"] = serde_json::json!({ "recipients": recipients });
    }
    let spec: PgArchiveSpec = serde_json::from_value(spec).unwrap();
    let secrets = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: directory.to_owned(),
    };
    let store = store::open(&spec, &secrets).unwrap();
    Archive::new(store, &spec, "orders").unwrap()
}

/// The one lineage of these tests.
pub fn lineage_id() -> LineageId {
    LineageId::from_random([7; 10])
}

impl Bucket {
    pub fn new() -> Self {
        Self::encrypted_to(&[])
    }

    pub fn encrypted_to(recipients: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            archive: archive_in(directory.path(), recipients),
            directory,
        }
    }

    /// Nothing can be written or read any more.
    pub fn close(&self) {
        let path = self.directory.path();
        std::fs::rename(path, path.with_extension("closed")).unwrap();
        std::fs::write(path, "").unwrap();
    }

    /// Undoes [`Self::close`].
    pub fn open(&self) {
        let path = self.directory.path();
        std::fs::remove_file(path).unwrap();
        std::fs::rename(path.with_extension("closed"), path).unwrap();
    }

    pub async fn lineage(&self, facts: &ServerFacts) -> Lineage {
        begin(&self.archive, facts).await
    }
}

/// The lineage of these tests, in an archive that does not have it yet.
pub async fn begin(archive: &Archive, facts: &ServerFacts) -> Lineage {
    begin_as(lineage_id(), archive, facts).await
}

/// A lineage, in an archive that does not have it yet.
pub async fn begin_as(id: LineageId, archive: &Archive, facts: &ServerFacts) -> Lineage {
    let lineage = archive.lineage(id.clone());
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

/// The archive in the S3 server behind a port of this machine, with these limits.
pub fn archive_behind(port: u16, limits: serde_json::Value) -> Archive {
    let mut spec = server_spec(port, BUCKET);
    spec.limits = Some(serde_json::from_value(limits).unwrap());
    let store = open(&spec, KEY_ID, SECRET);
    Archive::new(store, &spec, "orders").unwrap()
}

/// A shipper at work, and what it hears and says.
pub struct Running {
    pub task: JoinHandle<Result<(), Error>>,
    pub demand: watch::Sender<Demand>,
    pub progress: watch::Receiver<Progress>,
    pub stop: CancellationToken,
    pub notices: mpsc::UnboundedReceiver<Notice>,
    pub metrics: Metrics,
    _interval: watch::Sender<Duration>,
}

impl Running {
    pub async fn start(database: &Database, lineage: &Lineage, interval: Duration) -> Self {
        Self::start_with(Source::Sql, database, lineage, interval).await
    }

    pub async fn start_with(
        source: Source,
        database: &Database,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let facts = server::facts(&database.client().await).await.unwrap();
        let options = database.login("postgres", Some(PASSWORD));
        Self::start_all(source, facts, Vec::new(), &options, lineage, interval).await
    }

    /// By SQL, from a database that is taken for another.
    pub async fn start_as(
        facts: ServerFacts,
        database: &Database,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let options = database.login("postgres", Some(PASSWORD));
        Self::start_all(Source::Sql, facts, Vec::new(), &options, lineage, interval).await
    }

    /// By SQL, from one of several members.
    pub async fn start_among(
        others: &[&Database],
        database: &Database,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let facts = server::facts(&database.client().await).await.unwrap();
        Self::start_all(
            Source::Sql,
            facts,
            members(others),
            &database.login("postgres", Some(PASSWORD)),
            lineage,
            interval,
        )
        .await
    }

    pub async fn start_all(
        source: Source,
        facts: ServerFacts,
        others: Vec<Other>,
        options: &ConnectOptions,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let (mut shipper, running) =
            Self::open(source, facts, others, options, lineage, interval, PARALLEL).await;
        running(tokio::spawn(async move { shipper.run(|| {}).await }))
    }

    /// With so many segments on their way at once. An archive that does not answer is tried again and again.
    pub async fn start_parallel(
        source: Source,
        parallel: usize,
        database: &Database,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let facts = server::facts(&database.client().await).await.unwrap();
        let options = database.login("postgres", Some(PASSWORD));
        Self::start_there(source, parallel, facts, &options, lineage, interval).await
    }

    /// As [`Self::start_parallel`], for who knows how the server is reached only.
    pub async fn start_there(
        source: Source,
        parallel: usize,
        facts: ServerFacts,
        options: &ConnectOptions,
        lineage: &Lineage,
        interval: Duration,
    ) -> Self {
        let (mut shipper, running) = Self::open(
            source,
            facts,
            Vec::new(),
            options,
            lineage,
            interval,
            parallel,
        )
        .await;
        running(tokio::spawn(async move {
            loop {
                match shipper.run(|| {}).await {
                    Err(error) if error.is_archive() && !error.is_conflict() => {
                        println!("{error}");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    ended => return ended,
                }
            }
        }))
    }

    /// A shipper, and what makes a running one of its task.
    async fn open(
        source: Source,
        facts: ServerFacts,
        others: Vec<Other>,
        options: &ConnectOptions,
        lineage: &Lineage,
        interval: Duration,
        parallel: usize,
    ) -> (Shipper, impl FnOnce(JoinHandle<Result<(), Error>>) -> Self) {
        let (mut route, signals, archived, running) =
            Self::prepare(facts, options, lineage, interval).await;
        (route.others, route.parallel) = (watch::channel(others).1, parallel);
        let shipper = Shipper::open(route, signals, source, uniq(), archived)
            .await
            .unwrap();
        (shipper, running)
    }

    /// Watches what PostgreSQL itself archives into `lineage`, and what each look says.
    pub async fn watch(
        database: &Database,
        lineage: &Lineage,
    ) -> Result<(Self, watch::Receiver<Option<Watched>>), Error> {
        Self::watch_with(Delays::default(), database, lineage).await
    }

    /// As [`Self::watch`], with other patience.
    pub async fn watch_with(
        delays: Delays,
        database: &Database,
        lineage: &Lineage,
    ) -> Result<(Self, watch::Receiver<Option<Watched>>), Error> {
        let facts = server::facts(&database.client().await).await.unwrap();
        let options = database.login("postgres", Some(PASSWORD));
        let (route, signals, archived, running) =
            Self::prepare(facts, &options, lineage, Duration::from_millis(100)).await;
        let mut watcher = Watcher::open(route, signals, archived, delays).await?;
        let (said, seen) = watch::channel(None);
        let task = tokio::spawn(async move {
            let say = |watched: &Watched| drop(said.send_replace(Some(watched.clone())));
            watcher.run(say).await
        });
        Ok((running(task), seen))
    }

    /// What one that carries WAL is given, and what makes a running one of its task.
    async fn prepare(
        facts: ServerFacts,
        options: &ConnectOptions,
        lineage: &Lineage,
        interval: Duration,
    ) -> (
        Route,
        Signals,
        Option<Lsn>,
        impl FnOnce(JoinHandle<Result<(), Error>>) -> Self,
    ) {
        let client = Arc::new(connect(options).await.unwrap());
        let timeline = facts.timeline;
        let history = wal_reader::history_file(&client, timeline).await.unwrap();
        let ancestors = history.map(|text| ancestors(timeline, &text).unwrap());
        let path = Path {
            timeline,
            ancestors: ancestors.unwrap_or_default(),
        };
        let contents = lineage.contents().await.unwrap();
        let archived = contents.whole_end(timeline, &path.ancestors);
        let route = Route {
            client,
            slot: SLOT.into(),
            size: facts.segment_size,
            path,
            lineage: lineage.clone(),
            system_identifier: facts.system_identifier,
            parallel: PARALLEL,
            others: watch::channel(Vec::new()).1,
        };
        let (notices, noticed) = mpsc::unbounded_channel();
        let (progress, seen) = watch::channel(Progress::default());
        let (demand, demanded) = watch::channel(Demand::default());
        let (sender, tail_interval) = watch::channel(interval);
        let stop = CancellationToken::new();
        let metrics = Metrics::default();
        let signals = Signals {
            tail_interval,
            demand: demanded,
            progress,
            stop: stop.clone(),
            metrics: metrics.clone(),
            notices,
        };
        let running = |task| Self {
            task,
            demand,
            progress: seen,
            stop,
            notices: noticed,
            metrics,
            _interval: sender,
        };
        (route, signals, archived, running)
    }

    /// Asks for WAL up to `lsn` and waits until it is durable.
    pub async fn ship(&mut self, lsn: Lsn) {
        self.demand.send_modify(|demand| demand.lsn = Some(lsn));
        let mut progress = self.progress.clone();
        let durable = progress.wait_for(|p| p.durable >= Some(lsn));
        let waited = tokio::time::timeout(LIMIT, durable).await;
        match waited {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => panic!("{lsn} is not durable: {:?}", (&mut self.task).await),
            Err(_) => panic!("{lsn} is not durable: {:?}", self.progress.borrow()),
        }
    }

    pub async fn end(self) -> Result<(), Error> {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .unwrap()
            .unwrap()
    }
}

/// As the agent knows the members beside the primary.
pub fn members(others: &[&Database]) -> Vec<Other> {
    let others = others.iter().map(|other| Other {
        pod: "orders-1".to_owned(),
        options: other.login("postgres", Some(PASSWORD)),
    });
    others.collect()
}

pub fn uniq() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("x{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub async fn flushed(database: &Database) -> Lsn {
    let client = database.client().await;
    wal_reader::flush_position(&client).await.unwrap().lsn
}

/// Writes about `megabytes` of WAL that does not compress, and commits.
pub async fn write(database: &Database, megabytes: u32) {
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
pub async fn same_as_server(database: &Database, lineage: &Lineage) -> Contents {
    let size = database.segment_size;
    let contents = lineage.contents().await.unwrap();
    let ranges = contents.ranges(TimelineId::FIRST);
    assert_eq!(ranges.len(), 1, "holes: {ranges:?}");
    for piece in ranges.range(0) {
        let name =
            highwater::postgres::SegmentName::containing(TimelineId::FIRST, piece.from, size);
        let Ok(theirs) = std::fs::read(database.wal().join(name.to_string())) else {
            continue;
        };
        let ours = lineage.fetch_segment(name, size, piece.to).await.unwrap();
        let valid = usize::try_from(piece.to.bytes_since(piece.from)).unwrap();
        assert!(ours[..valid] == theirs[..valid], "{name} differs");
    }
    verified(lineage).await;
    contents
}

/// Read in full nothing is wrong with it.
pub async fn verified(lineage: &Lineage) {
    let scope = Scope {
        lineage: None,
        timeline: None,
        from: None,
        to: None,
        parallel: NonZeroU8::MIN,
        // Nobody writes any more: nothing is excused for being new.
        now: SystemClock.now() + SignedDuration::from_hours(24),
    };
    let (identity, run) = (lineage.identity().await.unwrap(), Run::default());
    lineage.verify(&identity, &scope, &run).await.unwrap();
    let findings = run.findings();
    assert!(findings.is_empty(), "{findings:#?}");
}

/// For streams from a database.
pub async fn server_of(database: &Database) -> Server {
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
