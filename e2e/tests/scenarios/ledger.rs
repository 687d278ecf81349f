//! The main job: one annotation, a backup under load, restores that hold every acknowledged commit and none too many.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Kubectl, Ledger, Writer, condition, until};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::setup::scenario;

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn restores_hold_what_was_acknowledged_and_nothing_else() {
    scenario("ledger", async |deployment, namespace| {
        story(&deployment, &namespace).await
    })
    .await;
}

async fn story(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let address = orders.address()?;
    let mut pgbench = load(&address).await?;
    let writer = Writer::start(&address).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = first_backup(kubectl, namespace).await?;
    until("commits after the backup", LIMIT, || {
        Ok((writer.ledger.acknowledged() > 300).then_some(()))
    })
    .await?;
    let client = orders.connect().await?;
    let (target, last) = writer
        .between_commits(async || {
            let row = client.query_one("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')", &[]).await;
            row.map(|row| (row.get::<_, String>(0), writer.ledger.acknowledged()))
        })
        .await?;
    until("commits after the target", LIMIT, || {
        Ok((writer.ledger.acknowledged() > last + 200).then_some(()))
    })
    .await?;
    client
        .batch_execute("DELETE FROM ledger WHERE n % 2 = 0")
        .await?;

    restore(
        kubectl,
        namespace,
        "before-delete",
        "orders-restored",
        &format!("{{time: \"{target}\"}}"),
    )
    .await?;
    let restored = Database::existing(kubectl, namespace, "orders-restored")
        .connect()
        .await?;
    let found = Ledger::check(&restored, last, last).await?;
    println!("restored to {target}: rows 1 to {found}, {last} were acknowledged; backup {backup}");
    pgbench.kill().await?;
    writer.stop().await?;
    Ok(())
}

/// pgbench beside the writer, at a rate that leaves the machine to what is tested.
async fn load(address: &str) -> Result<Child> {
    let pgbench = |args: &[&str]| {
        let mut command = Command::new("/usr/lib/postgresql/15/bin/pgbench");
        command
            .args(["-h", address, "-U", "postgres"])
            .args(args)
            .arg("postgres");
        command
            .env("PGPASSWORD", "the-planted-secret-5c1e")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    };
    let made = pgbench(&["-i", "-q", "-s", "5"])
        .status()
        .await
        .context("failed to run pgbench")?;
    ensure!(made.success(), "pgbench -i failed");
    Ok(pgbench(&["-c", "2", "-R", "100", "-T", "600"]).spawn()?)
}

/// Waits for the protection's first backup and returns its name.
async fn first_backup(kubectl: &Kubectl, namespace: &str) -> Result<String> {
    condition(
        kubectl,
        namespace,
        ("pgx", "orders"),
        ("WalArchiving", "True"),
        LIMIT,
    )
    .await?;
    let name = until("the first backup", LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        Ok(backups
            .first()
            .and_then(|backup| backup["metadata"]["name"].as_str().map(str::to_owned)))
    })
    .await?;
    let done = condition(
        kubectl,
        namespace,
        ("pgb", &name),
        ("Completed", "True"),
        LIMIT,
    )
    .await?;
    println!("backup {name}: {}", summary(&done));
    Ok(name)
}

fn summary(backup: &Value) -> String {
    let session = &backup["status"]["session"];
    format!(
        "checkpoint {} s, backup mode {} s",
        session["checkpointSeconds"], session["backupModeSeconds"]
    )
}

/// Restores into a new StatefulSet and waits until it is handed over.
async fn restore(
    kubectl: &Kubectl,
    namespace: &str,
    name: &str,
    into: &str,
    target: &str,
) -> Result<Value> {
    kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgRestore\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  source: {{protection: orders}}\n  target: {target}\n  into: {{statefulSet: {into}}}\n"
    ))?;
    condition(
        kubectl,
        namespace,
        ("pgr", name),
        ("Completed", "True"),
        LIMIT,
    )
    .await
}
