//! The test CSI driver with its pool, the sidecars, and the classes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    control_plane::flags,
    names::Names,
    process::{Daemon, run, run_inside, signal},
};

/// The driver with snapshots.
pub const DRIVER: &str = "btrfs.csi.test.highwater.dev";
/// The same driver under another name, without snapshots.
pub const PLAIN_DRIVER: &str = "plain.csi.test.highwater.dev";
/// A sparse file: room for three databases of 14 GB together, their WAL and their copies; what is not written takes none.
const POOL_BYTES: u64 = 40 << 30;
const READY: Duration = Duration::from_secs(30);

/// Mounts the pool, starts drivers and sidecars, makes the classes.
pub fn up(names: &Names, driver: &Path) -> Result<()> {
    mount_pool(names)?;
    start_driver(names, driver, DRIVER, "csi-driver", &[])?;
    start_driver(
        names,
        driver,
        PLAIN_DRIVER,
        "csi-driver-plain",
        &["--no-snapshots".to_owned()],
    )?;
    start_sidecars(names)
}

fn pool(names: &Names) -> PathBuf {
    names.path("pool")
}

/// The fault switches of the driver with snapshots.
pub fn control_file(names: &Names) -> PathBuf {
    names.path("csi-faults.json")
}

fn mount_pool(names: &Names) -> Result<()> {
    let (image, pool) = (names.path("pool.btrfs"), pool(names));
    fs::create_dir_all(&pool)?;
    fs::File::create(&image)?.set_len(POOL_BYTES)?;
    run("mkfs.btrfs", &["-q", &image.display().to_string()])?;
    run(
        "mount",
        &[
            "-o",
            "loop,noatime",
            &image.display().to_string(),
            &pool.display().to_string(),
        ],
    )?;
    for folder in [DRIVER, PLAIN_DRIVER] {
        fs::create_dir_all(pool.join(folder))?;
    }
    Ok(())
}

fn endpoint(names: &Names, driver: &str) -> PathBuf {
    names.path("kubelet/plugins").join(driver).join("csi.sock")
}

fn start_driver(
    names: &Names,
    program: &Path,
    driver: &str,
    daemon: &str,
    more: &[String],
) -> Result<()> {
    let endpoint = endpoint(names, driver);
    fs::create_dir_all(endpoint.parent().unwrap_or(Path::new("/")))?;
    fs::create_dir_all(names.path("kubelet/plugins_registry"))?;
    let mut args = flags(&[
        format!("endpoint={}", endpoint.display()),
        format!(
            "registration={}",
            names
                .path("kubelet/plugins_registry")
                .join(format!("{driver}-reg.sock"))
                .display()
        ),
        format!("driver-name={driver}"),
        "node-id=node1".into(),
        format!("pool={}", pool(names).join(driver).display()),
    ]);
    if driver == DRIVER {
        args.push(format!("--control={}", control_file(names).display()));
    }
    args.extend_from_slice(more);
    let daemon = Daemon::new(names, daemon);
    daemon.start(program, &args, &[])?;
    daemon.wait_ready(READY, || endpoint.exists())
}

fn start_sidecars(names: &Names) -> Result<()> {
    for (daemon, driver) in [
        ("csi-provisioner", DRIVER),
        ("csi-provisioner-plain", PLAIN_DRIVER),
    ] {
        let provisioner = flags(&[
            format!("csi-address={}", endpoint(names, driver).display()),
            format!("kubeconfig={}", names.kubeconfig().display()),
            "feature-gates=Topology=false".into(),
            "timeout=30s".into(),
            "retry-interval-max=10s".into(),
            "extra-create-metadata".into(),
            "default-fstype=btrfs".into(),
            // It tries only once to take its finalizer off a VolumeSnapshot, and sweeps what it left every five minutes.
            "snapshot-orphan-sweep-interval=5s".into(),
        ]);
        Daemon::new(names, daemon).start(&names.bin("csi-provisioner"), &provisioner, &[])?;
    }
    Snapshotter::ALL
        .into_iter()
        .try_for_each(|program| program.start(names, program.rate()))
}

/// How many requests a second a program may send to the API server, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second.
    pub qps: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// For the programs that make snapshots, where many are made at once and they are not to be what all wait for.
    pub const RAISED: Self = Self {
        qps: 200,
        burst: 400,
    };
}

/// The programs that make snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshotter {
    /// Beside the CSI driver.
    Sidecar,
    /// The cluster's.
    Controller,
}

impl Snapshotter {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Sidecar, Self::Controller];

    /// As `devcluster status` lists it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "csi-snapshotter",
            Self::Controller => "snapshot-controller",
        }
    }

    /// What it has where nothing else is asked for; the controller's is its own default.
    pub const fn rate(self) -> Rate {
        match self {
            Self::Sidecar => Rate {
                qps: 50,
                burst: 100,
            },
            Self::Controller => Rate { qps: 5, burst: 10 },
        }
    }

    fn flags(self, names: &Names, rate: Rate) -> Vec<String> {
        let mut lines = vec![
            format!("kubeconfig={}", names.kubeconfig().display()),
            format!("kube-api-qps={}", rate.qps),
            format!("kube-api-burst={}", rate.burst),
            "feature-gates=CSIVolumeGroupSnapshot=true".into(),
        ];
        match self {
            Self::Sidecar => lines.extend([
                format!("csi-address={}", endpoint(names, DRIVER).display()),
                // Short, so that a cut may take longer than the sidecar waits for an answer.
                "timeout=5s".into(),
                "retry-interval-max=20s".into(),
                // A cut that ends after the deletion of its content began is only looked at then: 15 minutes by default.
                "resync-period=10s".into(),
                // The driver's fault switches may name a VolumeSnapshot.
                "extra-create-metadata".into(),
            ]),
            Self::Controller => lines.push("retry-interval-max=5s".into()),
        }
        flags(&lines)
    }

    /// Starts it.
    ///
    /// # Errors
    /// It ends at once.
    pub fn start(self, names: &Names, rate: Rate) -> Result<()> {
        let flags = self.flags(names, rate);
        Daemon::new(names, self.name()).start(&names.bin(self.name()), &flags, &[])
    }

    /// Stops it, and starts it with this rate.
    ///
    /// # Errors
    /// It does not end, or ends at once.
    pub fn restart(self, names: &Names, rate: Rate) -> Result<()> {
        Daemon::new(names, self.name()).stop()?;
        self.start(names, rate)
    }

    /// kill -9, and it is started again, as kubelet would do.
    ///
    /// # Errors
    /// It does not run, or ends at once.
    pub fn kill(self, names: &Names) -> Result<()> {
        let daemon = Daemon::new(names, self.name());
        let process = daemon.pid();
        let process = process.with_context(|| format!("{} does not run", self.name()))?;
        signal(process, "KILL")?;
        self.restart(names, self.rate())
    }
}

/// Snapshot controller and sidecar with raised rates, until it is dropped.
pub struct Raised(Names);

impl Raised {
    /// Starts both again.
    ///
    /// # Errors
    /// This is not inside of the dev cluster, or one does not start.
    pub fn begin() -> Result<Self> {
        let raised = Self(Names::entered()?);
        for program in Snapshotter::ALL {
            program.restart(&raised.0, Rate::RAISED)?;
        }
        Ok(raised)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        for program in Snapshotter::ALL {
            if let Err(error) = program.restart(&self.0, program.rate()) {
                eprintln!("failed to put {} back: {error:#}", program.name());
            }
        }
    }
}

/// The CRDs of snapshots; before the sidecars, which end without them.
pub fn apply_crds(names: &Names) -> Result<()> {
    let kubeconfig = names.kubeconfig().display().to_string();
    let crds = fs::canonicalize(names.toolchain.join("crds"))?
        .display()
        .to_string();
    run_inside(
        names,
        names.bin("kubectl"),
        &[
            "--kubeconfig",
            &kubeconfig,
            "apply",
            "--server-side",
            "-k",
            &crds,
        ],
    )?;
    Ok(())
}

/// Two StorageClasses of the driver with snapshots (WaitForFirstConsumer is the default one, and Immediate), one of the
/// driver without, and the VolumeSnapshotClass.
pub fn apply_classes(names: &Names) -> Result<()> {
    let mut kubectl = super::process::inside(names, names.bin("kubectl"));
    kubectl.args([
        "--kubeconfig",
        &names.kubeconfig().display().to_string(),
        "apply",
        "--server-side",
        "-f",
        "-",
    ]);
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let manifest = include_str!("../../devcluster/classes.yaml");
    std::io::Write::write_all(
        &mut child.stdin.take().context("kubectl has no input")?,
        manifest.as_bytes(),
    )?;
    anyhow::ensure!(
        child.wait()?.success(),
        "failed to apply the storage classes"
    );
    Ok(())
}

/// Stops sidecars and drivers.
pub fn down(names: &Names) -> Result<()> {
    for daemon in [
        "snapshot-controller",
        "csi-snapshotter",
        "csi-provisioner",
        "csi-provisioner-plain",
        "csi-driver",
        "csi-driver-plain",
    ] {
        Daemon::new(names, daemon).stop()?;
    }
    Ok(())
}

/// Unmounts everything below the cluster's folder, deepest first, and gives loop devices back.
pub fn unmount_all(names: &Names) -> Result<()> {
    let below = format!("{}/", names.state.display());
    for _ in 0..5 {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        points.retain(|point| point.starts_with(&below));
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            let _ = Command::new("umount")
                .arg(point)
                .stderr(Stdio::null())
                .status()?;
        }
    }
    anyhow::bail!("failed to unmount what lies below {below}: something still uses it")
}
