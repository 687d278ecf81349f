//! Somebody else's WAL lies where this database's belongs: nothing is overwritten, and a new lineage begins by itself.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use highwater::archive::{MountedSecrets, store};
use highwater_e2e::harness::{Database, Deployment, has, measure, secrets, story, until};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use serde_json::Value;

use super::{archives, ledger, setup::scenario};

const SEGMENT: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_proven_conflict_begins_a_lineage_and_takes_a_backup() {
    scenario("conflict", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (orders, writer, _) = story::protected(deployment, namespace).await?;
    let old = ledger::lineage(kubectl, namespace)?.context("no lineage")?;
    let client = orders.connect().await?;
    // Where one segment has ended, the function names that one.
    story::commits(&writer, 10).await?;
    let name = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let name: String = client.query_one(name, &[]).await?.get(0);
    let key = format!("{namespace}-orders/{old}/wal/00000001/{name}.zst");
    let (store, key, foreign) = (store(&orders)?, Path::from(key), foreign()?);
    let new = PutOptions::from(PutMode::Create);
    store.put_opts(&key, foreign.clone().into(), new).await?;
    story::commits(&writer, 50).await?;
    client.batch_execute("SELECT pg_switch_wal()").await?;

    let new = until("a new lineage", story::LIMIT, || {
        Ok(ledger::lineage(kubectl, namespace)?.filter(|now| *now != old))
    })
    .await?;
    until("the events", story::LIMIT, || {
        let events = kubectl.list(namespace, "events.events.k8s.io")?;
        let told = |reason: &str, what: &str| {
            let note = |event: &Value| event["note"].as_str().unwrap_or_default().contains(what);
            events
                .iter()
                .any(|event| event["reason"] == reason && note(event))
        };
        Ok((told("WalConflict", &name) && told("LineageStarted", &new)).then_some(()))
    })
    .await?;
    let told = measure::metrics(kubectl, namespace, measure::AGENTS)?.join("\n");
    ensure!(
        told.contains("\nhighwater_lineages_begun_total 1\n"),
        "the agent does not count the new lineage: {told}"
    );
    let its = |backup: &Value| {
        backup["status"]["session"]["lineage"] == *new && has(backup, "Completed", "True")
    };
    until("the first backup of the new lineage", story::LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        Ok(backups.iter().any(its).then_some(()))
    })
    .await?;
    let there = store.get(&key).await?.bytes().await?;
    ensure!(there == foreign, "it was overwritten");
    let owed = writer.ledger.acknowledged();
    archives::archived(&orders, &client).await?;
    let found = story::latest_holds(&orders, &writer.ledger, owed).await?;
    println!("in the new lineage: rows 1 to {found}, {owed} are owed");
    writer.stop().await.map(drop)
}

/// The bucket, as the PgArchive and its Secret say.
fn store(orders: &Database) -> Result<Arc<dyn ObjectStore>> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let archive = orders.kubectl.get(&orders.namespace, "pga", "main")?;
    let spec = archive.context("no PgArchive")?["spec"].clone();
    let credentials = tempfile::tempdir()?;
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "highwater"),
        ("AWS_SECRET_ACCESS_KEY", secrets::SECRET_KEY),
    ] {
        fs::write(credentials.path().join(name), value)?;
    }
    let mounted = MountedSecrets {
        credentials: Some(credentials.path().to_owned()),
        ca_file: None,
        directory: "/nowhere".into(),
    };
    Ok(store::open(&serde_json::from_value(spec)?, &mounted)?)
}

/// A sound object of a whole segment that is no WAL of this database.
fn foreign() -> Result<Vec<u8>> {
    let mut zstd = Command::new("zstd")
        .args([
            "-q",
            "-c",
            "--content-size",
            &format!("--stream-size={SEGMENT}"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start zstd")?;
    let mut plain = zstd.stdin.take().context("no standard input")?;
    plain.write_all(&vec![0x5a; SEGMENT])?;
    drop(plain);
    let output = zstd.wait_with_output()?;
    ensure!(output.status.success(), "zstd failed");
    Ok(output.stdout)
}
