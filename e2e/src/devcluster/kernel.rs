//! kubelet sets some of the kernel's settings, for the whole machine; the last cluster that stops sets them back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::names::{Names, STATE};

const SETTINGS: [&str; 6] = [
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];
const RECORD: &str = "kernel-settings";

/// Writes down how they are, or were before another cluster started.
pub fn remember(names: &Names) -> Result<()> {
    let record = match others(names).first() {
        Some(earlier) => fs::read_to_string(earlier)?,
        None => SETTINGS
            .iter()
            .filter_map(|setting| {
                Some(format!(
                    "{setting} {}",
                    fs::read_to_string(file(setting)).ok()?
                ))
            })
            .collect(),
    };
    fs::write(names.path(RECORD), record)?;
    Ok(())
}

/// Sets them back, unless another cluster runs.
pub fn restore(names: &Names) -> Result<()> {
    if !others(names).is_empty() {
        return Ok(());
    }
    let record = fs::read_to_string(names.path(RECORD)).unwrap_or_default();
    for (setting, value) in record.lines().filter_map(|line| line.split_once(' ')) {
        fs::write(file(setting), value)
            .with_context(|| format!("failed to set the kernel's {setting} back to {value}"))?;
    }
    Ok(())
}

fn file(setting: &str) -> PathBuf {
    Path::new("/proc/sys").join(setting)
}

/// The records of other clusters.
fn others(names: &Names) -> Vec<PathBuf> {
    let clusters = fs::read_dir(STATE).into_iter().flatten().flatten();
    clusters
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("hw"))
        .map(|entry| entry.path().join(RECORD))
        .filter(|record| record.exists() && !record.starts_with(&names.state))
        .collect()
}
