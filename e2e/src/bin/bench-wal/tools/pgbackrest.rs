//! pgBackRest in asynchronous mode: the first call starts a process in the background that works ahead with several more.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use super::{Plan, Programs, Side, Site, Tool};
use crate::{scratch, store};

const STANZA: &str = "demo";

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
        let (key, secret, region) = (store::KEY_ID, store::SECRET, store::REGION);
        let (bucket, endpoint) = (&site.bucket, site.endpoint());
        let mut text = format!(
            "[global]\nrepo1-type=s3\nrepo1-path=/pgbackrest\nrepo1-s3-bucket={bucket}\nrepo1-s3-endpoint={endpoint}\n\
             repo1-s3-region={region}\nrepo1-s3-key={key}\nrepo1-s3-key-secret={secret}\nrepo1-s3-uri-style=path\n\
             compress-type=zst\ncompress-level=3\narchive-async=y\nallow-root=y\nprocess-max={}\nlog-level-file=off\n\
             log-level-console=warn\n",
            self.processes
        );
        for (option, folder) in [
            ("spool-path", "spool"),
            ("lock-path", "lock"),
            ("log-path", "log"),
        ] {
            let folder = site.path(folder);
            scratch::empty(&folder)?;
            text += &format!("{option}={}\n", folder.display());
        }
        text += &format!("[{STANZA}]\npg1-path={}\n", site.pgdata.display());
        let config = site.path("pgbackrest.conf");
        scratch::write(&config, text)?;
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
