//! Which lineage the WAL of a primary goes to: the one in status, or a new one.

use std::time::Duration;

use super::{
    lineage::{Archived, Database, Why, continues},
    primary::Answering,
    shared::Shared,
    store::Trouble,
    wal::{Path, ancestors},
};
use crate::{
    archive::{Archive, Contents, FORMAT, Identity, Lineage, LineageId, ReadError},
    postgres::{Lsn, wal_reader},
};

/// How long the API server may take to have a new lineage's id.
const APPLIED: Duration = Duration::from_secs(30);

/// A lineage that belongs to the database.
pub struct Settled {
    /// Its id.
    pub id: LineageId,
    /// It.
    pub lineage: Lineage,
    /// Where the archive's whole segments end on the path to the current timeline.
    pub archived: Option<Lsn>,
}

/// The lineage in status if the database goes on with it, a new one otherwise. `conflict` says that it does not.
///
/// # Errors
/// The archive cannot be read or written: never a reason for a new lineage.
pub async fn settle(
    shared: &Shared,
    archive: &Archive,
    answering: &Answering,
    path: &Path,
    conflict: Option<String>,
) -> Result<Settled, Trouble> {
    let known = shared.reporter.read().lineage;
    let why = match (known, conflict) {
        (None, _) => Why::First,
        (Some(_), Some(conflict)) => Why::Conflict(conflict),
        (Some(id), None) => match known_lineage(archive, answering, path, &id).await? {
            Ok(settled) => return Ok(settled),
            Err(why) => why,
        },
    };
    start(shared, archive, answering, &why).await
}

async fn known_lineage(
    archive: &Archive,
    answering: &Answering,
    path: &Path,
    id: &LineageId,
) -> Result<Result<Settled, Why>, Trouble> {
    let lineage = archive.lineage(id.clone());
    let identity = match lineage.identity().await {
        Ok(identity) => identity,
        // The store can be written and read back: this is no outage.
        Err(ReadError::NotFound { .. }) => return Ok(Err(Why::NotInArchive(id.clone()))),
        Err(error) => return Err(error.into()),
    };
    let contents = lineage.contents().await?;
    let position = wal_reader::flush_position(&answering.client)
        .await
        .map_err(|error| Trouble::new("DatabaseUnreachable", &error))?;
    let database = Database {
        system_identifier: answering.facts.system_identifier,
        path: path.clone(),
        flushed: position.lsn,
    };
    let archived = archived(&lineage, &identity, &contents, path).await?;
    Ok(continues(&database, &archived).map(|()| Settled {
        id: id.clone(),
        archived: contents.whole_end(path.timeline, &path.ancestors),
        lineage,
    }))
}

/// What the archive says, as the decision needs it.
async fn archived(
    lineage: &Lineage,
    identity: &Identity,
    contents: &Contents,
    path: &Path,
) -> Result<Archived, Trouble> {
    let history = match lineage.fetch_history(path.timeline).await {
        Ok(text) => Some(text),
        Err(ReadError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let known = history.map(|text| ancestors(path.timeline, text.as_bytes()));
    let ancestors = known
        .transpose()
        .map_err(|error| Trouble::new("ArchiveCorrupt", &error))?;
    Ok(Archived {
        system_identifier: identity.system_identifier,
        ends: contents.valid_ends(),
        ancestors,
    })
}

/// The identity object first, create-only; then status, and only then WAL.
async fn start(
    shared: &Shared,
    archive: &Archive,
    answering: &Answering,
    why: &Why,
) -> Result<Settled, Trouble> {
    let id = random_id()?;
    let lineage = archive.lineage(id.clone());
    let identity = Identity {
        format: FORMAT,
        lineage: id.clone(),
        system_identifier: answering.facts.system_identifier,
        major_version: i32::try_from(answering.facts.major).unwrap_or_default(),
        segment_size: answering.facts.segment_size,
        created_at: shared.clock.now(),
    };
    lineage.create_identity(&identity).await?;
    let old = shared.reporter.read().lineage;
    shared.reporter.edit(|report| {
        report.lineage = Some(id.clone());
        report.recoverable = None;
    });
    let mut applied = shared.applied.subscribe();
    let written = applied.wait_for(|report| report.lineage.as_ref() == Some(&id));
    match tokio::time::timeout(APPLIED, written).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => {
            shared.reporter.edit(|report| report.lineage = old);
            return Err(Trouble::said(
                "StatusNotWritten",
                "the new lineage could not be written to status",
            ));
        }
    }
    let left = match &old {
        Some(old) => format!("; {old} stays as it is and can be restored from"),
        None => String::new(),
    };
    let note = format!("lineage {id} starts: {why}{left}");
    tracing::info!(lineage = %id, "{note}");
    shared
        .events
        .normal(&shared.about, "LineageStarted", note)
        .await;
    shared.audit.notify_one();
    Ok(Settled {
        id,
        lineage,
        archived: None,
    })
}

fn random_id() -> Result<LineageId, Trouble> {
    let mut bytes = [0; 10];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(LineageId::from_random(bytes)),
        Err(error) => Err(Trouble::said("NoRandomness", error.to_string())),
    }
}
