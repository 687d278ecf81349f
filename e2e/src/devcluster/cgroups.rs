//! A cgroup of the cluster's own in every hierarchy; no other is touched.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{names::Names, process};

const ROOT: &str = "/sys/fs/cgroup";

/// Whether this machine has the one hierarchy of cgroup v2. Tried: v1; on v2 this follows the kernel's documentation.
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn folders(names: &Names) -> Vec<PathBuf> {
    if is_v2() {
        return vec![Path::new(ROOT).join(&names.id)];
    }
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    hierarchies
        .filter(|entry| entry.path().join("cgroup.procs").exists())
        .map(|entry| entry.path().join(&names.id))
        .collect()
}

/// Makes them.
pub fn up(names: &Names) -> Result<()> {
    if is_v2() {
        let controllers = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))?;
        let enable: Vec<String> = controllers
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect();
        fs::write(
            Path::new(ROOT).join("cgroup.subtree_control"),
            enable.join(" "),
        )
        .context("failed to enable cgroup controllers")?;
    }
    for folder in folders(names) {
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to make cgroup {}", folder.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // A new cpuset of v1 is empty, and no process may enter an empty one.
            let parent = folder.parent().unwrap_or(Path::new(ROOT)).join(file);
            if !is_v2() && parent.exists() {
                fs::write(folder.join(file), fs::read(parent)?)?;
            }
        }
    }
    Ok(())
}

/// Ends what still runs in them, and removes them.
pub fn down(names: &Names) -> Result<()> {
    for folder in folders(names).into_iter().filter(|folder| folder.exists()) {
        process::wait(Duration::from_secs(20), || remove(&folder))
            .with_context(|| format!("failed to remove cgroup {}", folder.display()))?;
    }
    Ok(())
}

/// Whether `folder` and all below it are gone.
fn remove(folder: &Path) -> bool {
    for entry in fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        remove(&entry.path());
    }
    for pid in fs::read_to_string(folder.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        if let Ok(pid) = pid.parse() {
            let _ = process::signal(pid, "KILL");
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}
