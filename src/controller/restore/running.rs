//! What a restore's pods say of themselves. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use super::{pod, references};

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In Kubernetes' words.
    pub said: String,
    /// It is a Secret or ConfigMap that is not there.
    pub is_missing: bool,
}

/// As Kubernetes names it.
pub fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    init.into_iter().chain(main).flatten()
}

/// Whether PostgreSQL cannot run in the pod any more.
pub fn has_ended(pod: &Pod) -> bool {
    let ended = statuses(pod).any(|status| {
        status.name == pod::CONTAINER
            && status
                .state
                .as_ref()
                .and_then(|state| state.terminated.as_ref())
                .is_some_and(|terminated| terminated.exit_code == 0)
    });
    ended || matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// Whether it answers.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What keeps the pod from running. `failed_mounts`: what the kubelet says of the volumes of the pod that waits for them.
pub fn trouble(pod: &Pod, failed_mounts: &[String]) -> Option<Trouble> {
    let waiting = statuses(pod).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let usual = matches!(reason, "PodInitializing" | "ContainerCreating");
        (!usual).then(|| {
            format!(
                "container {} of pod {}: {reason} {}",
                status.name,
                pod.name_any(),
                waiting.message.as_deref().unwrap_or_default()
            )
        })
    });
    let said = waiting
        .or_else(|| unscheduled(pod))
        .or_else(|| unmounted(pod, failed_mounts))?;
    let is_missing = references::is_missing(&said);
    Some(Trouble { said, is_missing })
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let unscheduled = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(format!(
        "pod {} is not scheduled: {}",
        pod.name_any(),
        unscheduled.message.as_deref().unwrap_or_default()
    ))
}

/// What is missing before what only follows from it, as `timed out waiting for the condition`.
fn unmounted(pod: &Pod, failed_mounts: &[String]) -> Option<String> {
    let mut missing = failed_mounts.iter().filter(|it| references::is_missing(it));
    let said = missing.next_back().or(failed_mounts.last())?;
    Some(format!("pod {}: {said}", pod.name_any()))
}
