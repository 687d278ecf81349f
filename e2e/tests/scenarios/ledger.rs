//! The main job: one annotation, a backup under load, restores that hold every acknowledged commit and none too many.

use anyhow::Result;
use highwater_e2e::harness::{Database, Deployment, Ledger, Writer, story};

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn restores_hold_what_was_acknowledged_and_nothing_else() {
    scenario("ledger", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let address = orders.address()?;
    let pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    story::commits(&writer, 300).await?;
    let client = orders.connect().await?;
    let (target, last) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 200).await?;
    client
        .batch_execute("DELETE FROM ledger WHERE n % 2 = 0")
        .await?;

    let time = format!("{{time: \"{target}\"}}");
    story::restore(
        kubectl,
        namespace,
        ("before-delete", "orders"),
        "orders-restored",
        &time,
    )
    .await?;
    let restored = Database::existing(kubectl, namespace, "orders-restored")
        .connect()
        .await?;
    let found = Ledger::check(&restored, last, last).await?;
    println!("restored to {target}: rows 1 to {found}, {last} were acknowledged");
    drop(pgbench);
    writer.stop().await?;
    Ok(())
}
