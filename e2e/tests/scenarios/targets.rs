//! Targets that are named: a restore point, a transaction, the backup itself; planned first, looked up before anything is made.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Kubectl, Ledger, condition, story};
use serde_json::Value;

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn named_targets_are_found_planned_and_restored() {
    scenario("targets", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (orders, writer, _) = story::protected(deployment, namespace).await?;
    story::commits(&writer, 200).await?;

    let client = orders.connect().await?;
    let least = writer.ledger.acknowledged();
    let made = "SELECT pg_create_restore_point('before-release')";
    client.execute(made, &[]).await?;
    let most = writer.ledger.sent();
    story::commits(&writer, 200).await?;
    // The harm: one transaction, whose id is all that is known of it.
    let before_harm = writer.ledger.acknowledged();
    let harm = "WITH gone AS (DELETE FROM ledger RETURNING n) \
        SELECT pg_current_xact_id()::text, count(*), max(n)::int8 FROM gone";
    let harm = client.query_one(harm, &[]).await?;
    let (xid, gone, last): (String, i64, i64) = (harm.get(0), harm.get(1), harm.get(2));
    let sent = writer.ledger.sent();
    ensure!(
        gone == last && last >= before_harm,
        "{gone} of {last} were deleted"
    );
    story::commits(&writer, 100).await?;

    refused_at_the_door(kubectl, namespace)?;
    plans(kubectl, namespace, &xid).await?;
    let from = ("to-name", "orders");
    story::restore(
        kubectl,
        namespace,
        from,
        "by-name",
        "{name: before-release}",
    )
    .await?;
    let restored = Database::existing(kubectl, namespace, "by-name");
    let found = Ledger::check(&restored.connect().await?, least, most).await?;
    println!("to the restore point: rows 1 to {found}, between {least} and {most} were committed");

    let from = ("to-xid", "orders");
    let target = format!("{{xid: {xid}, inclusive: false}}");
    story::restore(kubectl, namespace, from, "by-xid", &target).await?;
    let restored = Database::existing(kubectl, namespace, "by-xid");
    // What was committed while the rows were being deleted stands before that transaction's end, too.
    let found = Ledger::check(&restored.connect().await?, last, sent).await?;
    println!("before transaction {xid}: rows 1 to {found}, which deleted {last}");
    writer.stop().await?;
    Ok(())
}

const ORDERS: &str = "{protection: orders}";

/// What no cluster must be looked at for.
fn refused_at_the_door(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    for (spec, said) in [
        (
            "target: {latest: {}}",
            "planOnly: true to see only what would be done",
        ),
        (
            "planOnly: true, target: {xid: 700, name: a}",
            "give exactly one of",
        ),
        (
            "planOnly: true, target: {xid: 2}",
            "greater than or equal to 3",
        ),
        (
            "planOnly: true, target: {name: a, inclusive: false}",
            "inclusive goes with",
        ),
        (
            "planOnly: true, target: {timeline: latest}",
            "want Latest, Current or the number",
        ),
        (
            "planOnly: true, target: {timeline: 0}",
            "want Latest, Current or the number",
        ),
        (
            "planOnly: true, target: {time: \"2026-11-20 14:03:12\"}",
            "want a date and time with a zone",
        ),
    ] {
        let refused = story::request(kubectl, namespace, ("refused", ORDERS), spec);
        let error = refused.err().with_context(|| format!("{spec} was taken"))?;
        let error = format!("{error:#}");
        ensure!(error.contains(said), "{spec}: {error}");
    }
    Ok(())
}

/// Plans say what would be done, and make nothing.
async fn plans(kubectl: &Kubectl, namespace: &str, xid: &str) -> Result<()> {
    let there = |reason, said| ("True", reason, said);
    let (shown, refused) = ("PlanOnly", "False");
    let by_xid = format!("{{xid: {xid}}}");
    for (name, target, (status, reason, said)) in [
        (
            "name",
            "{name: before-release}",
            there(shown, "restore point before-release of "),
        ),
        ("xid", &by_xid, there(shown, "(committed at ")),
        (
            "immediate",
            "{immediate: {}}",
            there(shown, "the end of backup "),
        ),
        (
            "current",
            "{timeline: Current}",
            there(shown, "on timeline 1"),
        ),
        ("number", "{timeline: 1}", there(shown, "on timeline 1")),
        (
            "zone",
            "{time: \"2001-01-01 00:00:00+01\"}",
            (refused, "TargetBeforeWindow", "2000-12-31T23:00:00Z"),
        ),
        (
            "no-name",
            "{name: befor-release}",
            (refused, "RestorePointNotFound", "before-release ("),
        ),
        (
            "no-xid",
            "{xid: 4000000000}",
            (refused, "TransactionNotFound", "recoverable is "),
        ),
        (
            "no-timeline",
            "{timeline: 7}",
            (refused, "TimelineUnknown", "there are 1"),
        ),
    ] {
        let spec = format!("planOnly: true, target: {target}");
        story::request(kubectl, namespace, (name, ORDERS), &spec)?;
        let completed = ("Completed", status);
        let restore = condition(kubectl, namespace, ("pgr", name), completed, story::LIMIT).await?;
        let told = condition_of(&restore).context("it has no condition Completed")?;
        ensure!(told["reason"] == reason, "{name}: {told}");
        let message = told["message"].as_str().unwrap_or_default();
        ensure!(message.contains(said), "{name}: {message}");
        let made = &restore["status"]["volumes"];
        ensure!(
            made.is_null() && restore["metadata"]["finalizers"].is_null(),
            "{restore}"
        );
    }
    let claims = kubectl.list(namespace, "persistentvolumeclaims")?;
    ensure!(claims.len() == 1, "a plan made claims: {claims:?}");
    Ok(())
}

fn condition_of(restore: &Value) -> Option<&Value> {
    let mut conditions = restore["status"]["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == "Completed")
}
