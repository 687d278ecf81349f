//! kubectl, as an admin would call it.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// kubectl with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

/// The kubeconfig that `devcluster enter` names; the cluster's other files lie beside it.
///
/// # Errors
/// `KUBECONFIG` is not set.
pub fn kubeconfig() -> Result<PathBuf> {
    let kubeconfig = std::env::var_os("KUBECONFIG");
    let kubeconfig =
        kubeconfig.context("KUBECONFIG is not set: run this with `devcluster enter --`");
    kubeconfig.map(PathBuf::from)
}

/// Replaces each `${NAME}` of `template`.
///
/// # Errors
/// A name has no value.
pub fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    if let Some((_, rest)) = text.split_once("${") {
        bail!(
            "no value for ${{{}",
            rest.chars().take(20).collect::<String>()
        );
    }
    Ok(text)
}

impl Kubectl {
    /// With this kubeconfig.
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
        }
    }

    /// With the kubeconfig that `devcluster enter` names.
    ///
    /// # Errors
    /// `KUBECONFIG` is not set.
    pub fn from_env() -> Result<Self> {
        kubeconfig().map(Self::new)
    }

    /// The command, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with_input(args, "")
    }

    /// As [`Self::run`], with a text on its standard input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start kubectl")?;
        let mut stdin = child
            .stdin
            .take()
            .context("kubectl has no standard input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies YAML, server-side.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.run_with_input(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            yaml,
        )
    }

    /// Makes a namespace, unless it is there.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn make_namespace(&self, name: &str) -> Result<()> {
        let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        self.apply(&namespace).map(drop)
    }

    /// Merges `change` into an object.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn patch(&self, namespace: &str, (kind, name): (&str, &str), change: &Value) -> Result<()> {
        let change = change.to_string();
        let patch = ["patch", kind, name, "--type=merge", "-p", &change];
        self.run(&[&["-n", namespace], &patch[..]].concat())
            .map(drop)
    }

    /// One object as JSON; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&[
            "-n",
            namespace,
            "get",
            kind,
            name,
            "--ignore-not-found",
            "-o",
            "json",
        ])?;
        match text.trim().is_empty() {
            true => Ok(None),
            false => Ok(Some(serde_json::from_str(&text)?)),
        }
    }

    /// All objects of a kind as JSON.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn list(&self, namespace: &str, kind: &str) -> Result<Vec<Value>> {
        let text = self.run(&["-n", namespace, "get", kind, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The VolumeSnapshotContents of a namespace's VolumeSnapshots, also of those that are gone.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn snapshot_contents(&self, namespace: &str) -> Result<Vec<Value>> {
        let mut contents = self.list(namespace, "volumesnapshotcontents")?;
        contents.retain(|content| content["spec"]["volumeSnapshotRef"]["namespace"] == namespace);
        Ok(contents)
    }

    /// What a person would look at when something went wrong.
    pub fn dump(&self, namespace: &str) -> String {
        let kinds = "pgx,pgb,pgr,pga,sts,deploy,pod,pvc,volumesnapshot";
        let show = |args: &[&str]| self.run(args).unwrap_or_else(|error| error.to_string());
        let mut text = show(&["-n", namespace, "get", kinds, "-o", "wide"]);
        text += &show(&[
            "-n",
            namespace,
            "get",
            "pgx,pgb,pgr",
            "-o",
            "yaml",
            "--show-managed-fields=false",
        ]);
        text += &show(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]);
        for pod in self.list(namespace, "pods").unwrap_or_default() {
            let name = pod["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            text += &format!("--- logs of {name}\n");
            text += &show(&[
                "-n",
                namespace,
                "logs",
                &name,
                "--all-containers",
                "--tail=60",
                "--prefix=false",
            ]);
        }
        text += "--- logs of the controller\n";
        text += &show(&[
            "-n",
            "highwater-system",
            "logs",
            "-l",
            "app.kubernetes.io/name=highwater",
            "--tail=100",
            "--prefix",
        ]);
        text
    }
}
