//! Looks for passwords and keys where they must never be.

use std::{
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Kubectl, bucket, database::PASSWORD, story::LIMIT};

/// The object store's secret key, as `manifests/policy.yaml` has it.
pub const SECRET_KEY: &str = "highwater-secret-key";

/// A literal of the database's pod template, as `manifests/postgres.yaml` has it: who may read StatefulSets and pods may
/// read it, and nobody else.
pub const LITERAL: &str = "the-literal-secret-40b7";
const TEMPLATES: &str = "sts,pod";

/// What an admin, a log shipper or a metrics scraper can read: objects that are no Secrets, events, logs.
const KINDS: &str = "pgx,pgb,pgr,pga,pgp,deploy,job,pvc,configmap,lease,event,volumesnapshot";

/// Looks for the planted secrets in every object, event and log of a namespace and of `system`, which is Highwater's own,
/// and in the bucket.
///
/// # Errors
/// One was found; the error says where.
pub fn none_told(kubectl: &Kubectl, namespace: &str, system: &str) -> Result<()> {
    for namespace in [namespace, system] {
        look(
            &format!("the objects of {namespace}"),
            &kubectl.run(&["-n", namespace, "get", KINDS, "-o", "json"])?,
        )?;
        let templates = kubectl.run(&["-n", namespace, "get", TEMPLATES, "-o", "json"])?;
        look(
            &format!("a StatefulSet or pod of {namespace}"),
            &templates.replace(LITERAL, ""),
        )?;
        for pod in kubectl.list(namespace, "pods")? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            // A container that has not started yet has no log.
            let log = kubectl.run(&["-n", namespace, "logs", name, "--all-containers"]);
            look(
                &format!("the log of {namespace}/{name}"),
                &log.unwrap_or_default(),
            )?;
        }
    }
    look(
        "VolumeSnapshotContents",
        &kubectl.run(&["get", "volumesnapshotcontents", "-o", "json"])?,
    )?;
    look_into_bucket(kubectl)
}

/// Manifests, labels, index and identity, as they lie on the object store's disk.
fn look_into_bucket(kubectl: &Kubectl) -> Result<()> {
    let mut grep = Command::new("grep");
    grep.args(["--recursive", "--fixed-strings", "--files-with-matches"])
        .args(["--include=*.json", "--include=backup_label"]);
    for secret in PLANTED {
        grep.args(["-e", secret]);
    }
    // Others write meanwhile, and objects come and go: what went while it was looked for is no secret.
    let told = grep
        .arg(bucket::folder(kubectl)?)
        .output()
        .context("failed to run grep")?;
    let trouble = String::from_utf8_lossy(&told.stderr);
    let trouble = trouble
        .lines()
        .find(|line| !line.ends_with("No such file or directory"));
    ensure!(
        told.stdout.is_empty() && trouble.is_none(),
        "a secret is in the bucket, or it cannot be read: {}{}",
        String::from_utf8_lossy(&told.stdout),
        trouble.unwrap_or_default()
    );
    Ok(())
}

/// Follows the log of a pod that comes and goes; joined, it looks for the secrets in all that the pod said.
pub fn follow(kubectl: &Kubectl, namespace: &str, pod: &str) -> JoinHandle<Result<()>> {
    let (kubectl, namespace, pod) = (kubectl.clone(), namespace.to_owned(), pod.to_owned());
    thread::spawn(move || {
        let begin = Instant::now();
        loop {
            // Before it has begun, there is no pod, or no log.
            let said = kubectl.run(&["-n", &namespace, "logs", "--follow", &pod]);
            if let Some(log) = said.as_ref().ok().filter(|log| !log.is_empty()) {
                return look(&format!("the log of {pod}"), log);
            }
            ensure!(begin.elapsed() < LIMIT, "{pod} has no log: {said:?}");
            thread::sleep(Duration::from_millis(100));
        }
    })
}

/// With what every age identity begins.
const AGE_IDENTITY: &str = "AGE-SECRET-KEY-1";
const PLANTED: [&str; 4] = [PASSWORD, SECRET_KEY, LITERAL, AGE_IDENTITY];

fn look(place: &str, text: &str) -> Result<()> {
    for secret in PLANTED {
        if let Some(line) = text.lines().find(|line| line.contains(secret)) {
            bail!("a secret is in {place}: {}", line.trim());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found() {
        assert!(look("a log", "all is well").is_ok());
        assert!(look("a log", &format!("ok\nfailed with {PASSWORD}\n")).is_err());
        assert!(look("a log", SECRET_KEY).is_err());
        assert!(look("a log", "AGE-SECRET-KEY-1QQQ").is_err());
    }
}
