//! Where a restore goes, and what may be otherwise there than with the source.
//!
//! A closed list: with a free patch, or with names of images, ServiceAccounts and volumes, whoever may create a PgRestore could
//! have any pod of the namespace made.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{IntoInPlace, borrowed, named};

/// Where to.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.statefulSet), has(self.volumes), has(self.inPlace)].filter(x, x).size() == 1").message("give exactly one of statefulSet, volumes and inPlace"))]
#[x_kube(validation = Rule::new("has(self.statefulSet) || !(has(self.replicas) || has(self.policy))").message("replicas and policy go with statefulSet: claims alone have no pods"))]
#[x_kube(validation = Rule::new("!has(self.inPlace) || !has(self.labels)").message("labels do not go with inPlace: its claims have the labels that the StatefulSet gives them"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreInto {
    /// The name of a new StatefulSet like the source's, with a Service of the same name. Must not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 52))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
        "message": "statefulSet must begin with a letter, end with a letter or digit, and hold only a-z, 0-9 and -: a Service gets the same name",
    }]))]
    pub stateful_set: Option<String>,
    /// Claims alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<IntoVolumes>,
    /// The source's own StatefulSet: recovered into new volumes, which then take the place of the old ones. The old ones are kept,
    /// under claims of other names (`status.inPlace`). Needs the rights of `manifests/in-place`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<IntoInPlace>,
    /// How many pods the new StatefulSet has: 1, or 0, which makes it and starts nothing. Not more, as members beyond the first
    /// would begin with empty claims behind the same Service; add them when the first answers
    /// (docs/runbooks/restore.md, "More members"). Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self >= 0 && self <= 1",
        "message": "replicas is 0 or 1: further members would begin empty behind the same Service; add them when the first answers, as docs/runbooks/restore.md says",
    }]))]
    pub replicas: Option<i32>,
    /// The StorageClass of the new claims. Default: the source's. Its driver must be the snapshots'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("storageClassName")))]
    pub storage_class_name: Option<String>,
    /// The size of each of the new claims, and of those that members get which are added later. Default and least: the source's.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "borrowed::quantity"
    )]
    pub size: Option<Quantity>,
    /// What PostgreSQL's container asks for while it recovers, and in the new StatefulSet. The database starts with the source's
    /// settings: `shared_buffers` must find room. Default: what it asks for in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<IntoResources>,
    /// Where the recovery pod and the new StatefulSet's pods run. Default: as the source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<IntoScheduling>,
    /// Labels of the new claims, StatefulSet, pods and Service, beside Highwater's own; the source's are not taken over. Labels by
    /// which a Service, a PodDisruptionBudget or another StatefulSet of the namespace would select the pods are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,
    /// The PgBackupPolicy that protects the new StatefulSet from its first moment, as if it were annotated with
    /// `highwater.dev/policy`; the source's annotations `highwater.dev/credentials`, `highwater.dev/container` and
    /// `highwater.dev/port` go with it. It archives under its own name. Default: none, and nothing protects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("policy")))]
    pub policy: Option<String>,
}

impl RestoreInto {
    /// Nothing is to be made.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The new StatefulSet is made and not started.
    pub fn is_not_started(&self) -> bool {
        self.replicas == Some(0)
    }
}

/// Keys are bounded by nothing that the API server counts a rule's cost by, so that their form is looked at later.
fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$')",
                "message": "a label's value is empty, or begins and ends with a letter or digit, and holds only A-Z, a-z, 0-9, -, _ and .",
            }],
        },
        "x-kubernetes-validations": [{
            "rule": "!self.exists(key, key.startsWith('highwater.dev/'))",
            "message": "labels must not begin with highwater.dev/: by those Highwater knows its own objects",
        }],
    })
}

/// Claims alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.namePrefix) != has(self.names)").message("give exactly one of namePrefix and names"))]
#[x_kube(validation = Rule::new("!has(self.names) || self.names.all(one, self.names.exists_one(other, other.claim == one.claim))").message("names: two volumes cannot have the same claim"))]
#[serde(rename_all = "camelCase")]
pub struct IntoVolumes {
    /// Each claim is named by this prefix, a hyphen and the volume's name in the source's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
        "message": "namePrefix must begin and end with a letter or digit, and hold only a-z, 0-9 and -",
    }]))]
    pub name_prefix: Option<String>,
    /// The claim of each volume of the backup, each volume once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["volume".into()]))]
    pub names: Vec<ClaimName>,
}

/// The claim of one volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimName {
    /// The volume's name in the source's pod.
    #[schemars(length(min = 1, max = 63))]
    pub volume: String,
    /// The new claim's name. Must not exist yet.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')",
        "message": "claim must begin and end with a letter or digit, and hold only a-z, 0-9, - and single dots",
    }]))]
    pub claim: String,
}

/// What a container asks for, as a whole: nothing of the source's is added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntoResources {
    /// By name, as in `memory: 2Gi`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "borrowed::quantities"
    )]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// By name, as in `cpu: "2"`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "borrowed::quantities"
    )]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// Where pods run. Each field that is given stands in the place of the source's, also an empty one. With any of them a
/// `nodeName` and the topology spread constraints of the source are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntoScheduling {
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints of nodes that are tolerated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "borrowed::tolerations")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Rules about nodes and other pods, as of a pod. Also in the place of Highwater's own wish that recovery runs where the
    /// source's volumes can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "borrowed::affinity")]
    pub affinity: Option<Affinity>,
    /// The PriorityClass; empty: the cluster's default, for a copy that must not push out what serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "!self.startsWith('system-')",
        "message": "priorityClassName must not begin with system-: those are for what the cluster itself needs",
    }]))]
    pub priority_class_name: Option<String>,
}
