//! Commits that wait for the archive: database, volume and agent are lost at once, and not one acknowledged row.

use std::time::Duration;

use anyhow::{Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Watching, Writer, crash, story};
use serde_json::{Value, json};

use super::{failover, members, setup::scenario};

const LIMIT: Duration = Duration::from_secs(120);
const SYNCHRONOUS: &str = "SELECT count(*) > 0 FROM pg_stat_replication \
    WHERE application_name = 'highwater' AND sync_state = 'sync'";

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost() {
    scenario("synchronous", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let client = orders.connect().await?;
    members::allow_replication(&client).await?;
    let policy = json!({"spec": {"wal": {"synchronous": true}}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    let says = |protection: &Value| protection["status"]["wal"]["synchronous"] == true;
    Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait("status says synchronous", LIMIT, says)
        .await?;
    client
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'highwater'")
        .await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    failover::until_async("commits wait for the archive", &client, SYNCHRONOUS).await?;

    let writer = Writer::start(&orders.address()?).await?;
    story::commits(&writer, 200).await?;
    ensure!(
        writer.ended().is_none(),
        "the writer ended: {:?}",
        writer.ended()
    );
    let agent = failover::agent(&orders)?;
    crash::kill(kubectl, namespace, &agent, "agent")?;
    orders.destroy().await?;
    let ledger = writer.stop().await?;
    let owed = ledger.acknowledged();
    ensure!(owed >= 200, "only {owed} rows were acknowledged");
    let found = story::latest_holds(&orders, &ledger, owed).await?;
    println!("commits waited for the archive: rows 1 to {found}, {owed} are owed");
    Ok(())
}
