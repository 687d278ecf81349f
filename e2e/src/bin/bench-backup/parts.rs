//! What is done in each part.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_e2e::{
    devcluster::Raised,
    harness::{
        measure::{self, Watch},
        requests::Counting,
    },
};
use kube::api::ListParams;

use crate::{
    bare, ours,
    place::{Place, Shape, Subject, protect},
    report::{Pair, Report, SIZES},
};

/// How long nothing changes while requests are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// How many databases are backed up at once.
const MANY: usize = 20;
/// How many finished backups there are when the controller's memory is measured.
const FINISHED: usize = 200;
/// The longest to wait for them.
const LONG: Duration = Duration::from_secs(1800);
/// What a row of [`fill`] takes: a page each.
const PAGE: i64 = 8192;

/// The bare script and Highwater in turn; who begins changes from round to round.
async fn rounds(
    place: &Place,
    watch: &Watch,
    subjects: &[Subject],
    repeat: u32,
    what: &str,
) -> Result<Pair> {
    let mut pair = Pair::default();
    for round in 1..=repeat {
        let name = format!("round-{round}");
        let order = if round % 2 == 0 {
            [true, false]
        } else {
            [false, true]
        };
        for highwater in order {
            let begin = Instant::now();
            if highwater {
                let times = ours::run(&place.client, watch, subjects, &name).await?;
                pair.ours_all.push(begin.elapsed().as_secs_f64());
                pair.ours.extend(times);
            } else {
                let times = bare::run(&place.client, subjects, round).await?;
                pair.bare_all.push(begin.elapsed().as_secs_f64());
                pair.bare.extend(times);
                bare::forget(subjects, round)?;
            }
        }
        println!("{what}, round {round}: {}", pair.last(subjects.len()));
    }
    Ok(pair)
}

/// One volume: times, and how often the API server is asked.
pub async fn one(
    place: &Place,
    (times, requests): (bool, bool),
    repeat: u32,
    report: &mut Report,
) -> Result<()> {
    let (namespace, watch) = place.empty("one")?;
    let subjects = [place.database(&namespace, "orders", &Shape::one()).await?];
    protect(&subjects, &watch).await?;
    if times {
        report.one = Some(rounds(place, &watch, &subjects, repeat, "1 volume").await?);
    }
    if requests {
        count(place, &watch, &subjects, repeat, report).await?;
    }
    place.clear(&namespace)
}

/// Requests of each backup, and of a minute in which nothing changes.
async fn count(
    place: &Place,
    watch: &Watch,
    subjects: &[Subject; 1],
    repeat: u32,
    report: &mut Report,
) -> Result<()> {
    let namespace = &subjects[0].database.namespace;
    let session = subjects[0].database.connect().await?;
    for round in 1..=repeat {
        measure::idle(&session).await?;
        let counting = Counting::begin(namespace)?;
        let name = format!("counted-{round}");
        ours::run(&place.client, watch, subjects, &name).await?;
        let asked = counting.to_the_end().await?;
        println!("requests of backup {round}: {}", asked.counted());
        if round == 1 {
            print!("{asked}");
        }
        report.requests.push(f64::from(asked.counted()));
    }
    measure::idle(&session).await?;
    for round in 1..=repeat {
        let counting = Counting::begin(namespace)?;
        // A minute is what is measured.
        tokio::time::sleep(MINUTE).await;
        let asked = counting.so_far()?;
        let count = asked.counted();
        print!("requests of idle minute {round}: {count}\n{asked}");
        report.idle.push(f64::from(count));
        report.apart.push(f64::from(asked.apart()));
    }
    Ok(())
}

/// Four volumes.
pub async fn four(place: &Place, repeat: u32) -> Result<Pair> {
    let (namespace, watch) = place.empty("four")?;
    let subjects = [place.database(&namespace, "orders", &Shape::four()).await?];
    protect(&subjects, &watch).await?;
    let pair = rounds(place, &watch, &subjects, repeat, "4 volumes").await?;
    place.clear(&namespace)?;
    Ok(pair)
}

/// Databases of several sizes, one after the other in each round.
pub async fn sizes(place: &Place, repeat: u32) -> Result<Vec<Pair>> {
    let (namespace, watch) = place.empty("sizes")?;
    let mut subjects = Vec::new();
    for size in SIZES {
        let name = format!("gb-{}", size.gigabytes);
        let subject = place.database(&namespace, &name, &Shape::one()).await?;
        fill(&subject, size.gigabytes).await?;
        subjects.push(subject);
    }
    protect(&subjects, &watch).await?;
    let mut pairs = SIZES.map(|_| Pair::default());
    for round in 1..=repeat {
        for (subject, pair) in subjects.iter().zip(&mut pairs) {
            let subject = std::slice::from_ref(subject);
            pair.bare
                .extend(bare::run(&place.client, subject, round).await?);
            bare::forget(subject, round)?;
            let name = format!("round-{round}");
            let times = ours::run(&place.client, &watch, subject, &name).await?;
            pair.ours.extend(times);
            let name = &subject[0].database.name;
            println!("{name}, round {round}: {}", pair.last(1));
        }
    }
    place.clear(&namespace)?;
    Ok(pairs.into())
}

/// Fills a database without WAL, which would be shipped for minutes, and waits until the disk has it.
async fn fill(subject: &Subject, gigabytes: i64) -> Result<()> {
    let name = &subject.database.name;
    println!("filling {name}");
    let session = subject.database.connect().await?;
    session
        .batch_execute(
            "CREATE UNLOGGED TABLE filler (text text) WITH (autovacuum_enabled = off); \
             ALTER TABLE filler ALTER text SET STORAGE PLAIN",
        )
        .await?;
    let bytes = gigabytes * 1_000_000_000;
    let rows = "INSERT INTO filler SELECT repeat('x', 7900) FROM generate_series(1, $1::bigint)";
    session.execute(rows, &[&(bytes / PAGE)]).await?;
    let size = "SELECT pg_database_size(current_database())";
    let size: i64 = session.query_one(size, &[]).await?.get(0);
    ensure!(size >= bytes, "{name} has {size} bytes");
    session.batch_execute("CHECKPOINT").await?;
    let synced = std::process::Command::new("sync").status()?;
    ensure!(synced.success(), "failed to run sync");
    Ok(())
}

/// Twenty databases at once, and then backups until there are 200.
pub async fn many(
    place: &Place,
    (times, memory): (bool, bool),
    repeat: u32,
    report: &mut Report,
) -> Result<()> {
    let _raised = Raised::begin()?;
    let (namespace, watch) = place.empty("many")?;
    let subjects = place.databases(&namespace, MANY, &Shape::one()).await?;
    protect(&subjects, &watch).await?;
    if times {
        report.twenty = Some(rounds(place, &watch, &subjects, repeat, "20 databases").await?);
    }
    if memory {
        finish(place, &subjects).await?;
        for _ in 0..repeat {
            // Samples of programs that have nothing to do.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let label = "app.kubernetes.io/component=controller";
            let kubectl = &subjects[0].database.kubectl;
            let replicas = measure::resident(kubectl, "highwater-system", label)?;
            let most = replicas.into_iter().max_by(f64::total_cmp);
            report.memory.push(most.context("no controller")?);
        }
    }
    place.clear(&namespace)
}

/// Asks for backups, queued at each database, until so many are finished.
async fn finish(place: &Place, subjects: &[Subject]) -> Result<()> {
    let first = subjects.first().context("no database")?;
    let backups = ours::backups(&place.client, first);
    let there = backups.list_metadata(&ListParams::default()).await?;
    for number in there.items.len()..FINISHED {
        let subject = &subjects[number % subjects.len()];
        ours::ask(&place.client, subject, &format!("more-{number}")).await?;
    }
    let begin = std::time::Instant::now();
    loop {
        let listed = backups.list(&ListParams::default()).await?.items;
        let ended: Vec<_> = listed.iter().filter_map(ours::said).collect();
        ensure!(ended.iter().all(|completed| *completed), "a backup failed");
        if ended.len() >= FINISHED {
            println!("{} backups are finished", ended.len());
            return Ok(());
        }
        let left = FINISHED - ended.len();
        ensure!(begin.elapsed() < LONG, "{left} backups do not end");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
