//! Where pods run that mount the claim of a `directory` archive. One that is ReadWriteOnce can be mounted on one node at a time.

use serde_json::{Value as Json, json};

use crate::api::{Directory, annotations::ARCHIVE_CLAIM_LABEL, names};

/// Marks a pod that mounts it.
pub fn mark(labels: &mut Json, directory: &Directory) {
    labels[ARCHIVE_CLAIM_LABEL] = json!(names::label(&directory.persistent_volume_claim));
}

/// Brings a pod to the node of those that mount it already. A wish, no rule: a claim that is ReadWriteMany needs none of it.
pub fn beside(directory: &Directory) -> Json {
    let mut labels = json!({});
    mark(&mut labels, directory);
    json!({
        "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "labelSelector": {"matchLabels": labels},
                "topologyKey": "kubernetes.io/hostname",
            },
        }],
    })
}
