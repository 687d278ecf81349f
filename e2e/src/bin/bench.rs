//! The benchmarks. Run by `scripts/bench`, inside the dev cluster's network.

use std::{
    collections::HashSet,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Writer, condition, marks,
    measure::{self, Job, Watch, beside_replay},
    publish, story, until,
};

/// Measures, prints a table, writes `e2e/bench/results/NAME.json`, and fails if a mark does not hold.
#[derive(Parser)]
struct Args {
    /// The `highwater` to measure.
    #[arg(long)]
    program: PathBuf,
    /// How often.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The main job: backups and restores under load, memory without.
    Job,
}

const NAMESPACE: &str = "bench";
const BACKUP_NOW: &str = "highwater.dev/backup-now";

#[tokio::main]
async fn main() -> ExitCode {
    marks::ending(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<bool> {
    let What::Job = args.what;
    let bytes = std::fs::metadata(&args.program)
        .with_context(|| format!("failed to find {}", args.program.display()))?
        .len();
    let mut marks = job(&args).await?.marks()?;
    // No file is large enough to lose digits.
    #[allow(clippy::cast_precision_loss, reason = "see above")]
    let megabytes = bytes as f64 / 1e6;
    let how = "size of the file";
    marks.push(marks::Mark::of(("binary", "MB"), None, how, &[megabytes])?);
    println!("\n{}", marks::table(&marks));
    let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results/job.json");
    marks::write(&marks, &results)?;
    println!("written to {}", results.display());
    Ok(marks.iter().all(|mark| mark.holds))
}

async fn job(args: &Args) -> Result<Job> {
    let kubectl = Kubectl::from_env()?;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])?;
    let images = publish::load(&args.program)?;
    println!("deploying");
    let deployment = Deployment::apply(kubectl.clone(), images).await?;
    deployment.namespace(NAMESPACE)?;
    let orders = Database::create(&deployment, NAMESPACE, "orders", "highwater-btrfs").await?;
    let address = orders.address()?;
    let mut pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    let watch = Watch::start(&kubectl, NAMESPACE)?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(&kubectl, NAMESPACE, "orders").await?;
    let mut job = Job::default();
    for number in 1..=args.repeat {
        backup(&orders, &watch, number, &mut job).await?;
    }
    for number in 1..=args.repeat {
        restore(&orders, number, &mut job).await?;
    }
    story::still_loads(&mut pgbench)?;
    drop(pgbench);
    writer.stop().await?;
    memory(&orders, args.repeat, &mut job).await?;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    Ok(job)
}

async fn backup(orders: &Database, watch: &Watch, number: u32, job: &mut Job) -> Result<()> {
    let kubectl = &orders.kubectl;
    let names = || -> Result<HashSet<String>> {
        let backups = kubectl.list(NAMESPACE, "pgb")?;
        let name =
            |backup: &serde_json::Value| Some(backup["metadata"]["name"].as_str()?.to_owned());
        Ok(backups.iter().filter_map(name).collect())
    };
    let before = names()?;
    orders.annotate(BACKUP_NOW, &number.to_string())?;
    let name = until("a backup", story::LIMIT, || {
        Ok(names()?.difference(&before).next().cloned())
    })
    .await?;
    let completed = ("Completed", "True");
    let object = ("pgb", name.as_str());
    let backup = condition(kubectl, NAMESPACE, object, completed, story::LIMIT).await?;
    let times = watch.backup(&backup).await?;
    println!(
        "backup {number}: cut {:.2} s, {:.2} s beside it in backup mode, {:.2} s beside the checkpoint",
        times.cut, times.beside_cut, times.beside_checkpoint
    );
    job.backups.push(times);
    Ok(())
}

async fn restore(orders: &Database, number: u32, job: &mut Job) -> Result<()> {
    let kubectl = &orders.kubectl;
    let (name, into) = (format!("latest-{number}"), format!("orders-{number}"));
    let begin = Instant::now();
    let from = (name.as_str(), "orders");
    let restore = story::restore(kubectl, NAMESPACE, from, &into, "{latest: {}}").await?;
    let restored = Database::existing(kubectl, NAMESPACE, &into);
    restored.connect().await?.query("SELECT 1", &[]).await?;
    let seconds = beside_replay(begin, Instant::now(), &restore)?;
    println!("restore {number}: {seconds:.2} s beside the replay");
    job.restores.push(seconds);
    // Others would share the machine with it.
    let (set, claim) = (format!("statefulset/{into}"), format!("pvc/data-{into}-0"));
    let gone = [&set, &claim, &format!("service/{into}")];
    for object in gone {
        kubectl.run(&["-n", NAMESPACE, "delete", "--ignore-not-found", object])?;
    }
    Ok(())
}

/// Samples, a second apart, of programs that have nothing to do.
async fn memory(orders: &Database, samples: u32, job: &mut Job) -> Result<()> {
    measure::idle(&orders.connect().await?).await?;
    for _ in 0..samples {
        tokio::time::sleep(Duration::from_secs(1)).await;
        job.note_memory(&orders.kubectl, NAMESPACE)?;
    }
    Ok(())
}
