//! Which history and backup of an archive a restore begins with.

use crate::{
    api::{ArchiveSource, BaseVolume, PgRestoreSpec, RestoreBase, RestorePlan},
    archive::{
        Archive, Contents, LineageId, Manifest, ManifestVolume, ReadError, Refusal, Request,
        plan::plan,
    },
};

/// It cannot be done, whatever the archive answers later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the condition.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.reason(),
            message: refusal.to_string(),
        }
    }
}

/// Chooses, from what the archive has now.
///
/// # Errors
/// The archive gives no definite answer.
pub async fn choose(
    archive: &Archive,
    spec: &PgRestoreSpec,
    source: &ArchiveSource,
) -> Result<Result<(RestorePlan, RestoreBase), Refused>, ReadError> {
    let mut found = Vec::new();
    for identity in archive.lineages().await? {
        found.push(archive.lineage(identity.lineage).contents().await?);
    }
    let contents = match history(&found, source) {
        Ok(contents) => contents,
        Err(refused) => return Ok(Err(refused)),
    };
    let lineage = archive.lineage(contents.identity.lineage.clone());
    let mut request = Request {
        backup: None,
        target: spec.target.clone(),
        archive: source.archive.clone(),
        archive_name: source.name.clone(),
        can_decrypt: spec.decryption.is_some(),
        ended: Vec::new(),
    };
    request.ended = lineage.look_up(&request, contents).await?;
    let plan = match plan(&request, contents) {
        Ok(plan) => plan,
        Err(refusal) => return Ok(Err(refusal.into())),
    };
    let base = base(lineage.manifest(&plan.backup_key).await?);
    Ok(Ok((plan, base)))
}

/// The named history, or the only one with backups. Which of several is meant no target tells: an empty database that was
/// protected in the place of a lost one has the newest. Pure.
fn history<'a>(found: &'a [Contents], source: &ArchiveSource) -> Result<&'a Contents, Refused> {
    let ArchiveSource {
        archive,
        name,
        lineage,
        granted_by: _,
    } = source;
    let with_backups: Vec<&Contents> = found
        .iter()
        .filter(|contents| !contents.backups.is_empty())
        .collect();
    let refused = |reason, message| Err(Refused { reason, message });
    if let Some(lineage) = lineage {
        let named = with_backups.iter().find(|it| is(it, lineage));
        return named.copied().map_or_else(
            || {
                refused(
                    "LineageNotFound",
                    format!(
                        "there is no backup of lineage {lineage} under the name {name} in PgArchive {archive}; {}",
                        listed(&with_backups)
                    ),
                )
            },
            Ok,
        );
    }
    match with_backups[..] {
        [only] => Ok(only),
        [] => refused(
            "NothingArchived",
            format!(
                "there is no backup under the name {name} in PgArchive {archive}: compare bucket, prefix and name with the folders in the bucket (<prefix><name>/<lineage>/backups)"
            ),
        ),
        _ => refused(
            "LineageAmbiguous",
            format!(
                "{name} has several histories in PgArchive {archive}: create a new PgRestore that names one in spec.source.archive.lineage; {}",
                listed(&with_backups)
            ),
        ),
    }
}

fn is(contents: &Contents, lineage: &LineageId) -> bool {
    contents.identity.lineage == *lineage
}

/// Each history with its beginning and its newest backup.
fn listed(found: &[&Contents]) -> String {
    let one = |contents: &&Contents| {
        let newest = contents.backups.iter().map(|(_, it)| it.stopped_at).max();
        let identity = &contents.identity;
        let newest = newest.map_or_else(String::new, |at| format!(", newest backup {at}"));
        format!(
            "{} (begun {}{newest})",
            identity.lineage, identity.created_at
        )
    };
    match found {
        [] => "no history has backups".to_owned(),
        found => format!(
            "with backups: {}",
            found.iter().map(one).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// What a restore's status holds of a manifest.
fn base(manifest: Manifest) -> RestoreBase {
    RestoreBase {
        name: manifest.name,
        uid: manifest.uid,
        namespace: manifest.namespace,
        stateful_set_name: manifest.stateful_set_name,
        volumes: manifest.volumes.into_iter().map(volume).collect(),
        stateful_set: manifest.stateful_set,
    }
}

fn volume(volume: ManifestVolume) -> BaseVolume {
    let ManifestVolume {
        claim,
        volume,
        mounts,
        driver,
        handle,
        capacity,
        restore_size,
        storage_class_name,
        volume_mode,
        cut_at: _,
    } = volume;
    BaseVolume {
        claim,
        volume,
        mounts,
        driver,
        handle,
        capacity,
        restore_size,
        storage_class_name,
        volume_mode,
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
