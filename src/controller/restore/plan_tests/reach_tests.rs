//! Where a restore's objects are, and who reaches them.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

/// Every namespace that is named anywhere in it.
fn namespaces<'a>(value: &'a Json, found: &mut Vec<&'a str>) {
    match value {
        Json::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == "namespace" => found.push(text),
                    _ => namespaces(field, found),
                }
            }
        }
        Json::Array(items) => items.iter().for_each(|item| namespaces(item, found)),
        _ => {}
    }
}

fn is_within(kind: Kind, object: &Json, namespace: &str) -> bool {
    let own = object["metadata"].get("namespace").and_then(Json::as_str);
    let own_is_right = match kind {
        Kind::VolumeSnapshotContent => {
            own.is_none() && object["spec"]["volumeSnapshotRef"]["namespace"] == namespace
        }
        _ => own == Some(namespace),
    };
    let mut named = Vec::new();
    namespaces(object, &mut named);
    own_is_right && named.iter().all(|name| *name == namespace)
}

/// Everything that a restore into a StatefulSet makes, with an imported snapshot.
fn everything() -> Vec<(Kind, Json)> {
    let mut first = observed(into_set(), planned());
    first.snapshots[0].snapshot = None;
    let Step::WriteDown(volumes) = plan(&first, &image()) else {
        panic!()
    };
    first.restore.status.as_mut().unwrap().volumes = volumes;
    let mut objects = made_by(&first);
    condition_added(&mut first, condition("Recovered", "True", "Recovered"));
    objects.extend(made_by(&first));
    objects
}

#[test]
fn nothing_is_made_in_another_namespace() {
    let objects = everything();
    for kind in [
        Kind::VolumeSnapshotContent,
        Kind::VolumeSnapshot,
        Kind::Claim,
        Kind::ServiceAccount,
        Kind::RoleBinding,
        Kind::Pod,
        Kind::Service,
        Kind::StatefulSet,
    ] {
        assert!(objects.iter().any(|(k, _)| *k == kind), "no {kind:?}");
    }
    for (kind, object) in &objects {
        assert!(is_within(*kind, object, "shop"), "{object:#}");
    }
}

#[test]
fn an_object_of_another_namespace_is_seen() {
    let elsewhere = json!("elsewhere");
    for (kind, object) in everything() {
        let mut moved = object.clone();
        let path = match kind {
            Kind::VolumeSnapshotContent => "/spec/volumeSnapshotRef",
            _ => "/metadata",
        };
        moved.pointer_mut(path).unwrap()["namespace"] = elsewhere.clone();
        assert!(!is_within(kind, &moved, "shop"), "{moved:#}");
        if kind == Kind::Claim {
            let mut reaching = object;
            reaching["spec"]["dataSourceRef"] = json!({"namespace": elsewhere});
            assert!(!is_within(kind, &reaching, "shop"), "{reaching:#}");
        }
    }
}

#[test]
fn a_recovery_pod_is_selected_by_nobody() {
    let objects = made_by(&written());
    let (_, pod) = objects.iter().find(|(kind, _)| *kind == Kind::Pod).unwrap();
    let labels: BTreeMap<String, String> =
        serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap();
    let selects = |selector: Json| {
        let selector: BTreeMap<String, String> = serde_json::from_value(selector).unwrap();
        let service = clone::Selecting::service("orders", Some(&selector));
        service.is_some_and(|service| service.selects(&labels))
    };
    for selector in [
        json!({}),
        set_spec()["selector"]["matchLabels"].clone(),
        set_spec()["template"]["metadata"]["labels"].clone(),
        json!({"app": "orders", "role": "primary"}),
        json!({"app.kubernetes.io/name": "postgresql", "app.kubernetes.io/component": "primary"}),
        json!({"app.kubernetes.io/component": "primary"}),
        json!({"statefulset.kubernetes.io/pod-name": "orders-0"}),
        // The clone's own Service, before there is a clone.
        json!({annotations::CLONE_LABEL: "copy"}),
    ] {
        assert!(!selects(selector.clone()), "{selector}");
    }
    assert!(selects(json!({annotations::RESTORE_UID_LABEL: "u-1"})));
}
