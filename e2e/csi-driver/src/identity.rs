//! The Identity service.

use tonic::{Request, Response, Status, async_trait};

use crate::proto::csi::identity_server::Identity;
use crate::proto::csi::plugin_capability::{self, Service, VolumeExpansion};
use crate::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};

/// Says who the driver is and which services it has.
pub struct IdentityService {
    /// The driver's name, as CSIDriver, StorageClass and VolumeSnapshotClass give it.
    pub driver_name: String,
    /// Are group snapshots offered?
    pub offer_groups: bool,
}

#[async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: plugin_capability::service::Type| {
            plugin_capability::Type::Service(Service {
                r#type: kind.into(),
            })
        };
        let online = plugin_capability::volume_expansion::Type::Online;
        let mut all = vec![
            service(plugin_capability::service::Type::ControllerService),
            plugin_capability::Type::VolumeExpansion(VolumeExpansion {
                r#type: online.into(),
            }),
        ];
        if self.offer_groups {
            all.push(service(
                plugin_capability::service::Type::GroupControllerService,
            ));
        }
        let capabilities = all
            .into_iter()
            .map(|one| PluginCapability { r#type: Some(one) })
            .collect();
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities,
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
