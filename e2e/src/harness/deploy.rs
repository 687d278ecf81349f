//! Deploying Highwater and the object store, from what ships.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use super::{Kubectl, fill, postgres, until};

/// Which images pods name.
#[derive(Clone, Debug)]
pub struct Images {
    /// Highwater's.
    pub highwater: String,
    /// The database's.
    pub postgres: String,
    /// The object store's.
    pub versitygw: String,
    /// `Never` where images are loaded by hand.
    pub pull_policy: String,
}

impl Images {
    /// Those of the dev cluster.
    pub fn loaded() -> Self {
        Self {
            highwater: "localhost/highwater:dev".into(),
            postgres: postgres::image(),
            versitygw: "localhost/versitygw:1".into(),
            pull_policy: "Never".into(),
        }
    }
}

/// Highwater and the object store on a cluster.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The cluster.
    pub kubectl: Kubectl,
    /// The images.
    pub images: Images,
    /// Highwater's own namespace.
    pub system: String,
    /// The object store's address.
    pub object_store: String,
}

/// What `manifests/namespaced` names: where Highwater runs, and what it serves.
pub const NAMESPACED: Namespaced = Namespaced {
    system: "highwater-databases",
    served: "databases",
};
/// See [`NAMESPACED`].
#[derive(Clone, Copy, Debug)]
pub struct Namespaced {
    /// Where it runs.
    pub system: &'static str,
    /// What it serves.
    pub served: &'static str,
}

/// Where `manifests` has the controller.
const SYSTEM: &str = "highwater-system";
/// More than any test has databases.
const MANY_AT_ONCE: [&str; 2] = [
    "HIGHWATER_BACKUPS_AT_ONCE_PER_DRIVER=1000",
    "HIGHWATER_BACKUPS_AT_ONCE_PER_NODE=1000",
];
/// How long anything may take to become ready.
const READY: Duration = Duration::from_secs(120);

impl Deployment {
    /// Applies CRDs, manifests and object store, and waits until they serve.
    ///
    /// # Errors
    /// Something is not ready in time.
    pub async fn apply(kubectl: Kubectl, images: Images) -> Result<Self> {
        Self::apply_with_store(kubectl, images, "object-store").await
    }

    /// As [`Self::apply`], with the object store in this namespace.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn apply_with_store(
        kubectl: Kubectl,
        images: Images,
        namespace: &str,
    ) -> Result<Self> {
        define_kinds(&kubectl)?;
        apply_shipped(&kubectl, &images, "manifests")?;
        Self::beside(kubectl, images, SYSTEM, namespace).await
    }

    /// As [`Self::apply`], with the rights that are given by choice, and as many backups at once as anybody asks for, as all
    /// databases are on one node.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn apply_for_many(kubectl: Kubectl, images: Images) -> Result<Self> {
        define_kinds(&kubectl)?;
        apply_shipped(&kubectl, &images, "manifests")?;
        apply_shipped(&kubectl, &images, "manifests/in-place")?;
        let mut limits = vec!["set", "env", "--namespace", SYSTEM, "deployment/highwater"];
        limits.extend(MANY_AT_ONCE);
        kubectl.run(&limits)?;
        Self::beside(kubectl, images, SYSTEM, "object-store").await
    }

    /// Highwater for the one namespace of [`NAMESPACED`], which must be there; the object store as in
    /// [`Self::apply`].
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn apply_namespaced(kubectl: Kubectl, images: Images) -> Result<Self> {
        define_kinds(&kubectl)?;
        apply_shipped(&kubectl, &images, "manifests/roles")?;
        apply_shipped(&kubectl, &images, "manifests/namespaced")?;
        Self::beside(kubectl, images, NAMESPACED.system, "object-store").await
    }

    /// Puts an object store beside the Highwater of namespace `system`, and waits for both.
    async fn beside(
        kubectl: Kubectl,
        images: Images,
        system: &str,
        namespace: &str,
    ) -> Result<Self> {
        let store = include_str!("../../manifests/object-store.yaml");
        let values = [
            ("NAMESPACE", namespace),
            ("VERSITYGW_IMAGE", images.versitygw.as_str()),
            ("PULL_POLICY", &images.pull_policy),
        ];
        kubectl.apply(&fill(store, &values)?)?;
        wait_available(&kubectl, namespace, "versitygw").await?;
        wait_available(&kubectl, system, "highwater").await?;
        let service = kubectl
            .get(namespace, "service", "versitygw")?
            .context("the object store has no service")?;
        let object_store = service["spec"]["clusterIP"]
            .as_str()
            .context("the object store has no address")?
            .to_owned();
        Ok(Self {
            kubectl,
            images,
            system: system.to_owned(),
            object_store,
        })
    }

    /// Makes a namespace with the PgArchive `main` and the PgBackupPolicy `gold`.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.kubectl.make_namespace(name)?;
        let policy = include_str!("../../manifests/policy.yaml");
        self.kubectl.apply(&fill(
            policy,
            &[("NAMESPACE", name), ("OBJECT_STORE", &self.object_store)],
        )?)?;
        Ok(())
    }
}

/// A folder that ships with Highwater.
pub fn shipped(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join(name).display().to_string()
}

/// Applies the CRDs and waits until they are served.
fn define_kinds(kubectl: &Kubectl) -> Result<()> {
    let applied = kubectl.run(&[
        "apply",
        "--server-side",
        "-o",
        "name",
        "-k",
        &shipped("crds"),
    ])?;
    for crd in applied.lines() {
        kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", crd])?;
    }
    Ok(())
}

/// Applies a folder that ships, with these images.
fn apply_shipped(kubectl: &Kubectl, images: &Images, folder: &str) -> Result<()> {
    let rendered = kubectl.run(&["kustomize", &shipped(folder)])?;
    let rendered = rendered
        .replace("localhost/highwater:dev", &images.highwater)
        .replace("IfNotPresent", &images.pull_policy);
    kubectl.apply(&rendered)?;
    Ok(())
}

/// Waits until a Deployment has all of its replicas available.
async fn wait_available(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<()> {
    until(
        &format!("deployment {namespace}/{name} available"),
        READY,
        || {
            let deployment = kubectl.get(namespace, "deployment", name)?;
            Ok(deployment.filter(|deployment| {
                let status = &deployment["status"];
                status["availableReplicas"] == deployment["spec"]["replicas"]
                    && status["observedGeneration"] == deployment["metadata"]["generation"]
                    && status["updatedReplicas"] == deployment["spec"]["replicas"]
            }))
        },
    )
    .await
    .map(|_| ())
}
