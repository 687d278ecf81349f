//! Each completed backup is restored beside the database and compared with the ledger, row by row, and by pg_amcheck.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Ledger, condition, integrity, story, until_async};
use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc::UnboundedReceiver};
use tokio_postgres::Client;

use super::{
    Run,
    backups::{Job, Point},
    sets::Set,
};

/// The longest that a restore may take, killed recoveries and outages included.
const LIMIT: Duration = Duration::from_secs(1200);
/// How long a restored database may take to answer.
const ANSWERS: Duration = Duration::from_secs(120);

/// Restores until there are no more jobs.
pub async fn lane(run: &Run, jobs: &Mutex<UnboundedReceiver<Job>>) {
    loop {
        let job = jobs.lock().await.recv().await;
        let Some(job) = job else { return };
        if let Err(error) = one(run, &job).await {
            run.complain(format!("restore of {}: {error:#}", job.backup));
        }
    }
}

async fn one(run: &Run, job: &Job) -> Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let (kubectl, namespace) = (&run.kubectl, run.namespace.as_str());
    let name = format!("restored-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let target = target(run, &job.set, job.point.as_ref()).await?;
    let source = format!("{{backup: {}}}", job.backup);
    story::request_restore(kubectl, namespace, (&name, &source), &name, &target)?;
    let (restore, completed) = (("pgr", name.as_str()), ("Completed", "True"));
    condition(kubectl, namespace, restore, completed, LIMIT).await?;
    let ledger = &job.set.load.ledger;
    let (owed, sent) = match &job.point {
        Some(point) => (point.owed, point.sent),
        None => (job.owed, ledger.sent()),
    };
    let clone = Database::existing(kubectl, namespace, &name);
    let client = reach(&clone).await?;
    run.figures().lost += Ledger::missing(&client, owed).await?;
    let found = Ledger::check(&client, owed, sent).await?;
    integrity::amcheck(&clone).await?;
    run.figures().restores += 1;
    let backup = &job.backup;
    run.tell(&format!(
        "restored {backup} to {target}: rows 1 to {found}, {owed} are owed"
    ));
    forget(run, &name)?;
    verified(run, job)
}

/// As the restore names it. A time is waited for: its WAL may not be in the archive yet.
async fn target(run: &Run, set: &Set, point: Option<&Point>) -> Result<String> {
    let Some(point) = point else {
        return Ok("{latest: {}}".to_owned());
    };
    let name = &set.database.name;
    let begin = Instant::now();
    loop {
        let protection = run.kubectl.get(&run.namespace, "pgx", name)?;
        let protection = protection.context("there is no protection")?;
        let to = protection["status"]["recoverable"]["to"].as_str();
        let to: Option<Timestamp> = to.and_then(|to| to.parse().ok());
        if to.is_some_and(|to| to >= point.time) {
            let time = point.time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ");
            return Ok(format!("{{time: \"{time}\"}}"));
        }
        let in_time = begin.elapsed() < LIMIT;
        ensure!(in_time, "{} is never recoverable: {to:?}", point.time);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A session with a restored database, which waits for no standby: it has none.
async fn reach(clone: &Database) -> Result<Client> {
    let begin = Instant::now();
    let client = loop {
        match clone.connect().await {
            Ok(client) => break client,
            Err(error) if begin.elapsed() > ANSWERS => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    };
    let alone = "ALTER SYSTEM SET synchronous_standby_names = ''";
    client.batch_execute(alone).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    let waits = "SELECT current_setting('synchronous_standby_names') = ''";
    until_async("the reload", &client, waits).await?;
    Ok(client)
}

/// Takes a restored database away: others would share the machine with it.
fn forget(run: &Run, name: &str) -> Result<()> {
    let claims = ["data", "wal", "fast"].map(|claim| format!("pvc/{claim}-{name}-0"));
    let [set, service, restore] =
        ["statefulset", "service", "pgr"].map(|kind| format!("{kind}/{name}"));
    let mut args = vec!["-n", &run.namespace, "delete", "--ignore-not-found"];
    args.extend(["--wait=false", &restore, &set, &service]);
    args.extend(claims.iter().map(String::as_str));
    run.kubectl.run(&args).map(drop)
}

/// Its backup has proved itself; those before it are deleted, so that the storage's space lasts.
fn verified(run: &Run, job: &Job) -> Result<()> {
    let verified = &job.set.verified;
    let mut verified = verified.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::mem::replace(&mut *verified, vec![job.backup.clone()]);
    drop(verified);
    for backup in before {
        let delete = ["delete", "pgb", &backup, "--wait=false"];
        run.kubectl
            .run(&[&["-n", run.namespace.as_str()], &delete[..]].concat())?;
    }
    Ok(())
}
