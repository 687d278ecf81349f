//! From the PgRestore to the first query, by the size of the database.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use highwater_e2e::{
    bench::verdict::median,
    harness::{
        Database, Deployment, Kubectl, Writer, marks::Mark, measure::beside_replay, publish, story,
    },
};

const NAMESPACE: &str = "bench-restore";
/// Seconds beside the replay.
const LIMIT: f64 = 8.0;
/// What the slowest size may take of the time of the fastest one.
const TIMES: f64 = 1.3;
/// What a row of the filler takes: a page each.
const PAGE: i64 = 8192;
/// Rows behind each backup.
const COMMITS: i64 = 100;

const HOW: &str =
    "clock: before PgRestore is sent to the answer of a query, minus progress.replaySeconds";
const REPLAY: &str = "status.progress.replaySeconds, as recovery says";
const FLAT: &str = "greatest median by the least one";

/// Of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// 1 GB.
    #[value(name = "1")]
    One,
    /// 3 GB.
    #[value(name = "3")]
    Three,
    /// 10 GB.
    #[value(name = "10")]
    Ten,
}

impl Size {
    const fn gigabytes(self) -> i64 {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Ten => 10,
        }
    }

    /// What its figures are called: beside the replay, and the replay.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::One => ("1 GB: to first query, beside the replay", "1 GB: replay"),
            Self::Three => ("3 GB: to first query, beside the replay", "3 GB: replay"),
            Self::Ten => ("10 GB: to first query, beside the replay", "10 GB: replay"),
        }
    }
}

/// Seconds that restores of one size took.
#[derive(Clone, Debug, Default)]
struct Times {
    beside_replay: Vec<f64>,
    replay: Vec<f64>,
}

/// A database, and what its restores took.
struct Subject {
    size: Size,
    database: Database,
    times: Times,
}

/// Restores a database of each size, one after the other, so often.
pub async fn measure(program: &Path, sizes: &[Size], repeat: u32) -> Result<Vec<Mark>> {
    let kubectl = Kubectl::from_env()?;
    clear(&kubectl)?;
    let images = publish::load(program)?;
    println!("deploying");
    let deployment = Deployment::apply(kubectl.clone(), images).await?;
    deployment.namespace(NAMESPACE)?;
    let mut subjects = Vec::new();
    for size in sizes {
        subjects.push(Subject {
            size: *size,
            database: filled(&deployment, *size).await?,
            times: Times::default(),
        });
    }
    for round in 1..=repeat {
        for subject in &mut subjects {
            restore(subject, round).await?;
        }
    }
    clear(&kubectl)?;
    let times: Vec<_> = subjects
        .into_iter()
        .map(|subject| (subject.size, subject.times))
        .collect();
    marks(&times)
}

/// Takes the namespace away: its backups first, as their snapshots would stay.
fn clear(kubectl: &Kubectl) -> Result<()> {
    if kubectl.get("default", "namespace", NAMESPACE)?.is_none() {
        return Ok(());
    }
    for kind in ["pgrestores.highwater.dev", "pgbackups.highwater.dev"] {
        kubectl.run(&["-n", NAMESPACE, "delete", kind, "--all", "--timeout=600s"])?;
    }
    kubectl.run(&["delete", "namespace", NAMESPACE, "--timeout=300s"])?;
    Ok(())
}

/// A database of that size, protected when it has it, so that the filling's WAL is in no archive; and some commits behind its
/// backup.
async fn filled(deployment: &Deployment, size: Size) -> Result<Database> {
    let name = format!("gb-{}", size.gigabytes());
    println!("filling {name}");
    let database = Database::create(deployment, NAMESPACE, &name, "highwater-btrfs").await?;
    let session = database.connect().await?;
    session
        .batch_execute(
            "CREATE TABLE filler (text text) WITH (autovacuum_enabled = off); \
             ALTER TABLE filler ALTER text SET STORAGE PLAIN",
        )
        .await?;
    let rows = "INSERT INTO filler SELECT repeat('x', 7900) FROM generate_series(1, $1::bigint)";
    let bytes = size.gigabytes() * 1_000_000_000;
    // One page is not enough where the division leaves a rest.
    session.execute(rows, &[&(bytes / PAGE + 1)]).await?;
    session.batch_execute("CHECKPOINT").await?;
    let synced = std::process::Command::new("sync").status()?;
    ensure!(synced.success(), "failed to run sync");
    database.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(&deployment.kubectl, NAMESPACE, &name).await?;
    let writer = Writer::start(&database.address()?).await?;
    story::commits(&writer, COMMITS).await?;
    writer.stop().await?;
    Ok(database)
}

/// To latest, into a StatefulSet, which must have all rows.
async fn restore(subject: &mut Subject, round: u32) -> Result<()> {
    let Database {
        kubectl,
        namespace: _,
        name: source,
    } = &subject.database;
    let (name, into) = (
        format!("{source}-{round}"),
        format!("{source}-copy-{round}"),
    );
    let begin = Instant::now();
    let from = (name.as_str(), source.as_str());
    let restored = story::restore(kubectl, NAMESPACE, from, &into, "{latest: {}}").await?;
    let copy = Database::existing(kubectl, NAMESPACE, &into);
    let session = copy.connect().await?;
    let rows = session
        .query_one("SELECT count(*) FROM ledger", &[])
        .await?;
    let beside = beside_replay(begin, Instant::now(), &restored)?;
    let replay = restored["status"]["progress"]["replaySeconds"].as_f64();
    let replay = replay.context("the restore does not say what its replay took")?;
    println!("{source}, round {round}: {beside:.2} s beside the replay of {replay:.2} s");
    subject.times.beside_replay.push(beside);
    subject.times.replay.push(replay);
    let rows: i64 = rows.get(0);
    ensure!(rows >= COMMITS, "{into} has {rows} rows");
    let bytes = "SELECT pg_relation_size('filler')";
    let bytes: i64 = session.query_one(bytes, &[]).await?.get(0);
    ensure!(
        bytes >= subject.size.gigabytes() * 1_000_000_000,
        "{into} has {bytes} bytes"
    );
    // Others would share the machine with it.
    let (set, claim) = (format!("statefulset/{into}"), format!("pvc/data-{into}-0"));
    for object in [&set, &claim, &format!("service/{into}")] {
        kubectl.run(&["-n", NAMESPACE, "delete", "--ignore-not-found", object])?;
    }
    Ok(())
}

/// Each size's, and how much of the least median the greatest one is.
fn marks(times: &[(Size, Times)]) -> Result<Vec<Mark>> {
    let (mut marks, mut medians) = (Vec::new(), Vec::new());
    for (size, times) in times {
        let (beside_replay, replay) = size.names();
        let figures = &times.beside_replay;
        medians.push(
            median(figures).with_context(|| format!("{beside_replay}: nothing was measured"))?,
        );
        marks.push(Mark::of((beside_replay, "s"), Some(LIMIT), HOW, figures)?);
        marks.push(Mark::of((replay, "s"), None, REPLAY, &times.replay)?);
    }
    let least = medians.iter().copied().min_by(f64::total_cmp);
    let greatest = medians.iter().copied().max_by(f64::total_cmp);
    let (least, greatest) = least.zip(greatest).context("no size was measured")?;
    if times.len() > 1 {
        let name = ("all sizes: greatest by least", "x");
        marks.push(Mark::of(name, Some(TIMES), FLAT, &[greatest / least])?);
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn broken(sizes: &[(Size, &[f64])]) -> Vec<&'static str> {
        let times = sizes.iter().map(|(size, seconds)| {
            let times = Times {
                beside_replay: seconds.to_vec(),
                replay: vec![0.1],
            };
            (*size, times)
        });
        let marks = marks(&times.collect::<Vec<_>>()).unwrap();
        let broken = marks.iter().filter(|mark| !mark.holds);
        broken.map(|mark| mark.name).collect()
    }

    #[test]
    fn a_restore_takes_eight_seconds_beside_its_replay_whatever_the_size() {
        assert!(broken(&[(Size::One, &[8.0, 8.0, 30.0])]).is_empty());
        assert_eq!(broken(&[(Size::One, &[8.1])]), [Size::One.names().0]);
        let flat = broken(&[
            (Size::Three, &[6.0]),
            (Size::One, &[5.0]),
            (Size::Ten, &[6.4]),
        ]);
        assert!(flat.is_empty(), "{flat:?}");
        let steep = broken(&[
            (Size::One, &[5.0]),
            (Size::Three, &[5.0]),
            (Size::Ten, &[6.6]),
        ]);
        assert_eq!(steep, ["all sizes: greatest by least"]);
        assert!(marks(&[(Size::One, Times::default())]).is_err());
    }
}
