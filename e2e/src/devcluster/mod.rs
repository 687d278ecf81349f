//! A real Kubernetes on this machine: control plane, kubelet, containerd, a CSI driver with copy-on-write snapshots.
//!
//! Every step can be done twice, and [`Cluster::down`] leaves nothing behind. Run as root.

mod cgroups;
mod client;
mod control_plane;
mod kernel;
mod names;
mod network;
mod node;
mod process;
mod storage;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};

pub use names::{ENTERED, Names};
pub use process::{Daemon, inside, signal};
pub use storage::{DRIVER, PLAIN_DRIVER, Raised, Rate, Snapshotter, control_file};

/// All daemons of a cluster, as `status` lists them.
pub const DAEMONS: [&str; 13] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
    "csi-driver",
    "csi-driver-plain",
    "csi-provisioner",
    "csi-provisioner-plain",
    "csi-snapshotter",
    "snapshot-controller",
];

/// One dev cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its names and paths.
    pub names: Names,
    /// The test CSI driver's program.
    pub csi_driver: PathBuf,
}

impl Cluster {
    /// The cluster `name` of this checkout.
    pub fn new(name: &str, csi_driver: PathBuf) -> Self {
        Self {
            names: Names::new(name),
            csi_driver,
        }
    }

    /// Starts it, unless it runs. A start that fails is undone, and the error holds the log that says why.
    ///
    /// # Errors
    /// A part did not start.
    pub fn up(&self) -> Result<()> {
        let _lock = lock()?;
        if self.stopped().is_empty() && self.names.path("up").exists() {
            return Ok(());
        }
        self.clear_away()
            .context("failed to clear away what an earlier start left")?;
        if let Err(error) = self.start() {
            return Err(match self.clear_away() {
                Ok(()) => error,
                Err(undoing) => error.context(format!("failed to undo the start: {undoing:#}")),
            });
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let (names, begin) = (&self.names, Instant::now());
        if !names.bin("kubelet").exists() {
            bail!("the dev cluster is not built: run e2e/devcluster/build.sh");
        }
        fs::create_dir_all(&names.state)?;
        kernel::remember(names)?;
        network::up(names)?;
        control_plane::up(names)?;
        println!(
            "control plane ready after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        node::up(names)?;
        storage::apply_crds(names)?;
        storage::up(names, &self.csi_driver)?;
        node::wait_ready(names)?;
        println!("node ready after {:.1} s", begin.elapsed().as_secs_f64());
        storage::apply_classes(names)?;
        let images = fs::read_dir(names.toolchain.join("images"))?
            .flatten()
            .map(|entry| entry.path());
        for image in
            images.filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        {
            node::load_image(names, &image)?;
        }
        node::wait_usable(names)?;
        fs::write(names.path("up"), "")?;
        println!("cluster up after {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// Stops it and leaves no process, mount, namespace, cgroup or file of it behind.
    ///
    /// # Errors
    /// Something does not go away.
    pub fn down(&self) -> Result<()> {
        let _lock = lock()?;
        self.clear_away()
    }

    fn clear_away(&self) -> Result<()> {
        let names = &self.names;
        if !names.state.exists() && !names.network_namespace().exists() {
            return Ok(());
        }
        let _ = fs::remove_file(names.path("up"));
        node::down(names)?;
        storage::down(names)?;
        for daemon in [
            "kube-scheduler",
            "kube-controller-manager",
            "kube-apiserver",
            "etcd",
        ] {
            Daemon::new(names, daemon).stop()?;
        }
        storage::unmount_all(names)?;
        network::down(names)?;
        kernel::restore(names)?;
        fs::remove_dir_all(&names.state)
            .with_context(|| format!("failed to remove {}", names.state.display()))
    }

    /// The daemons that do not run.
    pub fn stopped(&self) -> Vec<&'static str> {
        DAEMONS
            .into_iter()
            .filter(|daemon| Daemon::new(&self.names, daemon).pid().is_none())
            .collect()
    }

    /// Loads an image so that pods can name it.
    ///
    /// # Errors
    /// Not a docker-archive, or containerd does not run.
    pub fn load_image(&self, tar: &Path) -> Result<()> {
        node::load_image(&self.names, tar)
    }
}

/// Two starts or stops of one checkout at the same time come one after the other.
fn lock() -> Result<fs::File> {
    let checkout = fs::File::open(env!("CARGO_MANIFEST_DIR"))?;
    checkout
        .lock()
        .context("failed to wait for another start or stop")?;
    Ok(checkout)
}
