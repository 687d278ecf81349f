//! What of a backup goes into the archive: label, map and manifest.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use kube::ResourceExt;

use super::status::Part;
use crate::{
    agent::{
        config::Wanted,
        coverage,
        shared::{Link, Shared},
        store::Trouble,
    },
    api::{CatalogEntry, PgBackup, PgBackupStatus, Session, VolumeStatus},
    archive::{
        BACKUP_LABEL, FORMAT, Lineage, LineageId, Manifest, ManifestVolume, ReadError,
        TABLESPACE_MAP, backup_key, sha256,
    },
    postgres::{Lsn, TimelineId, backup_mode::Stopped},
};

/// So many attempts of a backup are looked for in the catalog, the last ones: each costs some requests.
const ATTEMPTS: usize = 20;

/// What the session says, whole.
struct Taken<'a> {
    session: &'a Session,
    lineage: &'a LineageId,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
}

fn taken(part: &Part) -> Result<Taken<'_>, Trouble> {
    let missing = || Trouble::said("StatusIncomplete", "the session in status is not whole");
    let session = part.session().ok_or_else(missing)?;
    Ok(Taken {
        session,
        lineage: session.lineage.as_ref().ok_or_else(missing)?,
        timeline: session.timeline.ok_or_else(missing)?,
        start: session.start_lsn.ok_or_else(missing)?,
        stop: session.stop_lsn.ok_or_else(missing)?,
    })
}

fn lineage(shared: &Shared, id: &LineageId) -> Result<Lineage, Trouble> {
    let Wanted::Protect(config) = shared.wanted.borrow().clone() else {
        return Err(Trouble::said(
            "NotConfigured",
            "the protection is not active",
        ));
    };
    Ok(shared.stores.archive(&config)?.lineage(id.clone()))
}

fn key(backup: &PgBackup, session: &Session) -> String {
    let uid = backup.uid().unwrap_or_default();
    backup_key(&backup.name_any(), &uid, session.attempt)
}

/// Label and map must be in the archive before anybody believes in the stop.
///
/// # Errors
/// The archive does not take them.
pub async fn keep(
    shared: &Shared,
    backup: &PgBackup,
    part: &Part,
    stopped: &Stopped,
) -> Result<(), Trouble> {
    let incomplete = || Trouble::said("StatusIncomplete", "the session has no lineage");
    let session = part.session().ok_or_else(incomplete)?;
    let id = session.lineage.as_ref().ok_or_else(incomplete)?;
    let (lineage, key) = (lineage(shared, id)?, key(backup, session));
    let label = Bytes::from(stopped.label.clone());
    lineage.put_backup_file(&key, BACKUP_LABEL, label).await?;
    if !stopped.tablespace_map.is_empty() {
        let map = Bytes::from(stopped.tablespace_map.clone());
        lineage.put_backup_file(&key, TABLESPACE_MAP, map).await?;
    }
    Ok(())
}

/// Deletes what there is of it in the catalog, and what may come yet: of all of its attempts, as a void one may have come that
/// far, too. One that no lineage is known of has nothing there.
///
/// # Errors
/// The archive refuses, or is not the one that has the lineage; what was begun is finished by the next try.
pub async fn delete(
    shared: &Shared,
    backup: &PgBackup,
    part: &Part,
    now: Timestamp,
) -> Result<(), Trouble> {
    let Some(session) = part.session() else {
        return Ok(());
    };
    let id = session
        .lineage
        .clone()
        .or_else(|| shared.reporter.read().lineage);
    let Some(id) = id else { return Ok(()) };
    let lineage = lineage(shared, &id)?;
    // An archive that the policy names by now may be another one.
    lineage.identity().await?;
    let (name, uid) = (backup.name_any(), backup.uid().unwrap_or_default());
    for attempt in (1..=session.attempt).rev().take(ATTEMPTS) {
        let key = backup_key(&name, &uid, attempt);
        lineage.bury_backup(&key, now).await?;
    }
    Ok(())
}

/// From start to stop LSN, read from the archive: everything is there.
///
/// # Errors
/// It is not, or the archive cannot be read.
pub async fn covered(shared: &Shared, part: &Part) -> Result<(Lsn, Lsn), Trouble> {
    let Taken {
        lineage: id,
        timeline,
        start,
        stop,
        ..
    } = taken(part)?;
    let contents = lineage(shared, id)?.contents().await?;
    match coverage::missing(&contents, timeline, start, stop) {
        None => Ok((start, stop)),
        Some(at) => Err(Trouble::said(
            "WalMissing",
            format!(
                "the archive has no WAL at {at} on timeline {timeline}; needed are {start} to {stop}"
            ),
        )),
    }
}

/// Writes the manifest: all that a restore needs when the Kubernetes cluster is gone. `known`: the server that was in backup
/// mode, if this process saw it; it need not answer any more.
///
/// # Errors
/// Something of it is not known yet, or the archive does not take it.
pub async fn write(
    shared: &Shared,
    backup: &PgBackup,
    part: &Part,
    known: Option<&Arc<Link>>,
) -> Result<CatalogEntry, Trouble> {
    let taken = taken(part)?;
    let lineage = lineage(shared, taken.lineage)?;
    let key = key(backup, taken.session);
    let label = lineage.backup_file(&key, BACKUP_LABEL).await?;
    let map = match lineage.backup_file(&key, TABLESPACE_MAP).await {
        Ok(map) => Some(map),
        Err(ReadError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // The facts of the server that was in backup mode. After a restart of ours, of the one whose WAL is shipped: the same
    // cluster.
    let linked = || shared.link.borrow().clone();
    let link = known
        .cloned()
        .or_else(linked)
        .filter(|link| link.id == *taken.lineage);
    let Some(link) = link else {
        return Err(Trouble::said(
            "NotConnected",
            "the database must answer once more: its settings belong into the manifest",
        ));
    };
    let hashes = (sha256(&label), map.as_deref().map(sha256));
    let manifest = manifest(shared, backup, &taken, &link, hashes)?;
    let (manifest, sha256) = lineage.put_manifest(&key, &manifest).await?;
    Ok(CatalogEntry { manifest, sha256 })
}

fn manifest(
    shared: &Shared,
    backup: &PgBackup,
    taken: &Taken<'_>,
    link: &Arc<Link>,
    (backup_label_sha256, tablespace_map_sha256): (String, Option<String>),
) -> Result<Manifest, Trouble> {
    let missing =
        |what: &str| Trouble::said("StatusIncomplete", format!("status has no {what} yet"));
    let empty = PgBackupStatus::default();
    let status = backup.status.as_ref().unwrap_or(&empty);
    let (session, facts) = (taken.session, &link.facts);
    let volumes: Option<Vec<_>> = status.volumes.iter().map(volume).collect();
    Ok(Manifest {
        format: FORMAT,
        name: backup.name_any(),
        uid: backup.uid().unwrap_or_default(),
        namespace: shared.namespace.clone(),
        stateful_set_name: shared.stateful_set.clone(),
        lineage: taken.lineage.clone(),
        system_identifier: session
            .system_identifier
            .ok_or_else(|| missing("system identifier"))?,
        major_version: session
            .major_version
            .ok_or_else(|| missing("major version"))?,
        segment_size: facts.segment_size,
        timeline: taken.timeline,
        start_lsn: taken.start,
        stop_lsn: taken.stop,
        started_at: session
            .started_at
            .as_ref()
            .ok_or_else(|| missing("start time"))?
            .0,
        stopped_at: session
            .stopped_at
            .as_ref()
            .ok_or_else(|| missing("stop time"))?
            .0,
        backup_label_sha256,
        tablespace_map_sha256,
        data_directory: facts.data_directory.display().to_string(),
        wal_directory: None,
        tablespaces: facts
            .tablespaces
            .iter()
            .map(|t| t.location.display().to_string())
            .collect(),
        user: link.user.clone(),
        database: shared.login.database().to_owned(),
        settings: facts.settings.clone(),
        volumes: volumes.ok_or_else(|| missing("handle of each snapshot"))?,
        stateful_set: status.stateful_set.clone(),
    })
}

/// `None` until the snapshot has a handle.
fn volume(volume: &VolumeStatus) -> Option<ManifestVolume> {
    Some(ManifestVolume {
        claim: volume.claim.clone(),
        volume: volume.volume.clone(),
        mounts: volume.mounts.clone(),
        driver: volume.driver.clone(),
        handle: volume.handle.clone()?,
        capacity: volume.capacity,
        restore_size: volume.restore_size,
        storage_class_name: volume.storage_class_name.clone(),
        volume_mode: volume.volume_mode.clone(),
        cut_at: volume.cut_at.as_ref().map(|at| at.0),
    })
}
