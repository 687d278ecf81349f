//! Where the programs are that Highwater is measured beside.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::scratch;

/// What `e2e/bench/peers.sh` printed.
#[derive(Clone, Debug)]
pub struct Peers {
    said: PathBuf,
    named: BTreeMap<String, PathBuf>,
}

impl Peers {
    /// From its `NAME=PATH` lines.
    ///
    /// # Errors
    /// The file system's.
    pub fn read(said: &Path) -> Result<Self> {
        let text = String::from_utf8(scratch::read(said)?)?;
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Ok(Self {
            said: said.to_owned(),
            named: lines
                .map(|(name, path)| (name.to_owned(), path.into()))
                .collect(),
        })
    }

    /// Where the peer `name` is.
    ///
    /// # Errors
    /// It is missing.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.named.get(name).cloned();
        path.with_context(|| format!("{} names no {name}", self.said.display()))
    }
}
