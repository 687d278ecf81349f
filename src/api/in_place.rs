//! A restore under the source's own name: what is asked for, and what is exchanged.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In the place of what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntoInPlace {
    /// Scale the StatefulSet to 0 when everything is recovered and its claims are to be exchanged, and to 1 afterwards. Without it
    /// the restore is refused unless the StatefulSet is scaled to 0 already, and it is left so. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<bool>,
    /// Take a VolumeSnapshot of each old volume before its claim is exchanged. The snapshot controller lets a claim go only when
    /// the snapshot is ready: where the driver uploads it, the database is away meanwhile. The old volumes are kept either
    /// way. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
}

/// What a restore in place exchanges: written down before anything of the source is touched.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InPlaceStatus {
    /// The StatefulSet.
    pub stateful_set: String,
    /// How many pods it asked for.
    pub replicas: i32,
    /// Its claims.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["claim".into()]))]
    pub claims: Vec<ExchangedClaim>,
}

/// One claim of the StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExchangedClaim {
    /// The claim, which keeps its name.
    pub claim: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// What it had; absent: there was no such claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<KeptVolume>,
    /// What it gets; absent: nothing, as it is of a member that begins anew from the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RecoveredVolume>,
}

/// A volume that the database had. It is kept until somebody lets it go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptVolume {
    /// The PersistentVolume. Its reclaim policy is Retain from now on.
    pub persistent_volume: String,
    /// The claim that it has afterwards.
    pub claim: String,
    /// The VolumeSnapshot that is taken of it first; absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<String>,
}

/// A volume that was recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveredVolume {
    /// The PersistentVolume.
    pub persistent_volume: String,
    /// The claim that it was recovered into.
    pub claim: String,
    /// Its reclaim policy, which is Retain while it is between two claims.
    pub reclaim_policy: String,
}
