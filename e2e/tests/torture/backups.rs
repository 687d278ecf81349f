//! A backup of each database a minute, asked for when the last one has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use highwater::clock::{Clock, SystemClock};
use highwater_e2e::harness::{Watching, has, random::Random, said};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::{Run, sets::Set};

/// The longest that one may take to complete or fail: its deadline, and an agent that is killed again and again.
const LIMIT: Duration = Duration::from_secs(1500);

/// A completed backup that is to be restored.
pub struct Job {
    pub set: Arc<Set>,
    pub backup: String,
    /// The last row that was acknowledged before it was asked for.
    pub owed: i64,
    /// Where to restore to; none: as far as the archive goes.
    pub point: Option<Point>,
}

/// A time between two commits.
pub struct Point {
    pub time: Timestamp,
    pub owed: i64,
    pub sent: i64,
}

/// The backup that a protection begins with.
pub async fn first(run: &Run, set: &Arc<Set>) -> Result<Job> {
    let backups = run.kubectl.list(&run.namespace, "pgb")?;
    let name = &set.database.name;
    let its = |backup: &&Value| backup["spec"]["protection"] == **name;
    let first = backups.iter().find(its).context("there is no backup")?;
    count(run, first);
    job(set, text(first)?, 0, true).await
}

/// Backups that the controller takes by itself: where WAL was missing.
pub async fn others(run: &Run, sets: &[Arc<Set>]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for backup in run.kubectl.list(&run.namespace, "pgb")? {
        let protection = &backup["spec"]["protection"];
        let set = sets.iter().find(|set| *protection == *set.database.name);
        if backup["spec"]["reason"] == "Gap" && has(&backup, "Completed", "True") {
            let set = set.context("a backup of nobody")?;
            run.tell(&format!("{} was taken for a gap", text(&backup)?));
            count(run, &backup);
            jobs.push(job(set, text(&backup)?, 0, true).await?);
        }
    }
    Ok(jobs)
}

/// Takes backups until the time is over; each that completed is a job.
pub async fn take(run: &Run, set: &Arc<Set>, seed: u64, jobs: &UnboundedSender<Job>) {
    let period = Duration::from_secs(if run.is_long() { 60 } else { 20 });
    let mut random = Random::new(seed);
    for number in 1_u32.. {
        let Some(left) = run.left() else { return };
        let next = Instant::now() + period.min(left);
        let name = format!("{}-t{number}", set.database.name);
        let owed = set.load.ledger.acknowledged();
        match one(run, set, &name).await {
            Ok(Some(backup)) => {
                count(run, &backup);
                let exact = random.below(2) == 0;
                match job(set, &name, owed, exact).await {
                    Ok(job) => drop(jobs.send(job)),
                    Err(error) => run.complain(format!("{error:#}")),
                }
            }
            Ok(None) => run.figures().failed += 1,
            Err(error) => run.complain(format!("backup {name}: {error:#}")),
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

/// This backup completed.
fn count(run: &Run, backup: &Value) {
    let mut figures = run.figures();
    figures.backups += 1;
    figures.of_standby += u32::from(!backup["status"]["attempt"]["standby"].is_null());
}

/// One backup to its end: itself, if it completed.
async fn one(run: &Run, set: &Set, name: &str) -> Result<Option<Value>> {
    let (namespace, protection) = (&run.namespace, &set.database.name);
    run.kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgBackup\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{protection: {protection}}}\n"
    ))?;
    let ended = |it: &Value| has(it, "Completed", "True") || has(it, "Completed", "False");
    let ended = Watching::one(&run.kubectl, namespace, "pgb", name)?
        .wait("its end", LIMIT, ended)
        .await?;
    let completed = has(&ended, "Completed", "True");
    if !completed {
        let why = said(&ended, "Completed").context("no Completed")?;
        let (reason, message) = (&why["reason"], &why["message"]);
        run.tell(&format!("{name} failed: {reason} {message}"));
    }
    Ok(completed.then_some(ended))
}

async fn job(set: &Arc<Set>, backup: &str, owed: i64, exact: bool) -> Result<Job> {
    let ledger = &set.load.ledger;
    let point = async || Point {
        time: SystemClock.now(),
        owed: ledger.acknowledged(),
        sent: ledger.sent(),
    };
    let point = match exact {
        true => Some(ledger.between_commits(point).await),
        false => None,
    };
    Ok(Job {
        set: Arc::clone(set),
        backup: backup.to_owned(),
        owed,
        point,
    })
}

fn text(backup: &Value) -> Result<&str> {
    let name = backup["metadata"]["name"].as_str();
    name.context("a backup has no name")
}
