//! A database on several volumes, archived in a directory, restored into claims alone and into a StatefulSet.

use anyhow::{Context, Result, bail, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, Watching, Writer, fill, gone, integrity, said, secrets,
    story, until,
};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::setup::scenario;

const CLAIMS: [&str; 3] = ["data", "fast", "wal"];
/// On the volume of that name.
pub const TABLESPACE: &str = "CREATE TABLESPACE fast LOCATION '/var/lib/postgresql/fast/space'";

#[tokio::test(flavor = "multi_thread")]
async fn several_volumes_are_cut_together_and_come_back_together() {
    scenario("volumes", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

/// A tablespace on the volume `fast`, with rows in it.
pub async fn fill_tablespace(client: &Client) -> Result<()> {
    for statement in [
        TABLESPACE,
        "CREATE TABLE copied (n bigint PRIMARY KEY) TABLESPACE fast",
        "INSERT INTO copied SELECT generate_series(1, 20000)",
    ] {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

/// Every row of it came back.
pub async fn tablespace_is_whole(client: &Client) -> Result<()> {
    let ask = "SELECT count(*), count(DISTINCT n) FROM copied";
    let row = client.query_one(ask, &[]).await?;
    let rows: (i64, i64) = (row.get(0), row.get(1));
    ensure!(rows == (20_000, 20_000), "the tablespace holds {rows:?}");
    Ok(())
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-volumes.yaml");
    // Claims of this class are bound before any pod is there.
    let class = "highwater-btrfs-immediate";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    let client = orders.connect().await?;
    fill_tablespace(&client).await?;
    let writer = Writer::start(&orders.address()?).await?;
    let policy = include_str!("../../manifests/directory-policy.yaml");
    kubectl.apply(&fill(policy, &[("NAMESPACE", namespace)])?)?;
    orders.annotate("highwater.dev/policy", "local")?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    holds(&backup, &CLAIMS)?;

    story::commits(&writer, 200).await?;
    let (target, last) = story::between_commits(&writer, &client).await?;
    client.batch_execute("TRUNCATE copied").await?;
    story::commits(&writer, 50).await?;
    let time = format!("{{time: \"{target}\"}}");
    let restore = ("together", "orders");
    story::restore(kubectl, namespace, restore, "clone", &time).await?;
    let restored = Database::existing(kubectl, namespace, "clone");
    let client = restored.connect().await?;
    Ledger::check(&client, last, last).await?;
    tablespace_is_whole(&client).await?;
    integrity::amcheck(&restored).await?;

    into_claims(kubectl, namespace, &time).await?;
    writer.stop().await?;
    a_restore_deleted_on_its_way_leaves_nothing(kubectl, namespace, &time).await?;
    put_back_under_its_own_name(&orders, &time, last).await?;
    a_deleted_backup_takes_its_snapshots_along(kubectl, namespace, &backup).await
}

fn holds(backup: &Value, names: &[&str]) -> Result<()> {
    let volumes = backup["status"]["volumes"].as_array();
    let volumes = volumes.context("the backup has no volumes")?;
    let mut claims: Vec<&str> = volumes.iter().filter_map(|v| v["claim"].as_str()).collect();
    claims.sort_unstable();
    let expected: Vec<_> = names
        .iter()
        .map(|name| format!("{name}-orders-0"))
        .collect();
    ensure!(claims == expected, "the backup holds {claims:?}");
    Ok(())
}

/// Without a tablespace's volume there is no backup; without that of WAL, which comes from the archive, there is.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_restore_does_not_need_may_be_left_out() {
    scenario("left-out", async |deployment, namespace| {
        leave_out(&deployment, &namespace).await
    })
    .await;
}

async fn leave_out(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-volumes.yaml");
    let class = "highwater-btrfs-immediate";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    let client = orders.connect().await?;
    client.batch_execute(TABLESPACE).await?;
    let writer = Writer::start(&orders.address()?).await?;
    kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgProtection\nmetadata: {{name: orders, namespace: {namespace}}}\n\
         spec: {{statefulSet: orders, policy: gold, excludeVolumes: [fast]}}\n"
    ))?;
    let refused = |it: &Value| {
        let active = said(it, "Active");
        active.is_some_and(|active| active["reason"] == "TablespaceNotOnVolume")
    };
    let mut watching = Watching::one(kubectl, namespace, "pgx", "orders")?;
    let what = "the tablespace is missed";
    let told = watching.wait(what, story::LIMIT, refused).await?;
    let active = said(&told, "Active").context("no Active")?;
    println!("{}", active["message"]);
    let made = kubectl.list(namespace, "volumesnapshots")?;
    ensure!(made.is_empty(), "{} VolumeSnapshots", made.len());

    let change = json!({"spec": {"excludeVolumes": ["wal"]}});
    kubectl.patch(namespace, ("pgx", "orders"), &change)?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    holds(&backup, &["data", "fast"])?;
    let least = writer.ledger.acknowledged();
    story::commits(&writer, 700).await?;
    let found = story::latest_holds(&orders, &writer.ledger, least).await?;
    println!("without the volume of WAL: rows 1 to {found}, {least} are owed");
    integrity::amcheck(&Database::existing(kubectl, namespace, "clone")).await?;
    writer.stop().await.map(drop)
}

/// Claims alone: recovered, bound, and no pod or StatefulSet beside them.
async fn into_claims(kubectl: &Kubectl, namespace: &str, time: &str) -> Result<()> {
    let rest = format!("target: {time}, into: {{volumes: {{namePrefix: alone}}}}");
    story::request(
        kubectl,
        namespace,
        ("claims", "{protection: orders}"),
        &rest,
    )?;
    let log = secrets::follow(kubectl, namespace, "claims-recovery");
    story::completed(kubectl, namespace, "claims").await?;
    let told = tokio::task::spawn_blocking(|| log.join()).await?;
    told.unwrap_or_else(|_| bail!("the log of the recovery could not be followed"))?;
    for claim in CLAIMS {
        let name = format!("alone-{claim}");
        let found = kubectl.get(namespace, "pvc", &name)?;
        let found = found.with_context(|| format!("there is no claim {name}"))?;
        ensure!(
            found["status"]["phase"] == "Bound",
            "claim {name} is not bound"
        );
    }
    let sets = kubectl.list(namespace, "statefulsets")?;
    ensure!(sets.len() == 2, "{} StatefulSets", sets.len());
    Ok(())
}

async fn a_restore_deleted_on_its_way_leaves_nothing(
    kubectl: &Kubectl,
    namespace: &str,
    time: &str,
) -> Result<()> {
    let name = "regretted";
    let from = (name, "{protection: orders}");
    story::request_restore(kubectl, namespace, from, "never", time)?;
    let claim = "data-never-0";
    until("a claim of the restore", story::LIMIT, || {
        kubectl.get(namespace, "pvc", claim)
    })
    .await?;
    kubectl.run(&["-n", namespace, "delete", "--wait=false", "pgr", name])?;
    for (kind, name) in [
        ("pvc", claim),
        ("pod", "regretted-recovery"),
        ("statefulset", "never"),
        ("service", "never"),
    ] {
        gone(kubectl, namespace, kind, name).await?;
    }
    Ok(())
}

/// A plan first, which changes nothing; then each volume is exchanged.
async fn put_back_under_its_own_name(orders: &Database, time: &str, last: i64) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let before = volumes(orders, "")?;
    let spec = format!("target: {time}, into: {{inPlace: {{scale: true}}}}");
    let from = "{protection: orders}";
    let look = format!("{spec}, planOnly: true");
    story::request(kubectl, namespace, ("look", from), &look)?;
    let planned = story::completed(kubectl, namespace, "look").await?;
    ensure!(planned["status"]["plan"]["timeline"] == 1, "{planned}");
    ensure!(
        volumes(orders, "")? == before,
        "a plan alone changed claims"
    );
    orders.connect().await?.batch_execute("SELECT 1").await?;

    story::request(kubectl, namespace, ("put-back", from), &spec)?;
    story::completed(kubectl, namespace, "put-back").await?;
    let (kept, now) = (volumes(orders, "-before-put-back")?, volumes(orders, "")?);
    ensure!(kept == before, "{kept:?} are kept of {before:?}");
    let again = now.iter().find(|volume| before.contains(volume));
    ensure!(again.is_none(), "old volumes are back: {now:?}");
    let client = orders.connect().await?;
    let found = Ledger::check(&client, last, last).await?;
    println!("three volumes put back: rows 1 to {found}");
    tablespace_is_whole(&client).await
}

/// Those of the pod's claims, whose names end so.
fn volumes(orders: &Database, ending: &str) -> Result<Vec<String>> {
    let volume = |claim: &str| {
        let name = format!("{claim}-orders-0{ending}");
        let found = orders.kubectl.get(&orders.namespace, "pvc", &name)?;
        let found = found.with_context(|| format!("there is no claim {name}"))?;
        let volume = found["spec"]["volumeName"].as_str();
        Ok(volume.context("a claim is not bound")?.to_owned())
    };
    CLAIMS.iter().map(|claim| volume(claim)).collect()
}

async fn a_deleted_backup_takes_its_snapshots_along(
    kubectl: &Kubectl,
    namespace: &str,
    backup: &Value,
) -> Result<()> {
    let name = backup["metadata"]["name"].as_str().context("no name")?;
    kubectl.run(&["-n", namespace, "delete", "--wait=false", "pgb", name])?;
    let volumes = backup["status"]["volumes"].as_array();
    for volume in volumes.context("the backup has no volumes")? {
        let snapshot = volume["volumeSnapshot"].as_str().context("no snapshot")?;
        gone(kubectl, namespace, "volumesnapshot", snapshot).await?;
        let content = volume["content"].as_str().context("no content")?;
        gone(kubectl, namespace, "volumesnapshotcontent", content).await?;
    }
    Ok(())
}
