//! The fault switches of the test CSI driver.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::kubeconfig;

/// One fault, until this is dropped. The file is one for the whole cluster, so only one at a time.
pub struct Faults(PathBuf);

impl Faults {
    /// Sets `fault`, as `e2e/csi-driver/README.md` has them; it says which volumes or snapshots it is for.
    ///
    /// # Errors
    /// This is not the dev cluster, or the file cannot be written.
    pub fn set(fault: &Value) -> Result<Self> {
        let file = kubeconfig()?.with_file_name("csi-faults.json");
        let control = json!({ "faults": [fault] }).to_string();
        // The driver reads it at each request: it must never see half of it.
        let whole = file.with_extension("new");
        fs::write(&whole, control)?;
        fs::rename(&whole, &file).context("failed to set the faults")?;
        Ok(Self(file))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
