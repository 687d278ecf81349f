//! What else a cluster may have: classes, policies, sizes, and snapshots that come and go.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Kubectl, Watching, condition, has, said, story, until};
use serde_json::{Value, json};

use super::{Case, FIRST, LIMIT, row, scenario, scenario_alone};

/// An object of the whole cluster, until this is dropped.
struct Planted<'a> {
    kubectl: &'a Kubectl,
    kinds: &'static str,
    name: String,
}

impl<'a> Planted<'a> {
    fn apply(kubectl: &'a Kubectl, kinds: &'static str, name: &str, yaml: &str) -> Result<Self> {
        let planted = Self {
            kubectl,
            kinds,
            name: name.to_owned(),
        };
        kubectl.apply(yaml)?;
        Ok(planted)
    }
}

impl Drop for Planted<'_> {
    fn drop(&mut self) {
        let delete = ["delete", self.kinds, &self.name, "--ignore-not-found"];
        let _ = self.kubectl.run(&delete);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_classes_that_are_both_the_default() {
    scenario_alone("two-defaults", async |deployment, namespace| {
        let kubectl = &deployment.kubectl;
        let second = "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\n\
            metadata: {name: second, annotations: {snapshot.storage.kubernetes.io/is-default-class: \"true\"}}\n\
            driver: btrfs.csi.test.highwater.dev\ndeletionPolicy: Delete\n";
        let second = Planted::apply(kubectl, "volumesnapshotclass", "second", second)?;
        let (mut case, _fault) = Case::begin(&deployment, &namespace, json!({}), json!({})).await?;
        let ambiguous = |it: &Value| {
            let active = said(it, "Active");
            active.is_some_and(|active| active["reason"] == "SnapshotClassAmbiguous")
        };
        let told = Watching::one(kubectl, &namespace, "pgx", "orders")?
            .wait("the two classes are told", LIMIT, ambiguous)
            .await?;
        let message = said(&told, "Active").context("no Active")?["message"].to_string();
        println!("{message}");
        for part in ["highwater-btrfs, second", "mark one as default", "PgBackupPolicy"] {
            ensure!(message.contains(part), "{part} is not in: {message}");
        }
        let made = kubectl.list(&namespace, "volumesnapshots")?;
        ensure!(made.is_empty(), "{} VolumeSnapshots", made.len());
        drop(second);
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

/// After its cut: one of the same name and labels, as an old leader may make it, is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_deleted_and_made_again_under_its_name() {
    let fault = json!({"snapshot": FIRST, "delayToReady": 60_000});
    row("made-again", json!({}), fault, async |mut case| {
        let stopped = |it: &Value| has(it, "Stopped", "True");
        case.state("the end of backup mode", stopped).await?;
        let name = case.snapshot().await?;
        let (kubectl, namespace) = case.place();
        let first = kubectl.get(namespace, "volumesnapshot", &name)?;
        let first = first.context("it is gone already")?;
        kubectl.run(&["-n", namespace, "delete", "volumesnapshot", &name])?;
        let again = json!({
            "apiVersion": first["apiVersion"],
            "kind": first["kind"],
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": first["metadata"]["labels"],
            },
            "spec": first["spec"],
        });
        kubectl.apply(&again.to_string())?;
        case.completes(2..=2).await?;
        let states = case.watching.events()?;
        let told = |it: &Value| it["status"]["conditions"].to_string().contains("was lost");
        ensure!(
            states.iter().any(told),
            "nothing tells of the lost snapshot"
        );
        Ok(())
    })
    .await;
}

/// Completed is what outlives its namespace, and nothing earlier: here the cluster lets nobody say Retain.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_may_not_be_retained() {
    scenario("not-retained", async |deployment, namespace| {
        let kubectl = &deployment.kubectl;
        let (name, said) = (
            "not-retained",
            format!("no content of {namespace} is retained"),
        );
        let deny = deny_retain(name, &namespace, &said);
        let kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding";
        let planted = Planted::apply(kubectl, kinds, name, &deny)?;
        let (mut case, _fault) = Case::begin(&deployment, &namespace, json!({}), json!({})).await?;
        let catalogued = |it: &Value| has(it, "Catalogued", "True");
        case.state("the manifest", catalogued).await?;
        let logs = [
            "logs",
            "-l",
            "app.kubernetes.io/name=highwater",
            "--tail=-1",
        ];
        let logs = [&["-n", deployment.system.as_str()], &logs[..]].concat();
        until("Retain is refused", LIMIT, || {
            Ok(kubectl.run(&logs)?.contains(&said).then_some(()))
        })
        .await?;
        let backups = kubectl.list(&namespace, "pgb")?;
        let early = backups.iter().any(|it| has(it, "Completed", "True"));
        ensure!(
            !early,
            "it completed, and its snapshot goes with the namespace"
        );
        drop(planted);
        case.completes(1..=1).await?;
        for content in kubectl.snapshot_contents(&namespace)? {
            ensure!(content["spec"]["deletionPolicy"] == "Retain", "{content}");
        }
        Ok(())
    })
    .await;
}

fn deny_retain(name: &str, namespace: &str, said: &str) -> String {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["snapshot.storage.k8s.io"],
                "apiVersions": ["v1"],
                "operations": ["UPDATE"],
                "resources": ["volumesnapshotcontents"],
            }]},
            "validations": [{
                "expression": format!(
                    "object.spec.volumeSnapshotRef.namespace != '{namespace}' || object.spec.deletionPolicy != 'Retain'"
                ),
                "message": said,
            }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    format!("{policy}\n---\n{binding}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_needs_more_room_than_its_volume_had() {
    let fault = json!({"restoreSize": 2_i64 << 30});
    row("needs-more", json!({}), fault, async |mut case| {
        let ended = case.end().await?;
        ensure!(has(&ended, "Completed", "True"), "{}", ended["status"]);
        let (kubectl, namespace) = case.place();
        let rest = "target: {latest: {}}, into: {statefulSet: small, size: 1Gi}";
        story::request(kubectl, namespace, ("small", "{protection: orders}"), rest)?;
        let failed = ("Completed", "False");
        let small = condition(kubectl, namespace, ("pgr", "small"), failed, LIMIT).await?;
        let completed = said(&small, "Completed").context("it says nothing")?;
        println!("{}", completed["message"]);
        ensure!(completed["reason"] == "SizeTooSmall", "{completed}");
        let claim = kubectl.get(namespace, "pvc", "data-small-0")?;
        ensure!(claim.is_none(), "a claim was made that nothing fits into");
        case.completes(1..=1).await?;
        asked_for(&case, &["2147483648", "2Gi"])
    })
    .await;
}

/// A driver that says less than the volume had is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_needs_less_room_than_its_volume_had() {
    let fault = json!({"restoreSize": 4096});
    row("needs-less", json!({}), fault, async |mut case| {
        case.completes(1..=1).await?;
        asked_for(&case, &["1073741824", "1Gi"])
    })
    .await;
}

/// What the claim of the restored database asks for.
fn asked_for(case: &Case, sizes: &[&str]) -> Result<()> {
    let (kubectl, namespace) = case.place();
    let claim = kubectl.get(namespace, "pvc", "data-clone-0")?;
    let claim = claim.context("no claim")?;
    let size = &claim["spec"]["resources"]["requests"]["storage"];
    ensure!(
        sizes.iter().any(|it| size == it),
        "the claim asks for {size}"
    );
    Ok(())
}
