//! etcd, API server, controller manager, scheduler.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use super::{
    names::Names,
    network::NODE_ADDRESS,
    process::{Daemon, run, run_inside},
};

const READY: Duration = Duration::from_secs(60);

/// Starts the control plane and waits until the API server is ready.
pub fn up(names: &Names) -> Result<()> {
    let pki = names.path("pki");
    fs::create_dir_all(&pki)?;
    start_etcd(names)?;
    start_api_server(names)?;
    write_kubeconfig(names)?;
    start_controllers(names)
}

/// Arguments of a daemon from `key=value` lines.
pub(super) fn flags(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| format!("--{line}")).collect()
}

fn start_etcd(names: &Names) -> Result<()> {
    let etcd = Daemon::new(names, "etcd");
    let args = flags(&[
        format!("data-dir={}", names.path("etcd").display()),
        "listen-client-urls=http://127.0.0.1:2379".into(),
        "advertise-client-urls=http://127.0.0.1:2379".into(),
        "listen-peer-urls=http://127.0.0.1:2380".into(),
        // Nothing in a dev cluster must outlive the machine.
        "unsafe-no-fsync".into(),
    ]);
    etcd.start(&names.bin("etcd"), &args, &[])?;
    etcd.wait_ready(READY, || {
        fs::read_to_string(etcd.log())
            .is_ok_and(|log| log.contains("ready to serve client requests"))
    })
}

fn start_api_server(names: &Names) -> Result<()> {
    let pki = names.path("pki");
    let file = |name: &str| pki.join(name).display().to_string();
    run("openssl", &["genrsa", "-out", &file("sa.key"), "2048"])?;
    run(
        "openssl",
        &[
            "rsa",
            "-in",
            &file("sa.key"),
            "-pubout",
            "-out",
            &file("sa.pub"),
        ],
    )?;
    let token = run("openssl", &["rand", "-hex", "16"])?.trim().to_owned();
    fs::write(
        file("tokens"),
        format!("{token},admin,admin,\"system:masters\"\n"),
    )?;
    fs::write(file("token"), &token)?;
    fs::write(
        file("audit.yaml"),
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n",
    )?;
    let args = flags(&[
        "etcd-servers=http://127.0.0.1:2379".into(),
        "bind-address=0.0.0.0".into(),
        format!("advertise-address={NODE_ADDRESS}"),
        "secure-port=6443".into(),
        format!("cert-dir={}", pki.display()),
        format!("token-auth-file={}", file("tokens")),
        "authorization-mode=RBAC".into(),
        "service-cluster-ip-range=10.0.0.0/24".into(),
        "allow-privileged=true".into(),
        "kubelet-preferred-address-types=InternalIP".into(),
        "service-account-issuer=https://kubernetes.default.svc".into(),
        format!("service-account-key-file={}", file("sa.pub")),
        format!("service-account-signing-key-file={}", file("sa.key")),
        format!("audit-policy-file={}", file("audit.yaml")),
        format!("audit-log-path={}", names.path("audit.log").display()),
    ]);
    let server = Daemon::new(names, "kube-apiserver");
    server.start(&names.bin("kube-apiserver"), &args, &[])?;
    let url = format!("https://{NODE_ADDRESS}:6443");
    let certificate = file("apiserver.crt");
    server.wait_ready(READY, || {
        let args = [
            "--server",
            &url,
            "--certificate-authority",
            &certificate,
            "--token",
            &token,
            "get",
            "--raw=/readyz",
        ];
        run_inside(names, names.bin("kubectl"), &args).is_ok()
    })
}

fn write_kubeconfig(names: &Names) -> Result<()> {
    let pki = names.path("pki");
    let token = fs::read_to_string(pki.join("token"))
        .context("failed to read the administrator's token")?;
    // In the file itself: a kubeconfig is all that one needs to reach a cluster.
    let authority = run(
        "base64",
        &["-w0", &pki.join("apiserver.crt").display().to_string()],
    )?;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {id}\n\
         clusters: [{{name: {id}, cluster: {{server: 'https://{NODE_ADDRESS}:6443', certificate-authority-data: {authority}}}}}]\n\
         users: [{{name: admin, user: {{token: {token}}}}}]\n\
         contexts: [{{name: {id}, context: {{cluster: {id}, user: admin}}}}]\n",
        id = names.id,
    );
    fs::write(names.kubeconfig(), text)?;
    run("chmod", &["600", &names.kubeconfig().display().to_string()])?;
    Ok(())
}

fn start_controllers(names: &Names) -> Result<()> {
    let kubeconfig = names.kubeconfig().display().to_string();
    let common = |more: &[String]| {
        let mut lines = vec![
            format!("kubeconfig={kubeconfig}"),
            format!("authentication-kubeconfig={kubeconfig}"),
            format!("authorization-kubeconfig={kubeconfig}"),
            "leader-elect=false".into(),
        ];
        lines.extend_from_slice(more);
        flags(&lines)
    };
    let pki = names.path("pki");
    let manager = common(&[
        "cluster-cidr=10.78.0.0/24".into(),
        format!(
            "service-account-private-key-file={}",
            pki.join("sa.key").display()
        ),
        format!("root-ca-file={}", pki.join("apiserver.crt").display()),
    ]);
    Daemon::new(names, "kube-controller-manager").start(
        &names.bin("kube-controller-manager"),
        &manager,
        &[],
    )?;
    Daemon::new(names, "kube-scheduler").start(&names.bin("kube-scheduler"), &common(&[]), &[])
}
