//! The clone: a StatefulSet like the source's on the restored claims, and a Service of its own. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{Container, EmptyDirVolumeSource, PersistentVolumeClaim, PodSpec},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::{Value as Json, json};

use super::{Identity, Rejection, overrides, source::Source};
use crate::api::{RestoreInto, RestoredVolume, annotations};

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

    /// A StatefulSet: what selects its pods has the clone's, too, where it asks for labels alone.
    pub fn set(set: &StatefulSet) -> Option<Self> {
        Some(Self {
            name: format!(
                "StatefulSet {}",
                set.metadata.name.as_deref().unwrap_or_default()
            ),
            selector: set.spec.as_ref()?.selector.clone(),
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
    into: &RestoreInto,
    selecting: &[Selecting],
) -> Option<Rejection> {
    let own = seen_labels(pod_labels(identity, clone, &BTreeMap::new()), clone);
    let labels = seen_labels(pod_labels(identity, clone, &into.labels), clone);
    let is_its_own = |other: &Selecting| {
        other.name == format!("Service {clone}") || other.name == format!("StatefulSet {clone}")
    };
    let by = selecting
        .iter()
        .find(|other| !is_its_own(other) && other.selects(&labels))?;
    let why = match by.selects(&own) {
        true => "which have only Highwater's labels: narrow its selector, or restore into volumes",
        false => "by what into.labels gives them: choose other labels, or narrow its selector",
    };
    Some(Rejection::new(
        "SelectedByOthers",
        format!("{} would select the clone's pods, {why}", by.name),
    ))
}

/// The labels of the clone's pods: none of the source's, so nothing that selects those selects these.
fn pod_labels(
    identity: &Identity,
    clone: &str,
    more: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut labels = labels(identity, more);
    labels.insert(annotations::CLONE_LABEL.to_owned(), clone.to_owned());
    labels
}

/// With those that Kubernetes gives to the first pod of a StatefulSet.
fn seen_labels(mut labels: BTreeMap<String, String>, clone: &str) -> BTreeMap<String, String> {
    let pod_name = format!("{clone}-0");
    labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), pod_name);
    labels.insert("apps.kubernetes.io/pod-index".to_owned(), "0".to_owned());
    labels
}

/// The labels of what is handed over: by Highwater's it is known again, whatever is asked for.
pub fn labels(identity: &Identity, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = more.clone();
    labels.extend(identity.label_map());
    labels
}

/// The StatefulSet. `container`: the one that runs PostgreSQL.
pub fn stateful_set(
    identity: &Identity,
    source: &Source,
    clone: &str,
    into: &RestoreInto,
    container: Option<&Container>,
    restored: &[RestoredVolume],
) -> Json {
    let mut spec: StatefulSetSpec = source.spec.clone();
    spec.replicas = Some(into.replicas.unwrap_or(1));
    spec.ordinals = None;
    spec.service_name = Some(clone.to_owned());
    let own = (annotations::CLONE_LABEL.to_owned(), clone.to_owned());
    spec.selector = LabelSelector {
        match_labels: Some(BTreeMap::from([own])),
        match_expressions: None,
    };
    let theirs = spec.template.metadata.take().and_then(|it| it.annotations);
    spec.template.metadata = Some(ObjectMeta {
        labels: Some(pod_labels(identity, clone, &into.labels)),
        annotations: without_ours(theirs),
        ..ObjectMeta::default()
    });
    for template in spec.volume_claim_templates.iter_mut().flatten() {
        own_template(template, into);
    }
    if let Some(pod) = &mut spec.template.spec {
        own_claims(pod, restored);
        without_rights(pod);
        overrides::schedule(pod, into);
        own_resources(pod, into, container);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": clone,
            "namespace": identity.namespace,
            "labels": labels(identity, &into.labels),
            "annotations": protecting(source, into, container),
        },
        "spec": spec,
    })
}

/// The annotations that protect it, if that is asked for, and say what those of the source say about its pods.
fn protecting(
    source: &Source,
    into: &RestoreInto,
    container: Option<&Container>,
) -> BTreeMap<&'static str, String> {
    let Some(policy) = &into.policy else {
        return BTreeMap::new();
    };
    let several = source.pod().is_some_and(|pod| pod.containers.len() > 1);
    let known = [
        annotations::CREDENTIALS,
        annotations::CONTAINER,
        annotations::PORT,
    ];
    let said = known.map(|key| Some((key, source.annotations.get(key)?.clone())));
    let runs = container.filter(|_| several);
    let runs = runs.map(|it| (annotations::CONTAINER, it.name.clone()));
    let policy = (annotations::POLICY, policy.clone());
    let all = said.into_iter().flatten().chain(runs);
    all.chain([policy]).collect()
}

fn own_resources(pod: &mut PodSpec, into: &RestoreInto, container: Option<&Container>) {
    let (Some(resources), Some(named)) = (overrides::resources(into), container) else {
        return;
    };
    let its = pod.containers.iter_mut().find(|it| it.name == named.name);
    if let Some(container) = its {
        container.resources = Some(resources);
    }
}

/// A claim template of the clone's own: empty volumes, not the source's.
fn own_template(template: &mut PersistentVolumeClaim, into: &RestoreInto) {
    let name = template.metadata.name.clone();
    template.metadata = ObjectMeta {
        name,
        labels: (!into.labels.is_empty()).then(|| into.labels.clone()),
        ..ObjectMeta::default()
    };
    template.status = None;
    if let Some(claim) = &mut template.spec {
        claim.data_source = None;
        claim.data_source_ref = None;
        claim.volume_name = None;
        if let Some(class) = &into.storage_class_name {
            claim.storage_class_name = Some(class.clone());
        }
        if let Some(size) = &into.size {
            let resources = claim.resources.get_or_insert_default();
            let requests = resources.requests.get_or_insert_default();
            requests.insert("storage".to_owned(), size.clone());
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
pub fn service(
    identity: &Identity,
    clone: &str,
    into: &RestoreInto,
    container: Option<&Container>,
) -> Json {
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
        "metadata": {"name": clone, "namespace": identity.namespace, "labels": labels(identity, &into.labels)},
        "spec": {"clusterIP": "None", "selector": {annotations::CLONE_LABEL: clone}, "ports": ports},
    })
}
