//! What recovery reads from the archive.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

use super::{
    directory::Texts,
    fetch::{FetchConfig, MountedPaths, SourceError, Stretch, WalSource},
    job::Source,
};
use crate::{
    api::{PgArchiveSpec, RestorePlan},
    archive::{
        Archive, BACKUP_LABEL, Identities, Lineage, Manifest, MountedSecrets, OpenError, ReadError,
        TABLESPACE_MAP, sha256, store,
    },
    buffers::Buffers,
    postgres::{Lsn, SegmentName, SegmentSize, TimelineHistory, TimelineId},
};

/// A base backup as the archive describes it.
#[derive(Clone, Debug)]
pub struct Base {
    /// The database that was backed up.
    pub source: Source,
    /// What `pg_backup_stop` returned.
    pub texts: Texts,
    /// The timelines on the way to the plan's end.
    pub line: Vec<Stretch>,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
}

/// An archive that cannot be read, or that holds something else than the plan says.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file beside the manifest is another one than the manifest says.
    #[error("the archive's {0} is not the one that the manifest speaks of: its hash differs")]
    OtherContent(&'static str),
    /// A history file that cannot be read, or that does not lead to the backup.
    #[error("the history of timeline {timeline} does not lead to this backup: {cause}")]
    History {
        /// The plan's timeline.
        timeline: TimelineId,
        /// Why not.
        cause: String,
    },
}

impl ArchiveError {
    /// Whether another try may help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Read(ReadError::Unavailable { .. }))
    }

    /// For the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Open(error) => error.reason(),
            Self::Read(error) => error.reason(),
            Self::OtherContent(_) | Self::History { .. } => "ArchiveCorrupt",
        }
    }
}

/// Opens the archive that `config` names. Segments come in memory from `buffers`, if they are to be used again.
///
/// # Errors
/// A mounted file is missing or the store's settings make no sense.
pub fn open(
    config: &FetchConfig,
    buffers: Option<Buffers>,
) -> Result<Arc<dyn WalSource>, OpenError> {
    let archive = archive(&config.archive, &config.mounted, &config.plan)?;
    let archive = match buffers {
        Some(buffers) => archive.with_buffers(Buffers::kept(), buffers),
        None => archive,
    };
    let lineage = archive.lineage(config.plan.lineage.clone());
    Ok(Arc::new(Wal {
        lineage,
        size: config.segment_size,
    }))
}

/// The plan's lineage, for its index.
///
/// # Errors
/// As [`open`].
pub fn lineage(config: &FetchConfig) -> Result<Lineage, OpenError> {
    let archive = archive(&config.archive, &config.mounted, &config.plan)?;
    Ok(archive.lineage(config.plan.lineage.clone()))
}

fn archive(
    spec: &PgArchiveSpec,
    mounted: &MountedPaths,
    plan: &RestorePlan,
) -> Result<Archive, OpenError> {
    let identities = mounted.decryption.as_deref().map(Identities::read);
    let mounted = MountedSecrets {
        credentials: mounted.credentials.clone(),
        ca_file: mounted.ca.clone(),
        directory: mounted.directory.clone(),
    };
    let store = store::open(spec, &mounted)?;
    let archive = match Archive::new(store.clone(), spec, &plan.archive_name) {
        // Nothing is written here: a recipient that is none must not keep a database from being restored.
        Err(OpenError::InvalidRecipient { .. }) => {
            let unencrypted = PgArchiveSpec {
                encryption: None,
                ..spec.clone()
            };
            Archive::new(store, &unencrypted, &plan.archive_name)
        }
        opened => opened,
    };
    Ok(archive?.with_identities(identities.transpose()?.unwrap_or_default()))
}

struct Wal {
    lineage: Lineage,
    size: SegmentSize,
}

#[async_trait]
impl WalSource for Wal {
    async fn segment(&self, name: SegmentName, up_to: Lsn) -> Result<Vec<u8>, SourceError> {
        Ok(self.lineage.fetch_segment(name, self.size, up_to).await?)
    }

    async fn history(&self, timeline: TimelineId) -> Result<Vec<u8>, SourceError> {
        Ok(self.lineage.fetch_history(timeline).await?.into_bytes())
    }
}

impl From<ReadError> for SourceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound { .. } => Self::NotFound,
            ReadError::Unavailable { .. } => Self::Unavailable(error.to_string()),
            ReadError::Corrupt { .. } => Self::Corrupt(error.to_string()),
            ReadError::KeyMissing { .. } => Self::KeyMissing(error.to_string()),
            ReadError::KeyWrong { .. } => Self::KeyWrong(error.to_string()),
        }
    }
}

/// Reads the plan's base backup.
///
/// # Errors
/// See [`ArchiveError`].
pub async fn base(
    spec: &PgArchiveSpec,
    mounted: &MountedPaths,
    plan: &RestorePlan,
) -> Result<Base, ArchiveError> {
    let lineage = archive(spec, mounted, plan)?.lineage(plan.lineage.clone());
    let manifest = lineage.manifest(&plan.backup_key).await?;
    let backup_label = lineage.backup_file(&plan.backup_key, BACKUP_LABEL).await?;
    if sha256(&backup_label) != manifest.backup_label_sha256 {
        return Err(ArchiveError::OtherContent(BACKUP_LABEL));
    }
    let tablespace_map = match &manifest.tablespace_map_sha256 {
        None => Vec::new(),
        Some(expected) => {
            let map = lineage
                .backup_file(&plan.backup_key, TABLESPACE_MAP)
                .await?;
            if sha256(&map) != *expected {
                return Err(ArchiveError::OtherContent(TABLESPACE_MAP));
            }
            map.to_vec()
        }
    };
    Ok(Base {
        line: line(&history(&lineage, plan.timeline).await?, &manifest, plan)?,
        texts: Texts {
            backup_label: backup_label.to_vec(),
            tablespace_map,
        },
        segment_size: manifest.segment_size,
        source: source(manifest),
    })
}

async fn history(lineage: &Lineage, timeline: TimelineId) -> Result<TimelineHistory, ArchiveError> {
    if timeline == TimelineId::FIRST {
        return Ok(TimelineHistory::first());
    }
    let text = lineage.fetch_history(timeline).await?;
    TimelineHistory::parse(timeline, &text).map_err(|error| ArchiveError::History {
        timeline,
        cause: error.to_string(),
    })
}

/// The timelines on the way to the plan's end; the backup must lie on it.
fn line(
    history: &TimelineHistory,
    manifest: &Manifest,
    plan: &RestorePlan,
) -> Result<Vec<Stretch>, ArchiveError> {
    if !history.contains(manifest.timeline, manifest.stop_lsn) {
        return Err(ArchiveError::History {
            timeline: plan.timeline,
            cause: format!(
                "it left timeline {} before {}, where the backup ends",
                manifest.timeline, manifest.stop_lsn
            ),
        });
    }
    let stretches = history.ancestry().into_iter().map(|part| Stretch {
        timeline: part.timeline,
        begins: part.from,
        ends: part.to.map_or(plan.wal_to, |to| to.min(plan.wal_to)),
    });
    Ok(stretches.collect())
}

fn source(manifest: Manifest) -> Source {
    let mounts = manifest.volumes.iter().flat_map(|volume| &volume.mounts);
    Source {
        mounts: mounts.map(|mount| PathBuf::from(&mount.path)).collect(),
        data_directory: manifest.data_directory.into(),
        major: manifest.major_version,
        system_identifier: manifest.system_identifier,
        stop_lsn: manifest.stop_lsn,
        stopped_at: manifest.stopped_at,
        user: manifest.user,
        database: manifest.database,
        settings: manifest.settings,
    }
}
