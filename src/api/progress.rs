//! How far a restore is, and what its parts took.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PassedCheck;
use crate::postgres::{Lsn, TimelineId};

/// How far the replay is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreProgress {
    /// WAL up to here was fetched for replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_lsn: Option<Lsn>,
    /// The time of the last commit or rollback that was replayed: while WAL is replayed as of the last whole segment, at the end as
    /// PostgreSQL says it. Absent until one is known to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_to: Option<MicroTime>,
    /// As in `42%`.
    pub percent: String,
    /// Segments fetched so far.
    pub segments: i64,
    /// About how many seconds the rest of the replay takes at most, at the pace of this try, as of the last segment; absent until
    /// that is known, and once the replay has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<i64>,
    /// Where the replay ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_lsn: Option<Lsn>,
    /// The timeline that the restored database writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_timeline: Option<TimelineId>,
    /// When the recovery program began, in its first try, by the clock of its node, as the three times below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it first started PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_started_at: Option<MicroTime>,
    /// When it found PostgreSQL at the target, and promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<MicroTime>,
    /// When the restored database first answered a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<MicroTime>,
    /// Seconds that PostgreSQL took to replay, in the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_seconds: Option<f64>,
    /// Seconds from the recovery program's start to its end, in the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<f64>,
    /// Slots that the snapshot held; none was taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub dropped_slots: Vec<String>,
    /// Subscriptions that were disabled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub disabled_subscriptions: Vec<String>,
    /// What a drill found in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub checks: Vec<PassedCheck>,
}

impl RestoreProgress {
    /// Before anything is known.
    pub fn begun() -> Self {
        Self {
            replayed_lsn: None,
            replayed_to: None,
            percent: "0%".to_owned(),
            segments: 0,
            remaining_seconds: None,
            end_lsn: None,
            new_timeline: None,
            started_at: None,
            replay_started_at: None,
            promoted_at: None,
            answered_at: None,
            replay_seconds: None,
            total_seconds: None,
            dropped_slots: Vec::new(),
            disabled_subscriptions: Vec::new(),
            checks: Vec::new(),
        }
    }
}

/// Seconds that each part of a restore took, one after the other: what was not seen to end counts to the part after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePhases {
    /// From when the seconds count: when the controller saw the object, within the second of its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<MicroTime>,
    /// Until the plan was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_seconds: Option<f64>,
    /// What a drill then waited for other drills to end. No part of `totalSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_seconds: Option<f64>,
    /// Until the new claims were bound; where the StorageClass binds them to the first pod, that pod's scheduling is part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes_seconds: Option<f64>,
    /// Until the recovery program began: scheduling, attaching and mounting, images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_seconds: Option<f64>,
    /// Until PostgreSQL was started: the backup's manifest read, the data directory made right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_seconds: Option<f64>,
    /// Until PostgreSQL was at the target, and promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_seconds: Option<f64>,
    /// Until the first query was answered. Of a StatefulSet: until its pod was ready, by its condition `Ready`, with the recovery
    /// pod's end and the start of that pod. Of claims alone, and of a drill: by the restored database in the recovery pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_query_seconds: Option<f64>,
    /// The sum: from the object's creation to the first query. Once the restore is completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<f64>,
}

impl RestorePhases {
    /// Each number, and what the metric calls it.
    pub fn named(&self) -> [(&'static str, Option<f64>); 8] {
        let Self {
            began_at: _,
            plan_seconds,
            queue_seconds,
            volumes_seconds,
            pod_seconds,
            prepare_seconds,
            replay_seconds,
            first_query_seconds,
            total_seconds,
        } = *self;
        [
            ("plan", plan_seconds),
            ("queue", queue_seconds),
            ("volumes", volumes_seconds),
            ("pod", pod_seconds),
            ("prepare", prepare_seconds),
            ("replay", replay_seconds),
            ("first_query", first_query_seconds),
            ("total", total_seconds),
        ]
    }
}

/// What the last restore of a protected database took: the recovery time to reckon with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRestore {
    /// The PgRestore.
    pub restore: String,
    /// Whether it was a drill.
    pub drill: bool,
    /// When it was completed.
    pub at: MicroTime,
    /// Seconds from its creation to the first query: `totalSeconds` of its phases.
    pub seconds: f64,
    /// Bytes of WAL that its plan replayed.
    pub bytes: i64,
    /// Seconds of each part.
    pub phases: RestorePhases,
}
