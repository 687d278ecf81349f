//! Rounds: without shipping, with streaming, with SQL, with `pg_receivewal`, one after the other, so that what disturbs
//! the machine disturbs all alike; who begins changes from round to round.

use std::{net::TcpListener, path::PathBuf};

use anyhow::{Context, Result, ensure};
use highwater::postgres::Lsn;
use serde::Serialize;

use crate::{
    cluster::Cluster,
    pgbench,
    receiving::Receiving,
    report::{self, Backlog, Report, Run},
    scratch,
    ship::{SLOT, Transport},
    shipping::Shipping,
    store::{self, Store},
    verdict,
    watched::Cost,
    weight::Weight,
};

/// Of the maximum.
const PART: f64 = 0.5;
/// For the maximum.
const MOST_SECONDS: u32 = 30;

/// What is measured with what.
#[derive(clap::Args)]
pub struct Args {
    /// The S3 server.
    #[arg(long)]
    versitygw: PathBuf,
    /// PostgreSQL's programs.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    postgres: PathBuf,
    /// A folder that every user may enter, with 4 GB to spare.
    #[arg(long, default_value = "/var/tmp/highwater-bench-database")]
    scratch: PathBuf,
    /// Where the store keeps its objects: not on the database's disk, as a store is elsewhere.
    #[arg(long, default_value = "/dev/shm/highwater-bench-database")]
    objects: PathBuf,
    /// What the database's container requests, in thousandths of a CPU.
    #[arg(long, default_value_t = 1000)]
    database_cpu: u64,
    /// How often each way is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load each time.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// pgbench's scale.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    scale: u32,
    /// pgbench's clients.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    clients: u32,
    /// Segments of WAL that wait when memory at full speed is measured.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(4..))]
    backlog: u32,
}

/// With or without shipping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Nobody reads WAL.
    Without,
    /// It is shipped.
    Shipping(Transport),
    /// `pg_receivewal` writes it to memory, and nothing else is done with it.
    Receiving,
}

/// All of them.
pub const WAYS: [Way; 4] = [
    Way::Without,
    Way::Shipping(Transport::Streaming),
    Way::Shipping(Transport::Sql),
    Way::Receiving,
];

/// What a run works with.
pub struct Place {
    /// The database.
    pub cluster: Cluster,
    /// The archive.
    pub store: Store,
    /// The keys to it.
    pub credentials: PathBuf,
    /// The superuser's: of loopback only, and of this run.
    pub password: String,
    /// Files.
    pub scratch: PathBuf,
    /// Where the store's objects are.
    pub objects: PathBuf,
    /// Of the database, of the store.
    _weights: [Weight; 2],
    /// pgbench's.
    pub clients: u32,
}

impl Place {
    fn prepare(args: &Args) -> Result<Self> {
        let scratch = args.scratch.clone();
        scratch::empty(&scratch)?;
        scratch::empty(&args.objects)?;
        let store = Store::start(&args.versitygw, &args.objects)?;
        let credentials = scratch.join("credentials");
        scratch::empty(&credentials)?;
        scratch::write(&credentials.join("AWS_ACCESS_KEY_ID"), store::KEY_ID)?;
        scratch::write(&credentials.join("AWS_SECRET_ACCESS_KEY"), store::SECRET)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let cluster = Cluster::new(&args.postgres, &scratch.join("postgres"), port)?;
        let password = "bench-password".to_owned();
        scratch::write(&cluster.root.join("password"), &password)?;
        // Durable as people's are: no fsync, no cost to compare with. What would fall into some runs only is off.
        let settings = "listen_addresses = '127.0.0.1'\nshared_buffers = 256MB\nmax_wal_size = 8GB\n\
            checkpoint_timeout = 1h\nautovacuum = off\n";
        let arguments = ["--auth-host=scram-sha-256", "--pwfile=password"];
        cluster.init(&arguments, settings)?;
        cluster.start()?;
        let weights = [
            Weight::new("highwater-bench-database", args.database_cpu)?,
            Weight::new("highwater-bench-store", 0)?,
        ];
        weights[0].take(cluster.postmaster()?)?;
        weights[1].take(store.process())?;
        Ok(Self {
            cluster,
            store,
            credentials,
            password,
            scratch,
            objects: args.objects.clone(),
            _weights: weights,
            clients: args.clients,
        })
    }

    fn flushed(&self) -> Result<Lsn> {
        let lsn = self.cluster.sql("SELECT pg_current_wal_flush_lsn()")?;
        lsn.parse().with_context(|| format!("{lsn} is no LSN"))
    }
}

/// Measures everything. Whether all marks hold.
///
/// # Errors
/// What is needed is not there, or a run failed.
pub fn run(args: &Args) -> Result<bool> {
    let place = Place::prepare(args)?;
    println!("filling tables, scale {}", args.scale);
    pgbench::fill(&place, args.scale)?;
    let maximum = pgbench::run(&place, args.seconds.min(MOST_SECONDS), None)?;
    let rate = maximum.rate * PART;
    println!(
        "at most {:.0} transactions/s; measured at {rate:.0}",
        maximum.rate
    );
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        rounds.push(round(&place, args, number, rate)?);
    }
    let backlogs = [Transport::Streaming, Transport::Sql]
        .into_iter()
        .map(|transport| backlog(&place, transport, args.backlog))
        .collect::<Result<_>>()?;
    let report = Report {
        maximum: maximum.rate,
        rate,
        seconds: args.seconds,
        clients: args.clients,
        scale: args.scale,
        rounds,
        backlogs,
    };
    place.cluster.stop()?;
    scratch::remove(&place.scratch)?;
    scratch::remove(&args.objects)?;
    let verdicts = report::verdicts(&report)?;
    println!("{}", report::table(&report)?);
    println!("{}", verdict::text(&verdicts));
    let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results");
    std::fs::create_dir_all(&results)?;
    report::write(&report, &verdicts, &results.join("database.json"))?;
    println!("written to {}/database.json", results.display());
    Ok(verdicts.iter().all(|verdict| verdict.holds))
}

fn round(place: &Place, args: &Args, number: u32, rate: f64) -> Result<Vec<Run>> {
    let mut ways = WAYS;
    ways.rotate_left(usize::try_from(number)? % WAYS.len());
    let mut runs = Vec::new();
    for way in ways {
        let run = one(place, way, args.seconds, rate)
            .with_context(|| format!("round {}, {}", number + 1, report::name(way)))?;
        println!(
            "round {}: {:10} {:7.1} transactions/s, p95 {:7.2} ms{}",
            number + 1,
            report::name(way),
            run.transactions_per_second,
            run.p95_milliseconds,
            run.cost.map_or_else(String::new, |cost| format!(
                ", {:.1} MiB, {:.2} s CPU for {:.0} MB of WAL",
                cost.peak_mebibytes, cost.cpu_seconds, run.wal_megabytes
            ))
        );
        runs.push(run);
    }
    runs.sort_by_key(|run| WAYS.iter().position(|way| *way == run.way));
    Ok(runs)
}

fn one(place: &Place, way: Way, seconds: u32, rate: f64) -> Result<Run> {
    let reader = match way {
        Way::Without => None,
        Way::Shipping(transport) => Some(Reader::Shipping(Shipping::start(place, transport)?)),
        Way::Receiving => Some(Reader::Receiving(Receiving::start(place)?)),
    };
    let before = reader.as_ref().map(Reader::cpu).transpose()?;
    let from = place.flushed()?;
    let load = pgbench::run(place, seconds, Some(rate))?;
    let to = place.flushed()?;
    let mut cost = reader.map(|reader| reader.end(from, to)).transpose()?;
    if let (Some(cost), Some(before)) = (&mut cost, before) {
        // To start costs once.
        cost.cpu_seconds -= before;
    }
    Ok(Run {
        way,
        transactions_per_second: load.rate,
        p95_milliseconds: load.p95_milliseconds,
        wal_megabytes: megabytes(from, to),
        cost,
    })
}

/// Who takes WAL from the database.
enum Reader<'a> {
    Shipping(Shipping<'a>),
    Receiving(Receiving<'a>),
}

impl Reader<'_> {
    fn cpu(&self) -> Result<f64> {
        match self {
            Self::Shipping(shipping) => shipping.cpu(),
            Self::Receiving(receiving) => receiving.cpu(),
        }
    }

    fn end(self, from: Lsn, to: Lsn) -> Result<Cost> {
        match self {
            Self::Shipping(shipping) => shipping.end(from, to),
            Self::Receiving(receiving) => receiving.end(to),
        }
    }
}

/// Memory and speed where WAL that does not compress waits, and nothing slows the process down.
fn backlog(place: &Place, transport: Transport, segments: u32) -> Result<Backlog> {
    let cluster = &place.cluster;
    cluster.sql(
        "DROP TABLE IF EXISTS load; CREATE TABLE load (b bytea); ALTER TABLE load ALTER b SET STORAGE EXTERNAL",
    )?;
    cluster.sql(&format!(
        "SELECT pg_create_physical_replication_slot('{SLOT}', true)"
    ))?;
    let from = place.flushed()?;
    let rows = 2048 * segments / 2;
    cluster.sql(&format!(
        "INSERT INTO load SELECT decode(string_agg(md5(random()::text), ''), 'hex') \
         FROM generate_series(1, {rows}) n, generate_series(1, 1000) m GROUP BY n"
    ))?;
    let to = place.flushed()?;
    let written = megabytes(from, to) / 16.777_216;
    ensure!(
        written >= f64::from(segments) * 0.9,
        "only {written:.1} segments were written"
    );
    let begin = std::time::Instant::now();
    let shipping = Shipping::start(place, transport)?;
    let seconds = begin.elapsed().as_secs_f64();
    let cost = shipping.end(from, to)?;
    println!(
        "backlog of {written:.0} segments, {}: {seconds:.1} s, {:.1} MiB",
        report::name(Way::Shipping(transport)),
        cost.peak_mebibytes
    );
    Ok(Backlog {
        transport,
        segments: written,
        seconds,
        cost,
    })
}

/// No log here has more digits than that.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn megabytes(from: Lsn, to: Lsn) -> f64 {
    to.bytes_since(from) as f64 / 1e6
}
