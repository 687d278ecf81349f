//! The GroupController service.
//!
//! A group is not atomic: its members are cut one after the other, each of them atomic. (One moment
//! for all would need them to be folders of one subvolume.)

use tonic::{Request, Response, Status, async_trait};

use crate::pool::{self, Group, Snapshot, internal};
use crate::proto::csi;
use crate::proto::csi::group_controller_server::GroupController;
use crate::proto::csi::group_controller_service_capability::{Rpc, Type, rpc};
use crate::snapshots::{Snapshots, timestamp};
use crate::validate;

/// Takes and deletes snapshots of several volumes.
#[derive(Clone)]
pub struct GroupService {
    /// The single snapshots.
    pub snapshots: Snapshots,
}

impl GroupService {
    async fn create(
        self,
        request: csi::CreateVolumeGroupSnapshotRequest,
    ) -> Result<csi::VolumeGroupSnapshot, Status> {
        let pool = &self.snapshots.pool;
        let name = validate::required(&request.name, "name")?;
        let mut volumes = request.source_volume_ids.clone();
        volumes.sort();
        volumes.dedup();
        if volumes.is_empty() {
            return Err(Status::invalid_argument("source_volume_ids are missing"));
        }
        let _claim = pool.claim("group name", name)?;
        if let Some(group) = pool.groups.by_name(name) {
            if group.volumes != volumes {
                return Err(Status::already_exists(format!(
                    "group snapshot {name} exists, of other volumes"
                )));
            }
            return self.told(&group);
        }
        let id = pool::new_id("group")?;
        let members = match self.take_all(&id, &request, &volumes).await {
            Ok(members) => members,
            Err(error) => {
                self.remove_members(&id).await?;
                return Err(error);
            }
        };
        let snapshots = members.into_iter().map(|member| member.id).collect();
        let group = Group {
            id,
            name: name.to_owned(),
            snapshots,
            volumes,
        };
        pool.groups.put(group.clone()).map_err(internal)?;
        self.told(&group)
    }

    async fn take_all(
        &self,
        id: &str,
        request: &csi::CreateVolumeGroupSnapshotRequest,
        volumes: &[String],
    ) -> Result<Vec<Snapshot>, Status> {
        let plan = |volume: &String| {
            let mut planned = self.snapshots.planned(&csi::CreateSnapshotRequest {
                name: format!("{}/{volume}", request.name),
                source_volume_id: volume.clone(),
                parameters: request.parameters.clone(),
                ..Default::default()
            })?;
            planned.group = Some(id.to_owned());
            Ok(planned)
        };
        // All volumes must exist before the first cut.
        let planned: Vec<Snapshot> = volumes.iter().map(plan).collect::<Result<_, Status>>()?;
        let mut taken = Vec::new();
        for member in planned {
            taken.push(self.snapshots.take(member).await?);
        }
        Ok(taken)
    }

    async fn remove_members(&self, group: &str) -> Result<(), Status> {
        for member in self.snapshots.pool.snapshots.all() {
            if member.group.as_deref() == Some(group) {
                self.snapshots.delete(&member.id).await?;
            }
        }
        Ok(())
    }

    /// The group with this id; the caller must know its members if it names any.
    fn known(&self, id: &str, members: &[String]) -> Result<Option<Group>, Status> {
        let id = validate::required(id, "group_snapshot_id")?;
        let Some(group) = self.snapshots.pool.groups.get(id) else {
            return Ok(None);
        };
        let same = members.len() == group.snapshots.len()
            && members
                .iter()
                .all(|member| group.snapshots.contains(member));
        if !members.is_empty() && !same {
            return Err(Status::invalid_argument(format!(
                "group {id} has other members"
            )));
        }
        Ok(Some(group))
    }

    fn told(&self, group: &Group) -> Result<csi::VolumeGroupSnapshot, Status> {
        let mut members = Vec::new();
        let mut created_ns = 0;
        for id in &group.snapshots {
            let found = self.snapshots.known(id)?;
            let member = found.ok_or_else(|| Status::not_found(format!("no snapshot {id}")))?;
            created_ns = member.created_ns.max(created_ns);
            members.push(self.snapshots.told(member)?);
        }
        Ok(csi::VolumeGroupSnapshot {
            group_snapshot_id: group.id.clone(),
            ready_to_use: members.iter().all(|member| member.ready_to_use),
            snapshots: members,
            creation_time: Some(timestamp(created_ns)),
        })
    }
}

#[async_trait]
impl GroupController for GroupService {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::GroupControllerGetCapabilitiesResponse>, Status> {
        let kind = rpc::Type::CreateDeleteGetVolumeGroupSnapshot.into();
        let capability = csi::GroupControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind })),
        };
        let capabilities = vec![capability];
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse {
            capabilities,
        }))
    }

    /// Goes on when the caller gives up, as a single snapshot does.
    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::CreateVolumeGroupSnapshotResponse>, Status> {
        let work = tokio::spawn(self.clone().create(request.into_inner()));
        let group = work
            .await
            .map_err(|e| Status::internal(format!("failed to take a group snapshot: {e}")))??;
        let group_snapshot = Some(group);
        Ok(Response::new(csi::CreateVolumeGroupSnapshotResponse {
            group_snapshot,
        }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::DeleteVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        if let Some(group) = self.known(&request.group_snapshot_id, &request.snapshot_ids)? {
            let _claim = self.snapshots.pool.claim("group name", &group.name)?;
            self.remove_members(&group.id).await?;
            self.snapshots
                .pool
                .groups
                .remove(&group.id)
                .map_err(internal)?;
            tracing::info!(id = group.id, "group snapshot deleted");
        }
        Ok(Response::new(csi::DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<csi::GetVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = &request.group_snapshot_id;
        let found = self.known(id, &request.snapshot_ids)?;
        let group = found.ok_or_else(|| Status::not_found(format!("no group snapshot {id}")))?;
        let group_snapshot = Some(self.told(&group)?);
        Ok(Response::new(csi::GetVolumeGroupSnapshotResponse {
            group_snapshot,
        }))
    }
}
