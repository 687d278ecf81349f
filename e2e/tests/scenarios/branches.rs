//! After a failover that lost commits there are two branches, and both are restored: to their ends, and to one time.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Ledger, Writer, story, until_async};
use tokio_postgres::Client;

use super::{archives, failover, members, setup::scenario};

#[tokio::test(flavor = "multi_thread")]
async fn both_branches_are_restored() {
    scenario("branches", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let orders =
        Database::create_as(deployment, namespace, "orders", "highwater-btrfs", shape).await?;
    let standby = members::join(&orders).await?;
    let primary = orders.connect().await?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    story::commits(&writer, 100).await?;

    hear_nothing(&standby).await?;
    story::commits(&writer, 100).await?;
    let (time, last) = story::between_commits(&writer, &primary).await?;
    story::commits(&writer, 100).await?;
    let owed = writer.ledger.acknowledged();
    archives::archived(&orders, &primary).await?;
    failover::fail_over(&orders, &writer, &standby).await?;
    let forked = rows(&standby).await?;
    ensure!(forked < last, "the standby has heard of row {last}");

    let again = Writer::start(&orders.address_of("orders-1")?).await?;
    story::commits(&again, 200).await?;
    failover::follows(&orders).await?;
    let least = again.ledger.acknowledged();
    archives::archived(&orders, &standby).await?;
    let again = again.stop().await?;
    let sent = (writer.ledger.sent(), again.sent());
    let until_then = format!("{{time: \"{time}\"}}");
    let until_then_before = format!("{{time: \"{time}\", timeline: 1}}");
    let restores = [
        ("old-end", "{timeline: 1}", (owed, sent.0)),
        ("old-time", &until_then_before, (last, last)),
        ("new-time", &until_then, (forked, forked)),
        ("new-end", "{timeline: 2}", (least, sent.1)),
    ];
    for (name, target, _) in &restores {
        let from = (*name, "{protection: orders}");
        story::request_restore(kubectl, namespace, from, name, target)?;
    }
    for (name, target, (least, most)) in restores {
        story::completed(kubectl, namespace, name).await?;
        let restored = Database::existing(kubectl, namespace, name);
        let found = Ledger::check(&restored.connect().await?, least, most).await;
        let found = found.with_context(|| format!("restore {name} to {target}"))?;
        println!("{name}: rows 1 to {found}, {least} to {most} are owed");
    }
    Ok(())
}

/// The standby gets no more WAL: what is committed from now on it will not have when it is promoted.
async fn hear_nothing(standby: &Client) -> Result<()> {
    standby
        .batch_execute("ALTER SYSTEM SET primary_conninfo = ''")
        .await?;
    standby.batch_execute("SELECT pg_reload_conf()").await?;
    let deaf = "SELECT count(*) = 0 FROM pg_stat_wal_receiver";
    until_async("the standby hears nothing", standby, deaf).await
}

async fn rows(client: &Client) -> Result<i64> {
    let newest = "SELECT max(n)::int8 FROM ledger";
    Ok(client.query_one(newest, &[]).await?.get(0))
}
