//! What a restore would find in the archive.

use std::num::NonZeroU8;

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::{PgArchiveSpec, PgBackup},
    archive::{
        Archive, BACKUP_LABEL, Lineage, LineageId, MANIFEST, MountedSecrets, backup_key, sha256,
        store,
        verify::{Run, Scope},
    },
    clock::{Clock, SystemClock},
    postgres::BackupLabel,
};
use jiff::SignedDuration;
use kube::ResourceExt;
use serde_json::json;

use super::site::{PROTECTION, Site};

/// The one that the backup is in.
pub fn lineage(site: &Site, backup: &PgBackup) -> Result<Lineage> {
    let session = backup.status.as_ref().and_then(|it| it.session.as_ref());
    let id = session.and_then(|it| it.lineage.clone());
    open(site, id.context("no lineage")?)
}

/// Where the archive has its files.
pub fn entry(backup: &PgBackup) -> Result<String> {
    let session = backup.status.as_ref().and_then(|it| it.session.as_ref());
    let session = session.context("no session")?;
    let uid = backup.uid().context("no UID")?;
    Ok(backup_key(&backup.name_any(), &uid, session.attempt))
}

fn open(site: &Site, id: LineageId) -> Result<Lineage> {
    let spec = json!({"directory": {"persistentVolumeClaim": "archive"}});
    let spec: PgArchiveSpec = serde_json::from_value(spec)?;
    let secrets = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: site.archive_directory(),
    };
    let store = store::open(&spec, &secrets)?;
    Ok(Archive::new(store, &spec, PROTECTION)?.lineage(id))
}

/// Manifest and label are there and agree with each other and with the status, and WAL from start to stop is.
pub async fn require_restorable(site: &Site, backup: &PgBackup) -> Result<()> {
    let status = backup.status.as_ref().context("no status")?;
    let session = status.session.as_ref().context("no session")?;
    let id = session.lineage.clone().context("no lineage")?;
    let first = site.lineage.get_or_init(|| id.clone());
    ensure!(*first == id, "lineage {id} was begun after {first}");
    let (lineage, key) = (open(site, id)?, entry(backup)?);

    let bytes = lineage.backup_file(&key, MANIFEST).await?;
    let catalog = status.catalog.as_ref().context("no catalog entry")?;
    ensure!(catalog.sha256 == sha256(&bytes), "another manifest");
    let manifest = lineage.manifest(&key).await?;
    let label = lineage.backup_file(&key, BACKUP_LABEL).await?;
    ensure!(
        manifest.backup_label_sha256 == sha256(&label),
        "another label"
    );
    let label = BackupLabel::parse(std::str::from_utf8(&label)?)?;
    ensure!(
        (label.start_lsn, label.start_timeline) == (manifest.start_lsn, manifest.timeline),
        "{label:?} is not {manifest:?}"
    );
    ensure!(
        (Some(manifest.start_lsn), Some(manifest.stop_lsn))
            == (session.start_lsn, session.stop_lsn),
        "{session:?} is not {manifest:?}"
    );
    let said = status.volumes.iter().map(|it| it.handle.as_ref());
    let kept = manifest.volumes.iter().map(|it| Some(&it.handle));
    ensure!(said.eq(kept), "other snapshots in {manifest:?}");
    let contents = lineage.contents().await?;
    let hole = contents.first_missing(manifest.timeline, manifest.start_lsn, manifest.stop_lsn);
    ensure!(hole.is_none(), "no WAL at {hole:?}");
    Ok(())
}

/// A backup that was deleted is nothing to choose any more.
pub async fn require_uncatalogued(site: &Site, backup: &PgBackup) -> Result<()> {
    let Ok(lineage) = lineage(site, backup) else {
        return Ok(());
    };
    let catalog = lineage.contents().await?.backups;
    let uid = backup.uid().context("no UID")?;
    let left = catalog.iter().find(|(_, manifest)| manifest.uid == uid);
    ensure!(left.is_none(), "the catalog has it still: {left:?}");
    Ok(())
}

/// Read in full, nothing is wrong with what all lives left.
pub async fn verify(site: &Site) -> Result<()> {
    let id = site.lineage.get().context("no backup completed")?;
    let lineage = open(site, id.clone())?;
    let scope = Scope {
        lineage: None,
        timeline: None,
        from: None,
        to: None,
        parallel: NonZeroU8::MIN,
        // Nobody writes any more: nothing is excused for being new.
        now: SystemClock.now() + SignedDuration::from_hours(24),
    };
    let (identity, run) = (lineage.identity().await?, Run::default());
    lineage.verify(&identity, &scope, &run).await?;
    let findings = run.findings();
    ensure!(findings.is_empty(), "{findings:#?}");
    Ok(())
}
