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
    process::{Daemon, run, run_inside},
};

/// The driver with snapshots.
pub const DRIVER: &str = "btrfs.csi.test.highwater.dev";
/// The same driver under another name, without snapshots.
pub const PLAIN_DRIVER: &str = "plain.csi.test.highwater.dev";
const POOL_BYTES: u64 = 20 << 30;
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
    let kubeconfig = format!("kubeconfig={}", names.kubeconfig().display());
    for (daemon, driver) in [
        ("csi-provisioner", DRIVER),
        ("csi-provisioner-plain", PLAIN_DRIVER),
    ] {
        let provisioner = flags(&[
            format!("csi-address={}", endpoint(names, driver).display()),
            kubeconfig.clone(),
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
    let snapshotter = flags(&[
        format!("csi-address={}", endpoint(names, DRIVER).display()),
        kubeconfig.clone(),
        // Short, so that a cut may take longer than the sidecar waits for an answer.
        "timeout=5s".into(),
        "retry-interval-max=20s".into(),
        // A cut that ends after the deletion of its content began is only looked at then: 15 minutes by default.
        "resync-period=10s".into(),
        "kube-api-qps=50".into(),
        "kube-api-burst=100".into(),
        // The driver's fault switches may name a VolumeSnapshot.
        "extra-create-metadata".into(),
        "feature-gates=CSIVolumeGroupSnapshot=true".into(),
    ]);
    Daemon::new(names, "csi-snapshotter").start(
        &names.bin("csi-snapshotter"),
        &snapshotter,
        &[],
    )?;
    let controller = flags(&[
        kubeconfig,
        "retry-interval-max=5s".into(),
        "feature-gates=CSIVolumeGroupSnapshot=true".into(),
    ]);
    Daemon::new(names, "snapshot-controller").start(
        &names.bin("snapshot-controller"),
        &controller,
        &[],
    )
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
