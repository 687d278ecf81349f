//! A database is restored into another namespace, which its PgProtection allows; and into none that it does not.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, Writer, condition, said, secrets, story,
};

use super::{
    elsewhere::{archived, stateful_set_without_pods},
    setup::scenario,
};

/// The one that may.
const TEST: &str = "e2e-granted-test";
/// One that may not.
const OTHER: &str = "e2e-granted-other";

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_restores_what_it_was_granted_and_nothing_else() {
    scenario("granted", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    for there in [TEST, OTHER] {
        deployment.namespace(there)?;
        stateful_set_without_pods(deployment, there)?;
    }
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    story::commits(&writer, 200).await?;
    let least = writer.ledger.acknowledged();
    archived(&orders).await?;

    let name = format!("{namespace}-orders");
    let grant = format!("{{namespace: {namespace}, protection: orders}}");
    let source = format!("{{archive: {{archive: main, name: {name}, grantedBy: {grant}}}}}");
    refused(kubectl, TEST, ("too-early", &source), namespace).await?;
    let allow = format!("{{\"spec\":{{\"allowRestoreTo\":[\"{TEST}\"]}}}}");
    kubectl.run(&[
        "-n",
        namespace,
        "patch",
        "pgx",
        "orders",
        "--type=merge",
        "-p",
        &allow,
    ])?;
    refused(kubectl, OTHER, ("not-theirs", &source), namespace).await?;

    let before = kubectl.snapshot_contents(namespace)?.len();
    let from = ("copy", source.as_str());
    story::request_restore(kubectl, TEST, from, "copy", "{latest: {}}")?;
    story::completed(kubectl, TEST, "copy").await?;
    let copy = Database::existing(kubectl, TEST, "copy");
    let rows = Ledger::check(&copy.connect().await?, least, writer.ledger.sent()).await?;
    println!("in another namespace: rows 1 to {rows}, {least} are owed");

    // What was imported is the source's still.
    kubectl.run(&["-n", TEST, "delete", "pgr", "copy", "--timeout=60s"])?;
    let after = kubectl.snapshot_contents(namespace)?.len();
    ensure!(
        before == after && before > 0,
        "{before} snapshots, now {after}"
    );
    story::latest_holds(&orders, &writer.ledger, least).await?;
    writer.stop().await?;
    for there in [TEST, OTHER] {
        secrets::none_told(kubectl, there, &deployment.system)?;
        kubectl.run(&["delete", "namespace", there, "--wait=false"])?;
    }
    Ok(())
}

/// It says who may allow it, and nothing of the other namespace.
async fn refused(
    kubectl: &Kubectl,
    namespace: &str,
    (name, source): (&str, &str),
    of: &str,
) -> Result<()> {
    story::request_restore(kubectl, namespace, (name, source), name, "{latest: {}}")?;
    let ended = ("Completed", "False");
    let found = condition(kubectl, namespace, ("pgr", name), ended, story::LIMIT).await?;
    let said = said(&found, "Completed").context("not decided")?;
    ensure!(said["reason"] == "NotGranted", "{said}");
    let message = said["message"].as_str().unwrap_or_default();
    let line = format!("kubectl edit pgx orders -n {of}");
    ensure!(message.contains(&line), "{message}");
    let made = kubectl.snapshot_contents(namespace)?;
    ensure!(made.is_empty(), "imported all the same: {made:?}");
    Ok(())
}
