//! Who is killed with SIGKILL, and what brings it back soon.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Database, Kubectl, crash, story::LIMIT, until};
use crate::devcluster::signal;

const SYSTEM: &str = "highwater-system";

/// Who is to be killed: found beforehand, as a gap may be short.
pub struct Prey {
    namespace: String,
    pod: String,
    /// The first process of its container.
    pub process: u32,
}

impl Prey {
    /// The pod's process that has `program` in its command line.
    ///
    /// # Errors
    /// There is none.
    pub fn find(kubectl: &Kubectl, namespace: &str, pod: &str, program: &str) -> Result<Self> {
        Ok(Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            process: crash::process(kubectl, namespace, pod, program)?,
        })
    }

    /// kill -9.
    ///
    /// # Errors
    /// No signal can be sent.
    pub fn kill(&self) -> Result<()> {
        signal(self.process, "KILL")
    }

    /// Kills it, and makes place for the next.
    ///
    /// # Errors
    /// No signal can be sent, or the API server refuses.
    pub fn end(&self, kubectl: &Kubectl) -> Result<()> {
        self.kill()?;
        self.replace(kubectl)
    }

    /// Its pod is removed, so that no growing pause of kubelet's is waited for.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn replace(&self, kubectl: &Kubectl) -> Result<()> {
        let at_once = ["--grace-period=0", "--force", "--ignore-not-found"];
        let pod = ["-n", &self.namespace, "delete", "pod", &self.pod];
        kubectl.run(&[&pod[..], &at_once].concat()).map(|_| ())
    }
}

/// A process that does nothing until this is dropped.
pub struct Frozen(u32);

impl Frozen {
    /// SIGSTOP.
    ///
    /// # Errors
    /// No signal can be sent.
    pub fn freeze(prey: &Prey) -> Result<Self> {
        signal(prey.process, "STOP")?;
        Ok(Self(prey.process))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = signal(self.0, "CONT");
    }
}

/// The agent of a database.
///
/// # Errors
/// None runs in time.
pub async fn agent(database: &Database) -> Result<Prey> {
    let (kubectl, namespace) = (&database.kubectl, database.namespace.as_str());
    let prefix = format!("{}-highwater-", database.name);
    until("a running agent", LIMIT, || {
        let pods = kubectl.list(namespace, "pods")?;
        let mut agents = pods
            .iter()
            .filter_map(name)
            .filter(|name| name.starts_with(&prefix));
        Ok(agents.find_map(|pod| Prey::find(kubectl, namespace, pod, "agent").ok()))
    })
    .await
}

/// The controller's replica that holds the lease.
///
/// # Errors
/// None does in time.
pub async fn controller(kubectl: &Kubectl) -> Result<Prey> {
    until("a living holder of the lease", LIMIT, || {
        let leases = kubectl.list(SYSTEM, "leases")?;
        let mut holders = leases
            .iter()
            .filter_map(|lease| lease["spec"]["holderIdentity"].as_str());
        Ok(holders.find_map(|holder| {
            let pod = holder.split('_').next().unwrap_or_default();
            Prey::find(kubectl, SYSTEM, pod, "controller").ok()
        }))
    })
    .await
}

/// The object store. Its data live as long as its pod: it is killed, never replaced.
///
/// # Errors
/// It does not run.
pub fn object_store(kubectl: &Kubectl) -> Result<Prey> {
    let namespace = "object-store";
    let pods = kubectl.list(namespace, "pods")?;
    let mut pods = pods.iter().filter_map(name);
    let pod = pods.next().context("the object store has no pod")?;
    Prey::find(kubectl, namespace, pod, "posix")
}

/// A recovery pod that works.
///
/// # Errors
/// There is none.
pub fn recovery(kubectl: &Kubectl, namespace: &str) -> Result<Prey> {
    let pods = kubectl.list(namespace, "pods")?;
    let pods = pods.iter().filter_map(name);
    pods.filter(|pod| pod.ends_with("-recovery"))
        .find_map(|pod| Prey::find(kubectl, namespace, pod, "recover").ok())
        .context("no recovery runs")
}

fn name(object: &Value) -> Option<&str> {
    object["metadata"]["name"].as_str()
}
