//! What the door asks for, as the API server would return it.

use serde_json::json;

use super::{CLAIMS, object};
use crate::api::{BackupSource, annotations};
use crate::controller::backup::{
    door::door,
    group::Groups,
    observe::{Observed, Source},
};

/// Everything that the door asks for.
pub fn base() -> Observed {
    let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let claim = |name: &str| {
        object(
            json!({"metadata": {"name": name}, "spec": {"volumeName": format!("pv-{name}"), "storageClassName": "fast"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}),
        )
    };
    let volume = |name: &str| {
        object(json!({"metadata": {"name": format!("pv-{name}")},
            "spec": {"csi": {"driver": "cow.example", "volumeHandle": format!("h-{name}")}}}))
    };
    let pod = json!({
        "metadata": {"name": "orders-0", "uid": "pod-1"},
        "spec": {
            "containers": [{"name": "db", "volumeMounts": [
                {"name": "data", "mountPath": "/data"}, {"name": "wal", "mountPath": "/wal", "subPath": "w"}]}],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": CLAIMS[0]}},
                {"name": "wal", "persistentVolumeClaim": {"claimName": CLAIMS[1]}},
                {"name": "tmp", "emptyDir": {}}],
        },
        "status": {"phase": "Running", "podIP": "10.1.2.3"},
    });
    Observed {
        backup: object(json!({
            "metadata": {"name": "nightly", "namespace": "shop", "uid": "backup-uid", "generation": 1,
                "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"protection": "orders"},
        })),
        protection: Some(object(json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"statefulSet": "orders", "policy": "gold"},
            "status": {
                "conditions": [condition("Active"), condition("Connected"), condition("WalArchiving")],
                "members": [{"pod": "orders-0", "uid": "pod-1", "address": "10.1.2.3"}],
                "primary": {"pod": "orders-0", "timeline": 1},
                "database": {"systemIdentifier": "7391000000000000001", "majorVersion": 15, "segmentSize": 16_777_216,
                    "dataDirectory": "/data/pg"},
            },
        }))),
        policy: Some(object(
            json!({"metadata": {"name": "gold"}, "spec": {"archive": "main"}}),
        )),
        ahead: None,
        full: None,
        source: Some(Source {
            stateful_set: Some(object(
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": "orders"}, "spec": {"serviceName": "orders"}}),
            )),
            pod: Some(object(pod)),
            claims: CLAIMS
                .iter()
                .map(|name| ((*name).to_owned(), claim(name)))
                .collect(),
            volumes: CLAIMS
                .iter()
                .map(|name| (format!("pv-{name}"), volume(name)))
                .collect(),
            classes: vec![object(
                json!({"metadata": {"name": "cow"}, "driver": "cow.example", "deletionPolicy": "Retain"}),
            )],
            not_served: false,
        }),
        replaced: false,
        snapshots: Vec::new(),
        contents: Vec::new(),
        groups: Groups::default(),
        scope_goes: false,
        read_by: None,
    }
}

/// The same of a standby: another member takes writes.
pub fn base_of_standby() -> Observed {
    let mut observed = base();
    let status = observed
        .protection
        .as_mut()
        .and_then(|it| it.status.as_mut());
    let status = status.unwrap();
    status.members = object(json!([
        {"pod": "orders-0", "uid": "pod-1", "address": "10.1.2.3"},
        {"pod": "orders-1", "uid": "pod-2", "address": "10.1.2.4"},
    ]));
    status.primary = object(json!({"pod": "orders-1", "timeline": 1}));
    status.standbys = vec!["orders-0".to_owned()];
    let policy = observed.policy.as_mut().unwrap();
    policy.spec.backup_from = BackupSource::Standby;
    observed
}

/// The same where the policy asks for a group, and there can be one.
pub fn base_of_group() -> Observed {
    let mut observed = base();
    let policy = observed.policy.as_mut().unwrap();
    policy.spec.snapshot = Some(object(json!({"groupConsistency": "Atomic"})));
    let class = json!({"metadata": {"name": "cow-groups"}, "driver": "cow.example", "deletionPolicy": "Retain"});
    observed.groups.classes = Some(vec![object(class)]);
    observed
}

/// A first attempt of which everything is proved; only `Completed` is not written yet.
pub fn proved() -> Observed {
    let mut observed = base();
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let proposal = door(&observed, 1, now).unwrap();
    let mut volumes = proposal.set.members().to_vec();
    for volume in &mut volumes {
        let claim = volume.claim.clone();
        let (uid, name) = (format!("uid-{claim}"), volume.volume_snapshot.clone());
        let content = format!("snapcontent-{uid}");
        volume.volume_snapshot_uid = Some(uid.clone());
        volume.content = Some(content.clone());
        volume.handle = Some(format!("handle-{claim}"));
        observed.snapshots.push(object(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": uid, "creationTimestamp": "2026-01-01T00:01:10Z",
                "labels": {annotations::BACKUP_UID_LABEL: "backup-uid", annotations::ATTEMPT_LABEL: "1"}},
            "spec": {"source": {"persistentVolumeClaimName": claim}},
            "status": {"boundVolumeSnapshotContentName": content},
        })));
        observed.contents.push(object(json!({
            "metadata": {"name": content, "uid": format!("content-{uid}")},
            "spec": {"driver": "cow.example", "deletionPolicy": "Retain", "source": {"volumeHandle": format!("h-{claim}")},
                "volumeSnapshotRef": {"name": name, "namespace": "shop", "uid": uid}},
            "status": {"snapshotHandle": format!("handle-{claim}"), "creationTime": 1_767_225_680_000_000_000_u64,
                "readyToUse": true},
        })));
    }
    let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:02:00Z"});
    let conditions = [
        "Accepted",
        "Session",
        "Cut",
        "Stopped",
        "WalArchived",
        "Ready",
        "Catalogued",
    ]
    .map(condition);
    observed.backup.metadata.finalizers = Some(vec![annotations::BACKUP_FINALIZER.to_owned()]);
    observed.backup.status = Some(object(json!({
        "attempt": proposal.set.attempt(),
        "volumes": volumes,
        "session": {"attempt": 1, "startLsn": "0/2000028", "stopLsn": "0/2000138", "timeline": 1},
        "catalog": {"manifest": "k", "sha256": "s"},
        "conditions": conditions,
    })));
    observed
}
