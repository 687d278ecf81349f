//! Single snapshots.

use tonic::Status;

use super::ControllerService;
use crate::pool::Snapshot;
use crate::proto::csi;
use crate::proto::csi::list_snapshots_response::Entry;
use crate::validate;

impl ControllerService {
    pub(super) async fn create_a_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Result<csi::CreateSnapshotResponse, Status> {
        let planned = self.snapshots.planned(&request)?;
        let taken = self.snapshots.take(planned).await?;
        Ok(csi::CreateSnapshotResponse {
            snapshot: Some(self.snapshots.told(taken)?),
        })
    }

    /// A member of a group goes with its group alone.
    pub(super) async fn delete_a_snapshot(
        &self,
        request: csi::DeleteSnapshotRequest,
    ) -> Result<csi::DeleteSnapshotResponse, Status> {
        let id = validate::required(&request.snapshot_id, "snapshot_id")?;
        let group = self
            .pool
            .snapshots
            .get(id)
            .and_then(|snapshot| snapshot.group);
        if let Some(group) = group.filter(|group| self.pool.groups.get(group).is_some()) {
            return Err(Status::invalid_argument(format!(
                "snapshot {id} is in group {group}"
            )));
        }
        self.snapshots.delete(id).await?;
        Ok(csi::DeleteSnapshotResponse {})
    }

    pub(super) fn list_all_snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Result<csi::ListSnapshotsResponse, Status> {
        let wanted = |snapshot: &Snapshot| {
            (request.snapshot_id.is_empty() || request.snapshot_id == snapshot.id)
                && (request.source_volume_id.is_empty()
                    || request.source_volume_id == snapshot.volume)
        };
        let all = self.snapshots.all()?.into_iter().filter(wanted).collect();
        let (page, next_token) = validate::page(all, &request.starting_token, request.max_entries)?;
        let entry = |snapshot| {
            Ok(Entry {
                snapshot: Some(self.snapshots.told(snapshot)?),
            })
        };
        let entries = page.into_iter().map(entry).collect::<Result<_, Status>>()?;
        Ok(csi::ListSnapshotsResponse {
            entries,
            next_token,
        })
    }

    pub(super) fn get_a_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Result<csi::GetSnapshotResponse, Status> {
        let id = validate::required(&request.snapshot_id, "snapshot_id")?;
        let found = self.snapshots.known(id)?;
        let snapshot = found.ok_or_else(|| Status::not_found(format!("no snapshot {id}")))?;
        Ok(csi::GetSnapshotResponse {
            snapshot: Some(self.snapshots.told(snapshot)?),
        })
    }
}
