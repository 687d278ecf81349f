//! What is refused before anything is made.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

#[test]
fn doors() {
    type Change = fn(&mut Observed);
    let labelled = || json!({"statefulSet": "copy", "labels": {"app": "orders"}});
    let named = |volume: &str| {
        let names = json!([{"volume": "data", "claim": "a"}, {"volume": volume, "claim": "b"}]);
        json!({"volumes": {"names": names}})
    };
    let asking = |resources: Json| json!({"statefulSet": "copy", "resources": resources});
    let cases: [(&str, Json, Change); 22] = [
        ("NameTooLong", into_set(), |o| {
            o.identity.name = "r".repeat(names::LONGEST_OWNER + 1);
        }),
        ("PlanNotOfSource", into_set(), |o| {
            o.backup.as_mut().unwrap().spec.protection = "billing".into();
        }),
        ("ProtectionNotFound", into_set(), |o| o.protection = None),
        ("BackupNotCompleted", into_set(), |o| {
            o.backup
                .as_mut()
                .unwrap()
                .status
                .as_mut()
                .unwrap()
                .conditions
                .clear();
        }),
        ("BackupNotFound", into_set(), |o| o.backup = None),
        ("ArchiveNotFound", into_set(), |o| o.archive = None),
        ("TargetOutOfRange", into_set(), |o| {
            let status = o.restore.status.as_mut().unwrap();
            status.conditions[0].status = "False".into();
            status.conditions[0].reason = "TargetOutOfRange".into();
        }),
        ("OtherDriver", into_set(), |o| {
            o.classes.insert("fast".into(), Some("other".into()));
        }),
        ("StorageClassNotFound", into_set(), |o| o.classes.clear()),
        (
            "SizeTooSmall",
            json!({"statefulSet": "copy", "size": "1Ki"}),
            |_| {},
        ),
        ("SnapshotGone", into_set(), |o| {
            o.snapshots[1] = claims::SnapshotSeen::default();
        }),
        ("OperatorOwned", into_set(), |o| {
            let owner = json!([{"apiVersion": "v1", "kind": "Cluster", "name": "x", "uid": "x", "controller": true}]);
            o.live.as_mut().unwrap().metadata.owner_references =
                serde_json::from_value(owner).unwrap();
        }),
        ("SelectedByOthers", into_set(), |o| {
            o.selecting = vec![clone::Selecting {
                name: "PodDisruptionBudget all".into(),
                selector: Default::default(),
            }];
        }),
        // A pod of any StatefulSet's labels that is the first.
        ("SelectedByOthers", into_set(), |o| {
            let first = BTreeMap::from([("apps.kubernetes.io/pod-index".into(), "0".into())]);
            o.selecting = vec![clone::Selecting::service("firsts", Some(&first)).unwrap()];
        }),
        ("SelectedByOthers", labelled(), |o| {
            let app = BTreeMap::from([("app".into(), "orders".into())]);
            o.selecting = vec![clone::Selecting::service("orders", Some(&app)).unwrap()];
        }),
        ("SelectedByOthers", labelled(), |o| {
            o.selecting = vec![clone::Selecting::set(o.live.as_ref().unwrap()).unwrap()];
        }),
        (
            "InvalidLabel",
            json!({"statefulSet": "copy", "labels": {"a b": "c"}}),
            |_| {},
        ),
        ("VolumesNotNamed", named("fast"), |_| {}),
        (
            "InvalidResources",
            asking(json!({"limits": {"memory": "2GB"}})),
            |_| {},
        ),
        (
            "InvalidResources",
            asking(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}})),
            |_| {},
        ),
        (
            "PolicyNotFound",
            json!({"statefulSet": "copy", "policy": "gold"}),
            |_| {},
        ),
        ("NameTaken", into_set(), |o| {
            o.set = Some(serde_json::from_value(json!({"metadata": {"name": "copy"}})).unwrap());
        }),
    ];
    for (reason, into, change) in cases {
        let mut observed = observed(into, planned());
        change(&mut observed);
        assert_eq!(refused(&observed), reason);
    }
}
