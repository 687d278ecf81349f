//! A database under test.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};

use super::{Deployment, Kubectl, fill, until};

/// The password of every database under test. It must appear in no log, status or event: scenarios look for it.
pub const PASSWORD: &str = "the-planted-secret-5c1e";

/// A StatefulSet that runs PostgreSQL.
#[derive(Clone, Debug)]
pub struct Database {
    /// The cluster.
    pub kubectl: Kubectl,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Database {
    /// Makes the StatefulSet and waits until it answers.
    ///
    /// # Errors
    /// It is not ready in time.
    pub async fn create(
        deployment: &Deployment,
        namespace: &str,
        name: &str,
        storage_class: &str,
    ) -> Result<Self> {
        let images = &deployment.images;
        let values = [
            ("NAME", name),
            ("NAMESPACE", namespace),
            ("PASSWORD", PASSWORD),
            ("POSTGRES_IMAGE", &images.postgres),
            ("PULL_POLICY", &images.pull_policy),
            ("STORAGE_CLASS", storage_class),
        ];
        deployment.kubectl.apply(&fill(
            include_str!("../../manifests/postgres.yaml"),
            &values,
        )?)?;
        let database = Self {
            kubectl: deployment.kubectl.clone(),
            namespace: namespace.into(),
            name: name.into(),
        };
        database.wait_ready().await?;
        Ok(database)
    }

    /// One that exists already, such as a restored one.
    pub fn existing(kubectl: &Kubectl, namespace: &str, name: &str) -> Self {
        Self {
            kubectl: kubectl.clone(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Waits until its pod is ready.
    ///
    /// # Errors
    /// It is not ready in time.
    pub async fn wait_ready(&self) -> Result<()> {
        until(
            &format!("pod {}-0 ready", self.name),
            Duration::from_secs(120),
            || {
                let pod = self
                    .kubectl
                    .get(&self.namespace, "pod", &format!("{}-0", self.name))?;
                let ready = |pod: &serde_json::Value| {
                    pod["metadata"]["deletionTimestamp"].is_null()
                        && super::wait::conditions(pod)
                            .any(|c| c["type"] == "Ready" && c["status"] == "True")
                };
                Ok(pod.filter(ready).map(|_| ()))
            },
        )
        .await
    }

    /// Sets an annotation on the StatefulSet; an empty value removes it.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn annotate(&self, key: &str, value: &str) -> Result<()> {
        let change = if value.is_empty() {
            format!("{key}-")
        } else {
            format!("{key}={value}")
        };
        self.kubectl.run(&[
            "-n",
            &self.namespace,
            "annotate",
            "--overwrite",
            "statefulset",
            &self.name,
            &change,
        ])?;
        Ok(())
    }

    /// The address of its pod.
    ///
    /// # Errors
    /// There is no pod, or it has no address.
    pub fn address(&self) -> Result<String> {
        let pod = self
            .kubectl
            .get(&self.namespace, "pod", &format!("{}-0", self.name))?;
        let pod = pod.with_context(|| format!("there is no pod {}-0", self.name))?;
        Ok(pod["status"]["podIP"]
            .as_str()
            .context("the pod has no address")?
            .to_owned())
    }

    /// A session as its superuser.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.address()?).await
    }
}

/// A session as the superuser of the database at this address.
///
/// # Errors
/// It cannot be reached.
pub async fn connect(address: &str) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(address)
        .user("postgres")
        .password(PASSWORD)
        .dbname("postgres");
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = config
        .connect(NoTls)
        .await
        .context("failed to connect to the database")?;
    tokio::spawn(connection);
    Ok(client)
}
