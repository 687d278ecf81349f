//! What must be there before a controller may start: the kinds that it watches, and the fields that it and its agents write.

mod fields;

use std::time::Duration;

use http::{Request, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use serde_json::Value;
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

/// Returns when every kind is served, with every field. What is missing is logged once, and listed by `/readyz`.
pub async fn kinds_served(client: &Client, health: &Health) {
    debug_assert_eq!(NEEDED[0].0, format!("{}/{}", api::GROUP, api::VERSION));
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let missing = match missing(client).await {
            None => lacking(client).await,
            kinds => kinds,
        };
        match missing {
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

/// Fields of this version that are not served.
async fn lacking(client: &Client) -> Option<String> {
    let document = Request::get(fields::OPENAPI).header(header::ACCEPT, "application/json");
    let document = match document.body(Vec::new()) {
        Ok(document) => document,
        Err(error) => return Some(format!("failed to ask for {}: {error}", fields::OPENAPI)),
    };
    match request(client.request::<Value>(document)).await {
        Ok(served) => fields::lacking(&api::crds::all(), &served),
        // Everybody may read it by default. Where that was taken away, an old CRD is told by what it costs.
        Err(error) if error.is_forbidden() => {
            tracing::warn!(error = %Chain(&error), "failed to read {}: whether the CRDs are of this version is not known", fields::OPENAPI);
            None
        }
        Err(error) => Some(format!(
            "failed to read {}: {}",
            fields::OPENAPI,
            Chain(&error)
        )),
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use kube::client::Body;

    use super::*;

    /// What is missing where the API server answers so.
    async fn lacks(code: u16, answer: Value) -> Option<String> {
        let server = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), fields::OPENAPI);
            let body = Body::from(answer.to_string().into_bytes());
            let response = Response::builder().status(code).body(body).unwrap();
            async { Ok::<_, std::convert::Infallible>(response) }
        });
        lacking(&Client::new(server, "default")).await
    }

    #[tokio::test]
    async fn a_controller_waits_for_the_crds_of_its_version() {
        let current = fields::tests::current();
        let status = "/status/properties";
        let older = fields::tests::without(current.clone(), "PgProtection", status, "turn");
        let why = lacks(200, older).await.unwrap();
        assert!(why.contains("lacks status.turn"), "{why}");
        assert_eq!(lacks(200, current).await, None);
        let refusal = |code: u16| serde_json::json!({"kind": "Status", "status": "Failure", "message": "no", "code": code});
        let why = lacks(503, refusal(503)).await.unwrap();
        assert!(why.starts_with("failed to read"), "{why}");
        assert_eq!(lacks(403, refusal(403)).await, None, "it cannot be known");
    }
}
