//! Backups by the clock: each minute, none while the database is paused, and one for what was missed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater::clock::{Clock, SystemClock};
use highwater_e2e::harness::{Database, Kubectl, condition, said, story, until};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::setup::scenario;

/// A minute of cron, and what a backup takes on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn backups_come_by_the_clock_and_a_pause_is_caught_up_once() {
    scenario("schedules", async |deployment, namespace| {
        let (orders, writer, _) = story::protected(&deployment, &namespace).await?;
        tell(&orders).await?;
        let owed = writer.ledger.acknowledged();
        story::latest_holds(&orders, &writer.ledger, owed).await?;
        writer.stop().await.map(drop)
    })
    .await;
}

async fn tell(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    ensure!(schedule(kubectl, namespace)?.is_none(), "none was written");
    let each_minute = json!({"spec": {"schedules": [
        {"name": "each-minute", "cron": "* * * * *", "timeZone": "Asia/Kolkata"},
        {"name": "as-often", "cron": "@every 90m"},
    ]}});
    kubectl.patch(namespace, ("pgp", "gold"), &each_minute)?;
    let first = newest(kubectl, namespace, &[]).await?;
    let told = condition(
        kubectl,
        namespace,
        ("pgx", "orders"),
        ("Scheduled", "True"),
        LIMIT,
    )
    .await?;
    let message = said(&told, "Scheduled").context("no condition")?["message"].clone();
    ensure!(
        message == "each-minute: * * * * * Asia/Kolkata; as-often: @every 90m",
        "{message}"
    );
    let wide = kubectl.run(&["-n", namespace, "get", "pgp", "gold"])?;
    ensure!(wide.contains("* * * * *"), "{wide}");

    orders.annotate("highwater.dev/paused", "true")?;
    condition(
        kubectl,
        namespace,
        ("pgx", "orders"),
        ("Scheduled", "False"),
        LIMIT,
    )
    .await?;
    let before = scheduled(kubectl, namespace)?;
    let due = next(kubectl, namespace)?;
    // What is asked for is taken all the same, when the next one would have been.
    until("a minute that is missed", LIMIT, || {
        Ok((SystemClock.now() > due).then_some(()))
    })
    .await?;
    orders.annotate("highwater.dev/backup-now", "1")?;
    until("the one that was asked for", LIMIT, || {
        let all = kubectl.list(namespace, "pgb")?;
        let asked = |it: &Value| it["spec"]["reason"] == "Annotation" && is_completed(it);
        Ok(all.iter().any(asked).then_some(()))
    })
    .await?;
    ensure!(scheduled(kubectl, namespace)? == before, "it was paused");
    ensure!(
        next(kubectl, namespace)? <= SystemClock.now(),
        "it is not due any more"
    );

    orders.annotate("highwater.dev/paused", "false")?;
    let caught_up = newest(kubectl, namespace, &before).await?;
    println!("by the clock: {first}; after the pause: {caught_up}");
    Ok(())
}

/// The names of the backups that schedules asked for.
fn scheduled(kubectl: &Kubectl, namespace: &str) -> Result<Vec<String>> {
    let all = kubectl.list(namespace, "pgb")?;
    let its = all.iter().filter(|it| it["spec"]["reason"] == "Scheduled");
    let names = its.filter_map(|it| it["metadata"]["name"].as_str());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn is_completed(backup: &Value) -> bool {
    said(backup, "Completed").is_some_and(|it| it["status"] == "True")
}

/// Waits for one that is not among `known` to be completed: named after a whole minute, in UTC.
async fn newest(kubectl: &Kubectl, namespace: &str, known: &[String]) -> Result<String> {
    until("a backup by the clock", LIMIT, || {
        let names = scheduled(kubectl, namespace)?;
        let Some(name) = names.iter().find(|name| !known.contains(name)) else {
            return Ok(None);
        };
        let backup = kubectl.get(namespace, "pgb", name)?.context("it is gone")?;
        let at = name.strip_prefix("orders-").context("another's")?;
        let minute = at.len() == "20261120t020000z".len() && at.ends_with("00z");
        ensure!(minute, "{name} is not named after a minute");
        Ok(is_completed(&backup).then(|| name.clone()))
    })
    .await
}

/// What is told of the schedule.
fn schedule(kubectl: &Kubectl, namespace: &str) -> Result<Option<Value>> {
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let protection = protection.context("PgProtection orders is gone")?;
    let all = protection["status"]["schedules"].as_array();
    let named = |it: &&Value| it["name"] == "each-minute";
    Ok(all.and_then(|all| all.iter().find(named)).cloned())
}

fn next(kubectl: &Kubectl, namespace: &str) -> Result<Timestamp> {
    let told = schedule(kubectl, namespace)?.context("the schedule is not told")?;
    let next = told["nextScheduleTime"].as_str();
    Ok(next.context("no next time")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_come_by_the_clock_and_few_are_kept() {
    scenario("drills", async |deployment, namespace| {
        let (orders, writer, _) = story::protected(&deployment, &namespace).await?;
        story::commits(&writer, 50).await?;
        writer.stop().await?;
        drill(&orders).await
    })
    .await;
}

/// Those that ended long ago, as far as their names say.
async fn drill(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let sql = "SELECT count(*) > 50 FROM ledger";
    let verify = json!({"spec": {"verify": {"cron": "* * * * *", "drill": {"sql": sql}}}});
    for day in ["01", "02", "03"] {
        let old = json!({
            "apiVersion": "highwater.dev/v1alpha1", "kind": "PgRestore",
            "metadata": {"name": format!("orders-drill-202601{day}t000000z"), "namespace": namespace,
                "labels": {"highwater.dev/drill-of": "orders"}},
            // Nothing reaches that far back.
            "spec": {"source": {"protection": "orders"}, "target": {"lsn": "0/1"}, "verify": {}},
        });
        kubectl.apply(&old.to_string())?;
    }
    until("the old ones are over", LIMIT, || {
        let all = kubectl.list(namespace, "pgr")?;
        let over = |it: &Value| said(it, "Completed").is_some_and(|it| it["status"] != "Unknown");
        Ok((all.len() == 3 && all.iter().all(over)).then_some(()))
    })
    .await?;
    kubectl.patch(namespace, ("pgp", "gold"), &verify)?;
    let passed = until("a drill by the clock that passed", LIMIT, || {
        let all = kubectl.list(namespace, "pgr")?;
        let is_new = |it: &&Value| !text(it, "name").contains("-drill-202601");
        let new = all.iter().find(is_new);
        Ok(new.filter(|it| is_completed(it)).map(|it| text(it, "name")))
    })
    .await?;
    let suspended = json!({"spec": {"verify": {"suspend": true}}});
    kubectl.patch(namespace, ("pgp", "gold"), &suspended)?;
    until("the oldest is forgotten", LIMIT, || {
        let all = kubectl.list(namespace, "pgr")?;
        let names: Vec<_> = all.iter().map(|it| text(it, "name")).collect();
        let oldest = names.iter().any(|name| name.ends_with("20260101t000000z"));
        Ok((!oldest).then_some(()))
    })
    .await?;
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let status = protection.context("PgProtection orders is gone")?["status"].clone();
    let verified = status["lastVerified"]["restore"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        verified >= passed.as_str(),
        "{passed} passed; told is {status}"
    );
    println!("drilled: {passed}");
    Ok(())
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
