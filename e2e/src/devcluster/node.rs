//! The node: containerd, kubelet, kube-proxy.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    cgroups,
    control_plane::flags,
    names::Names,
    network::NODE_ADDRESS,
    process::{Daemon, output, run_inside, signal, wait},
    storage::{DRIVER, PLAIN_DRIVER},
};

const READY: Duration = Duration::from_secs(60);

/// Starts containerd and loads `images`, then kubelet and kube-proxy.
pub fn up(names: &Names) -> Result<()> {
    cgroups::up(names)?;
    start_containerd(names)?;
    load_image(names, &names.toolchain.join("images/pause.tar"))?;
    start_kubelet(names)?;
    start_proxy(names)
}

fn socket(names: &Names) -> PathBuf {
    names.path("containerd.sock")
}

fn start_containerd(names: &Names) -> Result<()> {
    let state = names.state.display();
    fs::create_dir_all(names.path("cni/net.d"))?;
    fs::write(
        names.path("cni/net.d/10-dev.conflist"),
        format!(
            r#"{{"cniVersion":"1.0.0","name":"dev","plugins":[{{"type":"bridge","bridge":"dev0","isGateway":true,"ipMasq":false,"hairpinMode":true,"ipam":{{"type":"host-local","dataDir":"{state}/cni/data","ranges":[[{{"subnet":"10.78.0.0/24"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}}]}}"#
        ),
    )?;
    let config = format!(
        r#"version = 3
root = '{state}/containerd'
state = '{state}/containerd-state'
[grpc]
address = '{state}/containerd.sock'
[ttrpc]
address = '{state}/containerd.sock.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
path = '{state}/opt'
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'localhost/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{bin}']
conf_dir = '{state}/cni/net.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
Root = '{state}/runc'
"#,
        bin = fs::canonicalize(names.toolchain.join("bin"))?.display(),
    );
    fs::write(names.path("containerd.toml"), config)?;
    let containerd = Daemon::new(names, "containerd");
    let args = [
        "--config".to_owned(),
        names.path("containerd.toml").display().to_string(),
    ];
    containerd.start(&names.bin("containerd"), &args, &[])?;
    containerd.wait_ready(READY, || ctr(names, &["version"]).is_ok())
}

/// Runs `ctr` in Kubernetes' namespace.
fn ctr(names: &Names, args: &[&str]) -> Result<String> {
    let mut command = Command::new(names.bin("ctr"));
    command
        .arg("-a")
        .arg(socket(names))
        .args(["-n", "k8s.io"])
        .args(args)
        .stderr(Stdio::null());
    output(&mut command)
}

/// Loads an image (docker-archive tar) so that pods can name it.
pub fn load_image(names: &Names, tar: &std::path::Path) -> Result<()> {
    let file = tar.display().to_string();
    ctr(names, &["images", "import", "--local", &file])
        .with_context(|| format!("failed to load image {file}"))?;
    Ok(())
}

fn start_kubelet(names: &Names) -> Result<()> {
    let config = format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{id}
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
resolvConf: ""
localStorageCapacityIsolation: false
maxPods: 200
evictionHard: {{memory.available: 100Mi}}
makeIPTablesUtilChains: false
oomScoreAdj: 0
volumePluginDir: {state}/volumeplugins
podLogsDir: {state}/podlogs
"#,
        id = names.id,
        socket = socket(names).display(),
        state = names.state.display(),
    );
    fs::write(names.path("kubelet.yaml"), config)?;
    let args = flags(&[
        format!("config={}", names.path("kubelet.yaml").display()),
        format!("kubeconfig={}", names.kubeconfig().display()),
        "hostname-override=node1".into(),
        format!("node-ip={NODE_ADDRESS}"),
        format!("root-dir={}", names.path("kubelet").display()),
    ]);
    Daemon::new(names, "kubelet").start(&names.bin("kubelet"), &args, &[])
}

fn start_proxy(names: &Names) -> Result<()> {
    let config = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nhostnameOverride: node1\n\
         clientConnection: {{kubeconfig: '{}'}}\nclusterCIDR: 10.78.0.0/24\n\
         conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\n",
        names.kubeconfig().display(),
    );
    fs::write(names.path("kube-proxy.yaml"), config)?;
    let args = flags(&[format!(
        "config={}",
        names.path("kube-proxy.yaml").display()
    )]);
    Daemon::new(names, "kube-proxy").start(&names.bin("kube-proxy"), &args, &[])
}

/// Waits until the API server says that the node is ready.
pub fn wait_ready(names: &Names) -> Result<()> {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let ready = || get(names, "node", path).is_ok_and(|status| status == "True");
    Daemon::new(names, "kubelet").wait_ready(READY, ready)
}

/// Waits until pods can use everything: kubelet knows both drivers, and the API server's service has its rule.
pub fn wait_usable(names: &Names) -> Result<()> {
    Daemon::new(names, "kubelet").wait_ready(READY, || {
        let drivers = get(names, "csinode", "jsonpath={.spec.drivers[*].name}").unwrap_or_default();
        [DRIVER, PLAIN_DRIVER]
            .iter()
            .all(|driver| drivers.split(' ').any(|name| name == *driver))
    })?;
    Daemon::new(names, "kube-proxy").wait_ready(READY, || {
        let args = ["list", "map", "ip", "kube-proxy", "service-ips"];
        run_inside(names, "nft", &args).is_ok_and(|rules| rules.contains("10.0.0.1 . tcp . 443"))
    })
}

fn get(names: &Names, kind: &str, output: &str) -> Result<String> {
    let kubeconfig = names.kubeconfig().display().to_string();
    let args = [
        "--kubeconfig",
        &kubeconfig,
        "get",
        kind,
        "node1",
        "-o",
        output,
    ];
    run_inside(names, names.bin("kubectl"), &args)
}

/// Stops kubelet first, so that it starts nothing again, then every container, then containerd.
pub fn down(names: &Names) -> Result<()> {
    Daemon::new(names, "kubelet").stop()?;
    let sockets = shim_sockets(names);
    let containerd = Daemon::new(names, "containerd");
    if containerd.pid().is_some() {
        for task in ctr(names, &["tasks", "list", "-q"])
            .unwrap_or_default()
            .split_whitespace()
        {
            let _ = ctr(names, &["tasks", "delete", "--force", task]);
        }
        for container in ctr(names, &["containers", "list", "-q"])
            .unwrap_or_default()
            .split_whitespace()
        {
            let _ = ctr(names, &["containers", "delete", container]);
        }
    }
    containerd.stop()?;
    // A shim is containerd's child and outlives it; its arguments name this cluster's socket.
    let shims = || shims(names);
    shims()
        .into_iter()
        .try_for_each(|pid| signal(pid, "KILL"))?;
    wait(Duration::from_secs(10), || shims().is_empty())
        .context("containerd's shims do not end")?;
    sockets
        .iter()
        .for_each(|socket| drop(fs::remove_file(socket)));
    remove_log_links(names);
    Daemon::new(names, "kube-proxy").stop()?;
    cgroups::down(names)
}

/// A shim's socket lies where all containerds of a machine have theirs; one that is killed leaves it.
fn shim_sockets(names: &Names) -> Vec<PathBuf> {
    let tasks = names.path("containerd-state/io.containerd.runtime.v2.task/k8s.io");
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    let addresses = tasks.filter_map(|task| {
        let text = fs::read(task.path().join("bootstrap.json")).ok()?;
        let parameters: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let address = parameters["address"].as_str()?;
        Some(PathBuf::from(address.strip_prefix("unix://")?))
    });
    addresses.collect()
}

/// kubelet links each container's log from a folder that cannot be chosen.
fn remove_log_links(names: &Names) {
    let links = fs::read_dir("/var/log/containers");
    for link in links.into_iter().flatten().flatten() {
        if fs::read_link(link.path()).is_ok_and(|target| target.starts_with(&names.state)) {
            let _ = fs::remove_file(link.path());
        }
    }
}

fn shims(names: &Names) -> Vec<u32> {
    let socket = socket(names).display().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments
            .split(|byte| *byte == 0)
            .any(|argument| argument == socket.as_bytes())
    })
    .collect()
}
