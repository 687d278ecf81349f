//! Files of WAL that are not finished segments: histories, and the last segment of a timeline that was left.

use std::path::Path;

use bytes::Bytes;

use super::{Home, PARTIAL, Pusher, lock};
use crate::{
    archive::{PushError, ReadError, Records, sha256},
    archiver::{
        cluster,
        config::DamagedWal,
        error::PushFailure,
        flights::{is_ready, say_done},
        home::HomeError,
        prepare::carry_beside,
    },
    postgres::{SegmentName, TimelineHistory, TimelineId},
};

impl Pusher {
    /// PostgreSQL archives a history before the WAL of its timeline; whoever calls by hand may not.
    pub(super) async fn history_first(
        &self,
        path: &Path,
        timeline: TimelineId,
    ) -> Result<(), PushFailure> {
        let path = path.with_file_name(TimelineHistory::file_name(timeline));
        // One that another tool has archived, or that came with a copy, is ready no more, and wanted here all the same.
        let told = lock(&self.0.histories).contains(&timeline);
        if timeline == TimelineId::FIRST || told || !path.exists() {
            return Ok(());
        }
        self.history(&path, timeline).await?;
        lock(&self.0.histories).insert(timeline);
        if !is_ready(&path) {
            return Ok(());
        }
        if let Err(error) = say_done(&path) {
            tracing::debug!(path = %path.display(), %error, "failed to rename the status file");
        }
        Ok(())
    }

    /// A small file, and where it goes: `pg_control` says whose it is.
    pub(super) async fn small_file(&self, path: &Path) -> Result<(&Home, Bytes), PushFailure> {
        let origin = cluster::of_directory(cluster::data_directory(path));
        let origin = origin.ok_or(HomeError::Unknown)?;
        let home = self.home(origin, path).await?;
        let content = std::fs::read(path).map_err(|cause| PushFailure::Read {
            path: path.to_owned(),
            cause,
        })?;
        Ok((home, content.into()))
    }

    pub(super) async fn history(
        &self,
        path: &Path,
        timeline: TimelineId,
    ) -> Result<(), PushFailure> {
        let (home, content) = self.small_file(path).await?;
        TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content)).map_err(|cause| {
            PushFailure::History {
                name: TimelineHistory::file_name(timeline),
                cause,
            }
        })?;
        home.lineage.push_history(timeline, content).await?;
        Ok(())
    }

    /// The last segment of a timeline that was left is its last tail: what is valid of it, and never a segment.
    pub(super) async fn partial(&self, path: &Path, name: SegmentName) -> Result<(), PushFailure> {
        let _slot = self.slot().await;
        let segment = self.read(path, name).await?;
        let home = self.home(segment.origin, path).await?;
        let size = segment.size;
        let carry = carry_beside(path, name, size, &self.0.buffers);
        // It ends somewhere, and no damage can be told from that.
        let scan = segment.scan(carry.as_ref(), DamagedWal::Archive)?;
        let length = scan.valid_end.bytes_since(name.start(size));
        let length = usize::try_from(length).unwrap_or_default();
        let valid = segment.bytes.get(..length).unwrap_or(&segment.bytes);
        if valid.is_empty() {
            return Ok(());
        }
        let lineage = &home.lineage;
        match lineage.fetch_segment(name, size, scan.valid_end).await {
            Ok(archived) if archived.get(..length) == Some(valid) => Ok(()),
            Ok(archived) => Err(PushFailure::Push(PushError::Conflict {
                key: name.to_string(),
                ours: sha256(valid),
                theirs: sha256(archived.get(..length).unwrap_or(&archived)),
            })),
            Err(error) if error.wants_key() || matches!(error, ReadError::NotFound { .. }) => {
                // What cannot be read is compared by its hash.
                let records = Records {
                    last_record: scan.last_record_start,
                    last_commit: scan.last_commit,
                };
                let put = lineage.push_tail(name, 0, valid, PARTIAL, Some(records));
                Ok(put.await?)
            }
            Err(error) => Err(PushError::Compare(error).into()),
        }
    }
}
