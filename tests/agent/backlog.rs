//! A backlog goes several segments at once: faster, in bounded memory, and wherever it is killed nothing is counted that
//! is not there.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use highwater::{
    agent::wal::Source,
    archive::Lineage,
    postgres::{
        Lsn, TimelineId,
        server::{self, ServerFacts},
        session::connect,
        slot,
    },
};

use crate::{
    database::{Database, PASSWORD},
    killed::{self, Random, compare, number, seed},
    process::peak_memory,
    proxy::Proxy,
    running::{LIMIT, PARALLEL, Running, SLOT, archive_behind, begin, flushed, lineage_id, write},
    server::{BUCKET, Server},
};

const NEVER: Duration = Duration::from_secs(3600);
const DELAY: Duration = Duration::from_millis(30);
/// Much longer than a segment takes to be read and compressed on a busy machine.
const LONG_DELAY: Duration = Duration::from_millis(150);
/// Longer than a segment takes to be read and compressed on a busy machine: or none overtakes another.
const UNEVEN: Duration = Duration::from_millis(200);
const WAYS: [&str; 2] = ["sql", "streaming"];
const ORDER: &str = "HIGHWATER_SHIP_BACKLOG";
/// What an agent may take for segments of 16 MiB, the pages of its program's file apart: those of a test are many, and can be
/// read again.
const MOST_MEMORY: u64 = 64 << 20;

async fn facts(database: &Database) -> ServerFacts {
    server::facts(&database.client().await).await.unwrap()
}

/// Writes `megabytes`, ships them so many at once, and says how long a segment took.
async fn drain(database: &Database, lineage: &Lineage, megabytes: u32, parallel: usize) -> f64 {
    let from = flushed(database).await;
    write(database, megabytes).await;
    let to = flushed(database).await;
    let by = Source::Sql;
    let mut shipper = Running::start_parallel(by, parallel, database, lineage, NEVER).await;
    let begin = Instant::now();
    shipper.ship(to).await;
    let segments = to.bytes_since(from) / database.segment_size.get();
    let each = begin.elapsed().as_secs_f64() / segments as f64;
    println!(
        "{parallel} at once: {segments} segments, {:.0} ms each",
        each * 1000.0
    );
    shipper.end().await.unwrap();
    each
}

/// A lineage that is reached through `proxy`, and a slot that holds its WAL.
async fn lineage_behind(proxy: &Proxy, database: &Database) -> Lineage {
    let archive = archive_behind(proxy.port(), serde_json::json!({}));
    let lineage = begin(&archive, &facts(database).await).await;
    slot::create(&database.client().await, SLOT).await.unwrap();
    lineage
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_are_faster() {
    let (database, server) = (Database::start(1, "wal_keep_size = '4GB'"), Server::start());
    let proxy = Proxy::start(server.port(), LONG_DELAY);
    let lineage = lineage_behind(&proxy, &database).await;
    let owed = flushed(&database).await;
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let alone = drain(&database, &lineage, 6, 1).await;
        ratios.push(alone / drain(&database, &lineage, 6, PARALLEL).await);
    }
    let most = proxy.most_puts();
    assert!((2..=PARALLEL).contains(&most), "{most} at once");
    ratios.sort_by(f64::total_cmp);
    println!("{ratios:?}");
    assert!(
        ratios[1] >= 1.5,
        "several at once are not faster: {ratios:?}"
    );
    let end = flushed(&database).await;
    let compared = compare(&database, &lineage, owed, end).await.unwrap();
    assert!(compared >= 6 * 6, "{compared}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_go_at_once_than_may() {
    let (database, server) = (Database::start(1, "wal_keep_size = '4GB'"), Server::start());
    let proxy = Proxy::uneven(server.port(), DELAY);
    let lineage = lineage_behind(&proxy, &database).await;
    for parallel in [1, 2] {
        proxy.count_puts_anew();
        drain(&database, &lineage, 12, parallel).await;
        assert_eq!(proxy.most_puts(), parallel);
    }
}

/// The files in the folder of segments, however they are reached.
fn whole(server: &Server) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![server.data().join(BUCKET)];
    while let Some(folder) = folders.pop() {
        // The server removes folders that are empty.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.components().any(|part| part.as_os_str() == "wal") => {
                    found.push(entry.file_name().into_string().unwrap());
                }
                false => {}
            }
        }
    }
    found
}

/// The slot has let go of nothing that is not durable in the archive.
async fn holds_what_is_missing(database: &Database, lineage: &Lineage, owed: Lsn) {
    let held = slot::find(&database.client().await, SLOT).await.unwrap();
    let restart = held.unwrap().restart_lsn.unwrap();
    let contents = lineage.contents().await.unwrap();
    let missing = contents.first_missing(TimelineId::FIRST, owed, restart);
    assert_eq!(missing, None, "the slot is at {restart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_several_on_their_way_nothing_counts_that_is_not_there() {
    let seed = seed();
    let kills = number("HIGHWATER_KILLS").unwrap_or(10);
    println!("seed {seed}, {kills} kills");
    let mut random = Random(seed | 1);
    let (database, server) = (Database::start(1, "wal_keep_size = '8GB'"), Server::start());
    let proxy = Proxy::uneven(server.port(), UNEVEN);
    let direct = || archive_behind(server.port(), serde_json::json!({}));
    let lineage = begin(&direct(), &facts(&database).await).await;
    database.allow_replication().await;
    slot::create(&database.client().await, SLOT).await.unwrap();
    let owed = flushed(&database).await;
    let (mut holes, mut round) = ([0, 0], 0);
    // Some kills must leave a later segment without an earlier one, or nothing is shown.
    while round < kills || (holes.contains(&0) && round < 5 * kills) {
        let way = usize::from(round % 2 == 1);
        round += 1;
        write(&database, 6).await;
        let all = Lsn::new(u64::MAX);
        let mut child = ship(WAYS[way], &database, proxy.port(), PARALLEL, all);
        let (begin, before) = (Instant::now(), whole(&server).len());
        while whole(&server).len() == before {
            assert!(begin.elapsed() < LIMIT, "nothing is put");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(600))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        holds_what_is_missing(&database, &direct().lineage(lineage_id()), owed).await;
        let counted = direct().lineage(lineage_id()).contents().await.unwrap();
        let ranges = counted.ranges(TimelineId::FIRST);
        assert!(ranges.len() <= 1, "what is on its way counts: {ranges:?}");
        holes[way] += usize::from(whole(&server).len() > counted.segments.len());
    }
    println!("{holes:?} of {round} kills left a segment before an earlier one, {WAYS:?}");
    assert!(!holes.contains(&0));
    let by = Source::Sql;
    let mut shipper = Running::start_parallel(by, PARALLEL, &database, &lineage, NEVER).await;
    let end = flushed(&database).await;
    shipper.ship(end).await;
    shipper.end().await.unwrap();
    let compared = compare(&database, &lineage, owed, end).await.unwrap();
    println!("{compared} segments compared");
    assert!(
        compared >= 6 * usize::try_from(kills).unwrap(),
        "{compared}"
    );
}

/// Whatever waits, and however many may be on their way: also where nothing compresses.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_whatever_the_backlog() {
    for way in WAYS {
        memory_is_bounded(way).await;
    }
}

async fn memory_is_bounded(way: &str) {
    let (database, server) = (
        Database::start(16, "wal_keep_size = '4GB'\nmax_wal_size = '4GB'"),
        Server::start(),
    );
    let proxy = Proxy::start(server.port(), DELAY);
    database.allow_replication().await;
    let lineage = lineage_behind(&proxy, &database).await;
    write(&database, 16).await;
    for _ in 0..4 {
        database
            .sql("INSERT INTO public.load SELECT b FROM public.load")
            .await;
    }
    let end = flushed(&database).await;
    let child = ship(way, &database, proxy.port(), 32, end);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let peak = said.lines().find_map(|line| line.split_once("peak: "));
    let peak: u64 = peak
        .unwrap_or_else(|| panic!("{said}"))
        .1
        .trim()
        .parse()
        .unwrap();
    let segments = lineage.contents().await.unwrap().segments.len();
    println!(
        "{way}: {segments} segments, at most {} MiB resident",
        peak >> 20
    );
    assert!(segments >= 15, "{segments}");
    assert!(peak <= MOST_MEMORY, "{peak}");
}

/// This program again, as a shipper of what waits up to `end`.
fn ship(way: &str, database: &Database, store: u16, parallel: usize, end: Lsn) -> Child {
    let port = database.login("postgres", None).port;
    Command::new(std::env::current_exe().unwrap())
        .args([
            "backlog::ships_a_backlog",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(ORDER, format!("{way} {port} {store} {parallel} {end}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "it is the process that the tests above kill or measure"]
async fn ships_a_backlog() {
    let order = std::env::var(ORDER).unwrap();
    let words: Vec<&str> = order.split(' ').collect();
    let [way, port, store, parallel, end] = words[..] else {
        panic!("{order}")
    };
    let lineage =
        archive_behind(store.parse().unwrap(), serde_json::json!({})).lineage(lineage_id());
    let options = Database::options(port.parse().unwrap(), "postgres", Some(PASSWORD));
    let client = connect(&options).await.unwrap();
    let facts = server::facts(&client).await.unwrap();
    let source = killed::source(way, &options, client, &facts);
    let parallel = parallel.parse().unwrap();
    let started = Running::start_there(source, parallel, facts, &options, &lineage, NEVER);
    let mut shipper = started.await;
    let end: Lsn = end.parse().unwrap();
    shipper.demand.send_modify(|demand| demand.lsn = Some(end));
    let shipped = shipper
        .progress
        .wait_for(|progress| progress.durable >= Some(end))
        .await;
    shipped.unwrap();
    println!("peak: {}", peak_memory(Path::new("/proc/self/status")));
}
