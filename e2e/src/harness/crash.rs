//! kill -9, from the machine that the dev cluster's node is: no grace, no goodbye.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::Kubectl;
use crate::devcluster::signal;

/// The oldest process of a pod that has `argument` in its command line.
///
/// # Errors
/// There is no such pod or process.
pub fn process(kubectl: &Kubectl, namespace: &str, pod: &str, argument: &str) -> Result<u32> {
    let object = kubectl.get(namespace, "pod", pod)?;
    let object = object.with_context(|| format!("there is no pod {namespace}/{pod}"))?;
    let uid = object["metadata"]["uid"]
        .as_str()
        .context("the pod has no UID")?;
    let mut found: Vec<u32> = processes()?
        .filter(|pid| is_in(*pid, uid) && has_argument(*pid, argument))
        .collect();
    found.sort_unstable();
    match found.first() {
        Some(pid) => Ok(*pid),
        None => bail!("no process {argument} runs in pod {namespace}/{pod}"),
    }
}

/// Kills that process with SIGKILL. The first process of a container takes all the others with it.
///
/// # Errors
/// As [`process`].
pub fn kill(kubectl: &Kubectl, namespace: &str, pod: &str, argument: &str) -> Result<()> {
    signal(process(kubectl, namespace, pod, argument)?, "KILL")
}

/// The most memory that a process has had, in bytes, as the kernel counts it; the pages of its program's file apart, as those
/// of a development build are many and can be read again.
///
/// # Errors
/// It does not run.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} does not run"))?;
    let bytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: u64 = number.with_context(|| format!("no {name}"))?.parse()?;
        Ok(kibibytes << 10)
    };
    Ok(bytes("VmHWM:")?.saturating_sub(bytes("RssFile:")?))
}

fn processes() -> Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc").context("failed to list processes")?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Whether the process is in a cgroup of the pod with this UID. The file names it with hyphens or underscores.
fn is_in(pid: u32, uid: &str) -> bool {
    let cgroup = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup"))
        .unwrap_or_default();
    cgroup.contains(uid) || cgroup.contains(&uid.replace('-', "_"))
}

fn has_argument(pid: u32, argument: &str) -> bool {
    let line =
        fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|part| part == argument.as_bytes())
}
