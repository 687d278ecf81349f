//! pgBackRest in asynchronous mode: the first call starts a process in the background that works ahead with several more.

use std::{path::PathBuf, process::Command};

use anyhow::Result;
use highwater_e2e::bench::pgbackrest::{Repository, STANZA, configure};

use super::{Plan, Programs, Side, Site, Tool};
use crate::{scratch, store};

struct PgBackRest {
    program: PathBuf,
    processes: u8,
}

pub fn all(programs: &Programs) -> Vec<Box<dyn Tool>> {
    let with = |processes| -> Box<dyn Tool> {
        Box::new(PgBackRest {
            program: programs.pgbackrest.clone(),
            processes,
        })
    };
    vec![with(2), with(4)]
}

impl PgBackRest {
    fn plan(&self, site: &Site, what: &str) -> Plan {
        let (program, config) = (self.program.display(), site.path("pgbackrest.conf"));
        Plan {
            command: format!(
                "{program} --config={} --stanza={STANZA} {what}",
                config.display()
            ),
            ..Plan::default()
        }
    }
}

impl Tool for PgBackRest {
    fn name(&self) -> (String, String) {
        (
            "pgBackRest".into(),
            format!("async x{}, zst 3", self.processes),
        )
    }

    fn side(&self) -> Side {
        Side::Peer
    }

    fn prepare(&self, site: &Site) -> Result<()> {
        let repository = Repository {
            endpoint: site.endpoint(),
            bucket: site.bucket.clone(),
            path: "/pgbackrest".into(),
            key_id: store::KEY_ID.into(),
            secret: store::SECRET.into(),
        };
        let more = format!(
            "archive-async=y\nallow-root=y\nprocess-max={}\n",
            self.processes
        );
        let config = configure(&site.root, &site.pgdata, &repository, (&more, ""))?;
        let mut create = Command::new(&self.program);
        create.arg(format!("--config={}", config.display()));
        create.args(["--stanza", STANZA, "--no-online", "stanza-create"]);
        scratch::output(&mut create).map(drop)
    }

    fn push(&self, site: &Site) -> Plan {
        self.plan(site, "archive-push %p")
    }

    fn fetch(&self, site: &Site) -> Result<Plan> {
        Ok(self.plan(site, "archive-get %f %p"))
    }

    fn version(&self) -> Result<String> {
        scratch::output(Command::new(&self.program).arg("version"))
    }
}
