//! Which PostgreSQL is under test: `POSTGRES_MAJOR`, 15 if it is not set, as in `devcluster/build.sh`.

use std::{env, path::PathBuf};

/// The major version.
pub fn major() -> String {
    env::var("POSTGRES_MAJOR").unwrap_or_else(|_| "15".to_owned())
}

/// The image of the dev cluster.
pub fn image() -> String {
    format!("localhost/postgres:{}", major())
}

/// One of the programs that Debian's package installs on this machine.
pub fn program(name: &str) -> PathBuf {
    ["/usr/lib/postgresql", &major(), "bin", name]
        .iter()
        .collect()
}
