//! What a group snapshot may do to a backup of several volumes.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Faults, Kubectl, Watching, Writer, said, snapshot_folder, until,
};
use serde_json::{Value, json};

use super::{super::volumes, Case, LIMIT, scenario};

const GROUPS: &str = "volumegroupsnapshot";
const CONTENTS: &str = "volumegroupsnapshotcontent";

/// A database with data, WAL and a tablespace on claims of their own, under load; `policy` is the policy's part about
/// snapshots and deadlines.
async fn begin(deployment: &Deployment, namespace: &str, policy: Value) -> Result<Case> {
    let kubectl = &deployment.kubectl;
    kubectl.patch(namespace, ("pgp", "gold"), &json!({ "spec": policy }))?;
    let shape = include_str!("../../../manifests/postgres-volumes.yaml");
    let class = "highwater-btrfs";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    volumes::fill_tablespace(&orders.connect().await?).await?;
    let writer = Writer::start(&orders.address()?).await?;
    let watching = Watching::start(kubectl, namespace, &["pgb"])?;
    orders.annotate("highwater.dev/policy", "gold")?;
    Ok(Case {
        orders,
        writer,
        watching,
    })
}

/// What the restore that `Case::completes` made has in its tablespace.
async fn tablespace_is_whole(case: &Case) -> Result<()> {
    let (kubectl, namespace) = case.place();
    let clone = Database::existing(kubectl, namespace, "clone");
    volumes::tablespace_is_whole(&clone.connect().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_volumes_are_cut_by_one_group() {
    scenario("group", async |deployment, namespace| {
        let policy = json!({"snapshot": {"groupConsistency": "Atomic"}});
        let mut case = begin(&deployment, &namespace, policy).await?;
        let ended = case.completes(1..=1).await?;
        tablespace_is_whole(&case).await?;
        let accepted = said(&ended, "Accepted").context("no Accepted")?;
        ensure!(accepted["reason"] == "Resolved", "{accepted}");
        let (kubectl, namespace) = case.place();
        is_of_the_group(kubectl, namespace, &ended)?;
        goes_with_the_backup(kubectl, namespace, &ended).await
    })
    .await;
}

/// Exactly the pod's volumes are in the group, each VolumeSnapshot is its member, and everything is retained.
fn is_of_the_group(kubectl: &Kubectl, namespace: &str, backup: &Value) -> Result<()> {
    let group = &backup["status"]["group"];
    ensure!(group["retained"] == true, "not retained: {group}");
    let content = group["content"].as_str().context("no content")?;
    let content = kubectl.get(namespace, CONTENTS, content)?;
    let content = content.context("the group's content is gone")?;
    ensure!(content["spec"]["deletionPolicy"] == "Retain", "{content}");
    let list = content["status"]["volumeSnapshotInfoList"].as_array();
    let list = list.context("no list")?;
    let volumes = volumes(backup)?;
    ensure!(
        volumes.len() == 3 && list.len() == 3,
        "{} and {} volumes",
        volumes.len(),
        list.len()
    );
    for volume in volumes {
        let pair = list
            .iter()
            .find(|it| it["volumeHandle"] == volume["volumeHandle"]);
        let pair = pair.with_context(|| format!("the group lacks {volume}"))?;
        ensure!(pair["snapshotHandle"] == volume["handle"], "{pair}");
        let name = volume["volumeSnapshot"].as_str().context("no name")?;
        let member = kubectl.get(namespace, "volumesnapshot", name)?;
        let member = member.context("a member is gone")?;
        let owner = &member["metadata"]["ownerReferences"][0]["uid"];
        ensure!(*owner == group["volumeGroupSnapshotUid"], "{owner}");
        let claim = &member["spec"]["source"]["persistentVolumeClaimName"];
        ensure!(*claim == volume["claim"], "{name} is of {claim}");
    }
    Ok(())
}

fn volumes(backup: &Value) -> Result<&Vec<Value>> {
    let volumes = backup["status"]["volumes"].as_array();
    volumes.context("the backup has no volumes")
}

/// Also from the storage: a group's snapshots go with the group alone.
async fn goes_with_the_backup(kubectl: &Kubectl, namespace: &str, backup: &Value) -> Result<()> {
    let mut folders = Vec::new();
    for volume in volumes(backup)? {
        let claim = volume["claim"].as_str().context("no claim")?;
        folders.push(snapshot_folder(backup, claim)?);
    }
    ensure!(
        folders.iter().all(|folder| folder.exists()),
        "the storage does not have {folders:?}"
    );
    let name = backup["metadata"]["name"].as_str().context("no name")?;
    // Or the next backup is made at once, under the same name.
    let unprotected = ["annotate", "statefulset", "orders", "highwater.dev/policy-"];
    kubectl.run(&[&["-n", namespace][..], &unprotected].concat())?;
    kubectl.run(&["-n", namespace, "delete", "--wait=false", "pgb", name])?;
    let group = &backup["status"]["group"];
    let group_name = group["volumeGroupSnapshot"].as_str().context("no group")?;
    let content = group["content"].as_str().context("no content")?;
    until("the backup and its group gone", LIMIT, || {
        let left = kubectl.get(namespace, "pgb", name)?.is_some()
            || kubectl.get(namespace, GROUPS, group_name)?.is_some()
            || kubectl.get(namespace, CONTENTS, content)?.is_some()
            || !kubectl.list(namespace, "volumesnapshots")?.is_empty()
            || !kubectl.snapshot_contents(namespace)?.is_empty()
            || folders.iter().any(|folder| folder.exists());
        Ok((!left).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_class_is_no_group_and_says_why() {
    scenario("group-class", async |deployment, namespace| {
        let snapshot = json!({"groupConsistency": "Atomic", "groupClassName": "none-such"});
        let policy = json!({ "snapshot": snapshot });
        let mut case = begin(&deployment, &namespace, policy).await?;
        let ended = case.completes(1..=1).await?;
        tablespace_is_whole(&case).await?;
        one_by_one(&ended, "GroupClassNotFound", "none-such")?;
        ensure!(ended["status"]["group"].is_null(), "there was a group");
        Ok(())
    })
    .await;
}

fn one_by_one(backup: &Value, reason: &str, part: &str) -> Result<()> {
    let accepted = said(backup, "Accepted").context("no Accepted")?;
    let message = accepted["message"].as_str().unwrap_or_default();
    ensure!(
        accepted["reason"] == reason && message.contains(part),
        "{accepted}"
    );
    let why = &backup["status"]["attempt"]["oneByOne"]["reason"];
    ensure!(*why == reason, "{why}");
    println!("one by one: {reason}: {message}");
    Ok(())
}

/// The driver takes single snapshots and no groups.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_the_driver_refuses_costs_one_attempt() {
    scenario("group-refused", async |deployment, namespace| {
        let volume = format!("{namespace}/data-orders-0");
        let refused = json!({"code": "Internal", "message": "no groups here"});
        let fault =
            json!({"volume": volume, "snapshot": "groupsnapshot-*", "errorBeforeCut": refused});
        let _fault = Faults::set(&fault)?;
        let policy =
            json!({"snapshot": {"groupConsistency": "Atomic"}, "deadlines": {"cut": "8s"}});
        let mut case = begin(&deployment, &namespace, policy).await?;
        let ended = case.completes(2..=2).await?;
        tablespace_is_whole(&case).await?;
        one_by_one(&ended, "GroupGivenUp", "attempt 1")
    })
    .await;
}
