//! Why a pod does not start, in its own words. Pure.

use k8s_openapi::api::core::v1::Pod;

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

/// Whether the kubelet may be waiting for a volume: it says that in events only.
pub fn may_wait_for_a_mount(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| {
        status.phase.as_deref() == Some("Pending")
            && status.container_statuses.iter().flatten().any(|container| {
                container
                    .state
                    .as_ref()
                    .and_then(|state| state.waiting.as_ref())
                    .is_some_and(|waiting| waiting.reason.as_deref() == Some("ContainerCreating"))
            })
    })
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
        let unscheduled = serde_json::json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"},
        ]});
        assert_eq!(
            of_pod(&pod(unscheduled)).as_deref(),
            Some("0/1 nodes are available")
        );
    }
}
