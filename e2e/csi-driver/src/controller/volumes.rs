//! Volumes: new, from a snapshot, from a volume.

use tonic::Status;

use super::ControllerService;
use crate::pool::{self, Source, Volume, internal};
use crate::proto::csi;
use crate::proto::csi::validate_volume_capabilities_response::Confirmed;
use crate::proto::csi::volume_content_source::{self, SnapshotSource, VolumeSource};
use crate::proto::csi::{controller_get_volume_response, list_volumes_response};
use crate::validate;

impl ControllerService {
    pub(super) async fn create_a_volume(
        &self,
        request: csi::CreateVolumeRequest,
    ) -> Result<csi::CreateVolumeResponse, Status> {
        let name = validate::required(&request.name, "name")?;
        validate::capabilities(&request.volume_capabilities)?;
        if !request.mutable_parameters.is_empty() {
            return Err(Status::invalid_argument(
                "volumes have no mutable parameters",
            ));
        }
        let _claim = self.pool.claim("volume name", name)?;
        let source = source_of(request.volume_content_source)?;
        if let Some(volume) = self.pool.volumes.by_name(name) {
            let range = request.capacity_range.unwrap_or_default();
            if volume.source != source || !validate::fits(volume.capacity, &range) {
                return Err(Status::already_exists(format!(
                    "volume {name} exists with another capacity or source"
                )));
            }
            return Ok(csi::CreateVolumeResponse {
                volume: Some(described(volume)),
            });
        }
        let content = self.content(source.as_ref())?;
        let volume = Volume {
            id: pool::new_id("vol")?,
            name: name.to_owned(),
            capacity: validate::new_capacity(request.capacity_range.as_ref(), content)?,
            source,
            labels: validate::labels(&request.parameters),
        };
        self.pool
            .create_volume(volume.clone())
            .await
            .map_err(internal)?;
        tracing::info!(id = volume.id, name, source = ?volume.source, "volume created");
        Ok(csi::CreateVolumeResponse {
            volume: Some(described(volume)),
        })
    }

    /// The size of what the volume is to be filled with.
    fn content(&self, source: Option<&Source>) -> Result<i64, Status> {
        match source {
            None => Ok(0),
            Some(Source::Snapshot(id)) => {
                let found = self.snapshots.known(id)?;
                let snapshot =
                    found.ok_or_else(|| Status::not_found(format!("no snapshot {id}")))?;
                let capacity = snapshot.capacity;
                if !self.snapshots.told(snapshot)?.ready_to_use {
                    let text = format!("snapshot {id} is not ready");
                    return Err(Status::failed_precondition(text));
                }
                Ok(capacity)
            }
            Some(Source::Volume(id)) => Ok(self.pool.known_volume(id)?.capacity),
        }
    }

    pub(super) async fn delete_a_volume(
        &self,
        request: csi::DeleteVolumeRequest,
    ) -> Result<csi::DeleteVolumeResponse, Status> {
        let id = validate::required(&request.volume_id, "volume_id")?;
        let _claim = self.pool.claim("volume", id)?;
        if self.pool.volumes.get(id).is_some() {
            if self.pool.in_use(id).map_err(internal)? {
                return Err(Status::failed_precondition(format!(
                    "volume {id} is in use"
                )));
            }
            self.pool.delete_volume(id).await.map_err(internal)?;
            tracing::info!(id, "volume deleted");
        }
        Ok(csi::DeleteVolumeResponse {})
    }

    pub(super) fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, Status> {
        let id = validate::required(&request.volume_id, "volume_id")?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume capabilities are missing"));
        }
        self.pool.known_volume(id)?;
        if let Err(reason) = validate::capabilities(&request.volume_capabilities) {
            let message = reason.message().to_owned();
            return Ok(csi::ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message,
            });
        }
        let confirmed = Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        };
        Ok(csi::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(confirmed),
            message: String::new(),
        })
    }

    pub(super) fn list_all_volumes(
        &self,
        request: csi::ListVolumesRequest,
    ) -> Result<csi::ListVolumesResponse, Status> {
        let all = self.pool.volumes.all();
        let (page, next_token) = validate::page(all, &request.starting_token, request.max_entries)?;
        let entry = |volume| list_volumes_response::Entry {
            volume: Some(described(volume)),
            status: None,
        };
        Ok(csi::ListVolumesResponse {
            entries: page.into_iter().map(entry).collect(),
            next_token,
        })
    }

    pub(super) fn get_a_volume(
        &self,
        request: csi::ControllerGetVolumeRequest,
    ) -> Result<csi::ControllerGetVolumeResponse, Status> {
        let id = validate::required(&request.volume_id, "volume_id")?;
        let volume = described(self.pool.known_volume(id)?);
        let status = controller_get_volume_response::VolumeStatus::default();
        Ok(csi::ControllerGetVolumeResponse {
            volume: Some(volume),
            status: Some(status),
        })
    }

    pub(super) fn expand(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Result<csi::ControllerExpandVolumeResponse, Status> {
        let id = validate::required(&request.volume_id, "volume_id")?;
        let Some(range) = request.capacity_range else {
            return Err(Status::invalid_argument("capacity_range is missing"));
        };
        if request.volume_capability.is_some() {
            validate::capability(request.volume_capability.as_ref())?;
        }
        let _claim = self.pool.claim("volume", id)?;
        let mut volume = self.pool.known_volume(id)?;
        let capacity = volume.capacity.max(range.required_bytes);
        if !validate::fits(capacity, &range) {
            return Err(Status::out_of_range(format!(
                "volume {id} is {capacity} bytes already"
            )));
        }
        if capacity > volume.capacity {
            volume.capacity = capacity;
            self.pool.volumes.put(volume).map_err(internal)?;
        }
        Ok(csi::ControllerExpandVolumeResponse {
            capacity_bytes: capacity,
            node_expansion_required: false,
        })
    }
}

/// What the request wants the volume to be filled from.
fn source_of(source: Option<csi::VolumeContentSource>) -> Result<Option<Source>, Status> {
    let Some(source) = source else {
        return Ok(None);
    };
    match source.r#type {
        Some(volume_content_source::Type::Snapshot(SnapshotSource { snapshot_id })) => {
            validate::required(&snapshot_id, "snapshot_id")?;
            Ok(Some(Source::Snapshot(snapshot_id)))
        }
        Some(volume_content_source::Type::Volume(VolumeSource { volume_id })) => {
            validate::required(&volume_id, "volume_id")?;
            Ok(Some(Source::Volume(volume_id)))
        }
        None => Err(Status::invalid_argument(
            "volume content source has no type",
        )),
    }
}

/// The volume as CSI describes it.
fn described(volume: Volume) -> csi::Volume {
    let source = volume.source.map(|source| match source {
        Source::Snapshot(snapshot_id) => {
            volume_content_source::Type::Snapshot(SnapshotSource { snapshot_id })
        }
        Source::Volume(volume_id) => {
            volume_content_source::Type::Volume(VolumeSource { volume_id })
        }
    });
    csi::Volume {
        capacity_bytes: volume.capacity,
        volume_id: volume.id,
        content_source: source.map(|kind| csi::VolumeContentSource { r#type: Some(kind) }),
        ..Default::default()
    }
}
