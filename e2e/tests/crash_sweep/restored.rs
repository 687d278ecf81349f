//! What a completed backup restores to: the driver's snapshot, the archive's label and WAL, and PostgreSQL's own recovery.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Result, bail, ensure};
use highwater::{
    api::PgBackup,
    archive::{BACKUP_LABEL, Lineage, Manifest},
    postgres::SegmentName,
};
use highwater_e2e::harness::{
    by_hand::{ByHand, Parts},
    snapshot_folder,
};

use super::{
    archive::{entry, lineage},
    site::{PGDATA, Site, TABLE},
};

/// The restored table has all rows that were committed before the backup was asked for, and those that it has are whole.
pub async fn require_rows(site: &Site, backup: &PgBackup, owed: i64) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("highwater-sweep-restored-")
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let (lineage, key) = (lineage(site, backup)?, entry(backup)?);
    let manifest = lineage.manifest(&key).await?;
    let label = lineage.backup_file(&key, BACKUP_LABEL).await?;
    let wal = directory.path().join("wal");
    fetch(&lineage, &manifest, &wal).await?;
    let snapshot = snapshot_folder(&serde_json::to_value(backup)?, "data-orders-0")?;
    let parts = Parts {
        data: &snapshot,
        pgdata: PGDATA,
        fast: None,
        label: Some(std::str::from_utf8(&label)?),
        wal: &wal,
    };
    let restored = ByHand::restore(&directory.path().join("postgres"), &parts).await?;
    let said = tokio::task::block_in_place(|| {
        restored.sql(&format!(
            "SELECT count(*), coalesce(max(id), 0), coalesce(bool_and(text = repeat(id::text, 20)), true) FROM {TABLE}"
        ))
    })?;
    let [count, last, whole] = said.split('|').collect::<Vec<_>>()[..] else {
        bail!("no answer: {said}");
    };
    ensure!(count == last && whole == "t", "the table is torn: {said}");
    let found: i64 = count.parse()?;
    ensure!(found >= owed, "{found} rows, {owed} are owed");
    Ok(())
}

/// From the backup's start to its stop, and no further.
async fn fetch(lineage: &Lineage, manifest: &Manifest, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    let (size, end) = (manifest.segment_size, manifest.stop_lsn);
    let mut name = SegmentName::containing(manifest.timeline, manifest.start_lsn, size);
    while name.start(size) < end {
        let up_to = name.end(size).min(end);
        let bytes = lineage.fetch_segment(name, size, up_to).await?;
        fs::write(to.join(name.to_string()), bytes)?;
        name = name.next(size);
    }
    Ok(())
}
