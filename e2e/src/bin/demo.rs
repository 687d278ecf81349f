//! Tells the main story on a cluster: protected, backed up under load, disaster, restored.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use highwater_e2e::harness::{
    Database, Deployment, Images, Kubectl, Ledger, Writer, program_image, story,
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
    load_image()?;
    teller.say("deploying Highwater from manifests/ and an S3 server");
    let deployment = Deployment::apply(kubectl.clone(), Images::loaded()).await?;
    deployment.namespace(NAMESPACE)?;
    teller.say("starting a PostgreSQL StatefulSet \"orders\" with password authentication");
    let orders = Database::create(&deployment, NAMESPACE, "orders", "highwater-btrfs").await?;
    let address = orders.address()?;
    teller.say("pgbench and a writer of numbered rows begin; every acknowledged row is noted outside the database");
    let pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    teller.say("kubectl annotate statefulset orders highwater.dev/policy=gold");
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(&kubectl, NAMESPACE, "orders").await?;
    teller.say(backup_summary(&backup));
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
    let found = Ledger::check(&restored, last, last).await?;
    teller.say(format!(
        "compared: rows 1 to {found} are there, every acknowledged one and none committed later"
    ));
    drop(pgbench);
    writer.stop().await?;
    Ok(())
}

fn load_image() -> Result<()> {
    let programs = std::env::current_exe()?
        .parent()
        .map(PathBuf::from)
        .context("the demo has no folder")?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("highwater.tar");
    program_image(
        &programs.join("highwater"),
        "localhost/highwater:dev",
        &image,
    )?;
    let devcluster =
        std::env::var_os("HIGHWATER_DEVCLUSTER").context("run this with `make demo`")?;
    let loaded = std::process::Command::new(devcluster)
        .arg("load-image")
        .arg(&image)
        .status()?;
    ensure!(loaded.success(), "failed to load the image");
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
