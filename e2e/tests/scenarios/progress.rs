//! A restore that takes a while says how far it is.

use anyhow::{Context, Result, ensure};
use highwater::postgres::Lsn;
use highwater_e2e::harness::{Database, Deployment, Watching, has, story, until};
use serde_json::Value;

use super::{phases, setup::scenario};

/// Rows of a kilobyte: some thirty segments, which take longer to replay than recovery waits between two reports.
const ROWS: u32 = 450_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_says_how_far_it_is() {
    scenario("progress", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    let client = orders.connect().await?;
    let write = format!(
        "CREATE TABLE much AS SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, {ROWS}) AS i"
    );
    client.batch_execute(&write).await?;
    let end = "SELECT pg_current_wal_lsn()::text";
    let end: String = client.query_one(end, &[]).await?.get(0);
    let end: Lsn = end.parse()?;
    let target = format!("{{lsn: \"{end}\"}}");
    until("its WAL is archived", story::LIMIT, || {
        let protection = kubectl.get(namespace, "pgx", "orders")?;
        let archived = protection
            .as_ref()
            .and_then(|protection| protection["status"]["wal"]["archivedThrough"].as_str())
            .map(str::parse::<Lsn>)
            .transpose()?;
        Ok((archived >= Some(end)).then_some(()))
    })
    .await?;

    let mut watching = Watching::one(kubectl, namespace, "pgr", "all")?;
    let from = ("all", "{protection: orders}");
    story::request_restore(kubectl, namespace, from, "clone", &target)?;
    let completed = |restore: &Value| has(restore, "Completed", "True");
    let restore = watching
        .wait("the restore completes", story::LIMIT, completed)
        .await?;
    let events = watching.events()?;
    let told = percents(&events)?;
    println!("it said {told:?}");
    ensure!(told.is_sorted(), "progress went back: {told:?}");
    ensure!(told.last() == Some(&100), "at the end: {told:?}");
    // 99% is the most that is said before the end, and so says little.
    ensure!(
        told.iter().any(|percent| (1..99).contains(percent)),
        "nothing between the beginning and the end: {told:?}"
    );
    estimated(&events)?;
    reached(&events)?;
    let total = phases::told(deployment, namespace, &restore)?;
    phases::is_the_whole(&restore, total)?;
    let clone = Database::existing(kubectl, namespace, "clone");
    let rows = "SELECT count(*) FROM much";
    let rows: i64 = clone.connect().await?.query_one(rows, &[]).await?.get(0);
    ensure!(rows == i64::from(ROWS), "{rows} of {ROWS} rows");
    Ok(())
}

/// It says about how long it takes while it replays, and not after.
fn estimated(events: &[Value]) -> Result<()> {
    let is_told = |event: &&Value| event["status"]["progress"]["remainingSeconds"].is_i64();
    let told: Vec<&Value> = events.iter().filter(is_told).collect();
    println!("it said {} times how long it takes", told.len());
    for event in &told {
        let progress = &event["status"]["progress"];
        ensure!(
            progress["promotedAt"].is_null(),
            "after the replay: {progress}"
        );
        let conditions = event["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let recovered = conditions.find(|it| it["type"] == "Recovered");
        let message = recovered.and_then(|it| it["message"].as_str());
        let message = message.unwrap_or_default();
        ensure!(message.contains(", about "), "{message}");
    }
    ensure!(!told.is_empty(), "it never said how long it takes");
    Ok(())
}

/// The time that the replay has reached is told, and goes forward only.
fn reached(events: &[Value]) -> Result<()> {
    let mut told = Vec::new();
    for event in events {
        if let Some(at) = event["status"]["progress"]["replayedTo"].as_str() {
            told.push(at.parse::<jiff::Timestamp>()?);
        }
    }
    told.dedup();
    println!("it reached {told:?}");
    ensure!(!told.is_empty() && told.is_sorted(), "{told:?}");
    Ok(())
}

/// What `kubectl get --watch` showed, each once.
fn percents(events: &[Value]) -> Result<Vec<u8>> {
    let mut told = Vec::new();
    for event in events {
        let Some(percent) = event["status"]["progress"]["percent"].as_str() else {
            continue;
        };
        let percent = percent.strip_suffix('%').context("no percent")?;
        told.push(percent.parse()?);
    }
    told.dedup();
    Ok(told)
}
