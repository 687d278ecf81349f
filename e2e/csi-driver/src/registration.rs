//! Kubelet's plugin registration v1.

use tonic::{Request, Response, Status, async_trait};

use crate::proto::registration::registration_server::Registration;
use crate::proto::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// Tells kubelet where the driver listens.
pub struct RegistrationService {
    /// The driver's name.
    pub driver_name: String,
    /// The driver's socket, as kubelet sees it.
    pub endpoint: String,
}

#[async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.driver_name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with kubelet");
        } else {
            tracing::error!(error = status.error, "failed to register with kubelet");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
