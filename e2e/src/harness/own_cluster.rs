//! The demo on a cluster of the user's: reached by its kubeconfig alone, never mixed with a Highwater that is there already,
//! and removed without a trace.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Kubectl, until};

/// What a cluster lacks for the demo: exit code 2.
#[derive(Debug)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "failed to run the demo on this cluster: {}", self.0)
    }
}

impl std::error::Error for Refusal {}

/// Where the demo's database lives.
pub const NAMESPACE: &str = "highwater-demo";
/// Where its object store lives.
pub const STORE: &str = "highwater-demo-store";
/// Where Highwater lives.
const SYSTEM: &str = "highwater-system";
const LABEL: &str = "highwater.dev/demo";

/// A StorageClass and the VolumeSnapshotClass of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// The StorageClass.
    pub storage: String,
    /// The VolumeSnapshotClass.
    pub snapshot: String,
}

/// Checks that the demo can run here and harms nothing, and chooses its classes.
///
/// # Errors
/// A [`Refusal`].
pub fn check(kubectl: &Kubectl) -> Result<Classes> {
    let definitions = check_owner(kubectl)?;
    let snapshots = match definitions.contains("volumesnapshotclasses.snapshot.storage.k8s.io") {
        true => kubectl.list("default", "volumesnapshotclass")?,
        false => Vec::new(),
    };
    choose(&kubectl.list("default", "storageclass")?, &snapshots).ok_or_else(|| {
        refuse("no StorageClass has a provisioner with a VolumeSnapshotClass: install a CSI driver that makes snapshots, the snapshot controller, and a VolumeSnapshotClass for it".into())
    })
}

fn refuse(text: String) -> anyhow::Error {
    anyhow::Error::new(Refusal(text))
}

/// That what is there of Highwater is the demo's. Returns the names of all CustomResourceDefinitions.
fn check_owner(kubectl: &Kubectl) -> Result<String> {
    if let Err(error) = kubectl.run(&["get", "--raw=/readyz"]) {
        return Err(refuse(format!("it cannot be reached: {error:#}")));
    }
    let mut ours = true;
    for name in [SYSTEM, NAMESPACE, STORE] {
        let Some(namespace) = kubectl.get("default", "namespace", name)? else {
            ours &= name != SYSTEM;
            continue;
        };
        if namespace["metadata"]["labels"][LABEL] != "true" {
            return Err(refuse(format!(
                "namespace {name} is there and not the demo's: the demo would overwrite the Highwater that lives there; use another cluster"
            )));
        }
    }
    let definitions = kubectl.run(&["get", "crd", "-o", "name"])?;
    if !ours && definitions.contains(".highwater.dev") {
        return Err(refuse(
            "it has CustomResourceDefinitions of Highwater that are not the demo's: use another cluster".into(),
        ));
    }
    Ok(definitions)
}

/// Defaults first, then by name.
fn choose(storage: &[Value], snapshots: &[Value]) -> Option<Classes> {
    let sorted = |classes: &[Value], mark: &str| {
        let mut classes = classes.to_vec();
        classes.sort_by_key(|class| {
            let other = class["metadata"]["annotations"][mark] != "true";
            (other, name(class))
        });
        classes
    };
    let snapshots = sorted(snapshots, "snapshot.storage.kubernetes.io/is-default-class");
    let storage = sorted(storage, "storageclass.kubernetes.io/is-default-class");
    storage.iter().find_map(|class| {
        let driver = &class["provisioner"];
        let snapshot = snapshots.iter().find(|class| class["driver"] == *driver)?;
        let (storage, snapshot) = (name(class), name(snapshot));
        Some(Classes { storage, snapshot })
    })
}

fn name(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str();
    name.unwrap_or_default().to_owned()
}

/// Makes the namespaces, marked as the demo's before anything is in them.
///
/// # Errors
/// The API server refuses.
pub fn claim(kubectl: &Kubectl) -> Result<()> {
    for name in [SYSTEM, NAMESPACE, STORE] {
        if kubectl.get("default", "namespace", name)?.is_none() {
            kubectl.run(&["create", "namespace", name])?;
            let mark = format!("{LABEL}=true");
            kubectl.run(&["label", "namespace", name, &mark])?;
        }
    }
    Ok(())
}

/// Removes all that the demo made: backups first, while there is a controller that removes their snapshots, and last the
/// namespace whose label says that it is the demo's.
///
/// # Errors
/// Something is not the demo's, or does not go away.
pub async fn remove(kubectl: &Kubectl) -> Result<()> {
    let known = check_owner(kubectl)?;
    let there = kubectl.get("default", "namespace", NAMESPACE)?.is_some();
    if there && known.contains("pgbackups.highwater.dev") {
        let kinds = "pgrestores.highwater.dev,pgbackups.highwater.dev";
        let all = ["delete", kinds, "--all", "--timeout=120s"];
        kubectl.run(&[&["-n", NAMESPACE], &all[..]].concat())?;
    }
    let delete = ["--ignore-not-found", "--timeout=180s"];
    kubectl.run(&[&["delete", "namespace", NAMESPACE, STORE], &delete[..]].concat())?;
    for shipped in ["crds", "manifests"].map(super::shipped) {
        kubectl.run(&[&["delete", "-k", &shipped], &delete[..]].concat())?;
    }
    until(
        "volumes and snapshots gone",
        std::time::Duration::from_secs(60),
        || {
            let left = left(kubectl)?;
            ensure!(left.is_empty(), "still there: {}", left.join(", "));
            Ok(Some(()))
        },
    )
    .await
}

/// What belongs to no namespace and is still there.
fn left(kubectl: &Kubectl) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (kind, path) in [
        ("persistentvolume", "/spec/claimRef/namespace"),
        ("volumesnapshotcontent", "/spec/volumeSnapshotRef/namespace"),
    ] {
        let objects = kubectl
            .list("default", kind)
            .context("failed to look what is left")?;
        let ours = objects.iter().filter(|object| {
            object
                .pointer(path)
                .is_some_and(|namespace| namespace == NAMESPACE)
        });
        left.extend(ours.map(|object| format!("{kind} {}", name(object))));
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(name: &str, key: &str, driver: &str, mark: &str) -> Value {
        json!({ "metadata": { "name": name, "annotations": { mark: "true" } }, key: driver })
    }

    #[test]
    fn a_class_needs_a_snapshot_class_of_its_driver() {
        let default = "storageclass.kubernetes.io/is-default-class";
        let storage = [
            class("a", "provisioner", "plain", ""),
            class("b", "provisioner", "csi", ""),
            class("c", "provisioner", "csi", default),
        ];
        let snapshots = [
            class("x", "driver", "csi", ""),
            class(
                "y",
                "driver",
                "csi",
                "snapshot.storage.kubernetes.io/is-default-class",
            ),
        ];
        let chosen = |storage: &[Value]| {
            choose(storage, &snapshots).map(|classes| (classes.storage, classes.snapshot))
        };
        assert_eq!(chosen(&storage), Some(("c".into(), "y".into())));
        assert_eq!(chosen(&storage[..2]), Some(("b".into(), "y".into())));
        assert_eq!(chosen(&storage[..1]), None);
        assert_eq!(choose(&storage, &[]), None);
    }
}
