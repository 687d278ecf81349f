//! A network that is cut between a pod and one address, from the machine that the dev cluster's node is.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Kubectl, crash};

/// Packets of a pod to an address go nowhere, without a word, until this is dropped. What comes from there arrives, and is
/// not answered.
pub struct NetworkCut {
    process: u32,
    address: String,
}

impl NetworkCut {
    /// Cuts. `argument` is in the command line of one of the pod's processes.
    ///
    /// # Errors
    /// There is no such process, or its network cannot be changed.
    pub fn begin(
        kubectl: &Kubectl,
        namespace: &str,
        (pod, argument): (&str, &str),
        address: &str,
    ) -> Result<Self> {
        let process = crash::process(kubectl, namespace, pod, argument)?;
        let cut = Self {
            process,
            address: address.to_owned(),
        };
        cut.route("add")?;
        Ok(cut)
    }

    fn route(&self, verb: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.process.to_string()]);
        command.args(["ip", "route", verb, "blackhole", &self.address]);
        let done = command.output().context("failed to run nsenter")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "failed to {verb} a route: {said}");
        Ok(())
    }
}

impl Drop for NetworkCut {
    fn drop(&mut self) {
        // With the pod it goes, too.
        let _ = self.route("del");
    }
}
