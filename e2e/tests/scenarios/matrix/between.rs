//! Kills, a failover and a network that is away, between two steps of a backup.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Faults, NetworkCut, Watching, Writer, crash, has, leftovers, prey, said,
    story, until,
};
use serde_json::{Value, json};

use super::{Case, FIRST, LIMIT, failover, members, row, scenario, scenario_alone, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_while_a_snapshot_is_cut() {
    scenario_alone("controller-killed", async |deployment, namespace| {
        let fault = json!({"snapshot": FIRST, "delayBeforeCut": 8000});
        let (mut case, _fault) = Case::begin(&deployment, &namespace, json!({}), fault).await?;
        case.snapshot().await?;
        let holder = prey::controller(&deployment.kubectl).await?;
        holder.end(&deployment.kubectl)?;
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

/// Backup mode has ended, and only the agent has the label: with it the attempt is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_before_the_label_is_in_the_archive() {
    scenario("label-lost", async |deployment, namespace| {
        let (mut case, _fault, cut) = label_in_hand(&deployment, &namespace).await?;
        let agent = prey::agent(&case.orders).await?;
        agent.end(&deployment.kubectl)?;
        drop(cut);
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

/// The agent goes on where it was, and so does who takes over from the controller.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_before_the_label_is_in_the_archive() {
    scenario_alone("label-kept", async |deployment, namespace| {
        let (mut case, _fault, cut) = label_in_hand(&deployment, &namespace).await?;
        let holder = prey::controller(&deployment.kubectl).await?;
        holder.end(&deployment.kubectl)?;
        drop(cut);
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

/// A backup after its stop, with an archive that the agent does not reach.
async fn label_in_hand(
    deployment: &Deployment,
    namespace: &str,
) -> Result<(Case, Faults, NetworkCut)> {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 8000});
    let (mut case, fault) = Case::begin(deployment, namespace, json!({}), fault).await?;
    case.snapshot().await?;
    let agent = failover::agent(&case.orders)?;
    let store = &deployment.object_store;
    let cut = NetworkCut::begin(&deployment.kubectl, namespace, (&agent, "agent"), store)?;
    let in_hand = |it: &Value| {
        let stopped = said(it, "Stopped");
        has(it, "Cut", "True") && stopped.is_some_and(|stopped| stopped["status"] == "Unknown")
    };
    case.state("the label in the agent's hands", in_hand)
        .await?;
    Ok((case, fault, cut))
}

/// Nothing reaches the database until its server has given up the session, and until nobody takes it for reachable.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_away_for_longer_than_backup_mode_may_last() {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 10_000});
    let deadlines = json!({"backupMode": "20s"});
    row("network-away", deadlines, fault, async |mut case| {
        case.snapshot().await?;
        let client = case.orders.connect().await?;
        let host = case.orders.address()?;
        let (kubectl, namespace) = case.place();
        let agent = failover::agent(&case.orders)?;
        let cut = NetworkCut::begin(kubectl, namespace, (&agent, "agent"), &host)?;
        let none =
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'highwater-backup'";
        failover::until_async("the end of the session", &client, none).await?;
        let held = |it: &Value| {
            let accepted = said(it, "Accepted");
            accepted.is_some_and(|accepted| accepted["reason"] == "NotConnected")
        };
        case.state("no attempt without a connection", held).await?;
        drop(cut);
        case.completes(2..=4).await.map(drop)
    })
    .await;
}

/// What the old primary's volume holds does not count; the next attempt is of the new primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_backup_mode() {
    scenario("failed-over", async |deployment, namespace| {
        fail_over(&deployment, &namespace).await
    })
    .await;
}

/// What is acknowledged is on the standby, and nothing is once that one is the primary.
async fn synchronous(orders: &Database) -> Result<()> {
    let primary = orders.connect().await?;
    let synchronous = "ALTER SYSTEM SET synchronous_standby_names = '*'";
    primary.batch_execute(synchronous).await?;
    primary.batch_execute("SELECT pg_reload_conf()").await?;
    let what = "a synchronous standby";
    failover::until_async(what, &primary, failover::SYNCHRONOUS).await
}

async fn fail_over(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../../manifests/postgres-members.yaml");
    let class = "highwater-btrfs";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    let standby = members::join(&orders).await?;
    let second = orders.address_of("orders-1")?;
    synchronous(&orders).await?;
    let writer = Writer::start(&orders.address()?).await?;
    let _fault = Faults::set(&within(namespace, json!({"delayBeforeCut": 30_000})))?;
    let watching = Watching::start(kubectl, namespace, &["pgb"])?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let mut case = Case {
        orders,
        writer,
        watching,
    };
    case.snapshot().await?;
    let promoted: bool = standby.query_one("SELECT pg_promote()", &[]).await?.get(0);
    ensure!(promoted, "the standby was not promoted in time");
    crash::kill(kubectl, namespace, "orders-0", "postgres")?;
    let writer = &case.writer;
    until("the writer noticed", LIMIT, || Ok(writer.ended().map(drop))).await?;
    let owed = case.writer.ledger.acknowledged();
    let asynchronous = "ALTER SYSTEM SET synchronous_standby_names = ''";
    standby.batch_execute(asynchronous).await?;
    standby.batch_execute("SELECT pg_reload_conf()").await?;
    case.writer = Writer::start(&second).await?;
    ensure!(
        case.writer.ledger.acknowledged() >= owed,
        "the standby lost rows"
    );

    let ended = case.end().await?;
    ensure!(has(&ended, "Completed", "True"), "{}", ended["status"]);
    let attempt = &ended["status"]["attempt"];
    let number = attempt["number"].as_u64().context("no attempt")?;
    ensure!(number > 1 && attempt["pod"] == "orders-1", "{attempt}");
    leftovers::none(&case.orders).await?;
    let found = story::latest_holds(&case.orders, &case.writer.ledger, owed).await?;
    println!("attempt {number} of orders-1; restored rows 1 to {found}, {owed} are owed");
    Ok(())
}
