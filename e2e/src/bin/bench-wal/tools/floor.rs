//! A copy to a local folder: durable on push, plain on fetch.

use anyhow::Result;

use super::{Plan, Side, Site, Tool};
use crate::scratch;

pub struct Floor;

impl Tool for Floor {
    fn name(&self) -> (String, String) {
        ("dd, cp".into(), "local folder".into())
    }

    fn side(&self) -> Side {
        Side::Floor
    }

    fn prepare(&self, site: &Site) -> Result<()> {
        scratch::empty(&site.path("archive"))
    }

    fn push(&self, site: &Site) -> Plan {
        let archive = site.path("archive");
        Plan {
            command: format!(
                "dd if=%p of={}/%f bs=1M conv=fsync status=none",
                archive.display()
            ),
            ..Plan::default()
        }
    }

    fn fetch(&self, site: &Site) -> Result<Plan> {
        let archive = site.path("archive");
        Ok(Plan {
            command: format!("cp {}/%f %p", archive.display()),
            ..Plan::default()
        })
    }

    fn version(&self) -> Result<String> {
        Ok("coreutils".into())
    }
}
