//! barman-cloud: a Python program per call.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use super::{Plan, Programs, Side, Site, Tool};
use crate::scratch;

pub struct Barman {
    programs: PathBuf,
}

impl Barman {
    pub fn new(programs: &Programs) -> Self {
        Self {
            programs: programs.barman.clone(),
        }
    }

    fn line(&self, program: &str, options: &str, site: &Site, rest: &str) -> Plan {
        let (program, endpoint, bucket) =
            (self.programs.join(program), site.endpoint(), &site.bucket);
        Plan {
            command: format!(
                "{} --endpoint-url {endpoint} {options} s3://{bucket}/barman demo {rest}",
                program.display()
            ),
            environment: Site::credentials(),
            daemon: None,
        }
    }
}

impl Tool for Barman {
    fn name(&self) -> (String, String) {
        ("barman-cloud".into(), "zstd".into())
    }

    fn side(&self) -> Side {
        Side::Peer
    }

    /// Its rate is steady, and low.
    fn most_segments(&self) -> usize {
        8
    }

    fn prepare(&self, _: &Site) -> Result<()> {
        Ok(())
    }

    fn push(&self, site: &Site) -> Plan {
        self.line("barman-cloud-wal-archive", "--zstd", site, "%p")
    }

    fn fetch(&self, site: &Site) -> Result<Plan> {
        Ok(self.line("barman-cloud-wal-restore", "", site, "%f %p"))
    }

    fn version(&self) -> Result<String> {
        let program = self.programs.join("barman-cloud-wal-archive");
        scratch::output(Command::new(program).arg("--version"))
    }
}
