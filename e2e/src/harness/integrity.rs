//! What PostgreSQL's own tools say of a restored database.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio_postgres::Client;

use super::{Database, Ledger, database::PASSWORD, fill, postgres, until};

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The oracle: the restored database at `host` holds rows 1 to n without a hole, n from `least` to `most`, and pg_amcheck
/// finds nothing. Returns n.
///
/// # Errors
/// A row is missing or too many, or something is corrupt.
pub async fn judge(client: &Client, host: &str, (least, most): (i64, i64)) -> Result<i64> {
    let found = Ledger::check(client, least, most).await?;
    amcheck_at(host).await?;
    Ok(found)
}

/// pg_amcheck over every heap and index, parents of B-trees and all rows included.
///
/// # Errors
/// It finds something, or cannot run.
pub async fn amcheck(database: &Database) -> Result<()> {
    let checked = amcheck_at(&database.address()?).await;
    checked.with_context(|| format!("database {}", database.name))
}

/// The same of the database at an address, or with its socket in a folder.
async fn amcheck_at(host: &str) -> Result<()> {
    let mut command = Command::new(postgres::program("pg_amcheck"));
    command
        .args(["-h", host, "-U", "postgres", "--install-missing"])
        .args(["--heapallindexed", "--parent-check", "-d", "postgres"])
        .env("PGPASSWORD", PASSWORD);
    let output = command.output().await.context("failed to run pg_amcheck")?;
    ensure!(
        output.status.success(),
        "pg_amcheck: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Scales the database to 0 and runs pg_checksums over its claim; returns what it said. The database stays stopped.
///
/// # Errors
/// A checksum is wrong, or the check cannot run.
pub async fn checksums(database: &Database, image: &str) -> Result<String> {
    database.scale(0).await?;
    let (kubectl, namespace) = (&database.kubectl, &database.namespace);
    let name = format!("{}-checksums", database.name);
    let claim = format!("data-{}-0", database.name);
    let values = [
        ("NAME", name.as_str()),
        ("NAMESPACE", namespace),
        ("IMAGE", image),
        ("CLAIM", &claim),
    ];
    kubectl.apply(&fill(
        include_str!("../../manifests/checksums.yaml"),
        &values,
    )?)?;
    let phase = until("pg_checksums", LIMIT, || {
        let pod = kubectl.get(namespace, "pod", &name)?;
        let phase = pod.and_then(|pod| pod["status"]["phase"].as_str().map(str::to_owned));
        Ok(phase.filter(|phase| phase == "Succeeded" || phase == "Failed"))
    })
    .await?;
    let said = kubectl.run(&["-n", namespace, "logs", &name])?;
    ensure!(
        phase == "Succeeded",
        "pg_checksums of {}: {said}",
        database.name
    );
    kubectl.run(&["-n", namespace, "delete", "pod", &name])?;
    Ok(said)
}
