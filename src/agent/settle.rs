//! Which lineage the WAL of a primary goes to: the one in status, the only one where PostgreSQL archives by itself, or a new one.

use std::time::Duration;

pub use super::lineage::Why;
use super::{
    lineage::{Archived, Database, adopts, continues},
    primary::Answering,
    shared::Shared,
    store::Trouble,
    wal::{self, Path, ancestors},
};
use crate::{
    api::Transport,
    archive::{Archive, Contents, FORMAT, Identity, Lineage, LineageId, PushError, ReadError},
    postgres::{Lsn, server::ServerFacts, session::Client, wal_reader},
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

/// The lineage in status if the database goes on with it, a new one otherwise. `conflict` says that it does not. Where
/// PostgreSQL archives by itself and status knows none, it is the one that its pushes go to.
///
/// # Errors
/// The archive cannot be read or written: never a reason for a new lineage.
pub async fn settle(
    shared: &Shared,
    archive: &Archive,
    answering: &Answering,
    path: &Path,
    transport: Transport,
    conflict: Option<String>,
) -> Result<Settled, Trouble> {
    let known = shared.reporter.read().lineage;
    let why = match (known, conflict) {
        (None, _) if transport == Transport::ArchiveCommand => {
            return join(shared, archive, answering, path).await;
        }
        (None, _) => Why::First,
        (Some(_), Some(conflict)) => Why::Conflict(conflict),
        (Some(id), None) => {
            let known = known_lineage(archive, answering, path, &id, continues);
            match known.await? {
                Ok(settled) => return Ok(settled),
                Err(why) => why,
            }
        }
    };
    start(shared, archive, answering, &why, random_id()?).await
}

/// The only lineage of this cluster, if the database goes on with it: that is where its pushes go. Where there is none, the
/// one that a push would begin, as one may at this moment.
async fn join(
    shared: &Shared,
    archive: &Archive,
    answering: &Answering,
    path: &Path,
) -> Result<Settled, Trouble> {
    let cluster = answering.facts.system_identifier;
    let mut all = archive.lineages().await?;
    all.retain(|identity| identity.system_identifier == cluster);
    let why = match (all.pop(), all.len()) {
        (None, _) => {
            let id = LineageId::of_cluster(cluster);
            return start(shared, archive, answering, &Why::First, id).await;
        }
        (Some(only), 0) => {
            let id = &only.lineage;
            match known_lineage(archive, answering, path, id, adopts).await? {
                Ok(settled) => {
                    let note = format!("lineage {id} is taken: the only one of this cluster");
                    take(shared, id, "LineageTaken", note).await?;
                    return Ok(settled);
                }
                Err(why) => why,
            }
        }
        (Some(_), others) => Why::Several(others + 1),
    };
    start(shared, archive, answering, &why, random_id()?).await
}

async fn known_lineage(
    archive: &Archive,
    answering: &Answering,
    path: &Path,
    id: &LineageId,
    decide: impl Fn(&Database, &Archived) -> Result<(), Why>,
) -> Result<Result<Settled, Why>, Trouble> {
    let lineage = archive.lineage(id.clone());
    let Answering { client, facts, .. } = answering;
    let agrees = agrees(client, facts, path, &lineage, decide).await?;
    Ok(agrees.map(|archived| Settled {
        id: id.clone(),
        lineage,
        archived,
    }))
}

/// Whether the database that `client` speaks to goes on with `lineage`, and where the archive's whole segments end on the
/// path to its timeline; or why not.
///
/// # Errors
/// The archive or the database does not say: never a reason for a new lineage.
pub async fn goes_on(
    client: &Client,
    facts: &ServerFacts,
    path: &Path,
    lineage: &Lineage,
) -> Result<Result<Option<Lsn>, Why>, Trouble> {
    agrees(client, facts, path, lineage, continues).await
}

/// As [`goes_on`], where `decide` says what going on is.
async fn agrees(
    client: &Client,
    facts: &ServerFacts,
    path: &Path,
    lineage: &Lineage,
    decide: impl Fn(&Database, &Archived) -> Result<(), Why>,
) -> Result<Result<Option<Lsn>, Why>, Trouble> {
    let identity = match lineage.identity().await {
        Ok(identity) => identity,
        // The store can be written and read back: this is no outage.
        Err(ReadError::NotFound { .. }) => {
            return Ok(Err(Why::NotInArchive(lineage.id().clone())));
        }
        Err(error) => return Err(error.into()),
    };
    let contents = lineage.contents().await?;
    let unreachable = |error: &dyn std::error::Error| Trouble::new("DatabaseUnreachable", error);
    let position = wal_reader::flush_position(client).await;
    let position = position.map_err(|error| unreachable(&error))?;
    let database = Database {
        system_identifier: facts.system_identifier,
        path: path.clone(),
        flushed: position.lsn,
    };
    let archived = archived(lineage, &identity, &contents, path).await?;
    if let Err(why) = decide(&database, &archived) {
        return Ok(Err(why));
    }
    let conflict = wal::conflict(client, lineage, &contents, path, position.lsn).await;
    let conflict = conflict.map_err(|error| match error {
        wal::Error::Archive(error) => Trouble::from(error),
        other => unreachable(&other),
    })?;
    Ok(match conflict {
        Some(what) => Err(Why::Conflict(what)),
        None => Ok(contents.whole_end(path.timeline, &path.ancestors)),
    })
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
        ends: contents.written_ends(),
        ancestors,
    })
}

/// The identity object first, create-only; then status, and only then WAL.
async fn start(
    shared: &Shared,
    archive: &Archive,
    answering: &Answering,
    why: &Why,
    id: LineageId,
) -> Result<Settled, Trouble> {
    let lineage = archive.lineage(id.clone());
    let identity = Identity {
        format: FORMAT,
        lineage: id.clone(),
        system_identifier: answering.facts.system_identifier,
        major_version: i32::try_from(answering.facts.major).unwrap_or_default(),
        segment_size: answering.facts.segment_size,
        created_at: shared.clock.now(),
    };
    match lineage.create_identity(&identity).await {
        // A push of this cluster has begun it at this moment: its id is of the cluster, and nobody else's.
        Err(PushError::Conflict { .. })
            if id == LineageId::of_cluster(identity.system_identifier) => {}
        created => created?,
    }
    let left = match shared.reporter.read().lineage {
        Some(old) => format!("; {old} stays as it is and can be restored from"),
        None => String::new(),
    };
    let note = format!("lineage {id} starts: {why}{left}");
    take(shared, &id, "LineageStarted", note).await?;
    if *why != Why::First {
        shared.metrics.lineages.inc();
    }
    Ok(Settled {
        id,
        lineage,
        archived: None,
    })
}

/// Writes the lineage to status, and says so.
async fn take(
    shared: &Shared,
    id: &LineageId,
    reason: &'static str,
    note: String,
) -> Result<(), Trouble> {
    let old = shared.reporter.read().lineage;
    shared.reporter.edit(|report| {
        report.lineage = Some(id.clone());
        report.recoverable = None;
        report.retention = None;
    });
    let mut applied = shared.applied.subscribe();
    let written = applied.wait_for(|report| report.lineage.as_ref() == Some(id));
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
    tracing::info!(lineage = %id, "{note}");
    shared.events.normal(&shared.about, reason, note).await;
    shared.audit.notify_one();
    Ok(())
}

fn random_id() -> Result<LineageId, Trouble> {
    let mut bytes = [0; 10];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(LineageId::from_random(bytes)),
        Err(error) => Err(Trouble::said("NoRandomness", error.to_string())),
    }
}
