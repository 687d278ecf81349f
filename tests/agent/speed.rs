//! How fast WAL comes from a server of this machine: by SQL and by streaming, beside pg_receivewal and beside reading the
//! files, in one run. Not part of the tests: `make bench-database` runs it. `MEGABYTES` (default 512) of WAL, `ROUNDS` (5).

use std::{pin::pin, process::Command, time::Instant};

use futures::StreamExt as _;
use highwater::{
    agent::wal::Tap,
    postgres::{
        Lsn, SegmentName, SegmentSize, TimelineId,
        wal_reader::{self, flush_position},
    },
};
use tokio::sync::watch;

use crate::{
    database::{Database, PASSWORD, programs::program},
    running::{server_of, write},
};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// The least that SQL must give.
const SQL_AT_LEAST: f64 = 400.0;

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Whole segments of the log.
struct Range {
    from: Lsn,
    to: Lsn,
}

impl Range {
    async fn write(database: &Database, megabytes: u32) -> Self {
        let start = |lsn: Lsn| Lsn::new(lsn.get() - SIZE.offset(lsn));
        let flushed = async || flush_position(&database.client().await).await.unwrap().lsn;
        // Not the first segment of all: pg_receivewal takes the one before it for nothing.
        let from = start(flushed().await).advance(SIZE.get());
        let end = from.advance(u64::from(megabytes) << 20);
        while flushed().await < end {
            write(database, 64).await;
        }
        let to = start(flushed().await);
        Self { from, to }
    }

    fn segments(&self) -> impl Iterator<Item = SegmentName> {
        let first = SegmentName::containing(TimelineId::FIRST, self.from, SIZE);
        let to = self.to;
        std::iter::successors(Some(first), |name| Some(name.next(SIZE)))
            .take_while(move |name| name.start(SIZE) < to)
    }

    #[allow(clippy::cast_precision_loss, reason = "megabytes")]
    fn megabytes(&self) -> f64 {
        self.to.bytes_since(self.from) as f64 / 1e6
    }
}

async fn by_sql(database: &Database, range: &Range) -> u64 {
    let client = database.client().await;
    let mut read = 0;
    for name in range.segments() {
        let mut chunks = pin!(wal_reader::read_range(&client, name, SIZE, 0..SIZE.get()));
        while let Some(chunk) = chunks.next().await {
            read += chunk.unwrap().len() as u64;
        }
    }
    read
}

async fn by_streaming(database: &Database, range: &Range) -> u64 {
    let (_, silent) = watch::channel(None);
    let server = server_of(database).await;
    let tap = Tap::open(&server, TimelineId::FIRST, range.from, silent).await;
    let mut tap = tap.unwrap();
    let wanted = range.to.bytes_since(range.from);
    let mut read = 0;
    while read < wanted {
        let most = (wanted - read).min(1 << 20);
        let bytes = tap.take(usize::try_from(most).unwrap()).await.unwrap();
        read += bytes.len() as u64;
    }
    tap.close().await;
    read
}

fn by_pg_receivewal(database: &Database, range: &Range) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    // It goes on after the last segment that it finds; without one it would begin with what is written now.
    let before = SegmentName::containing(TimelineId::FIRST, Lsn::new(range.from.get() - 1), SIZE);
    let before = std::fs::File::create(directory.path().join(before.to_string()));
    before.unwrap().set_len(SIZE.get()).unwrap();
    let end = range.to.to_string();
    let port = database.login("postgres", None).port.to_string();
    let output = Command::new(program("pg_receivewal"))
        .args(["-h", "127.0.0.1", "-U", "postgres", "--no-sync", "-w"])
        .args(["-p", &port, "--endpos", &end])
        .arg("-D")
        .arg(directory.path())
        .env("PGPASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // What it ends within keeps a name of its own.
    let lengths = range.segments().map(|name| {
        let whole = directory.path().join(name.to_string());
        let found = std::fs::metadata(&whole)
            .or_else(|_| std::fs::metadata(whole.with_extension("partial")));
        found.map_or(0, |found| found.len())
    });
    let received = lengths.sum();
    assert!(received > 0, "{}", String::from_utf8_lossy(&output.stderr));
    received
}

fn by_file(database: &Database, range: &Range) -> u64 {
    range
        .segments()
        .map(|name| database.segment(name).len() as u64)
        .sum()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    let database = Database::start(16, "max_wal_size = '8GB'\nwal_keep_size = '8GB'");
    database.allow_replication().await;
    let range = Range::write(&database, number("MEGABYTES", 512)).await;
    let ways = ["SQL", "streaming", "pg_receivewal", "files"];
    let mut figures = vec![Vec::new(); ways.len()];
    for _ in 0..number("ROUNDS", 5) {
        for (way, figures) in ways.into_iter().zip(&mut figures) {
            let begin = Instant::now();
            let read = match way {
                "SQL" => by_sql(&database, &range).await,
                "streaming" => by_streaming(&database, &range).await,
                "pg_receivewal" => by_pg_receivewal(&database, &range),
                _ => by_file(&database, &range),
            };
            let seconds = begin.elapsed().as_secs_f64();
            assert!(read >= range.to.bytes_since(range.from), "{way}: {read}");
            figures.push(range.megabytes() / seconds);
        }
    }
    let medians: Vec<f64> = figures.into_iter().map(median).collect();
    println!("{:.0} MB of WAL, medians:", range.megabytes());
    for (way, figure) in ways.into_iter().zip(&medians) {
        let ratio = figure / medians[2];
        println!("{way:14} {figure:7.0} MB/s, {ratio:5.2} of pg_receivewal");
    }
    let sql = medians[0];
    let holds = sql >= SQL_AT_LEAST;
    let said = if holds { "holds" } else { "DOES NOT HOLD" };
    println!("  SQL, MB/s  {sql:.0}  {said}  at least {SQL_AT_LEAST}");
    assert!(holds, "SQL gives {sql:.0} MB/s, want {SQL_AT_LEAST}");
}
