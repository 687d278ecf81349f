//! Of several members the one that takes writes is backed up, and a clone disturbs neither.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Watching, Writer, condition, connect, has, measure, said, story,
};
use serde_json::Value;

pub use highwater_e2e::harness::members::{allow_replication, join};

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn the_member_that_takes_writes_is_backed_up() {
    scenario("members", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let orders =
        Database::create_as(deployment, namespace, "orders", "highwater-btrfs", shape).await?;
    let standby = join(&orders).await?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    ensure!(
        backup["status"]["attempt"]["pod"] == "orders-0",
        "backed up: {}",
        backup["status"]["attempt"]["pod"]
    );
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let status = &protection.context("no protection")?["status"];
    // `join` lets replication connections in.
    ensure!(
        status["wal"]["transport"] == "streaming",
        "WAL comes by {}",
        status["wal"]
    );
    let members = status["members"].as_array().map_or(0, Vec::len);
    ensure!(
        status["primary"]["pod"] == "orders-0" && members == 2,
        "{} of {members} members takes writes",
        status["primary"]["pod"]
    );

    let least = writer.ledger.acknowledged();
    story::commits(&writer, 700).await?;
    let found = story::latest_holds(&orders, &writer.ledger, least).await?;
    println!("of two members: rows 1 to {found}, {least} are owed");
    // A copy of a standby that streams from the source would be seen there.
    let streaming =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'highwater'";
    let client = orders.connect().await?;
    let streaming: i64 = client.query_one(streaming, &[]).await?.get(0);
    ensure!(streaming == 1, "{streaming} stream from the primary");
    let recovers = "SELECT pg_is_in_recovery()";
    let recovers: bool = standby.query_one(recovers, &[]).await?.get(0);
    ensure!(recovers, "the standby was promoted");
    writer.stop().await?;
    tells_its_numbers(&orders)
}

/// Two that take writes on one timeline: nobody knows which is the database, and nothing is backed up until one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_that_take_writes_are_no_database_to_back_up() {
    scenario("split-brain", async |deployment, namespace| {
        split(&deployment, &namespace).await
    })
    .await;
}

/// A standby that forgets what it is, and starts on the timeline that it was on.
async fn second_primary(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let forget = "COPY (SELECT 1) TO PROGRAM 'rm standby.signal'";
    join(orders).await?.batch_execute(forget).await?;
    kubectl.run(&["-n", namespace, "delete", "pod", "orders-1"])?;
    let ready = |pod: &Value| has(pod, "Ready", "True");
    Watching::one(kubectl, namespace, "pod", "orders-1")?
        .wait("pod orders-1 ready", story::LIMIT, ready)
        .await?;
    Ok(())
}

async fn split(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let class = "highwater-btrfs";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    second_primary(&orders).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let about = |type_: &'static str, reason: &'static str| {
        move |it: &Value| said(it, type_).is_some_and(|said| said["reason"] == reason)
    };
    let protection = Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait(
            "both are told",
            story::LIMIT,
            about("Connected", "SplitBrain"),
        )
        .await?;
    let connected = said(&protection, "Connected").context("no Connected")?;
    let message = connected["message"].as_str().unwrap_or_default();
    println!("{message}");
    let both = ["orders-0", "orders-1", "stop all but the right one"];
    ensure!(both.iter().all(|it| message.contains(it)), "{connected}");
    kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgBackup\nmetadata: {{name: asked, namespace: {namespace}}}\n\
         spec: {{protection: orders}}\n"
    ))?;
    Watching::one(kubectl, namespace, "pgb", "asked")?
        .wait("it waits", story::LIMIT, about("Accepted", "NotConnected"))
        .await?;
    let backups = kubectl.list(namespace, "pgb")?;
    ensure!(
        backups.len() == 1,
        "{} backups are under way",
        backups.len()
    );

    orders.want(1)?;
    let completed = ("Completed", "True");
    condition(
        kubectl,
        namespace,
        ("pgb", "asked"),
        completed,
        story::LIMIT,
    )
    .await?;
    Ok(())
}

/// Its volume holds our slot, and with it WAL without end when it returns: whoever ends the protection is told.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_standby_that_was_scaled_away_is_not_forgotten() {
    scenario("scaled-standby", async |deployment, namespace| {
        forget(&deployment, &namespace).await
    })
    .await;
}

async fn forget(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let class = "highwater-btrfs";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    let bound = "ALTER SYSTEM SET max_slot_wal_keep_size = '900MB'";
    orders.connect().await?.batch_execute(bound).await?;
    join(&orders).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let holds = |it: &Value, members: usize| {
        let status = &it["status"];
        status["wal"]["standbySlots"] == serde_json::json!(["orders-1"])
            && status["members"].as_array().map(Vec::len) == Some(members)
    };
    let mut watching = Watching::one(kubectl, namespace, "pgx", "orders")?;
    watching
        .wait("orders-1 has a slot", story::LIMIT, |it| holds(it, 2))
        .await?;
    orders.want(1)?;
    watching
        .wait("orders-1 is away", story::LIMIT, |it| holds(it, 1))
        .await?;
    orders.annotate("highwater.dev/policy", "")?;
    let about = ("pgx", "orders");
    let left = ("SlotsDropped", "False");
    let told = condition(kubectl, namespace, about, left, story::LIMIT).await?;
    let dropped = said(&told, "SlotsDropped").context("no SlotsDropped")?;
    let message = dropped["message"].as_str().unwrap_or_default();
    println!("{message}");
    ensure!(message.contains("orders-1"), "{dropped}");
    orders.want(2)?;
    let gone = ("SlotsDropped", "True");
    condition(kubectl, namespace, about, gone, story::LIMIT).await?;
    let second = connect(&orders.address_of("orders-1")?).await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let slots: i64 = second.query_one(slots, &[]).await?.get(0);
    ensure!(slots == 0, "{slots} slots on orders-1");
    Ok(())
}

/// What the documentation tells an admin to watch is there.
fn tells_its_numbers(orders: &Database) -> Result<()> {
    let told = measure::metrics(&orders.kubectl, &orders.namespace, measure::AGENTS)?.join("\n");
    for name in [
        "highwater_wal_lag_bytes",
        "highwater_wal_lag_seconds",
        "highwater_wal_segments_total",
        "highwater_database_connected 1",
        "highwater_backup_session_seconds",
    ] {
        let there = told.lines().any(|line| line.starts_with(name));
        ensure!(there, "the agent does not tell {name}");
    }
    Ok(())
}
