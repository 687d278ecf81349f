//! The dev cluster itself: starts twice, stands beside another one, says why it does not start, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use highwater_e2e::devcluster::{Cluster, DAEMONS, Daemon, inside};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

/// Set where a test runs itself again inside the cluster's network.
const INSIDE: &str = "HIGHWATER_TEST_INSIDE";

/// One test at a time: what is timed must not wait for another.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pod on a volume, so that there is something to clear away: containers, mounts, logs.
const POD: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  containers:
    - {name: user, image: 'localhost/pause:1', imagePullPolicy: Never, volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

/// A cluster that is stopped when the test ends, however it ends.
struct Guard(Cluster);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("{error:#}");
        }
    }
}

fn cluster(name: &str) -> Guard {
    let program = std::env::current_exe().unwrap();
    let driver = program
        .ancestors()
        .map(|folder| folder.join("highwater-test-csi-driver"))
        .find(|path| path.is_file());
    let driver = driver.expect("the CSI driver is not built: run cargo build --workspace --bins");
    Guard(Cluster::new(name, driver))
}

#[test]
fn starts_twice_beside_another_and_leaves_nothing_behind() {
    let _alone = alone();
    let (first, second) = (cluster("test-first"), cluster("test-second"));
    first.0.up().unwrap();
    let ids = ids(&first.0);
    assert_eq!(ids.len(), DAEMONS.len(), "{ids:?}");
    first.0.up().unwrap();
    assert_eq!(ids, self::ids(&first.0), "a second start starts nothing");
    second.0.up().unwrap();
    for cluster in [&first.0, &second.0] {
        kubectl(cluster, &["apply", "-f", "-"], POD);
        kubectl(
            cluster,
            &["wait", "--for=condition=Ready", "--timeout=60s", "pod/user"],
            "",
        );
    }

    let sockets = shim_sockets(&first.0);
    assert!(!sockets.is_empty());
    // Only there can they be told from those of another cluster.
    let below = format!("nsfs {}/", first.0.names.state.display());
    assert!(
        fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(&below),
        "pods' network namespaces lie below the cluster's folder"
    );
    assert!(
        !traces(&first.0, &sockets).is_empty(),
        "it can be seen while it runs"
    );
    first.0.down().unwrap();
    assert_eq!(traces(&first.0, &sockets), Vec::<String>::new());
    assert!(
        ids.values()
            .all(|id| !Path::new(&format!("/proc/{id}")).exists())
    );
    first.0.down().unwrap();

    assert_eq!(
        second.0.stopped(),
        Vec::<&str>::new(),
        "the other one goes on"
    );
    kubectl(&second.0, &["get", "--raw=/readyz"], "");
    let sockets = shim_sockets(&second.0);
    second.0.down().unwrap();
    assert_eq!(traces(&second.0, &sockets), Vec::<String>::new());
}

#[test]
fn serves_its_client_and_starts_anew_when_a_part_has_died() {
    let _alone = alone();
    let cluster = cluster("test-client");
    if std::env::var_os(INSIDE).is_some() {
        // The one that runs it owns the cluster.
        let cluster = std::mem::ManuallyDrop::new(cluster);
        return read_node(&cluster.0);
    }
    cluster.0.up().unwrap();
    let etcd = Daemon::new(&cluster.0.names, "etcd");
    let id = etcd.pid().unwrap().to_string();
    Command::new("kill").args(["-9", &id]).status().unwrap();
    let begin = Instant::now();
    while etcd.pid().is_some() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "etcd does not end"
        );
        std::thread::yield_now();
    }
    cluster.0.up().unwrap();
    let mut again = inside(&cluster.0.names, std::env::current_exe().unwrap());
    let test = "serves_its_client_and_starts_anew_when_a_part_has_died";
    let status = again
        .args(["--exact", test])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
    cluster.0.down().unwrap();
    assert_eq!(traces(&cluster.0, &[]), Vec::<String>::new());
}

fn read_node(cluster: &Cluster) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = runtime.block_on(async {
        let nodes: Api<Node> = Api::all(cluster.client().await.unwrap());
        nodes.get("node1").await.unwrap()
    });
    let conditions = node.status.unwrap().conditions.unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    );
}

#[test]
fn says_why_it_does_not_start_and_leaves_nothing_behind() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    let mut broken = cluster("test-broken");
    let toolchain = broken.0.names.toolchain.clone();
    fs::create_dir(&bin).unwrap();
    for program in fs::read_dir(toolchain.join("bin")).unwrap() {
        let program = program.unwrap();
        std::os::unix::fs::symlink(program.path(), bin.join(program.file_name())).unwrap();
    }
    for folder_name in ["images", "crds"] {
        std::os::unix::fs::symlink(toolchain.join(folder_name), folder.path().join(folder_name))
            .unwrap();
    }
    broken.0.names.toolchain = folder.path().to_owned();
    // The first program, one that nothing waits for by itself, and the last one.
    for program in ["etcd", "kube-scheduler", "csi-snapshotter"] {
        let path = bin.join(program);
        let whole = fs::read_link(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(
            &path,
            format!("#!/bin/sh\necho the {program} of this test is broken\nexit 1\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = format!("{:#}", broken.0.up().unwrap_err());
        assert!(error.contains(&format!("{program} ended")), "{error}");
        assert!(
            error.contains(&format!("the {program} of this test is broken")),
            "{error}"
        );
        assert_eq!(
            traces(&broken.0, &[]),
            Vec::<String>::new(),
            "after {program}"
        );
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(whole, &path).unwrap();
    }
}

#[test]
fn says_that_the_driver_does_not_start() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let driver = folder.path().join("driver");
    let why = "this driver ends at once";
    fs::write(&driver, format!("#!/bin/sh\necho {why}\nexit 1\n")).unwrap();
    fs::set_permissions(&driver, fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = cluster("test-driver");
    let driver = driver.display().to_string();
    let output = devcluster("test-driver", &["--csi-driver", &driver, "up"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("csi-driver ended"), "{error}");
    assert!(error.contains(why), "{error}");
    assert_eq!(traces(&cluster.0, &[]), Vec::<String>::new());
}

#[test]
fn the_command_starts_in_time_and_restarts() {
    let _alone = alone();
    let cluster = cluster("test-command");
    let driver = cluster.0.csi_driver.display().to_string();
    let command = |what| {
        let output = devcluster("test-command", &["--csi-driver", &driver, what]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = command("up");
    let ready = printed
        .lines()
        .find_map(|line| line.strip_prefix("node ready after "));
    let seconds: f64 = ready.unwrap().strip_suffix(" s").unwrap().parse().unwrap();
    println!("node ready after {seconds} s");
    assert!(seconds < 120.0, "{printed}");
    let before = ids(&cluster.0);
    command("restart");
    let after = ids(&cluster.0);
    assert_eq!(after.len(), DAEMONS.len(), "{after:?}");
    assert!(
        before.iter().all(|(name, id)| after[name] != *id),
        "every program is a new one"
    );
    command("status");
    command("down");
    assert_eq!(traces(&cluster.0, &[]), Vec::<String>::new());
}

/// The command as a user calls it.
fn devcluster(name: &str, args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_devcluster"))
        .args(["--name", name])
        .args(args)
        .output()
        .unwrap()
}

fn ids(cluster: &Cluster) -> BTreeMap<&'static str, u32> {
    let id = |name| Some((name, Daemon::new(&cluster.names, name).pid()?));
    DAEMONS.into_iter().filter_map(id).collect()
}

fn kubectl(cluster: &Cluster, args: &[&str], input: &str) {
    let mut command = inside(&cluster.names, cluster.names.bin("kubectl"));
    command
        .arg("--kubeconfig")
        .arg(cluster.names.kubeconfig())
        .args(args);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "kubectl {args:?}");
}

/// Where the shims of this cluster listen: a folder that all clusters of a machine share.
fn shim_sockets(cluster: &Cluster) -> Vec<PathBuf> {
    let tasks = cluster
        .names
        .path("containerd-state/io.containerd.runtime.v2.task/k8s.io");
    let task = |entry: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(entry.unwrap().path().join("bootstrap.json")).ok()?;
        let from = text.find("/run/containerd/s/")?;
        let socket = text[from..].split('"').next()?;
        Some(socket.into())
    };
    fs::read_dir(tasks).unwrap().filter_map(task).collect()
}

/// All of the machine that still shows this cluster.
fn traces(cluster: &Cluster, sockets: &[PathBuf]) -> Vec<String> {
    let id = &cluster.names.id;
    let mut found = Vec::new();
    let mut note = |what: &str, text: String| {
        found.extend(
            text.lines()
                .filter(|line| line.contains(id.as_str()))
                .map(|line| format!("{what}: {line}")),
        );
    };
    note("mount", fs::read_to_string("/proc/self/mounts").unwrap());
    note("network namespace", printed("ip", &["netns"]));
    note("loop device", printed("losetup", &["--list"]));
    note(
        "cgroup",
        printed(
            "find",
            &[
                "/sys/fs/cgroup",
                "-maxdepth",
                "2",
                "-name",
                &format!("{id}*"),
            ],
        ),
    );
    note(
        "file",
        printed(
            "find",
            &[
                "/var/lib",
                "/run",
                "/tmp",
                "-maxdepth",
                "2",
                "-name",
                &format!("*{id}*"),
            ],
        ),
    );
    note(
        "log link",
        printed("find", &["/var/log/containers", "-printf", "%p %l\n"]),
    );
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "cgroup"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            note(
                &format!("{file} of process {}", process.file_name().display()),
                text,
            );
        }
    }
    found.extend(
        sockets
            .iter()
            .filter(|socket| socket.exists())
            .map(|socket| socket.display().to_string()),
    );
    found
}

fn printed(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
