//! A process that the bench measures: in a group of its own, which counts, with the CPU weight of the agent's container.

use std::{
    fs,
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    group::{Group, NAME, Program},
    scratch,
    weight::Weight,
};

/// What the agent's container requests, in thousandths of a CPU.
pub const AGENT_CPU: u64 = 20;

/// What a run took of the machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// The most memory that was resident.
    pub peak_mebibytes: f64,
    /// CPU time.
    pub cpu_seconds: f64,
}

/// A process at work.
pub struct Watched {
    group: Group,
    _weight: Weight,
    child: Child,
}

impl Watched {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started, or control groups cannot be made.
    pub fn start(program: &Program) -> Result<Self> {
        let group = Group::new()?;
        let weight = Weight::new(NAME, AGENT_CPU)?;
        let child = group.spawn(program)?;
        weight.take(child.id())?;
        Ok(Self {
            group,
            _weight: weight,
            child,
        })
    }

    /// Whether nobody has ended it, and it has not itself.
    ///
    /// # Errors
    /// The system's.
    pub fn lives(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// CPU seconds that it has used.
    ///
    /// # Errors
    /// The file system's.
    pub fn cpu(&self) -> Result<f64> {
        Ok(self.group.cpu()? / 1000.0)
    }

    /// Ends it in order, by the signal that does so; also what it took until then.
    ///
    /// # Errors
    /// It has ended already.
    pub fn end(mut self, signal: &str) -> Result<(Cost, ExitStatus)> {
        ensure!(self.lives()?, "it has ended already");
        let cost = Cost {
            peak_mebibytes: self.peak()?,
            cpu_seconds: self.cpu()?,
        };
        let pid = self.child.id().to_string();
        scratch::output(Command::new("kill").args([signal, &pid]))?;
        Ok((cost, self.child.wait()?))
    }

    /// The most memory that it has had, in MiB, as the kernel counts it.
    fn peak(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: f64 = kibibytes.context("no VmHWM")?.parse()?;
        Ok(kibibytes / 1024.0)
    }
}
