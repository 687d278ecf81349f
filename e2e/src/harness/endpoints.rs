//! Watches who a Service sends its clients to.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Kubectl, watching::Watching};

/// Notes every pod behind a Service, from now until it is asked.
pub struct EndpointWatch(Watching);

impl EndpointWatch {
    /// Begins, and waits for the slices that are there.
    ///
    /// # Errors
    /// kubectl cannot run, or the Service has no endpoint.
    pub async fn start(kubectl: &Kubectl, namespace: &str, service: &str) -> Result<Self> {
        let selector = format!("kubernetes.io/service-name={service}");
        let what = ["endpointslices", "-l", &selector];
        let mut watching = Watching::start(kubectl, namespace, &what)?;
        let limit = Duration::from_secs(30);
        watching
            .wait("an endpoint", limit, |slice| pods(slice).next().is_some())
            .await?;
        Ok(Self(watching))
    }

    /// Ends it.
    ///
    /// # Errors
    /// Another pod than `only` was seen, or the watch broke off.
    pub fn only(mut self, only: &str) -> Result<()> {
        let slices = self.0.events()?;
        let mut others: Vec<&str> = slices.iter().flat_map(pods).collect();
        others.retain(|pod| *pod != only);
        others.dedup();
        ensure!(
            others.is_empty(),
            "the Service sent clients to {others:?} beside {only}"
        );
        Ok(())
    }
}

fn pods(slice: &Value) -> impl Iterator<Item = &str> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str())
}
