//! The kinds of `groupsnapshot.storage.k8s.io/v1`, as far as Highwater reads them.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use kube::{CustomResource, Resource, core::ClusterResourceScope};
use serde::{Deserialize, Serialize};

use crate::csi::{DeletionPolicy, VolumeSnapshotError, VolumeSnapshotRef};

/// What is asked for: a snapshot of all claims with a label.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "groupsnapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeGroupSnapshot",
    plural = "volumegroupsnapshots",
    namespaced,
    schema = "disabled",
    status = "VolumeGroupSnapshotStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotSpec {
    /// The claims.
    pub source: VolumeGroupSnapshotSource,
    /// The class; absent is the driver's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_group_snapshot_class_name: Option<String>,
}

/// What a VolumeGroupSnapshot is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotSource {
    /// By label. Only `matchLabels` counts: expressions are ignored, and an empty one selects every claim of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// What the snapshot controller says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotStatus {
    /// The content; to be trusted only if it points back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_volume_group_snapshot_content_name: Option<String>,
    /// The last trouble; what caused it is tried again for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<VolumeSnapshotError>,
}

/// The cluster's side of a group snapshot.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "groupsnapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeGroupSnapshotContent",
    plural = "volumegroupsnapshotcontents",
    schema = "disabled",
    status = "VolumeGroupSnapshotContentStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotContentSpec {
    /// The VolumeGroupSnapshot it belongs to.
    pub volume_group_snapshot_ref: VolumeSnapshotRef,
    /// What happens to the snapshots when this object goes. Contents of members are made with the same.
    pub deletion_policy: DeletionPolicy,
    /// The CSI driver.
    pub driver: String,
    /// The volumes.
    pub source: VolumeGroupSnapshotContentSource,
}

/// What a group content is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotContentSource {
    /// The volumes to snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_handles: Vec<String>,
}

/// What the CSI driver says of a group snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotContentStatus {
    /// The group snapshot's CSI handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_group_snapshot_handle: Option<String>,
    /// When it was cut, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Time>,
    /// The last trouble; what caused it is tried again for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<VolumeSnapshotError>,
    /// One for each volume, as the driver answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_snapshot_info_list: Vec<VolumeSnapshotInfo>,
}

/// The snapshot of one volume of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotInfo {
    /// The volume's CSI handle.
    #[serde(default)]
    pub volume_handle: String,
    /// The snapshot's CSI handle.
    #[serde(default)]
    pub snapshot_handle: String,
}

/// How group snapshots of a driver are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotClass {
    /// Name, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The CSI driver.
    pub driver: String,
    /// What contents made with this class begin with.
    pub deletion_policy: DeletionPolicy,
}

impl VolumeGroupSnapshotClass {
    /// Whether it is marked as its driver's default.
    pub fn is_default(&self) -> bool {
        let marks = self.metadata.annotations.as_ref();
        marks
            .and_then(|marks| marks.get(super::DEFAULT_GROUP_CLASS_ANNOTATION))
            .is_some_and(|value| value == "true")
    }
}

// By hand, as VolumeSnapshotClass.
impl Resource for VolumeGroupSnapshotClass {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "VolumeGroupSnapshotClass".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        super::API_GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "volumegroupsnapshotclasses".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
