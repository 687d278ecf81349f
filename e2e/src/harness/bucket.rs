//! What lies in the object store's bucket, as its disk has it.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Database, Kubectl, crash};

const NAMESPACE: &str = "object-store";

/// The bucket's folder.
///
/// # Errors
/// The object store does not run.
pub fn folder(kubectl: &Kubectl) -> Result<PathBuf> {
    let pods = kubectl.list(NAMESPACE, "pods")?;
    let mut names = pods
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str());
    let pod = names.next().context("the object store has no pod")?;
    let process = crash::process(kubectl, NAMESPACE, pod, "posix")?;
    let folder = PathBuf::from(format!("/proc/{process}/root/data/highwater"));
    ensure!(
        folder.is_dir(),
        "there is no bucket in {}",
        folder.display()
    );
    Ok(folder)
}

/// The folder of the lineage that the WAL of `database` goes to.
///
/// # Errors
/// It is not protected, or has no lineage yet.
pub fn lineage(database: &Database) -> Result<String> {
    let protection = database
        .kubectl
        .get(&database.namespace, "pgx", &database.name)?;
    let status = &protection.context("no protection")?["status"];
    let name = |field: &str| status[field].as_str().context("status names no lineage");
    Ok(format!("{}/{}", name("archiveName")?, name("lineage")?))
}

/// Every object whose key begins with `prefix`, a folder: its size and when it was written.
///
/// # Errors
/// It cannot be listed, or nothing is there.
pub fn objects(kubectl: &Kubectl, prefix: &str) -> Result<BTreeMap<String, String>> {
    let mut find = Command::new("find");
    find.arg(folder(kubectl)?.join(prefix)).args([
        "-type",
        "f",
        "-printf",
        "%P %s bytes, written %T@\\n",
    ]);
    let listed = find.output().context("failed to run find")?;
    let said = String::from_utf8_lossy(&listed.stderr);
    ensure!(listed.status.success(), "failed to list {prefix}: {said}");
    let lines = String::from_utf8_lossy(&listed.stdout);
    let objects: BTreeMap<_, _> = lines
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(key, what)| (key.to_owned(), what.to_owned()))
        .collect();
    ensure!(!objects.is_empty(), "nothing lies below {prefix}");
    Ok(objects)
}
