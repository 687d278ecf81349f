//! Highwater. Where its command lines or its configuration change, this file does.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use highwater::postgres::{SegmentName, SegmentSize};
use serde_json::{Value, json};

use super::{Plan, Programs, Side, Site, Tool, environment};
use crate::{sample::SEGMENT, scratch, store};

const LINEAGE: &str = "0123456789";
const NAME: &str = "bench";
const UPLOADS: u8 = 4;

/// How it is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// `wal push --config`, `wal fetch` on its own.
    Calls,
    /// `wal daemon` and its client; `wal fetch` beside a program that reads ahead, as in `highwater recover`.
    Daemon,
}

/// How what is stored is compressed.
#[derive(Clone, Copy)]
enum Compression {
    /// With this level.
    Zstd(i32),
    Lz4,
}

impl Compression {
    fn name(self) -> String {
        match self {
            Self::Zstd(level) => format!("zstd {level}"),
            Self::Lz4 => "lz4".into(),
        }
    }

    fn spec(self) -> Value {
        match self {
            Self::Zstd(level) => json!({"algorithm": "zstd", "level": level}),
            Self::Lz4 => json!({"algorithm": "lz4"}),
        }
    }
}

struct Highwater {
    program: PathBuf,
    how: How,
    compression: Compression,
}

pub fn all(programs: &Programs) -> Vec<Box<dyn Tool>> {
    let with = |(how, compression)| -> Box<dyn Tool> {
        Box::new(Highwater {
            program: programs.highwater.clone(),
            how,
            compression,
        })
    };
    [
        (How::Calls, Compression::Zstd(1)),
        (How::Calls, Compression::Zstd(3)),
        (How::Daemon, Compression::Zstd(-1)),
        (How::Daemon, Compression::Zstd(-5)),
        (How::Daemon, Compression::Zstd(1)),
        (How::Daemon, Compression::Zstd(3)),
        (How::Daemon, Compression::Lz4),
    ]
    .map(with)
    .into()
}

impl Highwater {
    fn config(site: &Site) -> PathBuf {
        site.path("wal.yaml")
    }

    fn credentials(site: &Site) -> PathBuf {
        site.path("credentials")
    }

    fn archive(&self, site: &Site) -> Value {
        json!({
            "s3": {
                "bucket": site.bucket, "region": store::REGION, "endpoint": site.endpoint(), "allowHttp": true,
                // As with TLS, and as the fastest peer.
                "signPayload": false,
            },
            "compression": self.compression.spec(),
        })
    }

    /// What `highwater recover` writes for `wal fetch`: a plan that ends with the last segment.
    fn recovery(&self, site: &Site) -> Result<Value> {
        let name = |name: Option<&String>| -> Result<SegmentName> {
            Ok(name.context("nothing to fetch")?.parse()?)
        };
        let first = name(site.segments.first())?;
        let last = name(site.segments.last())?;
        let (begin, end) = (
            first.start(SegmentSize::DEFAULT),
            last.end(SegmentSize::DEFAULT),
        );
        Ok(json!({
            "archive": self.archive(site),
            "mounted": {"credentials": Self::credentials(site), "ca": null, "directory": "/nowhere"},
            "plan": {
                "summary": "", "backup": "b", "backupKey": "b", "archive": "a", "archiveName": NAME,
                "lineage": LINEAGE, "timeline": 1, "walFrom": begin, "walTo": end, "bytes": 1,
            },
            "line": [{"timeline": 1, "begins": "0/0", "ends": end}],
            "segment_size": SEGMENT,
            "deadline_seconds": 60,
            "progress": site.path("progress.json"),
            "socket": site.path("fetch.sock"),
        }))
    }

    fn command(&self, words: &str) -> Plan {
        Plan {
            command: format!("{} wal {words}", self.program.display()),
            // As PostgreSQL's log has it: what goes wrong is said, nothing else.
            environment: environment(&[("HIGHWATER_LOG", "warn")]),
            daemon: None,
        }
    }
}

impl Tool for Highwater {
    fn name(&self) -> (String, String) {
        let how = match self.how {
            How::Calls => "calls",
            How::Daemon => "daemon",
        };
        (
            "Highwater".into(),
            format!("{how} x{UPLOADS}, {}", self.compression.name()),
        )
    }

    fn side(&self) -> Side {
        Side::Ours
    }

    fn fetches(&self) -> Option<String> {
        let how = match self.how {
            How::Calls => "alone",
            How::Daemon => "prefetch",
        };
        Some(format!("{how}, {}", self.compression.name()))
    }

    fn prepare(&self, site: &Site) -> Result<()> {
        let credentials = Self::credentials(site);
        scratch::empty(&credentials)?;
        scratch::write(&credentials.join("AWS_ACCESS_KEY_ID"), store::KEY_ID)?;
        scratch::write(&credentials.join("AWS_SECRET_ACCESS_KEY"), store::SECRET)?;
        scratch::empty(&site.path("state"))?;
        let config = json!({
            "archive": self.archive(site),
            "archiveName": NAME,
            "lineage": LINEAGE,
            "credentials": credentials,
            "stateDirectory": site.path("state"),
            "parallelUploads": UPLOADS,
        });
        // JSON is YAML.
        scratch::write(&Self::config(site), serde_json::to_vec_pretty(&config)?)
    }

    fn push(&self, site: &Site) -> Plan {
        let (config, socket) = (Self::config(site), site.path("push.sock"));
        let (config_text, socket_text) =
            (config.display().to_string(), socket.display().to_string());
        match self.how {
            How::Calls => self.command(&format!("push --config {config_text} %p")),
            How::Daemon => {
                let mut plan = self.command(&format!(
                    "push --socket {socket_text} --config {config_text} %p"
                ));
                let program = self.program.display().to_string();
                let words = [
                    program.as_str(),
                    "wal",
                    "daemon",
                    "--config",
                    config_text.as_str(),
                    "--socket",
                    socket_text.as_str(),
                ];
                plan.daemon = Some((words.map(str::to_owned).to_vec(), socket));
                plan
            }
        }
    }

    fn fetch(&self, site: &Site) -> Result<Plan> {
        if self.how == How::Calls {
            let config = Self::config(site);
            return Ok(self.command(&format!("fetch --config {} %f %p", config.display())));
        }
        let config = site.path("fetch.json");
        scratch::write(&config, serde_json::to_vec(&self.recovery(site)?)?)?;
        let mut plan = self.command(&format!("fetch --config {} %f %p", config.display()));
        let bench = std::env::current_exe()?.display().to_string();
        let words = [bench, "prefetch".into(), config.display().to_string()];
        plan.daemon = Some((words.to_vec(), site.path("fetch.sock")));
        Ok(plan)
    }

    fn version(&self) -> Result<String> {
        scratch::output(Command::new(&self.program).arg("--version"))
    }
}
