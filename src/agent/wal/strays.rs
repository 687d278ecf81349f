//! What lies in the archive and does not count: a writer that is gone had put it before WAL that was still to come. It
//! counts as soon as that has come, so whoever goes on must be the same history.

use super::{buffer::Buffer, error::Error, plan::Path};
use crate::{
    archive::{Contents, Lineage, sha256},
    postgres::{Lsn, SegmentName, session::Client},
};

/// The first segment that does not count yet and that the database has with other content, and what is said of it. All of
/// those that lie before `flushed` are compared, on the way to the database's timeline.
///
/// # Errors
/// The database or the archive does not say.
pub async fn conflict(
    client: &Client,
    lineage: &Lineage,
    contents: &Contents,
    path: &Path,
    flushed: Lsn,
) -> Result<Option<String>, Error> {
    let size = contents.identity.segment_size;
    let names = contents.on_their_way.keys();
    let ours = names.filter(|name| {
        let on_path = path.timeline_of(name.start(size), size) == name.timeline();
        on_path && name.end(size) <= flushed
    });
    for name in ours {
        let Some(buffer) = Buffer::finished(client, size, *name).await? else {
            // What lies before it is gone too, so it will never count.
            continue;
        };
        let found = sha256(buffer.bytes());
        let archived = lineage.hashes_of(*name).await?;
        if let Some(archived) = archived.iter().find(|archived| **archived != found) {
            return Ok(Some(said(*name, archived, &found)));
        }
    }
    Ok(None)
}

fn said(name: SegmentName, archived: &str, found: &str) -> String {
    format!(
        "the database was set back: segment {name}, which an agent put before it ended, has SHA-256 {archived} in the archive and {found} in the database"
    )
}
