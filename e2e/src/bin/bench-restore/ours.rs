//! From the PgRestore to the first query.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, bucket, measure::beside_replay, publish, story,
};
use serde::Serialize;

use crate::content::{self, Size};

const NAMESPACE: &str = "bench-restore";

/// Highwater on the dev cluster, with nothing of an earlier run.
pub struct Place {
    deployment: Deployment,
}

/// Seconds that a restore took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Time {
    /// From the PgRestore to the first query, without the replay.
    pub beside_replay: f64,
    /// From PostgreSQL's start in recovery to its promotion.
    pub replay: f64,
}

impl Time {
    /// From the PgRestore to the first query.
    pub fn total(&self) -> f64 {
        self.beside_replay + self.replay
    }
}

impl Place {
    /// Deploys this program.
    pub async fn new(program: &Path) -> Result<Self> {
        let kubectl = Kubectl::from_env()?;
        clear(&kubectl)?;
        let images = publish::load(program)?;
        println!("deploying");
        let deployment = Deployment::apply(kubectl, images).await?;
        deployment.namespace(NAMESPACE)?;
        Ok(Self { deployment })
    }

    /// Where the object store answers.
    pub fn endpoint(&self) -> String {
        format!("http://{}:7070", self.deployment.object_store)
    }

    /// Removes what lies in the bucket below this folder.
    pub fn remove_objects(&self, folder: &str) -> Result<()> {
        let bucket = bucket::folder(&self.deployment.kubectl)?;
        highwater_e2e::bench::scratch::remove(&bucket.join(folder))
    }

    /// A database of that size, protected when it has it, so that the filling's WAL is in no archive; and some commits behind
    /// its backup.
    pub async fn filled(&self, size: Size) -> Result<Database> {
        let name = format!("gb-{}", size.gigabytes());
        println!("filling {name}");
        let class = "highwater-btrfs";
        let database = Database::create(&self.deployment, NAMESPACE, &name, class).await?;
        let address = database.address()?;
        content::fill(&address, size).await?;
        database.annotate("highwater.dev/policy", "gold")?;
        story::first_backup(&self.deployment.kubectl, NAMESPACE, &name).await?;
        content::commit(&address).await?;
        Ok(database)
    }

    /// Leaves nothing behind.
    pub fn clear(&self) -> Result<()> {
        clear(&self.deployment.kubectl)
    }
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

/// To latest, into a StatefulSet, which must have all rows.
pub async fn restore(database: &Database, size: Size, round: u32) -> Result<Time> {
    let (kubectl, source) = (&database.kubectl, database.name.as_str());
    let name = format!("{source}-{round}");
    let into = format!("{source}-copy-{round}");
    content::sync()?;
    let begin = Instant::now();
    let from = (name.as_str(), source);
    let restored = story::restore(kubectl, NAMESPACE, from, &into, "{latest: {}}").await?;
    let copy = Database::existing(kubectl, NAMESPACE, &into);
    let session = copy.connect().await?;
    let commits = content::first_query(&session).await?;
    let beside_replay = beside_replay(begin, Instant::now(), &restored)?;
    let replay = restored["status"]["progress"]["replaySeconds"].as_f64();
    let time = Time {
        beside_replay,
        replay: replay.context("the restore does not say what its replay took")?,
    };
    let Time {
        beside_replay,
        replay,
    } = time;
    println!("{source}, round {round}: {beside_replay:.2} s beside the replay of {replay:.2} s");
    content::check(&session, size, commits).await?;
    // Others would share the machine with it.
    let (set, claim) = (format!("statefulset/{into}"), format!("pvc/data-{into}-0"));
    for object in [&set, &claim, &format!("service/{into}")] {
        kubectl.run(&["-n", NAMESPACE, "delete", "--ignore-not-found", object])?;
    }
    Ok(time)
}
