//! A database is restored into another namespace, which its PgProtection allows; and into none that it does not.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, condition, said, secrets, story,
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
    let (orders, writer, _) = story::protected(deployment, namespace).await?;
    story::commits(&writer, 200).await?;
    let least = writer.ledger.acknowledged();
    archived(&orders).await?;

    let source = source_of(namespace, "orders");
    let too_early = refused(kubectl, TEST, ("too-early", &source)).await?;
    let line = format!("kubectl edit pgx orders -n {namespace}");
    ensure!(too_early.contains(&line), "{too_early}");
    let nobody = refused(kubectl, TEST, ("nobody", &source_of(namespace, "nobody"))).await?;
    ensure!(nobody.replace("nobody", "orders") == too_early, "{nobody}");
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
    refused(kubectl, OTHER, ("not-theirs", &source)).await?;

    let before = kubectl.snapshot_contents(namespace)?.len();
    let from = ("copy", source.as_str());
    story::request_restore(kubectl, TEST, from, "copy", "{latest: {}}")?;
    story::completed(kubectl, TEST, "copy").await?;
    let copy = Database::existing(kubectl, TEST, "copy");
    let rows = Ledger::check(&copy.connect().await?, least, writer.ledger.sent()).await?;
    println!("in another namespace: rows 1 to {rows}, {least} are owed");

    drilled(kubectl, namespace, &source).await?;

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

/// Of a PgProtection in `namespace`; the archive has a database of that name in any case.
fn source_of(namespace: &str, protection: &str) -> String {
    let grant = format!("{{namespace: {namespace}, protection: {protection}}}");
    format!("{{archive: {{archive: main, name: {namespace}-orders, grantedBy: {grant}}}}}")
}

/// What it says to who is not allowed: nothing is made, planned or shown before.
async fn refused(
    kubectl: &Kubectl,
    namespace: &str,
    (name, source): (&str, &str),
) -> Result<String> {
    let alone = format!("{name}-plan");
    story::request_restore(kubectl, namespace, (name, source), name, "{latest: {}}")?;
    story::request(kubectl, namespace, (&alone, source), "planOnly: true")?;
    let ended = ("Completed", "False");
    let mut messages = Vec::new();
    for name in [name, &alone] {
        let found = condition(kubectl, namespace, ("pgr", name), ended, story::LIMIT).await?;
        ensure!(found["status"]["plan"].is_null(), "planned: {found}");
        let said = said(&found, "Completed").context("not decided")?;
        ensure!(said["reason"] == "NotGranted", "{said}");
        messages.push(said["message"].as_str().unwrap_or_default().to_owned());
    }
    let made = kubectl.snapshot_contents(namespace)?;
    ensure!(made.is_empty(), "imported all the same: {made:?}");
    ensure!(messages[0] == messages[1], "{messages:?}");
    Ok(messages.swap_remove(0))
}

/// A drill in the other namespace, of which the source learns nothing.
async fn drilled(kubectl: &Kubectl, namespace: &str, source: &str) -> Result<()> {
    let verify = "verify: {sql: \"SELECT count(*) > 0 FROM ledger\"}";
    story::request(kubectl, TEST, ("look", source), verify)?;
    let passed = story::completed(kubectl, TEST, "look").await?;
    ensure!(said(&passed, "Verified").is_some(), "{passed}");
    for backup in kubectl.list(namespace, "pgb")? {
        ensure!(said(&backup, "Verified").is_none(), "{backup}");
    }
    let orders = kubectl.get(namespace, "pgx", "orders")?;
    let status = &orders.context("no PgProtection")?["status"];
    let told = [&status["lastVerified"], &status["lastRestore"]];
    ensure!(told.iter().all(|it| it.is_null()), "{told:?}");
    Ok(())
}
