//! A database under test.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};

use super::{Deployment, Kubectl, Watching, crash, fill, gone, has};
use crate::devcluster::signal;

/// The password of every database under test. It must appear in no log, status or event: scenarios look for it.
pub const PASSWORD: &str = "the-planted-secret-5c1e";

/// How long a database may take to become ready.
const READY: Duration = Duration::from_secs(120);

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
        let shape = include_str!("../../manifests/postgres.yaml");
        Self::create_as(deployment, namespace, name, storage_class, shape).await
    }

    /// As [`Self::create`], from a manifest like `manifests/postgres.yaml`.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn create_as(
        deployment: &Deployment,
        namespace: &str,
        name: &str,
        storage_class: &str,
        shape: &str,
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
        deployment.kubectl.apply(&fill(shape, &values)?)?;
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
        let pod = format!("{}-0", self.name);
        let ready = |pod: &serde_json::Value| {
            pod["metadata"]["deletionTimestamp"].is_null() && has(pod, "Ready", "True")
        };
        Watching::one(&self.kubectl, &self.namespace, "pod", &pod)?
            .wait(&format!("pod {pod} ready"), READY, ready)
            .await
            .map(|_| ())
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

    /// Scales it and, to 0, waits until its pod is gone, or to 1, until it is ready.
    ///
    /// # Errors
    /// It does not get there in time.
    pub async fn scale(&self, replicas: u8) -> Result<()> {
        self.want(replicas)?;
        if replicas > 0 {
            return self.wait_ready().await;
        }
        self.gone("pod", &format!("{}-0", self.name)).await
    }

    /// Asks for so many members, and waits for nothing.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn want(&self, replicas: u8) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        let set = ["scale", "statefulset", &self.name, &replicas];
        let args = [&["-n", self.namespace.as_str()], &set[..]].concat();
        self.kubectl.run(&args).map(|_| ())
    }

    async fn gone(&self, kind: &str, name: &str) -> Result<()> {
        gone(&self.kubectl, &self.namespace, kind, name).await
    }

    /// kill -9 of PostgreSQL, and nobody starts it again; then its volume is deleted. Returns when PostgreSQL was killed.
    ///
    /// # Errors
    /// It cannot be killed, or its pod or claim does not go away.
    pub async fn destroy(&self) -> Result<Instant> {
        let pod = format!("{}-0", self.name);
        let postmaster = crash::process(&self.kubectl, &self.namespace, &pod, "postgres")?;
        self.want(0)?;
        signal(postmaster, "KILL")?;
        let killed = Instant::now();
        self.gone("pod", &pod).await?;
        let claim = format!("data-{}-0", self.name);
        self.kubectl
            .run(&["-n", &self.namespace, "delete", "pvc", &claim])?;
        self.gone("pvc", &claim).await?;
        Ok(killed)
    }

    /// The address of its first pod.
    ///
    /// # Errors
    /// There is no pod, or it has no address.
    pub fn address(&self) -> Result<String> {
        self.address_of(&format!("{}-0", self.name))
    }

    /// The address of this pod.
    ///
    /// # Errors
    /// There is no such pod, or it has no address.
    pub fn address_of(&self, name: &str) -> Result<String> {
        let pod = self.kubectl.get(&self.namespace, "pod", name)?;
        let pod = pod.with_context(|| format!("there is no pod {name}"))?;
        let address = pod["status"]["podIP"].as_str();
        Ok(address.context("the pod has no address")?.to_owned())
    }

    /// A session as its superuser.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.address()?).await
    }
}

/// Host and port of an address that may have one.
pub(super) fn host_and_port(address: &str) -> (&str, &str) {
    address.split_once(':').unwrap_or((address, "5432"))
}

/// A session as the superuser of the database at this address.
///
/// # Errors
/// It cannot be reached.
pub async fn connect(address: &str) -> Result<Client> {
    let (host, port) = host_and_port(address);
    let mut config = tokio_postgres::Config::new();
    config
        .host(host)
        .port(port.parse()?)
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
