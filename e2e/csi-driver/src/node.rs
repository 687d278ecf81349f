//! The Node service: bind mounts of subvolumes, first to the staging path, from there into pods.

use std::path::Path;
use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use crate::mount;
use crate::pool::{Pool, internal};
use crate::proto::csi;
use crate::proto::csi::node_server::Node;
use crate::proto::csi::node_service_capability::{Rpc, Type, rpc};
use crate::proto::csi::volume_usage::Unit;
use crate::validate;

/// Mounts volumes on this node.
pub struct NodeService {
    /// Where the volumes are.
    pub pool: Arc<Pool>,
    /// The node's name in CSI.
    pub node_id: String,
}

impl NodeService {
    async fn bind(
        &self,
        id: &str,
        source: &Path,
        target: &str,
        read_only: bool,
    ) -> Result<(), Status> {
        let _claim = self.pool.claim("mount", target)?;
        self.pool.known_volume(id)?;
        mount::bind(source, Path::new(target), read_only)
            .await
            .map_err(internal)
    }

    async fn unbind(&self, target: &str) -> Result<(), Status> {
        let _claim = self.pool.claim("mount", target)?;
        mount::unbind(Path::new(target)).await.map_err(internal)
    }
}

#[async_trait]
impl Node for NodeService {
    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let node_id = self.node_id.clone();
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id,
            ..Default::default()
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let all = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::GetVolumeStats,
            rpc::Type::ExpandVolume,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capability = |kind: rpc::Type| csi::NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        };
        let capabilities = all.into_iter().map(capability).collect();
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {
            capabilities,
        }))
    }

    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = validate::required(&request.volume_id, "volume_id")?;
        let target = validate::required(&request.staging_target_path, "staging_target_path")?;
        validate::capability(request.volume_capability.as_ref())?;
        self.bind(id, &self.pool.volume_path(id), target, false)
            .await?;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        validate::required(&request.volume_id, "volume_id")?;
        let target = validate::required(&request.staging_target_path, "staging_target_path")?;
        self.unbind(target).await?;
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = validate::required(&request.volume_id, "volume_id")?;
        let target = validate::required(&request.target_path, "target_path")?;
        let staged = validate::required(&request.staging_target_path, "staging_target_path")?;
        validate::capability(request.volume_capability.as_ref())?;
        if !mount::is_mounted(Path::new(staged)).map_err(internal)? {
            self.pool.known_volume(id)?;
            return Err(Status::failed_precondition(format!(
                "volume {id} is not staged"
            )));
        }
        self.bind(id, Path::new(staged), target, request.readonly)
            .await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        validate::required(&request.volume_id, "volume_id")?;
        let target = validate::required(&request.target_path, "target_path")?;
        self.unbind(target).await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    /// The figures are the pool's, shared by all volumes.
    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let id = validate::required(&request.volume_id, "volume_id")?;
        let path = validate::required(&request.volume_path, "volume_path")?;
        self.pool.known_volume(id)?;
        if !mount::is_mounted(Path::new(path)).map_err(internal)? {
            return Err(Status::not_found(format!("volume {id} is not at {path}")));
        }
        let usage = usage(Path::new(path)).map_err(internal)?;
        Ok(Response::new(csi::NodeGetVolumeStatsResponse {
            usage,
            volume_condition: None,
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = validate::required(&request.volume_id, "volume_id")?;
        validate::required(&request.volume_path, "volume_path")?;
        let capacity_bytes = self.pool.known_volume(id)?.capacity;
        Ok(Response::new(csi::NodeExpandVolumeResponse {
            capacity_bytes,
        }))
    }
}

fn usage(path: &Path) -> anyhow::Result<Vec<csi::VolumeUsage>> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize));
    let mut all = vec![csi::VolumeUsage {
        available: bytes(found.f_bavail)?,
        total: bytes(found.f_blocks)?,
        used: bytes(found.f_blocks.saturating_sub(found.f_bfree))?,
        unit: Unit::Bytes.into(),
    }];
    // btrfs makes inodes as it needs them and reports none.
    if found.f_files > 0 {
        all.push(csi::VolumeUsage {
            available: i64::try_from(found.f_favail)?,
            total: i64::try_from(found.f_files)?,
            used: i64::try_from(found.f_files.saturating_sub(found.f_ffree))?,
            unit: Unit::Inodes.into(),
        });
    }
    Ok(all)
}
