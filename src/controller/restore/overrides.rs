//! What of the source's pods `into` has otherwise. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Rejection, claims::number};
use crate::api::{IntoResources, IntoScheduling, RestoreInto, VerifyProgram};

/// What PostgreSQL's container asks for instead.
pub fn resources(into: &RestoreInto) -> Option<ResourceRequirements> {
    into.resources.as_ref().map(given)
}

/// As a container has it.
pub fn given(resources: &IntoResources) -> ResourceRequirements {
    let IntoResources { requests, limits } = resources;
    let given = |map: &BTreeMap<String, Quantity>| (!map.is_empty()).then(|| map.clone());
    ResourceRequirements {
        // Devices that the pod would have to name: no override does.
        claims: None,
        limits: given(limits),
        requests: given(requests),
    }
}

/// Where the pod runs instead.
pub fn schedule(pod: &mut PodSpec, into: &RestoreInto) {
    let Some(scheduling) = &into.scheduling else {
        return;
    };
    let IntoScheduling {
        node_selector,
        tolerations,
        affinity,
        priority_class_name,
    } = scheduling;
    if let Some(selector) = node_selector {
        pod.node_selector = Some(selector.clone());
    }
    if let Some(tolerations) = tolerations {
        pod.tolerations = Some(tolerations.clone());
    }
    if let Some(affinity) = affinity {
        pod.affinity = Some(affinity.clone());
    }
    if let Some(class) = priority_class_name {
        pod.priority_class_name = (!class.is_empty()).then(|| class.clone());
        // These follow from the class, and another one's are refused.
        (pod.priority, pod.preemption_policy) = (None, None);
    }
    // The source's word on where it is, which would stand against any other.
    (pod.node_name, pod.topology_spread_constraints) = (None, None);
}

/// What the API server would refuse only when the claims are made already.
pub fn refuse(into: &RestoreInto) -> Option<Rejection> {
    let resources = into.resources.as_ref();
    let refused = resources.and_then(|it| refuse_resources("into", it));
    refused.or_else(|| refuse_labels(into))
}

/// The same of a drill's program.
pub fn refuse_program(program: &VerifyProgram) -> Option<Rejection> {
    let resources = program.resources.as_ref()?;
    refuse_resources("verify.program", resources)
}

/// `of`: the field that they are of.
fn refuse_resources(of: &str, resources: &IntoResources) -> Option<Rejection> {
    let IntoResources { requests, limits } = resources;
    let rejected = |message| Some(Rejection::new("InvalidResources", message));
    let named = |field, map| BTreeMap::iter(map).map(move |entry| (field, entry));
    let unknown = named("requests", requests)
        .chain(named("limits", limits))
        .find(|(_, (_, quantity))| number(quantity).is_none());
    if let Some((field, (name, quantity))) = unknown {
        return rejected(format!(
            "{of}.resources.{field}.{name} {:?} is no quantity: write it as in 500m or 2Gi",
            quantity.0
        ));
    }
    let above = requests.iter().find_map(|(name, request)| {
        let limit = limits.get(name)?;
        (number(request)? > number(limit)?).then_some((name, request, limit))
    });
    let (name, request, limit) = above?;
    rejected(format!(
        "{of}.resources.requests.{name} is {}, and its limit is {}: ask for less, or raise the limit",
        request.0, limit.0
    ))
}

fn refuse_labels(into: &RestoreInto) -> Option<Rejection> {
    let wrong = into.labels.keys().find(|key| !is_label_key(key))?;
    Some(Rejection::new(
        "InvalidLabel",
        format!(
            "into.labels has {wrong:?}, which is no label: at most 63 characters, beginning and ending with a letter or digit and with A-Z, a-z, 0-9, -, _ and . between, after a DNS name and / if there is a prefix, as in example.com/team"
        ),
    ))
}

/// `name` or `prefix/name` (Kubernetes documentation, "Labels and Selectors").
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_prefix = |prefix: &str| {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        prefix.len() <= 253 && prefix.split('.').all(|part| is_word(part, lower, "-"))
    };
    let any = |c: char| c.is_ascii_alphanumeric();
    name.len() <= 63 && is_word(name, any, "-_.") && prefix.is_none_or(is_prefix)
}

/// Begins and ends with an `outer` character, and has these or one of `inner` between.
fn is_word(text: &str, outer: impl Fn(char) -> bool, inner: &str) -> bool {
    let ends = [text.chars().next(), text.chars().next_back()];
    ends.into_iter().all(|end| end.is_some_and(&outer))
        && text.chars().all(|c| outer(c) || inner.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_labels() {
        let long = "a".repeat(63);
        for key in ["team", "example.com/team", "a_b.C-9", "k8s.io/x", &long] {
            assert!(is_label_key(key), "{key}");
        }
        let too_long = "a".repeat(64);
        for key in [
            "",
            "/",
            "-team",
            "team-",
            "a b",
            "Example.com/team",
            "a..b/team",
            "a/b/c",
            "example.com/",
            "ä",
            &too_long,
        ] {
            assert!(!is_label_key(key), "{key}");
        }
    }
}
