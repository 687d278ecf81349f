//! Who looks for leftovers, for secrets and for what must stay sees what is planted.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, PASSWORD, leftovers, secrets, snapshot_folder, until,
};
use serde_json::{Value, json};

use super::LIMIT;

/// A session in backup mode, a slot and a snapshot that nobody counts.
pub async fn what_is_left(orders: &Database) -> Result<()> {
    leftovers::none(orders).await?;
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let session = orders.connect().await?;
    for statement in [
        "SET application_name = 'highwater-backup'",
        "SELECT pg_create_physical_replication_slot('forgotten')",
    ] {
        session.batch_execute(statement).await?;
    }
    kubectl.apply(&format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\n\
         metadata: {{name: forgotten, namespace: {namespace}}}\n\
         spec: {{source: {{persistentVolumeClaimName: wal-orders-0}}}}\n"
    ))?;
    until("its content", LIMIT, || {
        let contents = kubectl.snapshot_contents(namespace)?;
        let its = |it: &Value| it["spec"]["volumeSnapshotRef"]["name"] == "forgotten";
        Ok(contents.iter().any(its).then_some(()))
    })
    .await?;
    let left = leftovers::left(orders).await?.join(", ");
    println!("planted and found: {left}");
    for planted in [
        "sessions in backup mode: 1",
        "replication slots: 2",
        "VolumeSnapshot forgotten",
        "VolumeSnapshotContent of forgotten",
    ] {
        ensure!(left.contains(planted), "{planted} is not among: {left}");
    }
    let drop_slot = "SELECT pg_drop_replication_slot('forgotten')";
    session.batch_execute(drop_slot).await?;
    drop(session);
    let delete = ["delete", "volumesnapshot", "forgotten", "--wait=false"];
    kubectl.run(&[&["-n", namespace], &delete[..]].concat())?;
    leftovers::none(orders).await
}

/// A password where an admin would read it.
pub fn what_is_told(deployment: &Deployment, orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    secrets::none_told(kubectl, namespace, &deployment.system)?;
    let planted = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "planted", "namespace": namespace},
        "data": {"note": format!("failed to connect with {PASSWORD}")},
    });
    kubectl.apply(&planted.to_string())?;
    let found = secrets::none_told(kubectl, namespace, &deployment.system);
    ensure!(found.is_err(), "a planted password is not found");
    kubectl.run(&["-n", namespace, "delete", "configmap", "planted"])?;
    Ok(())
}

/// Of two snapshots whose VolumeSnapshot is deleted, the one with another policy than Retain is lost.
pub async fn what_is_kept(orders: &Database, old: &Value) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let of = |claim: &str, field: &str| {
        let volumes = old["status"]["volumes"].as_array();
        let mut volumes = volumes.into_iter().flatten();
        let volume = volumes.find(|volume| volume["claim"] == claim);
        let name = volume.and_then(|volume| volume[field].as_str());
        name.map(str::to_owned)
            .with_context(|| format!("no {field} of {claim}"))
    };
    let [lost, kept] = ["fast-orders-0", "wal-orders-0"];
    let policy = json!({"spec": {"deletionPolicy": "Delete"}});
    let content = of(lost, "content")?;
    kubectl.patch(namespace, ("volumesnapshotcontent", &content), &policy)?;
    for claim in [lost, kept] {
        let name = of(claim, "volumeSnapshot")?;
        kubectl.run(&["-n", namespace, "delete", "volumesnapshot", &name])?;
    }
    until("the content without Retain gone", LIMIT, || {
        let found = kubectl.get(namespace, "volumesnapshotcontent", &content)?;
        Ok(found.is_none().then_some(()))
    })
    .await?;
    let there = kubectl.get(namespace, "volumesnapshotcontent", &of(kept, "content")?)?;
    ensure!(there.is_some(), "the content with Retain is gone");
    let there = [lost, kept].map(|claim| snapshot_folder(old, claim).is_ok_and(|it| it.exists()));
    ensure!(there == [false, true], "the driver's snapshots: {there:?}");
    Ok(())
}
