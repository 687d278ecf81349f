//! Snapshots. A cut that has begun goes on when the caller gives up: on a retry it is found by its
//! name, as with drivers that ask a storage array.

use tonic::Status;

use super::{ControllerService, internal};
use crate::clock;
use crate::pool::{self, Claim, Snapshot, Volume};
use crate::proto::csi;
use crate::proto::csi::list_snapshots_response::Entry;
use crate::validate;

const NANOS: i64 = 1_000_000_000;

impl ControllerService {
    pub(super) async fn create_a_snapshot(
        &self,
        request: csi::CreateSnapshotRequest,
    ) -> Result<csi::CreateSnapshotResponse, Status> {
        let name = validate::required(&request.name, "name")?;
        let source = validate::required(&request.source_volume_id, "source_volume_id")?;
        let claim = self.pool.claim("snapshot name", name)?;
        if let Some(snapshot) = self.pool.snapshots.by_name(name) {
            if snapshot.volume != source {
                return Err(Status::already_exists(format!(
                    "snapshot {name} exists, of volume {}",
                    snapshot.volume
                )));
            }
            return Ok(csi::CreateSnapshotResponse {
                snapshot: Some(described(snapshot)),
            });
        }
        let snapshot = planned(&request, self.known(source)?)?;
        let service = self.clone();
        let work = tokio::spawn(async move { service.cut(snapshot, claim).await });
        let snapshot = work
            .await
            .map_err(|e| Status::internal(format!("failed to cut a snapshot: {e}")))??;
        Ok(csi::CreateSnapshotResponse {
            snapshot: Some(described(snapshot)),
        })
    }

    async fn cut(&self, mut snapshot: Snapshot, _claim: Claim) -> Result<Snapshot, Status> {
        self.pool
            .cut(&snapshot.volume, &snapshot.id)
            .await
            .map_err(internal)?;
        snapshot.created_ns = clock::now_ns();
        self.pool
            .snapshots
            .put(snapshot.clone())
            .map_err(internal)?;
        let Snapshot {
            id, name, volume, ..
        } = &snapshot;
        tracing::info!(id, name, volume, "snapshot cut");
        Ok(snapshot)
    }

    pub(super) async fn delete_a_snapshot(
        &self,
        request: csi::DeleteSnapshotRequest,
    ) -> Result<csi::DeleteSnapshotResponse, Status> {
        let id = validate::required(&request.snapshot_id, "snapshot_id")?;
        let _claim = self.pool.claim("snapshot", id)?;
        if self.pool.snapshots.get(id).is_some() {
            self.pool.delete_snapshot(id).await.map_err(internal)?;
            tracing::info!(id, "snapshot deleted");
        }
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
        let all: Vec<_> = self
            .pool
            .snapshots
            .all()
            .into_iter()
            .filter(wanted)
            .collect();
        let (page, next_token) = validate::page(all, &request.starting_token, request.max_entries)?;
        let entry = |snapshot| Entry {
            snapshot: Some(described(snapshot)),
        };
        Ok(csi::ListSnapshotsResponse {
            entries: page.into_iter().map(entry).collect(),
            next_token,
        })
    }

    pub(super) fn get_a_snapshot(
        &self,
        request: csi::GetSnapshotRequest,
    ) -> Result<csi::GetSnapshotResponse, Status> {
        let id = validate::required(&request.snapshot_id, "snapshot_id")?;
        match self.pool.snapshots.get(id) {
            Some(snapshot) => Ok(csi::GetSnapshotResponse {
                snapshot: Some(described(snapshot)),
            }),
            None => Err(Status::not_found(format!("no snapshot {id}"))),
        }
    }
}

/// The record of a snapshot that is still to be cut.
fn planned(request: &csi::CreateSnapshotRequest, volume: Volume) -> Result<Snapshot, Status> {
    Ok(Snapshot {
        id: pool::new_id("snap")?,
        name: request.name.clone(),
        volume: volume.id,
        capacity: volume.capacity,
        created_ns: 0,
        group: None,
        labels: validate::labels(&request.parameters),
    })
}

/// The snapshot as CSI describes it.
fn described(snapshot: Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: snapshot.capacity,
        snapshot_id: snapshot.id,
        source_volume_id: snapshot.volume,
        creation_time: Some(prost_types::Timestamp {
            seconds: snapshot.created_ns.div_euclid(NANOS),
            nanos: i32::try_from(snapshot.created_ns.rem_euclid(NANOS)).unwrap_or_default(),
        }),
        ready_to_use: true,
        group_snapshot_id: snapshot.group.unwrap_or_default(),
    }
}
