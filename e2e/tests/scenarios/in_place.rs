//! A database is put back under its own name, as `docs/runbooks/in-place.md` says: one with a single member by hand, step by step;
//! one with three by `into.inPlace`.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Ledger, Watching, Writer, connect, gone, has, members, said, story, until,
};
use serde_json::Value;

use super::{ledger::lineage, setup::scenario};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_put_back_under_its_own_name() {
    scenario("in-place", async |deployment, namespace| {
        let (orders, past) = dropped(&deployment, &namespace, 1).await?;
        by_hand(&orders, &past.target).await?;
        past.is_there_again(&orders, 1).await?;
        the_old_volumes_go_when_they_are_let_go(&orders).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_are_put_back_under_their_own_name() {
    scenario("in-place-3", async |deployment, namespace| {
        let (orders, past) = dropped(&deployment, &namespace, 3).await?;
        in_place(&orders, &past.target).await?;
        past.is_there_again(&orders, 3).await?;
        the_old_volumes_are_kept(&orders).await
    })
    .await;
}

/// What the database was before the accident.
struct Past {
    /// As `spec.target`.
    target: String,
    /// The last row that was acknowledged before.
    last: i64,
    /// The lineage.
    lineage: Option<String>,
}

impl Past {
    async fn is_there_again(&self, orders: &Database, number: u8) -> Result<()> {
        let (target, last) = (&self.target, self.last);
        let client = orders.connect().await?;
        let found = Ledger::check(&client, last, last).await?;
        println!("{number} put back to {target}: rows 1 to {found}, {last} were acknowledged");
        if number > 1 {
            join_again(orders, number).await?;
        }
        goes_on(orders, self.lineage.as_deref(), last).await
    }
}

/// A protected database of so many members, whose table was dropped.
async fn dropped(deployment: &Deployment, namespace: &str, number: u8) -> Result<(Database, Past)> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let orders =
        Database::create_as(deployment, namespace, "orders", "highwater-btrfs", shape).await?;
    if number > 1 {
        members::join_all(&orders, number).await?;
    }
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    story::commits(&writer, 200).await?;
    let client = orders.connect().await?;
    let (target, last) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 200).await?;
    writer.stop().await?;
    client.batch_execute("DROP TABLE ledger").await?;
    let past = Past {
        target: format!("{{time: \"{target}\"}}"),
        last,
        lineage: lineage(kubectl, namespace)?,
    };
    Ok((orders, past))
}

/// The runbook's short way.
async fn in_place(orders: &Database, target: &str) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let target = format!("target: {target}");
    request(
        orders,
        "running",
        &format!("{target}, into: {{inPlace: {{}}}}"),
    )?;
    let refused =
        |it: &Value| said(it, "Completed").is_some_and(|it| it["reason"] == "StatefulSetRunning");
    Watching::one(kubectl, namespace, "pgr", "running")?
        .wait("refused while it runs", story::LIMIT, refused)
        .await?;

    let before = volumes(orders)?;
    let scaled = format!("{target}, into: {{inPlace: {{scale: true}}}}");
    request(orders, "put-back", &scaled)?;
    story::completed(kubectl, namespace, "put-back").await?;
    for (member, volume) in before.iter().enumerate() {
        let kept = volume_of(orders, &format!("data-orders-{member}-before-put-back"))?;
        ensure!(
            kept.as_ref() == Some(volume),
            "{member} had {volume}, kept is {kept:?}"
        );
    }
    let now = volume_of(orders, "data-orders-0")?.context("the first member has no volume")?;
    ensure!(!before.contains(&now), "the old volume {now} is back");
    ensure!(
        volume_of(orders, "data-orders-1")?.is_none(),
        "the second member is not to begin with old data"
    );
    ensure!(
        replicas(orders)? == Some(1),
        "the first member alone is started"
    );
    Ok(())
}

const KEPT: &str = "data-orders-0-before-put-back";

fn replicas(orders: &Database) -> Result<Option<i64>> {
    let set = orders.kubectl.get(&orders.namespace, "sts", "orders")?;
    Ok(set.and_then(|set| set["spec"]["replicas"].as_i64()))
}

/// The volume of a claim that is there.
fn volume_of(orders: &Database, claim: &str) -> Result<Option<String>> {
    let found = orders.kubectl.get(&orders.namespace, "pvc", claim)?;
    Ok(found.and_then(|found| found["spec"]["volumeName"].as_str().map(str::to_owned)))
}

/// The members' volumes.
fn volumes(orders: &Database) -> Result<Vec<String>> {
    (0..3)
        .map(|member| {
            let claim = format!("data-orders-{member}");
            volume_of(orders, &claim)?.with_context(|| format!("{claim} has no volume"))
        })
        .collect()
}

/// Until somebody lets them go, also where their claims are deleted.
async fn the_old_volumes_are_kept(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let volume = volume_of(orders, KEPT)?.context("no volume is kept")?;
    let snapshot = kubectl.get(namespace, "volumesnapshot", KEPT)?;
    let snapshot = snapshot.context("no snapshot was taken first")?;
    ensure!(snapshot["status"]["readyToUse"] == true, "{snapshot}");
    kubectl.run(&["-n", namespace, "delete", "pgr", "put-back"])?;
    kubectl.run(&["-n", namespace, "delete", "pvc", KEPT])?;
    gone(&orders.kubectl, &orders.namespace, "pvc", KEPT).await?;
    let found = kubectl.get("default", "pv", &volume)?;
    let found = found.with_context(|| format!("{volume} went with its claim"))?;
    ensure!(
        found["spec"]["persistentVolumeReclaimPolicy"] == "Retain",
        "{found}"
    );
    orders.connect().await?.batch_execute("SELECT 1").await?;
    let delete = r#"{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#;
    for member in 0..3 {
        let kept = format!("data-orders-{member}-before-put-back");
        let of_member = volume_of(orders, &kept)?.unwrap_or_else(|| volume.clone());
        kubectl.run(&["patch", "pv", &of_member, "-p", delete])?;
    }
    Ok(())
}

/// Steps 1 to 5 of the runbook.
async fn by_hand(orders: &Database, target: &str) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    request(orders, "look", &format!("target: {target}, planOnly: true"))?;
    story::completed(kubectl, namespace, "look").await?;
    orders.want(0)?;
    gone(&orders.kubectl, &orders.namespace, "pod", "orders-0").await?;
    let claim = "data-orders-0";
    let volume = volume_of(orders, claim)?.context("not bound")?;
    let retain = r#"{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}"#;
    kubectl.run(&["patch", "pv", &volume, "-p", retain])?;
    let mark = format!("was={namespace}.{claim}");
    kubectl.run(&["label", "pv", &volume, &mark])?;
    kubectl.run(&["-n", namespace, "delete", "pvc", claim])?;
    gone(&orders.kubectl, &orders.namespace, "pvc", claim).await?;
    let into = "{volumes: {names: [{volume: data, claim: data-orders-0}]}}";
    let spec = format!("target: {target}, into: {into}");
    request(orders, "put-back", &spec)?;
    story::completed(kubectl, namespace, "put-back").await?;
    orders.scale(1).await
}

const ORDERS: &str = "{protection: orders}";

fn request(orders: &Database, name: &str, rest: &str) -> Result<()> {
    story::request(&orders.kubectl, &orders.namespace, (name, ORDERS), rest)
}

/// The others begin with empty claims, and copy the first.
async fn join_again(orders: &Database, number: u8) -> Result<()> {
    members::copy_from(orders, &orders.address()?)?;
    for (name, address) in members::arrived(orders, number).await? {
        let standby = connect(&address).await?;
        let recovers = "SELECT pg_is_in_recovery()";
        let recovers: bool = standby.query_one(recovers, &[]).await?.get(0);
        ensure!(recovers, "{name} takes writes");
    }
    Ok(())
}

/// It is protected as before: one history, whose new branch is restored from, and the old one still.
async fn goes_on(orders: &Database, before: Option<&str>, last: i64) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let client = orders.connect().await?;
    client
        .batch_execute("CREATE TABLE since (n int); INSERT INTO since VALUES (1)")
        .await?;
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    client.batch_execute("CHECKPOINT").await?;
    let timeline: i32 = client.query_one(timeline, &[]).await?.get(0);
    ensure!(timeline == 2, "it is on timeline {timeline}");
    until("the new branch is archived", story::LIMIT, || {
        let protection = kubectl.get(namespace, "pgx", "orders")?;
        let status = protection.context("no protection")?["status"].clone();
        let timelines = status["recoverable"]["timelines"].as_array();
        let newest = timelines.into_iter().flatten().any(|it| it["id"] == 2);
        Ok(newest.then_some(()))
    })
    .await?;
    ensure!(
        lineage(kubectl, namespace)?.as_deref() == before,
        "another lineage began"
    );
    orders.annotate("highwater.dev/backup-now", "1")?;
    until("a backup of the new branch", story::LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let is_new =
            |it: &Value| it["status"]["session"]["timeline"] == 2 && has(it, "Completed", "True");
        Ok(backups.iter().any(is_new).then_some(()))
    })
    .await?;
    let from = ("since", "orders");
    story::restore(kubectl, namespace, from, "since", "{latest: {}}").await?;
    let copy = Database::existing(kubectl, namespace, "since")
        .connect()
        .await?;
    let rows: i64 = copy
        .query_one("SELECT count(*) FROM since", &[])
        .await?
        .get(0);
    ensure!(rows == 1, "{rows} rows since");
    Ledger::check(&copy, last, last).await.map(drop)
}

/// Step 8: until then nothing of the old state is lost.
async fn the_old_volumes_go_when_they_are_let_go(orders: &Database) -> Result<()> {
    let kubectl = &orders.kubectl;
    let mark = format!("was={}.data-orders-0", orders.namespace);
    let list = ["get", "pv", "-l", &mark, "-o", "json"];
    let found: Value = serde_json::from_str(&kubectl.run(&list)?)?;
    let volume = &found["items"][0];
    ensure!(volume["status"]["phase"] == "Released", "{found}");
    let name = volume["metadata"]["name"].as_str().context("no name")?;
    let delete = r#"{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#;
    kubectl.run(&["patch", "pv", name, "-p", delete])?;
    until("the old volume is gone", story::LIMIT, || {
        let found = kubectl.get("default", "pv", name)?;
        Ok(found.is_none().then_some(()))
    })
    .await
}
