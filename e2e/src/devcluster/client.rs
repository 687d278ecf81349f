//! A client of the cluster's API.

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::Cluster;

impl Cluster {
    /// A client with the administrator's rights. Works only inside the cluster's network (`devcluster enter -- …`).
    ///
    /// # Errors
    /// The cluster does not run.
    pub async fn client(&self) -> Result<Client> {
        // A second installation is refused, and the first one stays.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(self.names.kubeconfig())
            .context("failed to read the kubeconfig: is the cluster up?")?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Client::try_from(config).context("failed to make a client from the kubeconfig")
    }
}
