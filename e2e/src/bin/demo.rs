//! Tells the main story on a cluster: protected, backed up under load, disaster, restored.

use std::{collections::HashSet, path::Path, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use highwater_e2e::harness::{
    Database, Deployment, Forward, Kubectl, Ledger, Watching, Writer, connect, marks,
    measure::{self, Job, Watch, beside_replay},
    own_cluster::{self, Refusal},
    publish, story,
};
use serde_json::{Value, json};

/// The demo. Run by `make demo`: inside the dev cluster's network, or on the cluster that `KUBECONFIG` names.
#[derive(Parser)]
struct Args {
    /// A cluster of the user's, which pulls its images from here.
    #[arg(long)]
    registry: Option<String>,
    /// Remove the demo from a cluster of the user's.
    #[arg(long, conflicts_with = "registry")]
    remove: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            match error.is::<Refusal>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let teller = Teller(Instant::now());
    let kubectl = Kubectl::from_env()?;
    if args.remove {
        return own_cluster::remove(&kubectl).await;
    }
    let stage = match args.registry {
        None => Stage::dev(&teller, kubectl).await?,
        Some(registry) => Stage::own(&teller, kubectl, &registry).await?,
    };
    tell(&teller, &stage).await
}

/// Where the story plays.
struct Stage {
    deployment: Deployment,
    namespace: &'static str,
    storage_class: String,
    /// Whether pods are reached by their addresses.
    inside: bool,
}

impl Stage {
    async fn dev(teller: &Teller, kubectl: Kubectl) -> Result<Self> {
        let namespace = "demo";
        kubectl.run(&["delete", "namespace", namespace, "--ignore-not-found"])?;
        let images = publish::load(&publish::programs()?.join("highwater"))?;
        teller.say("deploying Highwater from manifests/ and an S3 server");
        let deployment = Deployment::apply(kubectl, images).await?;
        deployment.namespace(namespace)?;
        Ok(Self {
            deployment,
            namespace,
            storage_class: "highwater-btrfs".into(),
            inside: true,
        })
    }

    async fn own(teller: &Teller, kubectl: Kubectl, registry: &str) -> Result<Self> {
        let classes = own_cluster::check(&kubectl)?;
        let (storage, snapshot) = (&classes.storage, &classes.snapshot);
        teller.say(format!(
            "StorageClass {storage}, VolumeSnapshotClass {snapshot}; pushing images to {registry}"
        ));
        let toolchain = Path::new(env!("CARGO_MANIFEST_DIR")).join("devcluster/.cache");
        let program = publish::programs()?.join("highwater");
        let images = publish::push(&program, &toolchain, registry)?;
        teller.say("deploying Highwater from manifests/ and an S3 server");
        own_cluster::claim(&kubectl)?;
        let namespace = own_cluster::NAMESPACE;
        let deployment = Deployment::apply_with_store(kubectl, images, own_cluster::STORE).await?;
        deployment.namespace(namespace)?;
        let class = json!({"spec": {"snapshot": {"className": snapshot}}});
        let policy = ("pgbackuppolicy", "gold");
        deployment.kubectl.patch(namespace, policy, &class)?;
        Ok(Self {
            deployment,
            namespace,
            storage_class: classes.storage,
            inside: false,
        })
    }

    /// How a database is reached, and what must live on meanwhile.
    async fn reach(&self, database: &Database) -> Result<(String, Option<Forward>)> {
        if self.inside {
            return Ok((database.address()?, None));
        }
        let pod = format!("{}-0", database.name);
        let kubectl = &self.deployment.kubectl;
        let forward = Forward::start(kubectl, self.namespace, &pod, 5432).await?;
        Ok((forward.address.clone(), Some(forward)))
    }
}

/// Prints a step with the seconds since the beginning.
struct Teller(Instant);

impl Teller {
    fn say(&self, text: impl std::fmt::Display) {
        println!("{:6.1} s  {text}", self.0.elapsed().as_secs_f64());
    }
}

async fn tell(teller: &Teller, stage: &Stage) -> Result<()> {
    let (deployment, namespace) = (&stage.deployment, stage.namespace);
    let kubectl = &deployment.kubectl;
    teller.say("starting a PostgreSQL StatefulSet \"orders\" with password authentication");
    let class = &stage.storage_class;
    let orders = Database::create(deployment, namespace, "orders", class).await?;
    let (address, _forward) = stage.reach(&orders).await?;
    teller.say("pgbench and a writer of numbered rows begin; every acknowledged row is noted outside the database");
    let mut pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    let watch = Watch::start(kubectl, namespace)?;
    let _steps = steps(teller, kubectl, namespace)?;
    teller.say("kubectl annotate statefulset orders highwater.dev/policy=gold");
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    teller.say(backup_summary(&backup));
    let mut job = Job::default();
    job.backups.push(watch.backup(&backup).await?);
    story::commits(&writer, 300).await?;
    teller.say(format!(
        "recoverable:\n{}",
        kubectl.run(&["-n", namespace, "get", "pgx"])?
    ));

    let client = connect(&address).await?;
    let (target, last) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 100).await?;
    let deleted = client.execute("DELETE FROM ledger", &[]).await?;
    teller.say(format!(
        "disaster: DELETE without WHERE, {deleted} rows are gone; {last} were there at {target}"
    ));
    let time = format!("{{time: \"{target}\"}}");
    let begin = Instant::now();
    let restore = story::restore(
        kubectl,
        namespace,
        ("before-disaster", "orders"),
        "orders-restored",
        &time,
    )
    .await?;
    teller.say(restore_summary(&restore));
    let restored = Database::existing(kubectl, namespace, "orders-restored");
    let (address, _restored) = stage.reach(&restored).await?;
    let restored = connect(&address).await?;
    restored.query("SELECT 1", &[]).await?;
    job.restores
        .push(beside_replay(begin, Instant::now(), &restore)?);
    let found = Ledger::check(&restored, last, last).await?;
    teller.say(format!(
        "compared: rows 1 to {found} are there, every acknowledged one and none committed later"
    ));
    story::still_loads(&mut pgbench)?;
    drop(pgbench);
    writer.stop().await?;
    teller.say("nobody writes any more; memory is measured when the database is idle, in half a minute or two");
    measure::idle(&client).await?;
    job.note_memory(kubectl, namespace)?;
    teller.say(format!(
        "what it reached (this is the development build; make bench-job measures the program as it ships, and its memory):\n{}",
        marks::table(&job.marks()?)
    ));
    Ok(())
}

/// Tells each condition of a backup or restore as it comes true, and how far a replay is.
fn steps(teller: &Teller, kubectl: &Kubectl, namespace: &str) -> Result<[Watching; 2]> {
    let begin = teller.0;
    let tell = move |kind: &'static str| {
        let mut told = HashSet::new();
        move |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let conditions = object["status"]["conditions"].as_array();
            let holding = conditions
                .into_iter()
                .flatten()
                .filter(|condition| condition["status"] == "True");
            for condition in holding {
                let type_ = condition["type"].as_str().unwrap_or_default();
                if told.insert(format!("{name} {type_}")) {
                    let message = condition["message"].as_str().unwrap_or_default();
                    Teller(begin).say(format!("  {kind} {name}: {type_}: {message}"));
                }
            }
        }
    };
    let watch = |kind: &str, tell| Watching::telling(kubectl, namespace, &[kind], tell);
    Ok([
        watch("pgb", tell("backup"))?,
        watch("pgr", tell("restore"))?,
    ])
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
    let seconds = |value: &Value| value.as_f64().unwrap_or_default();
    format!(
        "restored {}: {:.1} s in all, {:.1} s of them replay",
        plan["summary"].as_str().unwrap_or_default(),
        seconds(&phases["totalSeconds"]),
        seconds(&restore["status"]["progress"]["replaySeconds"])
    )
}
