//! What a restore and a backup remove that are deleted, or whose snapshot was; and what a restore takes from elsewhere.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Kubectl, bucket, gone, has, said, story, until};
use serde_json::{Value, json};

use super::text;

/// StatefulSet and Service of the clone, its claim, and what the recovery had; not the pod that only has the name.
pub async fn a_restore_deleted_at_hand_over_leaves_nothing(
    kubectl: &Kubectl,
    namespace: &str,
) -> Result<()> {
    kubectl.run(&["-n", namespace, "delete", "--wait=false", "pgr", "held"])?;
    for (kind, name) in [
        ("pgr", "held"),
        ("statefulset", "held"),
        ("service", "held"),
        ("pvc", "data-held-0"),
        ("serviceaccount", "held-recovery"),
        ("rolebinding", "held-recovery"),
    ] {
        gone(kubectl, namespace, kind, name).await?;
    }
    let pod = kubectl.get(namespace, "pod", "held-0")?;
    let pod = pod.context("somebody else's pod was deleted")?;
    ensure!(
        pod["metadata"]["deletionTimestamp"].is_null(),
        "somebody else's pod is deleted"
    );
    Ok(())
}

/// A PgRestore sees what lies in its own namespace, and makes nothing in any other.
pub async fn nothing_is_restored_from_elsewhere(
    kubectl: &Kubectl,
    namespace: &str,
    backup: &str,
) -> Result<()> {
    let elsewhere = format!("{namespace}-elsewhere");
    kubectl.make_namespace(&elsewhere)?;
    for (name, source, reason) in [
        (
            "by-backup",
            format!("{{backup: {backup}}}"),
            "BackupNotFound",
        ),
        (
            "by-protection",
            "{protection: orders}".to_owned(),
            "ProtectionNotFound",
        ),
    ] {
        story::request_restore(kubectl, &elsewhere, (name, &source), name, "{latest: {}}")?;
        until(&format!("{name}: {reason}"), story::LIMIT, || {
            let restore = kubectl.get(&elsewhere, "pgr", name)?;
            let completed = restore.as_ref().and_then(|it| said(it, "Completed"));
            let refused =
                completed.is_some_and(|it| it["status"] == "False" && it["reason"] == reason);
            Ok(refused.then_some(()))
        })
        .await?;
    }
    let kinds = "pvc,pod,statefulset,service,volumesnapshot,rolebinding";
    let made = kubectl.list(&elsewhere, kinds)?;
    ensure!(made.is_empty(), "made elsewhere: {made:?}");
    kubectl.run(&["delete", "namespace", &elsewhere, "--wait=false"])?;
    gone(kubectl, namespace, "namespace", &elsewhere).await
}

/// Its snapshot goes with it, and its entry in the catalog goes first; a restore begins with the backup before.
pub async fn a_backup_that_is_deleted_is_not_restored_from(
    kubectl: &Kubectl,
    namespace: &str,
    before: &str,
) -> Result<()> {
    let asked = ["-n", namespace, "annotate", "statefulset", "orders"];
    kubectl.run(&[&asked[..], &["highwater.dev/backup-now=deleted"]].concat())?;
    let newer = until("a newer backup", story::LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let completed = backups.iter().find(|backup| {
            backup["spec"]["protection"] == "orders"
                && backup["metadata"]["name"] != before
                && has(backup, "Completed", "True")
        });
        Ok(completed.map(|backup| text(&backup["metadata"]["name"]).to_owned()))
    })
    .await?;
    let deleted = kubectl
        .get(namespace, "pgb", &newer)?
        .context("it is gone")?;
    kubectl.run(&["-n", namespace, "delete", "pgb", &newer])?;
    let manifest = text(&deleted["status"]["catalog"]["manifest"]);
    ensure!(!manifest.is_empty(), "no manifest: {deleted}");
    let there = bucket::folder(kubectl)?.join(manifest);
    let tombstone = there.with_file_name("deleted.json");
    ensure!(tombstone.is_file(), "no {}", tombstone.display());
    ensure!(!there.exists(), "there is still {}", there.display());
    let from = ("after-deletion", "{protection: orders}");
    story::request_restore(kubectl, namespace, from, "after-deletion", "{latest: {}}")?;
    let planned = until("a plan", story::LIMIT, || {
        let restore = kubectl.get(namespace, "pgr", "after-deletion")?;
        let plan = restore.map(|it| it["status"]["plan"]["backup"].clone());
        Ok(plan.filter(Value::is_string))
    })
    .await?;
    ensure!(
        planned == before,
        "{newer} was deleted; planned with {planned}"
    );
    kubectl.run(&["-n", namespace, "delete", "pgr", "after-deletion"])?;
    gone(kubectl, namespace, "statefulset", "after-deletion").await
}

/// Its content stays, and is restored from by an import that takes itself away again; then the PgBackup goes, and with it
/// the content that nothing points to any more.
pub async fn a_snapshot_that_somebody_deleted(
    kubectl: &Kubectl,
    namespace: &str,
    backup: &Value,
) -> Result<()> {
    let name = text(&backup["metadata"]["name"]);
    let volume = &backup["status"]["volumes"][0];
    let (snapshot, content) = (text(&volume["volumeSnapshot"]), text(&volume["content"]));
    kubectl.run(&["-n", namespace, "delete", "volumesnapshot", snapshot])?;
    gone(kubectl, namespace, "volumesnapshot", snapshot).await?;
    let source = format!("{{backup: {name}}}");
    let from = ("imported", source.as_str());
    story::request_restore(kubectl, namespace, from, "imported", "{latest: {}}")?;
    story::completed(kubectl, namespace, "imported").await?;
    let clone = Database::existing(kubectl, namespace, "imported");
    let rows = clone
        .connect()
        .await?
        .query("SELECT n FROM kept", &[])
        .await?;
    ensure!(rows.len() == 1, "{} rows of 1", rows.len());
    until(
        "the import gone, the backup's content kept",
        story::LIMIT,
        || {
            let left = kubectl.snapshot_contents(namespace)?;
            let names: Vec<_> = left
                .iter()
                .map(|it| text(&it["metadata"]["name"]))
                .collect();
            Ok(
                (names == [content] && kubectl.list(namespace, "volumesnapshots")?.is_empty())
                    .then_some(()),
            )
        },
    )
    .await?;
    kubectl.run(&["-n", namespace, "delete", "--wait=false", "pgb", name])?;
    // Another PgBackup of that name may come: the database has none now.
    gone(kubectl, namespace, "volumesnapshotcontent", content).await
}

/// The protection `billing`, whose StatefulSet comes and goes: the same reason in the same words is one event.
pub async fn what_is_told_again_is_counted(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let reason = async |reason: &str| {
        until(&format!("billing: {reason}"), story::LIMIT, || {
            let protection = kubectl.get(namespace, "pgx", "billing")?;
            let protection = protection.context("it is gone")?;
            let active = said(&protection, "Active");
            let told = active.is_some_and(|active| active["reason"] == reason);
            Ok((told && has(&protection, "Active", "False")).then_some(()))
        })
        .await
    };
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "nobody", "namespace": namespace},
        "spec": {
            "serviceName": "nobody", "replicas": 0, "selector": {"matchLabels": {"app": "nobody"}},
            "template": {
                "metadata": {"labels": {"app": "nobody"}},
                "spec": {"containers": [{"name": "postgres", "image": "nothing"}]},
            },
        },
    });
    reason("StatefulSetNotFound").await?;
    // Twice: an event is forgotten after some minutes, and the first may be that old.
    for _ in 0..2 {
        kubectl.apply(&set.to_string())?;
        reason("CredentialsNotFound").await?;
        kubectl.run(&["-n", namespace, "delete", "statefulset", "nobody"])?;
        reason("StatefulSetNotFound").await?;
    }
    until("one event, counted", story::LIMIT, || {
        let events = kubectl.list(namespace, "events.events.k8s.io")?;
        let counted = events.iter().any(|event| {
            event["reason"] == "StatefulSetNotFound"
                && event["regarding"]["name"] == "billing"
                && event["series"]["count"].as_u64() >= Some(2)
        });
        Ok(counted.then_some(()))
    })
    .await
}
