//! Whether what the archive has under a name is the database's own: another writer may have come first.

use super::{buffer::Buffer, error::Error, route::Route};
use crate::{
    archive::{IndexEntry, sha256},
    postgres::{SegmentName, SegmentSize},
};

/// What the archive has of a segment, beside the database.
#[derive(Debug)]
pub enum Compared {
    /// The same WAL.
    Same,
    /// Other WAL, and what is said of it.
    Other(String),
    /// One of the two does not have it.
    Unknown,
}

/// Compares a finished segment by its index entry, which is never encrypted.
///
/// # Errors
/// The database or the archive does not say.
pub async fn compare(route: &Route, name: SegmentName) -> Result<Compared, Error> {
    let Route {
        client,
        size,
        lineage,
        ..
    } = route;
    let Some(entry) = lineage.entry(name).await? else {
        return Ok(Compared::Unknown);
    };
    let Some(buffer) = Buffer::finished(client, *size, name).await? else {
        return Ok(Compared::Unknown);
    };
    if is_same(&entry, buffer.bytes(), *size) {
        return Ok(Compared::Same);
    }
    let (archived, found) = (&entry.sha256, sha256(buffer.bytes()));
    Ok(Compared::Other(format!(
        "another writer than this database put segment {name} into lineage {}: it has SHA-256 {archived} in the archive and {found} in the \
         database. Two databases that archive under one name need an archiveName each",
        lineage.id()
    )))
}

/// Two servers may hold what differs behind the end of valid WAL only, as after a failover.
fn is_same(entry: &IndexEntry, plain: &[u8], size: SegmentSize) -> bool {
    let valid = entry.valid_end.bytes_since(entry.segment.start(size));
    let valid = plain.get(..usize::try_from(valid).unwrap_or(usize::MAX));
    let valid_agrees = |archived: &String| valid.is_some_and(|valid| *archived == sha256(valid));
    entry.sha256 == sha256(plain) || entry.sha256_valid.as_ref().is_some_and(valid_agrees)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{Lsn, TimelineId};

    #[test]
    fn what_differs_behind_valid_wal_is_the_same_and_nothing_else_is() {
        let size = SegmentSize::DEFAULT;
        let name = SegmentName::containing(TimelineId::FIRST, Lsn::new(size.get()), size);
        let plain = vec![7; 1 << 24];
        let whole = IndexEntry::of(name, size, &plain);
        let cut = IndexEntry {
            valid_end: Lsn::new(size.get() + 100),
            sha256_valid: Some(sha256(&plain[..100])),
            ..whole.clone()
        };
        let changed = |at: usize| {
            let mut changed = plain.clone();
            changed[at] = 8;
            changed
        };
        assert!(is_same(&whole, &plain, size) && is_same(&cut, &plain, size));
        assert!(is_same(&cut, &changed(100), size));
        assert!(!is_same(&cut, &changed(99), size));
        assert!(!is_same(&whole, &changed(100), size));
    }
}
