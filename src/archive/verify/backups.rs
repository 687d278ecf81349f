//! Backups: manifest, label and map, and whether the WAL from start to stop is there.

use std::collections::BTreeMap;

use object_store::ObjectMeta;

use super::super::{
    BACKUP_LABEL, Contents, FORMAT, Identity, Lineage, MANIFEST, Manifest, ReadError,
    TABLESPACE_MAP, TOMBSTONE,
};
use super::{
    Problem, Run,
    index::trouble,
    inventory::Inventory,
    objects::{Content, Outcome, read_file, read_json},
};
use crate::postgres::{BackupLabel, Lsn};

/// Reads every backup that is not deleted, and checks its files. By folder.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn read(
    lineage: &Lineage,
    identity: &Identity,
    inventory: &Inventory,
    run: &Run,
) -> Result<Vec<(String, Manifest)>, ReadError> {
    let mut backups = Vec::new();
    for (folder, files) in &inventory.backups {
        if files.contains_key(TOMBSTONE) {
            continue;
        }
        let Some(object) = files.get(MANIFEST) else {
            let what = "there is no manifest: an attempt that was given up, or is under way";
            run.note(format!("backup {folder}"), what);
            continue;
        };
        let manifest = match read_json::<Manifest>(lineage, object, run).await? {
            Outcome::Sound(manifest) => manifest,
            Outcome::Gone => {
                run.note(&object.location, "it was deleted while it was verified");
                continue;
            }
            other => {
                run.find(Problem::BackupDamaged, &object.location, trouble(other));
                continue;
            }
        };
        if manifest.format > FORMAT {
            run.note(&object.location, "it is of a newer format: not verified");
            continue;
        }
        if let Some(what) = foreign(&manifest, identity, folder) {
            run.find(Problem::BackupDamaged, &object.location, what);
            continue;
        }
        if check_files(lineage, files, &manifest, object, run).await? {
            backups.push((folder.clone(), manifest));
        }
    }
    Ok(backups)
}

/// What in a manifest is not of this lineage.
fn foreign(manifest: &Manifest, identity: &Identity, folder: &str) -> Option<String> {
    let ours = manifest.lineage == identity.lineage
        && manifest.system_identifier == identity.system_identifier
        && manifest.segment_size == identity.segment_size;
    let uid = manifest.uid.get(..8).unwrap_or(&manifest.uid);
    if !ours {
        return Some("it names another lineage, cluster or size of segments".to_owned());
    }
    if !folder.contains(uid) {
        return Some(format!("it is of the backup with UID {}", manifest.uid));
    }
    let backwards =
        manifest.stop_lsn < manifest.start_lsn || manifest.stopped_at < manifest.started_at;
    backwards.then(|| "it stops before it starts".to_owned())
}

/// Whether label and map are what the manifest says.
async fn check_files(
    lineage: &Lineage,
    files: &BTreeMap<String, ObjectMeta>,
    manifest: &Manifest,
    object: &ObjectMeta,
    run: &Run,
) -> Result<bool, ReadError> {
    let label = Some(&manifest.backup_label_sha256);
    let map = manifest.tablespace_map_sha256.as_ref();
    let mut sound = true;
    for (file, expected) in [(BACKUP_LABEL, label), (TABLESPACE_MAP, map)] {
        let Some(expected) = expected else { continue };
        let Some(listed) = files.get(file) else {
            run.find(
                Problem::BackupDamaged,
                &object.location,
                format!("{file} is missing"),
            );
            sound = false;
            continue;
        };
        let wrong = match read_file(lineage, listed, run).await? {
            Outcome::Sound(content) if content.sha256 != *expected => Some(format!(
                "SHA-256 is {}, the manifest says {expected}",
                content.sha256
            )),
            Outcome::Sound(content) if file == BACKUP_LABEL => label_trouble(&content, manifest),
            Outcome::Sound(_) => None,
            other => Some(trouble(other)),
        };
        if let Some(what) = wrong {
            run.find(Problem::BackupDamaged, &listed.location, what);
            sound = false;
        }
    }
    Ok(sound)
}

/// Whether the label says the same start as the manifest.
fn label_trouble(content: &Content, manifest: &Manifest) -> Option<String> {
    let text = String::from_utf8_lossy(&content.plain);
    match BackupLabel::parse(&text) {
        Ok(label) if label.start_lsn != manifest.start_lsn => Some(format!(
            "it begins at {}, the manifest says {}",
            label.start_lsn, manifest.start_lsn
        )),
        Ok(label) if label.start_timeline != manifest.timeline => Some(format!(
            "it is of timeline {}, the manifest says {}",
            label.start_timeline, manifest.timeline
        )),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// The first position from start to stop that is missing in `contents`.
pub(super) fn missing(manifest: &Manifest, contents: &Contents) -> Option<Lsn> {
    let size = contents.identity.segment_size;
    // Recovery reads the segment of the start from its beginning.
    let begin = Lsn::new(manifest.start_lsn.get() - size.offset(manifest.start_lsn));
    contents.first_missing(manifest.timeline, begin, manifest.stop_lsn)
}
