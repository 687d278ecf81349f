//! What a backup costs the database: load at half of its maximum rate without one, in backup mode, and while the checkpoint
//! is made that backup mode begins with; who begins changes from round to round.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater::api::PgBackup;
use highwater_e2e::{
    bench::{
        pgbench::{self, Load},
        verdict::{interval, median},
    },
    harness::{
        Faults,
        marks::Mark,
        measure::{self, Watch},
        story,
    },
};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    ours,
    place::{Place, Shape, Subject, protect},
};

/// Of the maximum.
const PART: f64 = 0.5;
/// For the maximum.
const MOST: Duration = Duration::from_secs(20);
/// pgbench's.
const SCALE: &str = "10";
const CLIENTS: &str = "8";
const THREADS: &str = "2";
/// From backup mode to the load, at most: a cut that comes within the load is none of backup mode alone.
const BEGINS: Duration = Duration::from_secs(8);
/// How much of throughput may be lost, and how much longer 95 of 100 transactions may take.
const LOST: f64 = 1.0 / 0.97;
const LONGER: f64 = 1.03;
/// What would fall into some of the runs.
const SETTINGS: [&str; 4] = [
    "ALTER SYSTEM SET autovacuum = off",
    "ALTER SYSTEM SET checkpoint_timeout = '1h'",
    "ALTER SYSTEM SET max_wal_size = '2GB'",
    "SELECT pg_reload_conf()",
];

/// Beside what the load runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Without,
    /// Backup mode, from before to after it.
    BackupMode,
    /// In its middle a backup begins, with `checkpoint: fast`.
    Fast,
    /// The same with `checkpoint: spread`.
    Spread,
}

/// What is judged.
const JUDGED: [Way; 2] = [Way::Without, Way::BackupMode];
/// With what is only told: a checkpoint that is spread takes minutes.
const ALL: [Way; 4] = [Way::Without, Way::BackupMode, Way::Fast, Way::Spread];
/// In so many rounds.
const TOLD: u32 = 2;

/// One minute of load.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    way: Way,
    load: Load,
    /// Seconds of the checkpoint of the backup that began meanwhile.
    checkpoint: Option<f64>,
}

/// The ways of a round; who begins changes from round to round.
fn ways(round: u32) -> Vec<Way> {
    let mut ways = match round {
        ..=TOLD => ALL.to_vec(),
        _ => JUDGED.to_vec(),
    };
    let by = usize::try_from(round).unwrap_or_default() % ways.len();
    ways.rotate_left(by);
    ways
}

/// Each way of a round once.
pub async fn measure(place: &Place, rounds: u32, each: Duration) -> Result<Vec<Vec<Run>>> {
    let (namespace, watch) = place.empty("cost")?;
    let site = Site::prepare(place, &namespace, &watch).await?;
    let most = site.load(MOST, None).await?;
    let rate = most.rate * PART;
    println!("at most {:.0} transactions/s; at {rate:.0}", most.rate);
    let mut all = Vec::new();
    for round in 1..=rounds {
        let mut runs = Vec::new();
        for way in ways(round) {
            let run = site.run(way, round, (each, rate)).await;
            let run = run.with_context(|| format!("round {round}, {way:?}"))?;
            let Load {
                rate,
                p95_milliseconds,
            } = run.load;
            println!(
                "round {round}: {way:?} {rate:.1} transactions/s, p95 {p95_milliseconds:.2} ms"
            );
            runs.push(run);
        }
        all.push(runs);
    }
    place.clear(&namespace)?;
    Ok(all)
}

/// A database under load.
struct Site<'a> {
    place: &'a Place,
    subject: Subject,
    session: Client,
}

impl<'a> Site<'a> {
    async fn prepare(place: &'a Place, namespace: &str, watch: &Watch) -> Result<Self> {
        let subject = place.database(namespace, "orders", &Shape::one()).await?;
        let session = subject.database.connect().await?;
        for setting in SETTINGS {
            session.batch_execute(setting).await?;
        }
        let long = json!({"spec": {"deadlines": {"cut": "10m", "backupMode": "10m"}}});
        let kubectl = &subject.database.kubectl;
        kubectl.patch(namespace, ("pgp", "gold"), &long)?;
        let site = Self {
            place,
            subject,
            session,
        };
        site.pgbench(&["-i", "-q", "-s", SCALE]).await?;
        protect(std::slice::from_ref(&site.subject), watch).await?;
        Ok(site)
    }

    async fn run(&self, way: Way, round: u32, (each, rate): (Duration, f64)) -> Result<Run> {
        measure::idle(&self.session).await?;
        self.checkpoints(way)?;
        let name = format!("{way:?}-{round}").to_lowercase();
        let load = self.load(each, Some(rate));
        let (load, backup) = match way {
            Way::Without => (self.after_checkpoint(load).await?, None),
            Way::BackupMode => {
                let (load, backup) = self.in_backup_mode(&name, each, load).await?;
                (load, Some(backup))
            }
            Way::Fast | Way::Spread => {
                let ask = async {
                    // The half of a run is what a checkpoint finds to write.
                    tokio::time::sleep(each / 2).await;
                    ours::ask(&self.place.client, &self.subject, &name).await
                };
                let (load, ()) = tokio::try_join!(self.after_checkpoint(load), ask)?;
                (load, Some(self.completed(&name).await?))
            }
        };
        let session = backup.as_ref().map(|backup| &backup["status"]["session"]);
        let checkpoint = session.and_then(|session| session["checkpointSeconds"].as_f64());
        if backup.is_some() {
            // Blocks that it shares are written elsewhere: no run is to have more of them than another.
            let backups = ours::backups(&self.place.client, &self.subject);
            let full = ours::full(&self.subject, &name);
            backups.delete(&full, &DeleteParams::default()).await?;
        }
        Ok(Run {
            way,
            load,
            checkpoint: checkpoint.filter(|_| way != Way::BackupMode),
        })
    }

    /// As every run begins with one: else checkpoints would fall into some of them.
    async fn after_checkpoint(&self, load: impl Future<Output = Result<Load>>) -> Result<Load> {
        self.session.batch_execute("CHECKPOINT").await?;
        load.await
    }

    /// What the policy says of checkpoints.
    fn checkpoints(&self, way: Way) -> Result<()> {
        let checkpoint = match way {
            Way::Spread => "spread",
            Way::Without | Way::BackupMode | Way::Fast => "fast",
        };
        let policy = json!({"spec": {"checkpoint": checkpoint}});
        let database = &self.subject.database;
        let about = ("pgp", "gold");
        database
            .kubectl
            .patch(&database.namespace, about, &policy)?;
        Ok(())
    }

    /// The cut comes when the load is over.
    async fn in_backup_mode(
        &self,
        name: &str,
        each: Duration,
        load: impl Future<Output = Result<Load>>,
    ) -> Result<(Load, Value)> {
        let claim = self.subject.claims.first().context("no claim")?;
        let volume = format!("{}/{claim}", self.subject.database.namespace);
        let milliseconds = (each + BEGINS).as_millis();
        let milliseconds = u64::try_from(milliseconds)?;
        let later = Faults::set(&json!({"volume": volume, "delayBeforeCut": milliseconds}))?;
        ours::ask(&self.place.client, &self.subject, name).await?;
        ours::begun(&self.place.client, &self.subject, name).await?;
        let load = load.await?;
        let there = self.backup(name).await?;
        ensure!(
            there["status"]["session"]["stopLsn"].is_null(),
            "it was cut under load"
        );
        drop(later);
        Ok((load, self.completed(name).await?))
    }

    async fn backup(&self, name: &str) -> Result<Value> {
        let backups = ours::backups(&self.place.client, &self.subject);
        let backup: PgBackup = backups.get(&ours::full(&self.subject, name)).await?;
        Ok(serde_json::to_value(backup)?)
    }

    async fn completed(&self, name: &str) -> Result<Value> {
        ours::completed(&self.place.client, &self.subject, name).await
    }

    async fn load(&self, each: Duration, rate: Option<f64>) -> Result<Load> {
        let logs = tempfile::tempdir()?;
        let (seconds, prefix) = (
            each.as_secs().to_string(),
            format!("--log-prefix={}/log", logs.path().display()),
        );
        let mut arguments = vec!["-T", &seconds, "-c", CLIENTS, "-j", THREADS, "-l", &prefix];
        let rate = rate.map(|rate| format!("--rate={rate:.3}"));
        arguments.extend(rate.as_deref());
        let said = self.pgbench(&arguments).await?;
        pgbench::read(&said, logs.path())
    }

    async fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let address = self.subject.database.address()?;
        let ended = story::pgbench(&address, arguments).output().await;
        let ended = ended.context("failed to run pgbench")?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "pgbench failed: {said}");
        Ok(String::from_utf8(ended.stdout)?)
    }
}

/// Each way beside the run without of the same round. Pure.
///
/// # Errors
/// Nothing was measured.
pub fn marks(rounds: &[Vec<Run>]) -> Result<Vec<Mark>> {
    let rate = |run: &Run| run.load.rate;
    let p95 = |run: &Run| run.load.p95_milliseconds;
    let lost: Vec<f64> = ratios(rounds, Way::BackupMode, rate)
        .into_iter()
        .map(f64::recip)
        .collect();
    let longer = |way| ratios(rounds, way, p95);
    let seconds = |way| -> Vec<f64> {
        let runs = rounds.iter().flatten().filter(|run| run.way == way);
        runs.filter_map(|run| run.checkpoint).collect()
    };
    let how = "transactions/s without, by that in backup mode in the same round; half of the maximum is asked for";
    let p95_how = "what 95 of 100 transactions take at most, by that without in the same round";
    let begin =
        "the same in a run in the middle of which a backup begins: all of it, the checkpoint first";
    let checkpoint = "status.session.checkpointSeconds of that backup";
    let mut marks = Vec::new();
    for (name, limit, how, samples) in [
        (
            ("backup mode: throughput without, by with", "x"),
            Some(LOST),
            how,
            lost,
        ),
        (
            ("backup mode: p95 to without", "x"),
            Some(LONGER),
            p95_how,
            longer(Way::BackupMode),
        ),
        (
            ("checkpoint: fast, p95 to without", "x"),
            None,
            begin,
            longer(Way::Fast),
        ),
        (
            ("checkpoint: spread, p95 to without", "x"),
            None,
            begin,
            longer(Way::Spread),
        ),
        (
            ("checkpoint: fast", "s"),
            None,
            checkpoint,
            seconds(Way::Fast),
        ),
        (
            ("checkpoint: spread", "s"),
            None,
            checkpoint,
            seconds(Way::Spread),
        ),
    ] {
        if let Some([least, most]) = interval(&samples).filter(|_| name.1 == "x") {
            let middle = median(&samples).unwrap_or(f64::NAN);
            println!(
                "{}: {middle:.3}, 95 in 100 between {least:.3} and {most:.3}",
                name.0
            );
        }
        marks.push(Mark::of(name, limit, how, &samples)?);
    }
    Ok(marks)
}

fn ratios(rounds: &[Vec<Run>], way: Way, figure: fn(&Run) -> f64) -> Vec<f64> {
    let of = |runs: &Vec<Run>, way| runs.iter().find(|run| run.way == way).map(figure);
    let pairs = rounds
        .iter()
        .filter_map(|runs| of(runs, way).zip(of(runs, Way::Without)));
    pairs.map(|(with, without)| with / without).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn each_round_has_what_is_judged_and_the_first_have_all() {
        for round in 1..=6 {
            let ways = ways(round);
            for way in ALL {
                let wanted = round <= TOLD || JUDGED.contains(&way);
                let count = ways.iter().filter(|it| **it == way).count();
                assert_eq!(count, usize::from(wanted), "round {round}: {way:?}");
            }
        }
        assert_ne!(ways(3)[0], ways(4)[0]);
    }

    #[test]
    fn backup_mode_is_judged_by_its_round_and_the_checkpoint_is_told_apart() {
        let run = |way, rate, p95_milliseconds| Run {
            way,
            load: Load {
                rate,
                p95_milliseconds,
            },
            checkpoint: [Way::Fast, Way::Spread].contains(&way).then_some(1.0),
        };
        let round = |rate, p95| {
            vec![
                run(Way::Without, 100.0, 10.0),
                run(Way::BackupMode, rate, p95),
                run(Way::Fast, 50.0, 90.0),
                run(Way::Spread, 100.0, 20.0),
            ]
        };
        let broken = |rate, p95| -> Vec<&'static str> {
            let marks = marks(&[round(rate, p95), round(rate, p95)]).unwrap();
            let broken = marks.iter().filter(|mark| !mark.holds);
            broken.map(|mark| mark.name).collect()
        };
        assert!(broken(98.0, 10.2).is_empty());
        let (throughput, latency) = (
            "backup mode: throughput without, by with",
            "backup mode: p95 to without",
        );
        assert_eq!(broken(96.0, 10.2), [throughput]);
        assert_eq!(broken(98.0, 10.4), [latency]);
        assert!(marks(&[]).is_err());
    }
}
