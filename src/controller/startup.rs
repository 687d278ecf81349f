//! What must be there before a controller may start: the kinds that it watches.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use tokio::time::{MissedTickBehavior, interval};

use super::{context::Chain, server::Health};
use crate::{api, kubernetes::request};

/// How often the API server is asked again.
const PERIOD: Duration = Duration::from_secs(5);
const PENDING: &str = "kinds";

/// Group and version, kinds, and what an admin does about one that is missing.
const NEEDED: [(&str, &[&str], &str); 2] = [
    (
        "highwater.dev/v1alpha1",
        &[
            "PgArchive",
            "PgBackupPolicy",
            "PgProtection",
            "PgBackup",
            "PgRestore",
        ],
        "apply Highwater's CRDs",
    ),
    (
        "snapshot.storage.k8s.io/v1",
        &[
            "VolumeSnapshot",
            "VolumeSnapshotContent",
            "VolumeSnapshotClass",
        ],
        "install the external-snapshotter's CRDs and its snapshot controller",
    ),
];

/// Returns when every kind is served. What is missing is logged once, and listed by `/readyz`.
pub async fn kinds_served(client: &Client, health: &Health) {
    debug_assert_eq!(NEEDED[0].0, format!("{}/{}", api::GROUP, api::VERSION));
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match missing(client).await {
            None => {
                health.ready(PENDING);
                return;
            }
            Some(why) => {
                if health.pending(PENDING, why.clone()) {
                    tracing::error!("waiting: {why}");
                }
            }
        }
    }
}

async fn missing(client: &Client) -> Option<String> {
    for (group_version, kinds, remedy) in NEEDED {
        let served = match request(client.list_api_group_resources(group_version)).await {
            Ok(list) => list,
            Err(error) if error.is_not_found() => APIResourceList::default(),
            Err(error) => {
                return Some(format!(
                    "failed to list the kinds of {group_version}: {}",
                    Chain(&error)
                ));
            }
        };
        let absent: Vec<&str> = kinds
            .iter()
            .copied()
            .filter(|kind| !served.resources.iter().any(|r| r.kind == *kind))
            .collect();
        if !absent.is_empty() {
            return Some(format!(
                "the cluster does not have the kinds {} of {group_version}: {remedy}",
                absent.join(", ")
            ));
        }
    }
    None
}
