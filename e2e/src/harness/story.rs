//! The steps that the scenarios and the demo share.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use super::{
    Database, Deployment, Kubectl, Ledger, Writer, condition,
    database::{PASSWORD, host_and_port},
    postgres, until,
};

/// The longest that any step may take.
pub const LIMIT: Duration = Duration::from_secs(180);

/// pgbench as the superuser. Ends when it is dropped.
pub fn pgbench(address: &str, args: &[&str]) -> Command {
    let (host, port) = host_and_port(address);
    let mut command = Command::new(postgres::program("pgbench"));
    command
        .args(["-h", host, "-p", port, "-U", "postgres"])
        .args(args)
        .arg("postgres")
        .env("PGPASSWORD", PASSWORD)
        .kill_on_drop(true);
    command
}

/// pgbench beside the writer, at a rate that leaves the machine to what is tested. Ends when it is dropped.
///
/// # Errors
/// pgbench cannot run.
pub async fn load(address: &str) -> Result<Child> {
    let pgbench = |args: &[&str]| {
        let mut command = pgbench(address, args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let made = pgbench(&["-i", "-q", "-s", "5"])
        .status()
        .await
        .context("failed to run pgbench")?;
    ensure!(made.success(), "pgbench -i failed");
    Ok(pgbench(&["-c", "2", "-R", "100", "-T", "600"]).spawn()?)
}

/// Requires that pgbench still runs: without it nothing was done under load.
///
/// # Errors
/// It ended.
pub fn still_loads(pgbench: &mut Child) -> Result<()> {
    let ended = pgbench.try_wait()?;
    ensure!(ended.is_none(), "pgbench ended: {ended:?}");
    Ok(())
}

/// Waits for the first backup of the protection `name` and returns it, completed.
///
/// # Errors
/// It does not complete.
pub async fn first_backup(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<Value> {
    condition(
        kubectl,
        namespace,
        ("pgx", name),
        ("WalArchiving", "True"),
        LIMIT,
    )
    .await?;
    let backup = until("the first backup", LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let first = backups
            .iter()
            .find(|backup| backup["spec"]["protection"] == name);
        Ok(first.and_then(|backup| backup["metadata"]["name"].as_str().map(str::to_owned)))
    })
    .await?;
    condition(
        kubectl,
        namespace,
        ("pgb", &backup),
        ("Completed", "True"),
        LIMIT,
    )
    .await
}

/// The database `orders` under the ledger's load, and its first backup.
///
/// # Errors
/// It does not become ready, or the backup does not complete.
pub async fn protected(
    deployment: &Deployment,
    namespace: &str,
) -> Result<(Database, Writer, Value)> {
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = first_backup(&deployment.kubectl, namespace, "orders").await?;
    Ok((orders, writer, backup))
}

/// Waits until the writer has committed `more` rows from now on.
///
/// # Errors
/// It does not get that far.
pub async fn commits(writer: &Writer, more: i64) -> Result<()> {
    let enough = writer.ledger.acknowledged() + more;
    until("more commits", LIMIT, || {
        Ok((writer.ledger.acknowledged() > enough).then_some(()))
    })
    .await
}

/// A time between two acknowledged commits, by the database's clock, and the number of the one before it.
///
/// # Errors
/// The database cannot be asked.
pub async fn between_commits(writer: &Writer, client: &Client) -> Result<(String, i64)> {
    let ask =
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let look = async || {
        let row = client.query_one(ask, &[]).await;
        row.map(|row| (row.get::<_, String>(0), writer.ledger.acknowledged()))
    };
    Ok(writer.between_commits(look).await?)
}

/// Restores the protection `source` into a new StatefulSet and waits until it is handed over.
///
/// # Errors
/// It does not complete.
pub async fn restore(
    kubectl: &Kubectl,
    namespace: &str,
    (name, source): (&str, &str),
    into: &str,
    target: &str,
) -> Result<Value> {
    let source = format!("{{protection: {source}}}");
    request_restore(kubectl, namespace, (name, &source), into, target)?;
    completed(kubectl, namespace, name).await
}

/// Restores the protection `orders` to latest into `clone`, whose rows must be those that `ledger` noted: from 1 on at least
/// `least`, and none that was not sent by the end of the restore. Returns the last row.
///
/// # Errors
/// It does not complete, or a row is missing or too many.
pub async fn latest_holds(orders: &Database, ledger: &Ledger, least: i64) -> Result<i64> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let from = ("latest", "orders");
    restore(kubectl, namespace, from, "clone", "{latest: {}}").await?;
    let clone = Database::existing(kubectl, namespace, "clone");
    Ledger::check(&clone.connect().await?, least, ledger.sent()).await
}

/// Makes a PgRestore into a new StatefulSet; `source` and `target` are YAML, as `{backup: orders-1}` and `{latest: {}}`.
///
/// # Errors
/// The API server refuses.
pub fn request_restore(
    kubectl: &Kubectl,
    namespace: &str,
    (name, source): (&str, &str),
    into: &str,
    target: &str,
) -> Result<()> {
    let rest = format!("target: {target}, into: {{statefulSet: {into}}}");
    request(kubectl, namespace, (name, source), &rest)
}

/// Makes a PgRestore; `source` is YAML, as `{backup: orders-1}`, and `rest` all other fields of the spec, as
/// `target: {latest: {}}, planOnly: true`.
///
/// # Errors
/// The API server refuses.
pub fn request(
    kubectl: &Kubectl,
    namespace: &str,
    (name, source): (&str, &str),
    rest: &str,
) -> Result<()> {
    kubectl.apply(&format!(
        "apiVersion: highwater.dev/v1alpha1\nkind: PgRestore\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{source: {source}, {rest}}}\n"
    ))?;
    Ok(())
}

/// Waits for a PgRestore to complete.
///
/// # Errors
/// It does not complete.
pub async fn completed(kubectl: &Kubectl, namespace: &str, restore: &str) -> Result<Value> {
    condition(
        kubectl,
        namespace,
        ("pgr", restore),
        ("Completed", "True"),
        LIMIT,
    )
    .await
}
