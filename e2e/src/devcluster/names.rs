//! Everything of one cluster carries the name of its checkout, so that two checkouts do not meet.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What a program inside `devcluster enter` knows the cluster by.
pub const ENTERED: &str = "HIGHWATER_DEVCLUSTER_NAME";
/// Where each cluster has its folder.
pub(super) const STATE: &str = "/var/lib";

/// Names and paths of one cluster.
#[derive(Debug, Clone)]
pub struct Names {
    /// `hw` and 8 hexadecimal digits: network namespace, cgroup and folder are called so.
    pub id: String,
    /// What was built for this checkout: `bin`, `images`, `crds`.
    pub toolchain: PathBuf,
    /// All that the cluster writes. Short, as socket paths must not exceed 107 bytes.
    pub state: PathBuf,
}

impl Names {
    /// The names of the cluster `name` of this checkout.
    pub fn new(name: &str) -> Self {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        let digest = Sha256::digest(format!("{}\0{name}", checkout.display()));
        let hex: String = digest
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let id = format!("hw{hex}");
        Self {
            toolchain: checkout.join("devcluster/.cache"),
            state: Path::new(STATE).join(&id),
            id,
        }
    }

    /// The names of the cluster of this checkout that this program runs in.
    ///
    /// # Errors
    /// It runs outside.
    pub fn entered() -> Result<Self> {
        let name = std::env::var(ENTERED).context("run this with `devcluster enter --`")?;
        Ok(Self::new(&name))
    }

    /// A program that was built for the cluster.
    pub fn bin(&self, program: &str) -> PathBuf {
        self.toolchain.join("bin").join(program)
    }

    /// A path below the cluster's folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.state.join(below)
    }

    /// The network namespace as a file.
    pub fn network_namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.id)
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }
}
