//! What a completed backup restores to: the driver's snapshot, the archive's label and WAL, and PostgreSQL's own recovery.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::PgBackup,
    archive::{BACKUP_LABEL, Manifest},
    postgres::{SegmentName, SegmentSize},
};
use highwater_e2e::{
    bench::{cluster::Cluster, scratch},
    harness::{postgres::program, snapshot_folder},
};

use super::{
    archive::{entry, lineage},
    site::{Site, TABLE, volume_root},
    wait::until,
};

/// Its socket's name has it; it listens nowhere else.
const PORT: u16 = 5432;

/// The restored table has all rows that were committed before the backup was asked for, and those that it has are whole.
pub async fn require_rows(site: &Site, backup: &PgBackup, owed: i64) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("highwater-sweep-restored-")
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let programs = program("postgres");
    let programs = programs.parent().context("no folder of programs")?;
    let root = directory.path().join("postgres");
    let cluster = Cluster::new(programs, &root, PORT)?;
    let key = entry(backup)?;
    let lineage = lineage(site, backup)?;
    let manifest = lineage.manifest(&key).await?;
    let label = lineage.backup_file(&key, BACKUP_LABEL).await?;
    let wal = root.join("archive");
    fs::create_dir(&wal)?;
    let size = manifest.segment_size;
    for name in segments(&manifest, size) {
        let bytes = lineage.fetch_segment(name, size, name.end(size)).await;
        let bytes = match bytes {
            Ok(bytes) => bytes,
            // The last one may not be whole yet.
            Err(_) => lineage.fetch_segment(name, size, manifest.stop_lsn).await?,
        };
        fs::write(wal.join(name.to_string()), bytes)?;
    }
    let volumes = serde_json::to_value(backup)?;
    let snapshot = snapshot_folder(&volumes, "data-orders-0")?;
    let from = volume_root(&snapshot).join("data");
    tokio::task::block_in_place(|| {
        put_together(&root, &from, &label)?;
        settings(&root, &manifest)?;
        own(&root)?;
        cluster
            .start()
            .with_context(|| fs::read_to_string(root.join("log")).unwrap_or_default())
    })?;
    let ask = |text: &str| tokio::task::block_in_place(|| cluster.sql(text));
    until("replay is over", || async {
        Ok((ask("SELECT pg_is_in_recovery()")? == "f").then_some(()))
    })
    .await?;
    let said = ask(&format!(
        "SELECT count(*), coalesce(max(id), 0), coalesce(bool_and(text = repeat(id::text, 20)), true) FROM {TABLE}"
    ))?;
    let [count, last, whole] = said.split('|').collect::<Vec<_>>()[..] else {
        anyhow::bail!("no answer: {said}");
    };
    ensure!(count == last && whole == "t", "the table is torn: {said}");
    let found: i64 = count.parse()?;
    ensure!(found >= owed, "{found} rows, {owed} are owed");
    Ok(())
}

fn segments(manifest: &Manifest, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
    let first = SegmentName::containing(manifest.timeline, manifest.start_lsn, size);
    let end = manifest.stop_lsn;
    std::iter::successors(Some(first), move |name| Some(name.next(size)))
        .take_while(move |name| name.start(size) < end)
}

/// Nothing of the snapshot's own WAL.
fn put_together(root: &Path, from: &Path, label: &[u8]) -> Result<()> {
    let data = root.join("data");
    scratch::output(Command::new("cp").arg("-a").args([from, &data]))?;
    let wal = data.join("pg_wal");
    fs::remove_dir_all(&wal)?;
    fs::create_dir_all(wal.join("archive_status"))?;
    fs::remove_file(data.join("postmaster.pid"))?;
    fs::write(data.join("backup_label"), label)?;
    fs::write(data.join("recovery.signal"), "")?;
    Ok(())
}

/// Behind those of the source, of which the last one counts.
fn settings(root: &Path, manifest: &Manifest) -> Result<()> {
    let file = root.join("data/postgresql.auto.conf");
    let mut text = fs::read_to_string(&file)?;
    text += &format!(
        "\nlisten_addresses = ''\nport = {PORT}\nunix_socket_directories = '{}'\n\
         restore_command = 'cp {}/archive/%f %p'\nrecovery_target_lsn = '{}'\nrecovery_target_action = 'promote'\n",
        root.display(),
        root.display(),
        manifest.stop_lsn,
    );
    fs::write(file, text)?;
    Ok(())
}

fn own(root: &Path) -> Result<()> {
    scratch::output(
        Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(root),
    )
    .map(drop)
}
