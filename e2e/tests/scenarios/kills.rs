//! Controller, agent and recovery are killed with SIGKILL between every two conditions; what was begun completes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_e2e::{
    devcluster::signal,
    harness::{
        Database, Faults, Kubectl, Ledger, Watching, Writer, crash, has,
        prey::{Frozen, agent, controller},
        story, until,
    },
};
use serde_json::{Value, json};

use super::setup::{scenario, scenario_alone};

/// A backup's way. The first gap begins when the object is there.
const BACKUP: [&str; 9] = [
    "",
    "Accepted",
    "Session",
    "Cut",
    "Stopped",
    "WalArchived",
    "Ready",
    "Catalogued",
    "Completed",
];
/// How often a kill may come too late for its gap.
const TRIES: usize = 20;
/// A restore's.
const RESTORE: [&str; 5] = ["", "Planned", "VolumesReady", "Recovered", "HandedOver"];
/// The longest that a takeover and the work after it may take.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_loses_no_backup() {
    scenario("kill-agent", async |deployment, namespace| {
        let (orders, writer, _) = story::protected(&deployment, &namespace).await?;
        let kubectl = &deployment.kubectl;
        let backups = in_each_gap(&orders, Victim::Agent).await?;
        exactly_these_snapshots(kubectl, &namespace, 1 + backups)?;
        restore_killed(&orders, &writer, Victim::Agent).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_loses_no_backup_and_no_restore() {
    scenario_alone("kill-controller", async |deployment, namespace| {
        let (orders, writer, _) = story::protected(&deployment, &namespace).await?;
        let kubectl = &deployment.kubectl;
        let backups = in_each_gap(&orders, Victim::Controller).await?;
        exactly_these_snapshots(kubectl, &namespace, 1 + backups)?;
        restore_killed(&orders, &writer, Victim::Controller).await?;
        put_back_killed(&orders, writer).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_recovery_goes_on() {
    scenario("kill-recovery", async |deployment, namespace| {
        let (orders, writer, _) = story::protected(&deployment, &namespace).await?;
        restore_killed(&orders, &writer, Victim::Recovery).await
    })
    .await;
}

/// A kill in each gap of a backup's way; returns how many backups that took. The driver takes its time, so that there is
/// a gap where it works.
async fn in_each_gap(orders: &Database, victim: Victim) -> Result<usize> {
    let volume = format!("{}/data-orders-0", orders.namespace);
    let slow = json!({"volume": volume, "delayBeforeCut": 500, "delayToReady": 1500});
    let _slow = Faults::set(&slow)?;
    let mut backups = 0;
    for gap in BACKUP.windows(2) {
        let last = backups + TRIES;
        loop {
            backups += 1;
            if backup(orders, backups, (gap[0], gap[1]), victim).await? {
                break;
            }
            ensure!(backups < last, "no kill came between {gap:?}");
        }
    }
    Ok(backups)
}

/// Asks for a backup, kills once it got as far as `after`, and waits for it to complete. `false`: it was further already.
/// Who is not killed does nothing until that is known.
async fn backup(
    orders: &Database,
    count: usize,
    (after, next): (&str, &str),
    victim: Victim,
) -> Result<bool> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let (agent, controller) = (agent(orders).await?, controller(kubectl).await?);
    let (prey, other) = match victim {
        Victim::Controller => (controller, agent),
        Victim::Agent | Victim::Recovery => (agent, controller),
    };
    let known = names(kubectl, namespace, "pgb")?;
    let mut watching = Watching::start(kubectl, namespace, &["pgb"])?;
    orders.annotate("highwater.dev/backup-now", &format!("kill-{count}"))?;
    let new = |backup: &Value| {
        !known
            .iter()
            .any(|name| backup["metadata"]["name"] == **name)
    };
    let began = watching
        .wait("a backup asked for", LIMIT, |backup| {
            new(backup) && got_to(backup, after)
        })
        .await?;
    let frozen = Frozen::freeze(&other)?;
    signal(prey.process, "KILL")?;
    let killed = Instant::now();
    let name = began["metadata"]["name"].as_str().context("no name")?;
    let dead = kubectl
        .get(namespace, "pgb", name)?
        .context("the backup is gone")?;
    let hit = !has(&dead, next, "True");
    drop(frozen);
    prey.replace(kubectl)?;
    let what = format!("{name} killed after {after:?}");
    let ended = watching
        .wait(&what, LIMIT, |backup| {
            backup["metadata"]["name"] == name
                && (has(backup, "Completed", "True") || has(backup, "Completed", "False"))
        })
        .await?;
    ensure!(
        has(&ended, "Completed", "True"),
        "{what}: {}",
        ended["status"]["conditions"]
    );
    println!(
        "{what}{}: attempt {} completed {:.1} s later",
        if hit {
            ""
        } else {
            ", and it was further already"
        },
        ended["status"]["attempt"]["number"],
        killed.elapsed().as_secs_f64()
    );
    Ok(hit)
}

fn got_to(object: &Value, condition: &str) -> bool {
    condition.is_empty() || has(object, condition, "True")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Controller,
    Recovery,
}

/// One restore to latest, with a kill in each gap that the victim lives through; then the rows.
async fn restore_killed(orders: &Database, writer: &Writer, victim: Victim) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let mut watching = Watching::start(kubectl, namespace, &["pgr"])?;
    let least = writer.ledger.acknowledged();
    let (name, source) = ("killed", "{protection: orders}");
    // Everything that was acknowledged is older than the tail interval when the restore is planned.
    story::commits(writer, 700).await?;
    story::request_restore(kubectl, namespace, (name, source), "clone", "{latest: {}}")?;
    match victim {
        Victim::Recovery => kill_recovery(kubectl, namespace, name).await?,
        Victim::Agent | Victim::Controller => {
            for after in RESTORE {
                let prey = match victim {
                    Victim::Agent => agent(orders).await?,
                    Victim::Controller | Victim::Recovery => controller(kubectl).await?,
                };
                let what = format!("the restore at {after:?}");
                watching
                    .wait(&what, LIMIT, |restore| got_to(restore, after))
                    .await?;
                prey.end(kubectl)?;
            }
        }
    }
    story::completed(kubectl, namespace, name).await?;
    let clone = Database::existing(kubectl, namespace, "clone")
        .connect()
        .await?;
    let found = Ledger::check(&clone, least, writer.ledger.sent()).await?;
    println!("{namespace}: rows 1 to {found} after the restore, {least} are owed");
    Ok(())
}

/// A restore in place to a time before the last rows; the controller is killed whenever the last one has changed something of
/// what it exchanges. Then the rows, and what is kept.
async fn put_back_killed(orders: &Database, writer: Writer) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let client = orders.connect().await?;
    let (time, last) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 700).await?;
    writer.stop().await?;
    let before = exchanged(orders)?;
    let spec = format!("target: {{time: \"{time}\"}}, into: {{inPlace: {{scale: true}}}}");
    let from = ("put-back", "{protection: orders}");
    story::request(kubectl, namespace, from, &spec)?;
    let recovered = |it: &Value| has(it, "Recovered", "True");
    Watching::one(kubectl, namespace, "pgr", "put-back")?
        .wait("recovered", LIMIT, recovered)
        .await?;
    let (mut seen, mut kills) = (before.clone(), 0);
    loop {
        let prey = controller(kubectl).await?;
        let changed = until("the next change", LIMIT, || {
            let restore = kubectl.get(namespace, "pgr", "put-back")?;
            if restore.is_some_and(|it| has(&it, "Completed", "True")) {
                return Ok(Some(None));
            }
            let now = exchanged(orders)?;
            Ok((now != seen).then_some(Some(now)))
        });
        let Some(now) = changed.await? else { break };
        prey.end(kubectl)?;
        (seen, kills) = (now, kills + 1);
    }
    ensure!(kills > 2, "{kills} kills only: the exchange was not met");
    let kept = kubectl.get(namespace, "pvc", "data-orders-0-before-put-back")?;
    let kept = kept.context("the old volume is not kept")?;
    let old = &before["data-orders-0"];
    ensure!(kept["spec"]["volumeName"] == *old, "{old} is not kept");
    let found = Ledger::check(&orders.connect().await?, last, last).await?;
    println!("put back by {kills} controllers that were killed: rows 1 to {found}");
    Ok(())
}

/// The claims with their volumes, the snapshots, and how many pods are asked for.
fn exchanged(orders: &Database) -> Result<Value> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let mut all = json!({});
    for claim in kubectl.list(namespace, "pvc")? {
        let name = claim["metadata"]["name"].as_str().unwrap_or_default();
        all[name] = claim["spec"]["volumeName"].clone();
    }
    all["snapshots"] = kubectl.list(namespace, "volumesnapshots")?.len().into();
    let set = kubectl.get(namespace, "sts", "orders")?;
    all["replicas"] = set.context("no StatefulSet")?["spec"]["replicas"].clone();
    Ok(all)
}

/// Kills `highwater recover` as soon as it runs, and PostgreSQL under it: they share the container.
async fn kill_recovery(kubectl: &Kubectl, namespace: &str, restore: &str) -> Result<()> {
    let pod = format!("{restore}-recovery");
    let process = until("recovery", LIMIT, || {
        Ok(crash::process(kubectl, namespace, &pod, "recover").ok())
    })
    .await?;
    signal(process, "KILL")
}

/// Nothing is left of what was abandoned: one snapshot and one content a backup, and every content is retained.
fn exactly_these_snapshots(kubectl: &Kubectl, namespace: &str, backups: usize) -> Result<()> {
    let snapshots = kubectl.list(namespace, "volumesnapshots")?;
    ensure!(
        snapshots.len() == backups,
        "{} snapshots of {backups} backups",
        snapshots.len()
    );
    let contents = kubectl.snapshot_contents(namespace)?;
    ensure!(
        contents.len() == backups,
        "{} contents of {backups} backups",
        contents.len()
    );
    let mut contents = contents.iter();
    let lost = contents.find(|content| content["spec"]["deletionPolicy"] != "Retain");
    ensure!(lost.is_none(), "a content is not retained: {lost:?}");
    Ok(())
}

fn names(kubectl: &Kubectl, namespace: &str, kind: &str) -> Result<Vec<String>> {
    let objects = kubectl.list(namespace, kind)?;
    let name = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
    objects
        .iter()
        .map(|object| name(object).context("an object has no name"))
        .collect()
}
