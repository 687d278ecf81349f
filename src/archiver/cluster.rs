//! Whose WAL it is: what `pg_control` says.

use std::{fs, path::Path};

use super::{error::PushFailure, prepare::Segment};
use crate::{
    archive::LineageId,
    postgres::{
        ControlFile,
        wal::{Origin, ScanError},
    },
    recovery::restored::{self, Place, Restored},
};

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

/// PGDATA, if `path` is in its `pg_wal`, which may be a link.
pub(super) fn data_directory(path: &Path) -> &Path {
    let wal = path.parent().unwrap_or(Path::new("/"));
    wal.parent().unwrap_or(Path::new("/"))
}

/// A data directory that was restored does not archive where its original does: two histories would lie in one lineage, and
/// the next recovery would follow the copy.
pub(super) fn no_copy(
    path: &Path,
    archive_name: &str,
    lineage: &LineageId,
) -> Result<(), PushFailure> {
    let directory = data_directory(path);
    let restored = Restored::read(directory).map_err(|cause| PushFailure::Read {
        path: directory.join(restored::NAME),
        cause,
    })?;
    let place = Place {
        archive_name: archive_name.to_owned(),
        lineage: lineage.clone(),
    };
    if !restored.from.contains(&place) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Place {
        archive_name,
        lineage,
    } = place;
    Err(PushFailure::Copy {
        name: name.into_owned(),
        archive_name,
        lineage,
    })
}

/// A data directory may hold another cluster's WAL: a copy that went wrong.
pub(super) fn same_directory(path: &Path, segment: &Segment) -> Result<(), PushFailure> {
    let Some(directory) = of_directory(data_directory(path)) else {
        return Ok(());
    };
    let (found, want) = (
        segment.origin.system_identifier,
        directory.system_identifier,
    );
    if found != want {
        return Err(PushFailure::OtherCluster {
            name: segment.name.to_string(),
            found,
            keeper: "the data directory".to_owned(),
            want,
        });
    }
    match segment.size == directory.segment_size {
        true => Ok(()),
        false => Err(ScanError::OtherSize {
            name: segment.name,
            segment_size: segment.size.into(),
            page_size: 8192,
        }
        .into()),
    }
}
