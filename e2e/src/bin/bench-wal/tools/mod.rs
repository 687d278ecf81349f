//! The tools that are measured: how each is configured and called. All that is particular to one is in its own file.

mod barman;
mod floor;
mod ours;
mod pgbackrest;
mod wal_rus;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use highwater_e2e::bench::peers::Peers;

use crate::store;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `highwater`, as it ships.
    pub highwater: PathBuf,
    /// `pgbackrest`.
    pub pgbackrest: PathBuf,
    /// `walrus`.
    pub wal_rus: PathBuf,
    /// The folder of `barman-cloud-wal-archive`.
    pub barman: PathBuf,
}

impl Programs {
    /// From what `e2e/bench/peers.sh` printed.
    ///
    /// # Errors
    /// One is missing.
    pub fn read(highwater: PathBuf, peers: &Path) -> Result<Self> {
        let peers = Peers::read(peers)?;
        Ok(Self {
            highwater,
            pgbackrest: peers.path("pgbackrest")?,
            wal_rus: peers.path("walrus")?,
            barman: peers.path("barman")?,
        })
    }
}

/// What one run has.
#[derive(Clone, Debug)]
pub struct Site {
    /// A folder for configuration, spool and sockets.
    pub root: PathBuf,
    /// The data directory, in which calls are made.
    pub pgdata: PathBuf,
    /// The store's, or that of the proxy before it.
    pub port: u16,
    /// Its own.
    pub bucket: String,
    /// The segments, in order.
    pub segments: Vec<String>,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As the SDKs of S3 want it.
    fn credentials() -> BTreeMap<String, String> {
        environment(&[
            ("AWS_ACCESS_KEY_ID", store::KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", store::SECRET),
            ("AWS_REGION", store::REGION),
            ("AWS_DEFAULT_REGION", store::REGION),
        ])
    }
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// How to push or fetch.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// `archive_command` or `restore_command`.
    pub command: String,
    /// For it and for the daemon.
    pub environment: BTreeMap<String, String>,
    /// What runs beside it, and the socket by which one knows that it does.
    pub daemon: Option<(Vec<String>, PathBuf)>,
}

/// Whose tool it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Highwater's.
    Ours,
    /// One that we are compared with.
    Peer,
    /// What a copy to a local disk takes. Compared with nobody.
    Floor,
}

/// One way to push and one to fetch what it pushed.
pub trait Tool {
    /// For the tables: the tool and how it is used.
    fn name(&self) -> (String, String);
    /// Whose it is.
    fn side(&self) -> Side;
    /// How it fetches, where that says more than how it pushes.
    fn fetches(&self) -> Option<String> {
        None
    }
    /// As many segments as are worth the wait, of those that there are.
    fn most_segments(&self) -> usize {
        usize::MAX
    }
    /// Makes the place ready: not measured.
    ///
    /// # Errors
    /// The tool's.
    fn prepare(&self, site: &Site) -> Result<()>;
    /// How to push.
    fn push(&self, site: &Site) -> Plan;
    /// How to fetch.
    ///
    /// # Errors
    /// The configuration cannot be written.
    fn fetch(&self, site: &Site) -> Result<Plan>;
    /// Its version, as it says.
    ///
    /// # Errors
    /// It does not run.
    fn version(&self) -> Result<String>;
}

/// All, in the order of a round.
pub fn all(programs: &Programs) -> Vec<Box<dyn Tool>> {
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(floor::Floor)];
    tools.extend(ours::all(programs));
    tools.extend(pgbackrest::all(programs));
    tools.extend(wal_rus::all(programs));
    tools.push(Box::new(barman::Barman::new(programs)));
    tools
}
