//! What the primary has not left of what a backup needs is said before backup mode, by its reason, and gone when it is mended.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use highwater_e2e::harness::{
    Database, Deployment, PASSWORD, Watching, condition, has, said, story, until,
};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_primary_lacks_is_said_and_gone_when_it_is_mended() {
    scenario("preflight", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

/// So few that a scenario can take them all.
const CONNECTIONS: &str = "ALTER SYSTEM SET max_connections = 24";
const NO_SENDERS: &str = "ALTER SYSTEM SET max_wal_senders = 0";
/// In it the agent looks twice.
const TWO_LOOKS: Duration = Duration::from_secs(25);

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    restart_with(&orders, CONNECTIONS).await?;
    privileges(&orders).await?;
    slots(&orders).await?;
    connections(&orders).await?;
    senders(&orders).await?;
    nothing_is_written_while_nothing_changes(&orders).await
}

async fn restart_with(orders: &Database, setting: &str) -> Result<()> {
    orders.connect().await?.batch_execute(setting).await?;
    let pod = ["-n", &orders.namespace, "delete", "pod", "orders-0"];
    orders.kubectl.run(&pod)?;
    orders.wait_ready().await
}

/// A role that may log in and nothing else; mended by what the PgBackup says.
async fn privileges(orders: &Database) -> Result<()> {
    let client = orders.connect().await?;
    let role = format!("CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'");
    client.batch_execute(&role).await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "plain", "namespace": orders.namespace},
        "stringData": {"username": "plain", "password": PASSWORD},
    });
    orders.kubectl.apply(&secret.to_string())?;
    orders.annotate("highwater.dev/credentials", "plain")?;
    orders.annotate("highwater.dev/policy", "gold")?;
    seen(orders, "it lacks privileges", |protection| {
        let connected = said(protection, "Connected").map(|it| it["reason"].clone());
        has(protection, "Active", "True") && connected == Some(json!("InsufficientPrivileges"))
    })
    .await?;
    let held = held(orders, "by-few", "InsufficientPrivileges").await?;
    let grants = held.split_once("as superuser: ");
    let (_, grants) = grants.with_context(|| format!("no GRANTs in {held}"))?;
    let granted = client.batch_execute(grants).await;
    granted.context("failed to run the GRANTs")?;
    all_completed(orders).await
}

/// All slots are somebody else's.
async fn slots(orders: &Database) -> Result<()> {
    let client = orders.connect().await?;
    take_all(&client).await?;
    let protection = seen(orders, "no slot is free", |protection| {
        let seen = &protection["status"]["preflight"];
        let reason = said(protection, "Connected").map(|it| it["reason"].clone());
        seen["replicationSlots"]["free"] == 0
            && seen["holdsSlot"] == false
            && reason == Some(json!("TooManyReplicationSlots"))
    })
    .await?;
    let connected = said(&protection, "Connected").context("it says nothing")?;
    ensure!(connected["status"] == "False", "{connected}");
    let held = held(orders, "by-slots", "TooManyReplicationSlots").await?;
    ensure!(held.contains("max_replication_slots is 10"), "{held}");
    let free = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
        WHERE slot_name LIKE 'filler_%'";
    client.batch_execute(free).await?;
    all_completed(orders).await?;
    let ours = |protection: &Value| protection["status"]["preflight"]["holdsSlot"] == true;
    seen(orders, "a slot is held", ours).await.map(drop)
}

/// Takes every slot that is free, and then the place of ours, as often as it is made anew.
async fn take_all(client: &Client) -> Result<()> {
    let fill = "SELECT pg_create_physical_replication_slot('filler_' || n) FROM generate_series(1, \
        current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_replication_slots)) AS n";
    client.batch_execute(fill).await?;
    let all_taken = "SELECT count(*) = current_setting('max_replication_slots')::int \
        FROM pg_replication_slots WHERE slot_name LIKE 'filler_%'";
    for round in 0..200 {
        let take = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name LIKE 'highwater_%'; \
             SELECT pg_create_physical_replication_slot('filler_more_{round}')"
        );
        // It is in use for a moment, or was made anew in between: once more.
        let _ = client.batch_execute(&take).await;
        if client.query_one(all_taken, &[]).await?.get(0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("a slot is ours again and again")
}

/// All connections that the role may have are taken; the agent keeps those that it has.
async fn connections(orders: &Database) -> Result<()> {
    let keeper = orders.connect().await?;
    let free = "SELECT current_setting('max_connections')::int \
        - current_setting('superuser_reserved_connections')::int \
        - (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend')";
    let free: i32 = keeper.query_one(free, &[]).await?.get(0);
    let mut taken = Vec::new();
    for _ in 0..free {
        taken.push(orders.connect().await?);
    }
    seen(orders, "no connection is free", |protection| {
        protection["status"]["preflight"]["connections"]["free"] == 0
    })
    .await?;
    let held = held(orders, "by-connections", "TooManyConnections").await?;
    ensure!(held.contains("raise max_connections"), "{held}");
    drop(taken);
    all_completed(orders).await
}

/// The policy wants a stream alone, and there can be none; mended by what the PgBackup says.
async fn senders(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let transport = |transport: &str| json!({"spec": {"wal": {"transport": transport}}});
    restart_with(orders, NO_SENDERS).await?;
    kubectl.patch(namespace, ("pgp", "gold"), &transport("streaming"))?;
    seen(orders, "there is no stream", |protection| {
        let maximum = &protection["status"]["preflight"]["walSenders"]["maximum"];
        let archiving = said(protection, "WalArchiving").map(|it| it["reason"].clone());
        let refused = archiving == Some(json!("StreamingRefused"));
        *maximum == 0 && refused && has(protection, "Connected", "True")
    })
    .await?;
    let held = held(orders, "by-senders", "TooManyWalSenders").await?;
    ensure!(held.contains("set wal.transport: Auto"), "{held}");
    kubectl.patch(namespace, ("pgp", "gold"), &transport("Auto"))?;
    all_completed(orders).await
}

/// Facts that stay the same keep their time.
async fn nothing_is_written_while_nothing_changes(orders: &Database) -> Result<()> {
    let enough = |protection: &Value| {
        let seen = &protection["status"]["preflight"];
        seen["connections"]["free"] == 3 && seen["observedAt"].is_string()
    };
    let before = seen(orders, "there is enough", enough).await?;
    tokio::time::sleep(TWO_LOOKS).await;
    let after = seen(orders, "there is enough", enough).await?;
    let (before, after) = (
        &before["status"]["preflight"],
        &after["status"]["preflight"],
    );
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

/// Waits for what the protection says.
async fn seen(orders: &Database, what: &str, test: impl Fn(&Value) -> bool) -> Result<Value> {
    Watching::one(&orders.kubectl, &orders.namespace, "pgx", "orders")?
        .wait(what, story::LIMIT, test)
        .await
}

/// Asks for a backup, waits until it is held by this reason, with an event that warns, and returns the sentence.
async fn held(orders: &Database, name: &str, reason: &str) -> Result<String> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgBackup\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{protection: orders}}\n"
    ))?;
    let about = ("pgb", name);
    let accepted = ("Accepted", "False");
    let backup = condition(kubectl, namespace, about, accepted, story::LIMIT).await?;
    let accepted = said(&backup, "Accepted").context("it says nothing")?;
    ensure!(accepted["reason"] == reason, "{accepted}");
    let message = accepted["message"].as_str().unwrap_or_default().to_owned();
    println!("{name}: {reason}: {message}");
    until(&format!("event {reason} of {name}"), story::LIMIT, || {
        let events = kubectl.list(namespace, "events")?;
        let is_it = |event: &Value| {
            let about = &event["involvedObject"];
            about["kind"] == "PgBackup"
                && about["name"] == name
                && event["reason"] == reason
                && event["type"] == "Warning"
        };
        Ok(events.iter().any(is_it).then_some(()))
    })
    .await?;
    Ok(message)
}

/// No backup is left that has not completed: one that runs would keep the next from its turn.
async fn all_completed(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    until("every backup completed", story::LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let done = backups.iter().all(|it| has(it, "Completed", "True"));
        Ok(done.then_some(()))
    })
    .await
}
