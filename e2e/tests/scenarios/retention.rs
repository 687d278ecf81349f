//! Which backups are kept: what nothing keeps goes with its entry and its snapshot, and the rest restores; and nothing goes with
//! what a backup belongs to.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use highwater::postgres::{Lsn, SegmentName, SegmentSize};
use highwater_e2e::harness::{
    Database, Kubectl, bucket, condition, gone, said, story, story::LIMIT, until,
};
use serde_json::{Value, json};

use super::setup::scenario;

/// From one deletion to the next, and what one takes.
const DELETION: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_keeps_goes_and_the_rest_restores() {
    scenario("retention", async |deployment, namespace| {
        let (orders, writer, first) = story::protected(&deployment, &namespace).await?;
        let first = name(&first);
        let mut all = vec![first.clone()];
        for number in ["1", "2", "3"] {
            story::commits(&writer, 10).await?;
            all.push(another(&orders, number).await?);
        }
        is_safe(&orders).await?;
        look_first(&orders, &all).await?;
        keep_two(&orders, &all).await?;
        wal_goes(&orders, (&first, &all[3])).await?;
        let owed = writer.ledger.acknowledged();
        story::latest_holds(&orders, &writer.ledger, owed).await?;
        leads_to_its_end(&orders, &first).await?;
        writer.stop().await?;
        nothing_goes_with_what_it_belongs_to(&orders, &[&first, &all[3]]).await
    })
    .await;
}

/// In one word, as `kubectl get pgx` shows it.
async fn is_safe(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let about = (("pgx", "orders"), ("Safe", "True"));
    condition(kubectl, namespace, about.0, about.1, LIMIT).await?;
    let shown = kubectl.run(&["-n", namespace, "get", "pgx", "orders"])?;
    let (header, row) = shown.split_once('\n').context("no row")?;
    let columns: Vec<_> = header.split_whitespace().collect();
    ensure!(columns.ends_with(&["SAFE", "WHY", "AGE"]), "{header}");
    ensure!(row.contains(" True ") && row.contains(" Safe "), "{row}");
    Ok(())
}

/// One that the annotation asks for, completed.
async fn another(orders: &Database, value: &str) -> Result<String> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let before = names(kubectl, namespace)?;
    orders.annotate("highwater.dev/backup-now", value)?;
    until("one more backup", LIMIT, || {
        let all = kubectl.list(namespace, "pgb")?;
        let new = all.iter().find(|it| !before.contains(&name(it)));
        let completed = |it: &&Value| said(it, "Completed").is_some_and(|c| c["status"] == "True");
        Ok(new.filter(completed).map(name))
    })
    .await
}

fn name(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str();
    name.unwrap_or_default().to_owned()
}

fn names(kubectl: &Kubectl, namespace: &str) -> Result<BTreeSet<String>> {
    Ok(kubectl.list(namespace, "pgb")?.iter().map(name).collect())
}

fn retention(kubectl: &Kubectl, namespace: &str, rules: Value) -> Result<()> {
    let change = json!({"spec": {"retention": rules}});
    kubectl.patch(namespace, ("pgp", "gold"), &change)
}

/// What the protection says of its retention, when `is_it` likes it.
async fn told(orders: &Database, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    until("a decision about what is kept", LIMIT, || {
        let protection = kubectl.get(namespace, "pgx", "orders")?;
        let status = protection.context("PgProtection orders is gone")?["status"].clone();
        Ok(Some(status["retention"].clone()).filter(|it| is_it(it)))
    })
    .await
}

/// `dryRun` names what would go, and lets it be.
async fn look_first(orders: &Database, all: &[String]) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let rules = json!({"keep": {"last": 1}, "minimum": 1, "dryRun": true});
    retention(kubectl, namespace, rules)?;
    let decided = told(orders, |it| it["expired"] == 3).await?;
    let next = decided["next"].as_array().context("nothing is named")?;
    let next: Vec<_> = next.iter().filter_map(|it| it["name"].as_str()).collect();
    ensure!(next == all[..3], "{decided}");
    let about = (("pgx", "orders"), ("WithinRetention", "False"));
    let told = condition(kubectl, namespace, about.0, about.1, LIMIT).await?;
    let said = said(&told, "WithinRetention").context("no condition")?;
    ensure!(said["reason"] == "DryRun", "{said}");
    ensure!(names(kubectl, namespace)?.len() == 4, "a dry run deletes");
    Ok(())
}

/// Two of four go, the label keeps one: PgBackups, entries and snapshots.
async fn keep_two(orders: &Database, all: &[String]) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let label = "highwater.dev/keep=backup";
    kubectl.run(&["-n", namespace, "label", "pgb", &all[0], label])?;
    told(orders, |it| it["expired"] == 2).await?;
    let entries = entries(orders)?;
    ensure!(entries.len() == 4, "{entries:?}");
    retention(kubectl, namespace, json!({"dryRun": false}))?;
    for backup in &all[1..3] {
        until(&format!("PgBackup {backup} gone"), DELETION, || {
            let is_gone = kubectl.get(namespace, "pgb", backup)?.is_none();
            Ok(is_gone.then_some(()))
        })
        .await?;
    }
    let about = (("pgx", "orders"), ("WithinRetention", "True"));
    let told = condition(kubectl, namespace, about.0, about.1, LIMIT).await?;
    ensure!(told["status"]["lastExpired"]["name"] == all[2].as_str());
    let kept = BTreeSet::from([all[0].clone(), all[3].clone()]);
    ensure!(names(kubectl, namespace)? == kept, "{kept:?} are to stay");
    let left = self::entries(orders)?;
    let expected: BTreeSet<_> = entries.into_iter().filter(|it| is_of(it, &kept)).collect();
    ensure!(left == expected, "{left:?} are left in the catalog");
    ensure!(snapshots(kubectl, namespace)? == 2, "snapshots are left");
    let events = kubectl.list(namespace, "events")?;
    let expired = events.iter().filter(|it| it["reason"] == "BackupExpired");
    ensure!(expired.count() == 2, "each is told once");
    Ok(())
}

/// The manifests in the bucket.
fn entries(orders: &Database) -> Result<BTreeSet<String>> {
    let folder = format!("{}/backups", bucket::lineage(orders)?);
    let objects = bucket::objects(&orders.kubectl, &folder)?;
    let manifests = objects.into_keys();
    Ok(manifests
        .filter(|key| key.ends_with("manifest.json"))
        .collect())
}

fn is_of(key: &str, backups: &BTreeSet<String>) -> bool {
    backups
        .iter()
        .any(|backup| key.starts_with(backup.as_str()))
}

fn snapshots(kubectl: &Kubectl, namespace: &str) -> Result<usize> {
    Ok(kubectl.snapshot_contents(namespace)?.len())
}

/// What neither of the two needs goes, and no gap is told: of the labelled one its own stays, of the other all behind.
async fn wal_goes(orders: &Database, (labelled, last): (&str, &str)) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let session = |backup: &str| {
        let backup = kubectl.get(namespace, "pgb", backup)?;
        Ok::<_, anyhow::Error>(backup.context("PgBackup is gone")?["status"]["session"].clone())
    };
    let (labelled, last) = (session(labelled)?, session(last)?);
    let own = segment(&labelled["startLsn"], 0)?..=segment(&labelled["stopLsn"], 1)?;
    let behind = segment(&last["startLsn"], 0)?..;
    let needed = |number: &u64| own.contains(number) || behind.contains(number);
    let before = archived(orders)?;
    ensure!(
        before.iter().any(|it| !needed(it)),
        "all WAL is needed: {before:?}"
    );
    retention(kubectl, namespace, json!({"walGrace": "1s"}))?;
    let told = told(orders, |it| {
        it["wal"]["last"]["segments"].as_i64() > Some(0)
    })
    .await?;
    ensure!(told["wal"]["segments"] == 0, "{told}");
    let left = archived(orders)?;
    let expected: BTreeSet<_> = before.iter().copied().filter(needed).collect();
    ensure!(
        left.is_superset(&expected),
        "{expected:?} are needed, {left:?} are left"
    );
    ensure!(left.iter().all(needed), "{left:?} are left of {before:?}");
    let index = bucket::objects(kubectl, &format!("{}/index", bucket::lineage(orders)?))?;
    let index: BTreeSet<_> = index.keys().map(|key| number(key)).collect::<Result<_>>()?;
    ensure!(index.iter().all(needed), "entries are left of {index:?}");
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let window = protection.context("no protection")?["status"]["recoverable"].clone();
    ensure!(window["from"] == last["stoppedAt"], "{window}");
    ensure!(
        window["timelines"][0]["gaps"]
            .as_array()
            .is_none_or(Vec::is_empty),
        "{window}"
    );
    let events = kubectl.list(namespace, "events")?;
    ensure!(
        events.iter().any(|it| it["reason"] == "WalExpired"),
        "nobody was told"
    );
    Ok(())
}

/// The number of the segment that holds the byte at an LSN, or so many before it.
fn segment(lsn: &Value, before: u64) -> Result<u64> {
    let lsn: Lsn = lsn.as_str().context("no LSN")?.parse()?;
    Ok((lsn.get() - before) / SegmentSize::DEFAULT.get())
}

/// The numbers of the segments in the archive.
fn archived(orders: &Database) -> Result<BTreeSet<u64>> {
    let objects = bucket::objects(
        &orders.kubectl,
        &format!("{}/wal", bucket::lineage(orders)?),
    )?;
    objects.keys().map(|key| number(key)).collect()
}

/// From the key of a segment, or of its entry.
fn number(key: &str) -> Result<u64> {
    let name = key
        .rsplit('/')
        .next()
        .and_then(|file| file.split('.').next());
    let name: SegmentName = name.context("no name")?.parse()?;
    let size = SegmentSize::DEFAULT;
    Ok(name.start(size).get() / size.get())
}

/// What the label keeps can be restored from.
async fn leads_to_its_end(orders: &Database, backup: &str) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let source = format!("{{backup: {backup}}}");
    let target = "{immediate: {}}";
    story::request_restore(kubectl, namespace, ("kept", &source), "kept", target)?;
    story::completed(kubectl, namespace, "kept").await?;
    Ok(())
}

/// The rows of docs/retention.md's table, one after the other: StatefulSet, annotation, policy, archive.
async fn nothing_goes_with_what_it_belongs_to(orders: &Database, kept: &[&str]) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let before = (
        names(kubectl, namespace)?,
        snapshots(kubectl, namespace)?,
        entries(orders)?,
    );
    let lineage = bucket::lineage(orders)?;
    let wal = |kubectl: &Kubectl| bucket::objects(kubectl, &format!("{lineage}/wal"));
    let archived = wal(kubectl)?.len();
    kubectl.run(&[
        "-n",
        namespace,
        "annotate",
        "statefulset",
        "orders",
        "highwater.dev/policy-",
    ])?;
    gone(kubectl, namespace, "deployment", "orders-highwater").await?;
    for (kind, name) in [
        ("statefulset", "orders"),
        ("pgx", "orders"),
        ("pgp", "gold"),
        ("pga", "main"),
    ] {
        kubectl.run(&["-n", namespace, "delete", kind, name])?;
        gone(kubectl, namespace, kind, name).await?;
    }
    let folder = format!("{lineage}/backups");
    let objects = bucket::objects(kubectl, &folder)?.into_keys();
    let entries = objects.filter(|key| key.ends_with("manifest.json"));
    let after = (
        names(kubectl, namespace)?,
        snapshots(kubectl, namespace)?,
        entries.collect(),
    );
    ensure!(after == before, "{before:?} became {after:?}");
    ensure!(wal(kubectl)?.len() >= archived, "WAL went");
    for backup in kept {
        condition(
            kubectl,
            namespace,
            ("pgb", backup),
            ("Completed", "True"),
            LIMIT,
        )
        .await?;
    }
    Ok(())
}
