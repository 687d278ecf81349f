//! Whose WAL it is: what `pg_control` says.

use std::{fs, path::Path};

use crate::postgres::{ControlFile, wal::Origin};

/// How often `pg_control` is read while the server writes it.
const READS: usize = 5;

/// From `global/pg_control` below `pgdata`. `None`: it is not there, or not to be read.
pub fn of_directory(pgdata: &Path) -> Option<Origin> {
    let path = pgdata.join("global/pg_control");
    // A read may see half of a write: then the checksum is wrong, and the next read is not.
    let control = (0..READS).find_map(|_| ControlFile::parse(&fs::read(&path).ok()?).ok())?;
    Some(Origin {
        system_identifier: control.system_identifier,
        segment_size: control.segment_size,
        major: control.major,
    })
}
