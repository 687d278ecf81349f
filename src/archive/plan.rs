//! Choosing what a restore does: base backup, timeline, end. Pure: everything is checked before anything is made.

mod line;
mod lookup;
mod older;
mod refusal;
mod targets;

use super::{Contents, window::Base};
use crate::{
    api::{RestorePlan, RestoreTarget, StopAt},
    postgres::{Lsn, TimelineId},
};
use line::Line;

pub use lookup::{Ended, to_look_up};
pub use older::tries_older;
pub use refusal::Refusal;

/// What a restore asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Only this backup, by the UID of its PgBackup; otherwise the best one.
    pub backup: Option<String>,
    /// Where in time to stop; none is latest.
    pub target: Option<RestoreTarget>,
    /// The PgArchive's name, for the plan.
    pub archive: String,
    /// The database's name in the archive, for the plan.
    pub archive_name: String,
    /// Whether there is a key for encrypted WAL.
    pub can_decrypt: bool,
    /// Where the transaction of the target ends, as far as the segments of [`to_look_up`] could be read.
    pub ended: Vec<Ended>,
}

/// Plans a restore.
///
/// # Errors
/// The target cannot be reached; the refusal says what can.
pub fn plan(request: &Request, contents: &Contents) -> Result<RestorePlan, Refusal> {
    let line = Line::choose(request, contents)?;
    let target = request.target.clone().unwrap_or_default();
    let chosen = line.to(&target, &request.ended)?;
    match chosen.encrypted_from() {
        Some(from) if !request.can_decrypt => Err(Refusal::KeyMissing { from }),
        Some(_) | None => Ok(chosen.into_plan(request, contents, line.timeline)),
    }
}

/// A base and an end that were found to do.
struct Chosen<'a> {
    base: Base<'a>,
    wal_to: Lsn,
    stop_at: Option<StopAt>,
    summary: String,
}

impl<'a> Base<'a> {
    fn stopping(self, wal_to: Lsn, stop_at: StopAt, summary: String) -> Chosen<'a> {
        Chosen {
            base: self,
            wal_to,
            stop_at: Some(stop_at),
            summary,
        }
    }

    fn up_to_its_end(self, summary: String) -> Chosen<'a> {
        Chosen {
            wal_to: self.end(),
            base: self,
            stop_at: None,
            summary,
        }
    }
}

impl Chosen<'_> {
    /// Where the first piece begins that is needed and encrypted.
    fn encrypted_from(&self) -> Option<Lsn> {
        let mut needed = self.base.pieces().iter();
        needed
            .find(|piece| piece.encrypted && piece.from < self.wal_to)
            .map(|piece| piece.from)
    }

    fn into_plan(self, request: &Request, contents: &Contents, newest: TimelineId) -> RestorePlan {
        let manifest = self.base.manifest;
        let bytes = self.wal_to.bytes_since(manifest.start_lsn);
        // The timeline of the last byte: what came after the target is not followed.
        let timeline = contents.timeline_before(newest, self.wal_to);
        RestorePlan {
            summary: format!("{} on timeline {timeline}", self.summary),
            backup: manifest.name.clone(),
            backup_key: self.base.key.to_owned(),
            archive: request.archive.clone(),
            archive_name: request.archive_name.clone(),
            lineage: contents.identity.lineage.clone(),
            timeline,
            wal_from: manifest.start_lsn,
            wal_to: self.wal_to,
            stop_at: self.stop_at,
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
