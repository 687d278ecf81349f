//! Tells the main story on a cluster: protected, backed up under load, disaster, restored.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, Writer, marks,
    measure::{Job, Watch, beside_replay},
    publish, story,
};
use serde_json::Value;

/// The demo. Run by `make demo`, inside the dev cluster's network.
#[derive(Parser)]
struct Args {}

const NAMESPACE: &str = "demo";

#[tokio::main]
async fn main() -> ExitCode {
    Args::parse();
    match tell().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a step with the seconds since the beginning.
struct Teller(Instant);

impl Teller {
    fn say(&self, text: impl std::fmt::Display) {
        println!("{:6.1} s  {text}", self.0.elapsed().as_secs_f64());
    }
}

async fn tell() -> Result<()> {
    let teller = Teller(Instant::now());
    let kubectl = Kubectl::from_env()?;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])?;
    let images = publish::load(&publish::programs()?.join("highwater"))?;
    teller.say("deploying Highwater from manifests/ and an S3 server");
    let deployment = Deployment::apply(kubectl.clone(), images).await?;
    deployment.namespace(NAMESPACE)?;
    teller.say("starting a PostgreSQL StatefulSet \"orders\" with password authentication");
    let orders = Database::create(&deployment, NAMESPACE, "orders", "highwater-btrfs").await?;
    let address = orders.address()?;
    teller.say("pgbench and a writer of numbered rows begin; every acknowledged row is noted outside the database");
    let pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    let watch = Watch::start(&kubectl, NAMESPACE)?;
    teller.say("kubectl annotate statefulset orders highwater.dev/policy=gold");
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(&kubectl, NAMESPACE, "orders").await?;
    teller.say(backup_summary(&backup));
    let mut job = Job::default();
    job.backups.push(watch.backup(&backup)?);
    story::commits(&writer, 300).await?;
    teller.say(format!(
        "recoverable:\n{}",
        kubectl.run(&["-n", NAMESPACE, "get", "pgx"])?
    ));

    let client = orders.connect().await?;
    let (target, last) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 100).await?;
    let deleted = client.execute("DELETE FROM ledger", &[]).await?;
    teller.say(format!(
        "disaster: DELETE without WHERE, {deleted} rows are gone; {last} were there at {target}"
    ));
    let time = format!("{{time: \"{target}\"}}");
    let begin = Instant::now();
    let restore = story::restore(
        &kubectl,
        NAMESPACE,
        ("before-disaster", "orders"),
        "orders-restored",
        &time,
    )
    .await?;
    teller.say(restore_summary(&restore));
    let restored = Database::existing(&kubectl, NAMESPACE, "orders-restored")
        .connect()
        .await?;
    restored.query("SELECT 1", &[]).await?;
    job.restores
        .push(beside_replay(begin, Instant::now(), &restore)?);
    let found = Ledger::check(&restored, last, last).await?;
    teller.say(format!(
        "compared: rows 1 to {found} are there, every acknowledged one and none committed later"
    ));
    drop(pgbench);
    writer.stop().await?;
    job.note_memory(&kubectl, NAMESPACE)?;
    teller.say(format!("what it reached:\n{}", marks::table(&job.marks()?)));
    Ok(())
}

fn backup_summary(backup: &Value) -> String {
    let session = &backup["status"]["session"];
    format!(
        "backup {} completed under load: checkpoint {} s, then {} s in backup mode",
        backup["metadata"]["name"], session["checkpointSeconds"], session["backupModeSeconds"]
    )
}

fn restore_summary(restore: &Value) -> String {
    let (phases, plan) = (&restore["status"]["phases"], &restore["status"]["plan"]);
    let replay = &restore["status"]["progress"]["replaySeconds"];
    format!(
        "restored {}: {} s in all, {replay} s of them replay",
        plan["summary"], phases["totalSeconds"]
    )
}
