//! The clone: a StatefulSet like the source's on the restored claims, and a Service of its own. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSetSpec,
        core::v1::{Container, EmptyDirVolumeSource, PersistentVolumeClaim, PodSpec},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::{Value as Json, json};

use super::{Identity, Rejection, source::Source};
use crate::api::{RestoredVolume, annotations};

/// What selects pods of the namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Selecting {
    /// As in `Service orders`.
    pub name: String,
    /// What it selects by.
    pub selector: LabelSelector,
}

impl Selecting {
    /// A Service; one without a selector selects nothing.
    pub fn service(name: &str, selector: Option<&BTreeMap<String, String>>) -> Option<Self> {
        let selector = selector.filter(|selector| !selector.is_empty())?;
        Some(Self {
            name: format!("Service {name}"),
            selector: LabelSelector {
                match_labels: Some(selector.clone()),
                match_expressions: None,
            },
        })
    }

    /// A PodDisruptionBudget; one with an empty selector selects every pod.
    pub fn budget(budget: &PodDisruptionBudget) -> Option<Self> {
        Some(Self {
            name: format!(
                "PodDisruptionBudget {}",
                budget.metadata.name.as_deref().unwrap_or_default()
            ),
            selector: budget.spec.as_ref()?.selector.clone()?,
        })
    }

    /// Whether it selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self
            .selector
            .match_labels
            .iter()
            .flatten()
            .all(|(key, value)| labels.get(key) == Some(value));
        let expressions = self.selector.match_expressions.iter().flatten();
        equal
            && expressions.into_iter().all(|wanted| {
                let value = labels.get(&wanted.key);
                let listed =
                    value.is_some_and(|value| wanted.values.iter().flatten().any(|v| v == value));
                match wanted.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => true,
                }
            })
    }
}

/// Why the clone's pods would be taken for the source's, or for others'.
pub fn refuse_labels(
    identity: &Identity,
    clone: &str,
    selecting: &[Selecting],
) -> Option<Rejection> {
    let labels = pod_labels(identity, clone);
    let by = selecting
        .iter()
        .find(|other| other.name != format!("Service {clone}") && other.selects(&labels))?;
    Some(Rejection::new(
        "SelectedByOthers",
        format!(
            "{} would select the clone's pods, which have only Highwater's labels: narrow its selector, or restore into volumes",
            by.name
        ),
    ))
}

/// The labels of the clone's pods: none of the source's, so nothing that selects those selects these.
pub fn pod_labels(identity: &Identity, clone: &str) -> BTreeMap<String, String> {
    let mut labels = identity.label_map();
    labels.insert(annotations::CLONE_LABEL.to_owned(), clone.to_owned());
    labels
}

/// The StatefulSet.
pub fn stateful_set(
    identity: &Identity,
    source: &Source,
    clone: &str,
    storage_class: Option<&str>,
    restored: &[RestoredVolume],
) -> Json {
    let labels = pod_labels(identity, clone);
    let mut spec: StatefulSetSpec = source.spec.clone();
    spec.replicas = Some(1);
    spec.ordinals = None;
    spec.service_name = Some(clone.to_owned());
    spec.selector = LabelSelector {
        match_labels: Some(BTreeMap::from([(
            annotations::CLONE_LABEL.to_owned(),
            clone.to_owned(),
        )])),
        match_expressions: None,
    };
    let metadata = spec.template.metadata.take().unwrap_or_default();
    spec.template.metadata = Some(ObjectMeta {
        labels: Some(labels),
        annotations: without_ours(metadata.annotations),
        ..ObjectMeta::default()
    });
    for template in spec.volume_claim_templates.iter_mut().flatten() {
        own_template(template, storage_class);
    }
    if let Some(pod) = &mut spec.template.spec {
        own_claims(pod, restored);
        without_rights(pod);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": clone, "namespace": identity.namespace, "labels": identity.labels()},
        "spec": spec,
    })
}

/// A claim template of the clone's own: empty volumes, not the source's.
fn own_template(template: &mut PersistentVolumeClaim, storage_class: Option<&str>) {
    let name = template.metadata.name.clone();
    template.metadata = ObjectMeta {
        name,
        ..ObjectMeta::default()
    };
    template.status = None;
    if let Some(claim) = &mut template.spec {
        claim.data_source = None;
        claim.data_source_ref = None;
        claim.volume_name = None;
        if let Some(class) = storage_class {
            claim.storage_class_name = Some(class.to_owned());
        }
    }
}

fn without_ours(annotations: Option<BTreeMap<String, String>>) -> Option<BTreeMap<String, String>> {
    let mut annotations = annotations?;
    annotations.retain(|name, _| !name.starts_with("highwater.dev/"));
    Some(annotations)
}

/// Claims that the pod's spec names are the source's: restored ones are put in their place, the rest is empty.
fn own_claims(pod: &mut PodSpec, restored: &[RestoredVolume]) {
    for volume in pod.volumes.iter_mut().flatten() {
        let Some(claim) = &mut volume.persistent_volume_claim else {
            continue;
        };
        match restored.iter().find(|r| r.volume == volume.name) {
            Some(restored) => claim.claim_name.clone_from(&restored.claim),
            None => {
                volume.persistent_volume_claim = None;
                volume.empty_dir = Some(EmptyDirVolumeSource::default());
            }
        }
    }
}

/// With the source's rights the clone could act as the source: take its lease, write where it writes.
fn without_rights(pod: &mut PodSpec) {
    pod.service_account_name = None;
    pod.service_account = None;
    pod.automount_service_account_token = Some(false);
}

/// The Service: the StatefulSet's governing one, and the clone's name.
pub fn service(identity: &Identity, clone: &str, container: Option<&Container>) -> Json {
    let declared: Vec<Json> = container
        .and_then(|container| container.ports.as_ref())
        .into_iter()
        .flatten()
        .map(|port| {
            json!({
                "name": port.name.clone().unwrap_or_else(|| format!("port-{}", port.container_port)),
                "port": port.container_port,
                "targetPort": port.container_port,
                "protocol": port.protocol.as_deref().unwrap_or("TCP"),
            })
        })
        .collect();
    let ports = match declared.is_empty() {
        true => {
            vec![json!({"name": "postgresql", "port": 5432, "targetPort": 5432, "protocol": "TCP"})]
        }
        false => declared,
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": clone, "namespace": identity.namespace, "labels": identity.labels()},
        "spec": {"clusterIP": "None", "selector": {annotations::CLONE_LABEL: clone}, "ports": ports},
    })
}
