//! Backups of a standby: where there is none they wait or are of the primary, as the policy says; of a database on two volumes
//! pg_control is cut last; and a standby that is promoted meanwhile costs an attempt.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Faults, Ledger, Watching, Writer, condition, crash, has, integrity, said,
    story,
};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{failover::until_async, members, setup::scenario, volumes};

/// When the driver cuts, in milliseconds after it was asked: while it does, the database goes on.
const LATER: u64 = 4_000;
/// The same: too late for everybody.
const TOO_LATE: u64 = 30_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_backed_up_with_pg_control_last() {
    scenario("standby", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let orders = begin(deployment, namespace, "PreferStandby").await?;
    let kubectl = &deployment.kubectl;
    let first = story::first_backup(kubectl, namespace, "orders").await?;
    of_primary(&first, "orders-0", "NoStandby")?;
    let mut watching = refused(&orders).await?;

    let writer = Writer::start(&orders.address()?).await?;
    // Rows of pgbench are on one volume, what says that they are committed on the other.
    let spread = "ALTER DATABASE postgres SET default_tablespace = 'fast'";
    orders.connect().await?.batch_execute(spread).await?;
    let mut pgbench = story::load(&orders.address()?).await?;
    let faults = cut_later(namespace, "fast-orders-1", LATER)?;
    members::join(&orders).await?;
    let backup = completed(&mut watching, "alone").await?;
    drop(faults);
    of_standby(&backup, "orders-1")?;
    pg_control_was_last(&backup)?;
    let least = writer.ledger.acknowledged();
    story::commits(&writer, 700).await?;
    story::still_loads(&mut pgbench)?;

    too_early(&orders, &backup).await?;
    is_whole(&orders, &backup, &writer, least).await?;
    writer.stop().await.map(drop)
}

/// A database on two volumes under a policy with this `backupFrom`, protected, alone.
async fn begin(deployment: &Deployment, namespace: &str, source: &str) -> Result<Database> {
    let policy = json!({"spec": {"backupFrom": source}});
    let kubectl = &deployment.kubectl;
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    let shape = include_str!("../../manifests/postgres-standbys.yaml");
    let class = "highwater-btrfs";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    let client = orders.connect().await?;
    volumes::fill_tablespace(&client).await?;
    // With a bound, standbys hold WAL for the archive too.
    let bound = "ALTER SYSTEM SET max_slot_wal_keep_size = '900MB'";
    client.batch_execute(bound).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    Ok(orders)
}

/// A policy that wants a standby, and nobody else, keeps the backup `alone` waiting and says why.
async fn refused(orders: &Database) -> Result<Watching> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let policy = json!({"spec": {"backupFrom": "Standby"}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgBackup\nmetadata: {{name: alone, namespace: {namespace}}}\n\
         spec: {{protection: orders}}\n"
    ))?;
    let refused = |it: &Value| {
        has(it, "Accepted", "False")
            && said(it, "Accepted").is_some_and(|said| said["reason"] == "NoStandby")
    };
    let mut watching = Watching::one(kubectl, namespace, "pgb", "alone")?;
    let told = watching.wait("it waits", story::LIMIT, refused).await?;
    println!(
        "{}",
        said(&told, "Accepted").context("no Accepted")?["message"]
    );
    Ok(watching)
}

fn cut_later(namespace: &str, claim: &str, milliseconds: u64) -> Result<Faults> {
    let volume = format!("{namespace}/{claim}");
    Faults::set(&json!({"volume": volume, "delayBeforeCut": milliseconds}))
}

async fn completed(watching: &mut Watching, name: &str) -> Result<Value> {
    let ended = watching
        .wait("the backup's end", story::LIMIT, |it| {
            it["metadata"]["name"] == name
                && (has(it, "Completed", "True") || has(it, "Completed", "False"))
        })
        .await?;
    let conditions = &ended["status"]["conditions"];
    ensure!(has(&ended, "Completed", "True"), "{conditions}");
    Ok(ended)
}

fn of_primary(backup: &Value, pod: &str, reason: &str) -> Result<()> {
    let attempt = &backup["status"]["attempt"];
    let accepted = said(backup, "Accepted").context("no Accepted")?;
    ensure!(
        attempt["pod"] == pod && attempt["standby"].is_null(),
        "{attempt}"
    );
    ensure!(attempt["ofPrimary"]["reason"] == reason, "{attempt}");
    ensure!(accepted["reason"] == reason, "{accepted}");
    println!("{}", accepted["message"]);
    Ok(())
}

fn of_standby(backup: &Value, pod: &str) -> Result<()> {
    let attempt = &backup["status"]["attempt"];
    let claim = format!("data-{pod}");
    ensure!(attempt["pod"] == pod, "{attempt}");
    ensure!(attempt["standby"]["controlClaim"] == claim, "{attempt}");
    ensure!(attempt["ofPrimary"].is_null(), "{attempt}");
    Ok(())
}

/// Its snapshot was asked for when the other one was cut, seconds after that was asked for.
fn pg_control_was_last(backup: &Value) -> Result<()> {
    let cut_at = |claim: &str| -> Result<jiff::Timestamp> {
        let volumes = backup["status"]["volumes"].as_array();
        let mut volumes = volumes.context("no volumes")?.iter();
        let volume = volumes.find(|volume| volume["claim"] == claim);
        let at = volume.and_then(|volume| volume["cutAt"].as_str());
        Ok(at
            .with_context(|| format!("{claim} has no cutAt"))?
            .parse()?)
    };
    let (fast, data) = (cut_at("fast-orders-1")?, cut_at("data-orders-1")?);
    println!("the tablespace was cut at {fast}, pg_control at {data}");
    ensure!(fast < data, "pg_control was cut at {data}, before {fast}");
    Ok(())
}

/// A target before the end of the standby's backup is refused, and nothing is made.
async fn too_early(orders: &Database, backup: &Value) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let name = backup["metadata"]["name"].as_str().context("no name")?;
    let start = backup["status"]["session"]["startLsn"].as_str();
    let target = format!("{{lsn: {}}}", start.context("no start LSN")?);
    let source = format!("{{backup: {name}}}");
    story::request_restore(kubectl, namespace, ("early", &source), "never", &target)?;
    let about = ("pgr", "early");
    let refused = ("Completed", "False");
    let told = condition(kubectl, namespace, about, refused, story::LIMIT).await?;
    let completed = said(&told, "Completed").context("no Completed")?;
    ensure!(completed["reason"] == "TargetBeforeWindow", "{completed}");
    let made = kubectl.get(namespace, "pvc", "data-never-0")?;
    ensure!(made.is_none(), "a claim was made");
    Ok(())
}

/// What is restored of that backup has every row that it owes, on both volumes.
async fn is_whole(orders: &Database, backup: &Value, writer: &Writer, least: i64) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let name = backup["metadata"]["name"].as_str().context("no name")?;
    let source = format!("{{backup: {name}}}");
    let request = ("latest", source.as_str());
    story::request_restore(kubectl, namespace, request, "clone", "{latest: {}}")?;
    story::completed(kubectl, namespace, "latest").await?;
    let clone = Database::existing(kubectl, namespace, "clone");
    let client = clone.connect().await?;
    let found = Ledger::check(&client, least, writer.ledger.sent()).await?;
    println!("of a standby: rows 1 to {found}, {least} are owed");
    volumes::tablespace_is_whole(&client).await?;
    balanced(&client).await?;
    integrity::amcheck(&clone).await
}

/// pgbench's transactions change three balances by the same amount, or none.
async fn balanced(client: &Client) -> Result<()> {
    let ask = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
        (SELECT sum(bbalance) FROM pgbench_branches)";
    let row = client.query_one(ask, &[]).await?;
    let sums: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    ensure!(sums.0 == sums.1 && sums.1 == sums.2, "balances: {sums:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_in_backup_mode_costs_an_attempt() {
    scenario("standby-promoted", async |deployment, namespace| {
        promoted(&deployment, &namespace).await
    })
    .await;
}

async fn promoted(deployment: &Deployment, namespace: &str) -> Result<()> {
    let orders = begin(deployment, namespace, "PreferStandby").await?;
    let kubectl = &deployment.kubectl;
    story::first_backup(kubectl, namespace, "orders").await?;
    let standby = members::join(&orders).await?;
    let streams = |it: &Value| it["status"]["standbys"] == json!(["orders-1"]);
    Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait("orders-1 streams", story::LIMIT, streams)
        .await?;
    let writer = Writer::start(&orders.address()?).await?;
    story::commits(&writer, 300).await?;

    let cuts = cut_later(namespace, "fast-orders-1", TOO_LATE)?;
    // Whoever begins before the failover is over comes to nothing either.
    let old = cut_later(namespace, "fast-orders-0", TOO_LATE)?;
    let mut watching = Watching::start(kubectl, namespace, &["pgb"])?;
    orders.annotate("highwater.dev/backup-now", "promoted")?;
    let begun = watching
        .wait("backup mode", story::LIMIT, |it| {
            has(it, "Session", "True") && !has(it, "Stopped", "True")
        })
        .await?;
    of_standby(&begun, "orders-1")?;
    let name = begun["metadata"]["name"].as_str().context("no name")?;
    let least = fail_over(&orders, writer, &standby, &mut watching, name).await?;
    drop((cuts, old));

    let ended = completed(&mut watching, name).await?;
    let status = &ended["status"];
    ensure!(status["attempt"]["number"].as_u64() > Some(1), "{status}");
    of_primary(&ended, "orders-1", "NoStandby")?;
    ensure!(status["session"]["timeline"] == 2, "{status}");
    let writer = Writer::start(&orders.address_of("orders-1")?).await?;
    story::commits(&writer, 300).await?;
    let least = least.max(writer.ledger.acknowledged());
    is_whole_after(&orders, &writer, least).await?;
    writer.stop().await.map(drop)
}

/// The standby becomes the primary, which the attempt must not survive; the old one dies. Returns what was acknowledged.
async fn fail_over(
    orders: &Database,
    writer: Writer,
    standby: &Client,
    watching: &mut Watching,
    name: &str,
) -> Result<i64> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let ledger = writer.stop().await?;
    let least = ledger.acknowledged();
    let there = format!("SELECT count(*) >= {least} FROM ledger");
    until_async("the standby has every row", standby, &there).await?;
    let promoted: bool = standby.query_one("SELECT pg_promote()", &[]).await?.get(0);
    ensure!(promoted, "the standby was not promoted in time");
    let void = watching
        .wait("the attempt's end", story::LIMIT, |it| {
            it["metadata"]["name"] == name && has(it, "Session", "False")
        })
        .await?;
    crash::kill(kubectl, namespace, "orders-0", "postgres")?;
    let session = said(&void, "Session").context("no Session")?;
    println!("{}: {}", session["reason"], session["message"]);
    ensure!(session["reason"] == "StandbyPromoted", "{session}");
    let writes = "SELECT NOT pg_is_in_recovery()";
    until_async("orders-1 takes writes", standby, writes).await?;
    Ok(least)
}

async fn is_whole_after(orders: &Database, writer: &Writer, least: i64) -> Result<()> {
    let found = story::latest_holds(orders, &writer.ledger, least).await?;
    println!("after the failover: rows 1 to {found}, {least} are owed");
    let clone = Database::existing(&orders.kubectl, &orders.namespace, "clone");
    volumes::tablespace_is_whole(&clone.connect().await?).await?;
    integrity::amcheck(&clone).await
}
