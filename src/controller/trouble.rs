//! Why a pod does not start, in its own words.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Client, api::ListParams};

use crate::kubernetes::{RequestError, request};

/// Waiting for these is waiting for an admin.
const STUCK: [&str; 8] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// What keeps this pod from running, if the pod says so.
pub fn of_pod(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .map(|condition| {
            condition
                .message
                .clone()
                .unwrap_or_else(|| "it cannot be scheduled".to_owned())
        });
    let waiting = || {
        let waiting = status
            .container_statuses
            .iter()
            .flatten()
            .filter_map(|container| container.state.as_ref()?.waiting.as_ref())
            .find(|waiting| {
                waiting
                    .reason
                    .as_deref()
                    .is_some_and(|reason| STUCK.contains(&reason))
            })?;
        let reason = waiting.reason.clone().unwrap_or_default();
        Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        })
    };
    unscheduled.or_else(waiting)
}

/// Whether the kubelet may be waiting for a volume: it says that in events only. No container has begun then.
pub fn may_wait_for_a_mount(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| {
        let init = status.init_container_statuses.iter().flatten();
        let mut all = init
            .chain(status.container_statuses.iter().flatten())
            .peekable();
        status.phase.as_deref() == Some("Pending")
            && all.peek().is_some()
            && all.all(|container| {
                let state = container.state.as_ref();
                let waiting = state.and_then(|state| state.waiting.as_ref());
                let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
                matches!(reason, Some("ContainerCreating" | "PodInitializing"))
            })
    })
}

/// What the kubelet says of the pod's volumes, oldest first.
///
/// # Errors
/// As any request.
pub async fn failed_mounts(
    client: &Client,
    namespace: &str,
    pod: &str,
) -> Result<Vec<String>, RequestError> {
    let fields = format!("involvedObject.name={pod},reason=FailedMount");
    let params = ListParams::default().fields(&fields);
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let mut events = request(events.list(&params)).await?.items;
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    let messages = events.into_iter().filter_map(|event| event.message);
    Ok(messages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {}, "status": status})).unwrap()
    }

    fn waiting(reason: &str) -> serde_json::Value {
        serde_json::json!({"phase": "Pending", "containerStatuses": [{
            "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": "why"}},
        }]})
    }

    #[test]
    fn what_an_admin_must_do_something_about() {
        assert_eq!(
            of_pod(&pod(waiting("ImagePullBackOff"))).as_deref(),
            Some("ImagePullBackOff: why")
        );
        assert_eq!(of_pod(&pod(waiting("ContainerCreating"))), None);
        assert!(may_wait_for_a_mount(&pod(waiting("ContainerCreating"))));
        let mut init = waiting("PodInitializing");
        let state = |state| serde_json::json!([{"name": "i", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        init["initContainerStatuses"] =
            state(serde_json::json!({"waiting": {"reason": "PodInitializing"}}));
        assert!(may_wait_for_a_mount(&pod(init.clone())));
        init["initContainerStatuses"] = state(serde_json::json!({"running": {}}));
        assert!(!may_wait_for_a_mount(&pod(init)));
        let unscheduled = serde_json::json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"},
        ]});
        assert_eq!(
            of_pod(&pod(unscheduled)).as_deref(),
            Some("0/1 nodes are available")
        );
    }
}
