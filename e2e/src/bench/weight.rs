//! Who goes first where CPU is short: control groups with the weights that kubelet gives containers for what they request.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Weights of both versions, of what requests nothing and of all that there can be.
const SHARES: (u64, u64) = (2, 262_144);
const WEIGHTS: (u64, u64) = (1, 10_000);

/// Processes of one weight, until it is dropped: then they have that of all others again.
pub struct Weight {
    folder: PathBuf,
}

impl Weight {
    /// A group called `name` as a container has it that requests so many thousandths of a CPU; no process is in it yet.
    ///
    /// # Errors
    /// There are no groups for CPU, or we are not root.
    pub fn new(name: &str, millicores: u64) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let shares = shares(millicores);
        let (folder, file, weight) = match root.join("cgroup.controllers").exists() {
            true => {
                // It may be on already, or its group's manager may not let us: then the weight cannot be written.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
                (root.join(name), "cpu.weight", weight(shares))
            }
            false => (root.join("cpu").join(name), "cpu.shares", shares),
        };
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(file), weight.to_string()))
            .with_context(|| format!("failed to make the group {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Takes in a process, and those that it has started.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn take(&self, process: u32) -> Result<()> {
        enter(&self.folder, process)?;
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
        for child in children.split_whitespace() {
            // One that has ended meanwhile needs no weight.
            match self.take(child.parse()?) {
                Err(_) if !Path::new("/proc").join(child).exists() => {}
                taken => taken?,
            }
        }
        Ok(())
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let Some(parent) = self.folder.parent() else {
            return;
        };
        let left = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for process in left.lines().filter_map(|line| line.parse().ok()) {
            let _ = enter(parent, process);
        }
        // Whoever else uses the group removes it.
        let _ = fs::remove_dir(&self.folder);
    }
}

fn enter(folder: &Path, process: u32) -> Result<()> {
    fs::write(folder.join("cgroup.procs"), process.to_string())
        .with_context(|| format!("failed to use the group {}", folder.display()))
}

/// As kubelet counts: a CPU is 1024.
fn shares(millicores: u64) -> u64 {
    (millicores * 1024 / 1000).clamp(SHARES.0, SHARES.1)
}

/// As the runtime turns shares into a weight of version 2.
const fn weight(shares: u64) -> u64 {
    WEIGHTS.0 + (shares - SHARES.0) * (WEIGHTS.1 - WEIGHTS.0) / (SHARES.1 - SHARES.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubelet_counts() {
        let both = [0, 20, 1000, 1_000_000].map(|cpu| (shares(cpu), weight(shares(cpu))));
        assert_eq!(both, [(2, 1), (20, 1), (1024, 39), (262_144, 10_000)]);
    }
}
