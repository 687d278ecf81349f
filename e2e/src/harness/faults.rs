//! The fault switches of the test CSI driver, and where it has its snapshots.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::kubeconfig;

/// Those that are set, in the order in which they were: the driver takes the first that matches.
static SET: Mutex<BTreeMap<u64, Value>> = Mutex::new(BTreeMap::new());

/// One fault, until this is dropped. Those of other scenarios stay beside it, so each says which volumes it is for.
pub struct Faults(u64);

impl Faults {
    /// Sets `fault`, as `e2e/csi-driver/README.md` has them.
    ///
    /// # Errors
    /// This is not the dev cluster, or the file cannot be written.
    pub fn set(fault: &Value) -> Result<Self> {
        let mut set = lock();
        let number = set.last_key_value().map_or(0, |(last, _)| last + 1);
        set.insert(number, fault.clone());
        write(&set)?;
        Ok(Self(number))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let mut set = lock();
        set.remove(&self.0);
        let _ = write(&set);
    }
}

fn lock() -> MutexGuard<'static, BTreeMap<u64, Value>> {
    SET.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(set: &BTreeMap<u64, Value>) -> Result<()> {
    let file = kubeconfig()?.with_file_name("csi-faults.json");
    let faults: Vec<&Value> = set.values().collect();
    // The driver reads it at each request: it must never see half of it.
    let whole = file.with_extension("new");
    fs::write(&whole, json!({ "faults": faults }).to_string())?;
    fs::rename(&whole, &file).context("failed to set the faults")
}

/// Where the driver has its volumes and snapshots, below the pool of all drivers.
const POOL: &str = "btrfs.csi.test.highwater.dev";

/// The folder that holds what the driver cut of `claim` for `backup`, once it has.
///
/// # Errors
/// The backup does not tell the snapshot's handle.
pub fn snapshot_folder(backup: &Value, claim: &str) -> Result<PathBuf> {
    let volumes = backup["status"]["volumes"].as_array();
    let mut volumes = volumes.into_iter().flatten();
    let volume = volumes.find(|volume| volume["claim"] == claim);
    let handle = volume.and_then(|volume| volume["handle"].as_str());
    let handle = handle.with_context(|| format!("the backup has no handle of {claim}"))?;
    Ok(pool()?.join("snapshots").join(handle))
}

/// The folder of the volume with this CSI handle.
///
/// # Errors
/// This is not the dev cluster.
pub fn volume_folder(handle: &str) -> Result<PathBuf> {
    Ok(pool()?.join("volumes").join(handle))
}

fn pool() -> Result<PathBuf> {
    Ok(kubeconfig()?.with_file_name("pool").join(POOL))
}
