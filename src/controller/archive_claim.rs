//! Where pods run that mount the claim of a `directory` archive. One that is ReadWriteOnce can be mounted on one node at a time.

use serde_json::{Value as Json, json};

use crate::api::{Directory, annotations::ARCHIVE_CLAIM_LABEL, names};

const WISHES: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Marks a pod that mounts it.
pub fn mark(labels: &mut Json, directory: &Directory) {
    labels[ARCHIVE_CLAIM_LABEL] = json!(names::label(&directory.persistent_volume_claim));
}

/// Brings a pod to the node of those that mount it already. A wish, no rule: a claim that is ReadWriteMany needs none of it.
pub fn beside(directory: &Directory) -> Json {
    json!({ WISHES: [wish(directory)] })
}

/// As [`beside`], for a pod that has an affinity already.
pub fn bring(affinity: &mut Json, directory: &Directory) {
    let wishes = &mut affinity["podAffinity"][WISHES];
    match wishes.as_array_mut() {
        Some(wishes) => wishes.push(wish(directory)),
        None => *wishes = json!([wish(directory)]),
    }
}

fn wish(directory: &Directory) -> Json {
    let mut labels = json!({});
    mark(&mut labels, directory);
    json!({
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": labels},
            "topologyKey": "kubernetes.io/hostname",
        },
    })
}
