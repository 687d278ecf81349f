//! WAL-RUS: a program per call, or a daemon with a small client.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use super::{Plan, Programs, Side, Site, Tool, environment};
use crate::scratch;

/// Segments that it fetches ahead.
const AHEAD: &str = "4";

struct WalRus {
    program: PathBuf,
    daemon: bool,
    uploads: u8,
    compression: &'static str,
}

pub fn all(programs: &Programs) -> Vec<Box<dyn Tool>> {
    let with = |(daemon, uploads, compression)| -> Box<dyn Tool> {
        Box::new(WalRus {
            program: programs.wal_rus.clone(),
            daemon,
            uploads,
            compression,
        })
    };
    [
        (true, 1, "lz4"),
        (true, 1, "zstd"),
        (true, 4, "lz4"),
        (true, 4, "zstd"),
        (false, 4, "lz4"),
        (false, 4, "zstd"),
    ]
    .map(with)
    .into()
}

impl WalRus {
    fn plan(&self, site: &Site, what: &str) -> Plan {
        let (program, socket) = (self.program.display(), site.path("walrus.sock"));
        let mut variables = Site::credentials();
        variables.extend(environment(&[
            ("AWS_ENDPOINT", &site.endpoint()),
            ("AWS_S3_FORCE_PATH_STYLE", "true"),
            ("WALG_S3_PREFIX", &format!("s3://{}/walrus", site.bucket)),
            ("WALG_COMPRESSION_METHOD", self.compression),
            ("WALG_UPLOAD_CONCURRENCY", &self.uploads.to_string()),
            ("WALG_DOWNLOAD_CONCURRENCY", AHEAD),
            ("PGDATA", &site.pgdata.to_string_lossy()),
        ]));
        let daemon = || {
            let words = [
                program.to_string(),
                "daemon".into(),
                socket.display().to_string(),
            ];
            (words.to_vec(), socket.clone())
        };
        Plan {
            command: match self.daemon {
                true => format!(
                    "{program} daemon-client --socket {} {what}",
                    socket.display()
                ),
                false => format!("{program} {what}"),
            },
            environment: variables,
            daemon: self.daemon.then(daemon),
        }
    }
}

impl Tool for WalRus {
    fn name(&self) -> (String, String) {
        let (uploads, compression) = (self.uploads, self.compression);
        let how = match self.daemon {
            true => format!("daemon x{uploads}, {compression}"),
            false => format!("calls x{uploads}, {compression}"),
        };
        ("WAL-RUS".into(), how)
    }

    fn side(&self) -> Side {
        Side::Peer
    }

    fn fetches(&self) -> Option<String> {
        let how = if self.daemon { "daemon" } else { "calls" };
        Some(format!("{how}, prefetch {AHEAD}, {}", self.compression))
    }

    fn prepare(&self, _: &Site) -> Result<()> {
        Ok(())
    }

    fn push(&self, site: &Site) -> Plan {
        // The daemon is no child of the archiver: it wants the whole path.
        let path = site.pgdata.join("%p");
        self.plan(site, &format!("wal-push {}", path.display()))
    }

    fn fetch(&self, site: &Site) -> Result<Plan> {
        let path = site.pgdata.join("%p");
        Ok(self.plan(site, &format!("wal-fetch %f {}", path.display())))
    }

    fn version(&self) -> Result<String> {
        scratch::output(Command::new(&self.program).arg("--version"))
    }
}
