//! Backups under load while everything is killed: each one that completed is restored and compared. `HIGHWATER_SEED` repeats a
//! run, as far as what it does goes; `HIGHWATER_TORTURE_MINUTES` says how long (default 2; from 60 on the floors of the long
//! form count). Run with `devcluster enter -- cargo test --test torture`.

#[path = "torture/backups.rs"]
mod backups;
#[path = "torture/chaos.rs"]
mod chaos;
#[path = "torture/failover.rs"]
mod failover;
#[path = "torture/load.rs"]
mod load;
#[path = "torture/restores.rs"]
mod restores;
#[path = "torture/sets.rs"]
mod sets;
#[path = "scenarios/setup.rs"]
#[allow(dead_code, reason = "here one scenario runs alone")]
mod setup;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use highwater_e2e::harness::{
    Deployment, Kubectl,
    figures::{Figures, Floor},
    leftovers,
    random::{number, seed},
};
use tokio::sync::mpsc;

use sets::Set;

/// The short form.
const MINUTES: u64 = 2;
/// How many restores run at once.
const LANES: usize = 3;

/// What all parts of a run share.
struct Run {
    kubectl: Kubectl,
    namespace: String,
    floor: Floor,
    /// When backups and kills begin, and how long they go on.
    begin: Instant,
    whole: Duration,
    figures: Mutex<Figures>,
}

impl Run {
    /// What happened so far.
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run goes on, and fails at its end.
    fn complain(&self, what: String) {
        println!("{:6.1} s  COMPLAINT: {what}", self.seconds());
        self.figures().complaints.push(what);
    }

    fn tell(&self, what: &str) {
        println!("{:6.1} s  {what}", self.seconds());
    }

    fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// Nothing when the time is over.
    fn left(&self) -> Option<Duration> {
        let left = self.whole.saturating_sub(self.begin.elapsed());
        (!left.is_zero()).then_some(left)
    }

    fn is_long(&self) -> bool {
        self.floor == Floor::of(u64::MAX)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn every_completed_backup_restores() {
    let seed = seed();
    let minutes = number("HIGHWATER_TORTURE_MINUTES").unwrap_or(MINUTES);
    println!("seed {seed}, {minutes} minutes");
    let name = format!("torture-{}", seed % 100_000);
    setup::scenario_alone(&name, async |deployment, namespace| {
        tell(&deployment, &namespace, seed, minutes).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str, seed: u64, minutes: u64) -> Result<()> {
    let floor = Floor::of(minutes);
    let sets = sets::make(deployment, namespace, floor == Floor::of(u64::MAX)).await?;
    let run = Arc::new(Run {
        kubectl: deployment.kubectl.clone(),
        namespace: namespace.to_owned(),
        floor,
        begin: Instant::now(),
        whole: Duration::from_secs(minutes * 60),
        figures: Mutex::default(),
    });
    let ran = torture(&run, &sets, seed).await?;
    for set in &sets {
        set.load.stop();
    }
    nothing_is_left(&run, &sets).await;
    let figures = run.figures().clone();
    println!("torture: {figures}; {} s, seed {seed}", ran.as_secs());
    let wrong = figures.judge(&floor, ran);
    ensure!(wrong.is_empty(), "seed {seed}: {}", wrong.join("; "));
    clear(deployment, namespace)
}

/// Backups, restores and kills side by side; how long it went on. Restores go on until the last backup is restored.
async fn torture(run: &Arc<Run>, sets: &[Arc<Set>], seed: u64) -> Result<Duration> {
    let (sender, jobs) = mpsc::unbounded_channel();
    for set in sets {
        sender.send(backups::first(run, set).await?)?;
    }
    let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
    let lanes = [(); LANES].map(|()| {
        let (run, jobs) = (Arc::clone(run), Arc::clone(&jobs));
        tokio::spawn(async move { restores::lane(&run, &jobs).await })
    });
    let takers = sets.iter().enumerate().map(|(number, set)| {
        let (run, set, sender) = (Arc::clone(run), Arc::clone(set), sender.clone());
        let seed = seed.wrapping_add(u64::try_from(number).unwrap_or(0) << 8);
        tokio::spawn(async move { backups::take(&run, &set, seed, &sender).await })
    });
    let takers: Vec<_> = takers.collect();
    chaos::run(run, sets, seed).await?;
    let ran = run.begin.elapsed();
    run.tell("no more kills; what was begun goes on to its end");
    try_join_all(takers).await.context("a task panicked")?;
    for job in backups::others(run, sets).await? {
        sender.send(job)?;
    }
    drop(sender);
    try_join_all(lanes).await.context("a task panicked")?;
    Ok(ran)
}

/// No session, no slot too many, no snapshot that does not count; no load that found its own database without rows.
async fn nothing_is_left(run: &Run, sets: &[Arc<Set>]) {
    let members = sets.iter().map(async |set| {
        for client in set.members().await? {
            leftovers::in_database(&client)
                .await
                .with_context(|| set.database.name.clone())?;
        }
        set.load.complaint().map_or(Ok(()), |lost| {
            anyhow::bail!("{}: {lost}", set.database.name)
        })
    });
    for left in join_all(members).await {
        if let Err(error) = left {
            run.complain(format!("{error:#}"));
        }
    }
    if let Err(error) = leftovers::snapshots(&run.kubectl, &run.namespace).await {
        run.complain(format!("{error:#}"));
    }
}

/// Others would share the machine with its databases.
fn clear(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    highwater_e2e::harness::secrets::none_told(kubectl, namespace, &deployment.system)?;
    let backups = ["delete", "pgb", "--all", "--timeout=300s"];
    kubectl.run(&[&["-n", namespace], &backups[..]].concat())?;
    kubectl.run(&["delete", "namespace", namespace, "--timeout=300s"])?;
    Ok(())
}
