//! `make demo KUBECONFIG=… REGISTRY=…`: on a cluster that is reached by its kubeconfig alone and pulls from a registry.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use highwater_e2e::devcluster::{Cluster, inside};

/// Stopped when the test ends, however it ends.
struct Guard(Cluster, Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(registry) = &mut self.1 {
            let _ = registry.kill();
            let _ = registry.wait();
        }
        if let Err(error) = self.0.down() {
            eprintln!("{error:#}");
        }
    }
}

impl Guard {
    fn new() -> Self {
        let test = std::env::current_exe().unwrap();
        let folders = test.ancestors();
        let driver = folders
            .map(|folder| folder.join("highwater-test-csi-driver"))
            .find(|path| path.is_file());
        let driver = driver.expect("run cargo build --workspace --bins");
        Self(Cluster::new("test-own", driver), None)
    }

    /// In the cluster's network, which is how one reaches it, and with nothing of the dev cluster in the environment.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = inside(&self.0.names, program.as_ref());
        command
            .current_dir(root())
            .env_remove("KUBECONFIG")
            .env_remove("HIGHWATER_DEVCLUSTER")
            .env_remove("HIGHWATER_DEVCLUSTER_NAME");
        command
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let mut command = self.command(self.0.names.bin("kubectl"));
        command.arg("--kubeconfig").arg(self.0.names.kubeconfig());
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "kubectl {args:?}: {output:?}");
        text(&output.stdout)
    }

    fn demo(&self, kubeconfig: &Path, more: &[&str]) -> Output {
        let mut command = self.command("scripts/demo");
        // Where the programs were built that belong to this test.
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(4).unwrap();
        command.env("CARGO_TARGET_DIR", target);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.args(more).output().unwrap()
    }

    fn refused(&self, kubeconfig: &Path, why: &str) {
        let output = self.demo(kubeconfig, &["--registry", "localhost:5000/demo"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(why), "{error}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn tells_the_story_on_a_cluster_of_the_user_and_goes_without_a_trace() {
    let mut guard = Guard::new();
    guard.0.up().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("theirs.kubeconfig");
    fs::copy(guard.0.names.kubeconfig(), &kubeconfig).unwrap();
    let mut registry = guard.command(guard.0.names.bin("crane"));
    registry.args(["registry", "serve", "--address=localhost:5000", "--disk"]);
    registry.stderr(Stdio::null());
    guard.1 = Some(registry.arg(folder.path()).spawn().unwrap());

    // Where it cannot run it says why, and touches nothing.
    guard.kubectl(&["create", "namespace", "highwater-system"]);
    guard.refused(
        &kubeconfig,
        "namespace highwater-system is there and not the demo's",
    );
    guard.kubectl(&["delete", "namespace", "highwater-system"]);
    let class = guard.kubectl(&[
        "get",
        "volumesnapshotclass",
        "highwater-btrfs",
        "-o",
        "yaml",
    ]);
    guard.kubectl(&["delete", "volumesnapshotclass", "highwater-btrfs"]);
    guard.refused(
        &kubeconfig,
        "no StorageClass has a provisioner with a VolumeSnapshotClass",
    );
    let saved = folder.path().join("class.yaml");
    fs::write(&saved, class).unwrap();
    guard.kubectl(&["create", "-f", saved.to_str().unwrap()]);
    let kinds = [
        "get",
        "namespaces,crd,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,pv",
        "-o",
        "name",
    ];
    let before = guard.kubectl(&kinds);
    assert!(!before.contains("highwater.dev\n"), "{before}");

    let told = guard.demo(&kubeconfig, &["--registry", "localhost:5000/demo"]);
    let (story, error) = (text(&told.stdout), text(&told.stderr));
    println!("{story}");
    assert!(told.status.success(), "{error}");
    for line in [
        "compared: rows 1 to",
        "what it reached",
        "make demo-remove KUBECONFIG=",
    ] {
        assert!(story.contains(line), "{line}");
    }
    let images = guard.kubectl(&[
        "get",
        "pods",
        "-A",
        "-o",
        "jsonpath={.items[*].spec.containers[*].image}",
    ]);
    assert!(
        !images.contains("localhost/"),
        "everything is named by the registry: {images}"
    );

    let removed = guard.demo(&kubeconfig, &["--remove"]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    assert_eq!(guard.kubectl(&kinds), before);
    let contents = guard.kubectl(&["get", "volumesnapshotcontent", "-o", "name"]);
    assert_eq!(contents, "", "no snapshot stays");
}

#[test]
fn a_kubeconfig_in_the_environment_does_not_count() {
    let make = |args: &[&str]| {
        let mut make = Command::new("make");
        make.args(["-n", "demo"]).args(args).current_dir(root());
        make.env_remove("MAKEFLAGS").env("KUBECONFIG", "/theirs");
        let output = make.env("REGISTRY", "example.test/x").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let plain = make(&[]);
    assert!(
        plain.contains("scripts/demo") && !plain.contains("--kubeconfig"),
        "{plain}"
    );
    let own = make(&["KUBECONFIG=/mine", "REGISTRY=registry.test/mine"]);
    let expected = "scripts/demo --kubeconfig '/mine' --registry 'registry.test/mine'";
    assert!(own.contains(expected), "{own}");
}
