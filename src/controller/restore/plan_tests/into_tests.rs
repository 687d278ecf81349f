//! Where a restore goes, and what is otherwise there.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// Everything that may be said otherwise.
fn everything_otherwise() -> Json {
    json!({
        "statefulSet": "copy",
        "replicas": 0,
        "storageClassName": "slow",
        "size": "4Ki",
        "resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "2"}},
        "scheduling": {
            "nodeSelector": {"pool": "test"},
            "tolerations": [{"key": "test", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "orders"}}},
            ]}},
            "priorityClassName": "low",
        },
        "labels": {"team": "b"},
        "policy": "gold",
    })
}

/// Every object of a restore to `into`, before and after recovery.
fn made_for(into: Json) -> Vec<(Kind, Json)> {
    let mut observed = observed(into, planned());
    observed.policy_exists = true;
    observed.classes.insert("slow".into(), Some("d".into()));
    let spec = &mut observed.live.as_mut().unwrap().spec.as_mut().unwrap();
    let pod = spec.template.spec.as_mut().unwrap();
    pod.node_name = Some("theirs".into());
    pod.priority = Some(7);
    observed.topology =
        serde_json::from_value(json!([{"matchExpressions": [{"key": "zone", "operator": "In"}]}]))
            .unwrap();
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("{:?}", plan(&observed, &image()))
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let mut objects = made_by(&observed);
    condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
    if observed.into.stateful_set.is_some() {
        objects.extend(made_by(&observed));
    }
    objects
}

fn of(objects: &[(Kind, Json)], kind: Kind) -> &Json {
    let found = objects.iter().find(|(of, _)| *of == kind);
    &found.unwrap().1
}

/// The paths at which two objects differ.
fn differences(path: &str, a: &Json, b: &Json, found: &mut BTreeSet<String>) {
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Json>| map.get(key).cloned();
                let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
                differences(&format!("{path}/{key}"), &a, &b, found);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}/{at}"), a, b, found);
            }
        }
        (a, b) if a != b => {
            found.insert(path.to_owned());
        }
        _ => {}
    }
}

/// Who may create a PgRestore must get no pod by it, no ServiceAccount and no Secret, that he could not have otherwise.
#[test]
fn overrides_are_a_closed_list() {
    let (plain, other) = (made_for(into_set()), made_for(everything_otherwise()));
    assert_eq!(plain.len(), other.len());
    let mut found = BTreeSet::new();
    for ((kind, a), (_, b)) in plain.iter().zip(&other) {
        differences(&format!("{kind:?}"), a, b, &mut found);
    }
    let pod = "StatefulSet/spec/template/spec";
    let template = "StatefulSet/spec/volumeClaimTemplates/0";
    let allowed = [
        "Claim/metadata/labels/team",
        "Claim/spec/resources/requests/storage",
        "Claim/spec/storageClassName",
        "Pod/spec/affinity/nodeAffinity",
        "Pod/spec/affinity/podAntiAffinity",
        "Pod/spec/containers/0/resources",
        "Pod/spec/nodeSelector",
        "Pod/spec/priorityClassName",
        "Pod/spec/tolerations",
        "Service/metadata/labels/team",
        "StatefulSet/metadata/annotations/highwater.dev/container",
        "StatefulSet/metadata/annotations/highwater.dev/policy",
        "StatefulSet/metadata/labels/team",
        "StatefulSet/spec/replicas",
        "StatefulSet/spec/template/metadata/labels/team",
        &format!("{pod}/affinity"),
        &format!("{pod}/containers/1/resources"),
        &format!("{pod}/nodeName"),
        &format!("{pod}/nodeSelector"),
        &format!("{pod}/priority"),
        &format!("{pod}/priorityClassName"),
        &format!("{pod}/tolerations"),
        &format!("{template}/metadata/labels"),
        &format!("{template}/spec/resources/requests/storage"),
        &format!("{template}/spec/storageClassName"),
    ];
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, allowed);

    // What is on no list is nothing, wherever it stands.
    let mut more = everything_otherwise();
    let patch = json!({"serviceAccountName": "admin", "image": "mine", "env": [], "volumes": [], "patch": {}});
    for place in ["", "/scheduling", "/resources"] {
        let fields = patch.as_object().unwrap().clone();
        let target = more.pointer_mut(place).unwrap().as_object_mut().unwrap();
        // `volumes` of `into` itself is claims alone.
        target.extend(fields.into_iter().filter(|(name, _)| name != "volumes"));
    }
    assert_eq!(made_for(more), other);
}

#[test]
fn the_recovery_pod_runs_as_the_clone_will() {
    let objects = made_for(everything_otherwise());
    let (recovery, set) = (of(&objects, Kind::Pod), of(&objects, Kind::StatefulSet));
    let (recovery, clone) = (&recovery["spec"], &set["spec"]["template"]["spec"]);
    for field in [
        "nodeSelector",
        "tolerations",
        "affinity",
        "priorityClassName",
    ] {
        assert_eq!(recovery[field], clone[field], "{field}");
        assert!(!clone[field].is_null(), "{field}");
    }
    let asked = json!({"requests": {"memory": "1Gi"}, "limits": {"cpu": "2"}});
    assert_eq!(recovery["containers"][0]["resources"], asked);
    assert_eq!(clone["containers"][1]["resources"], asked);
    assert_eq!(clone["containers"][0].get("resources"), None);

    // An empty field counts: the source's is gone. What is not given stays.
    let scheduling =
        json!({"statefulSet": "copy", "scheduling": {"priorityClassName": "", "tolerations": []}});
    let objects = made_for(scheduling);
    let clone = &of(&objects, Kind::StatefulSet)["spec"]["template"]["spec"];
    assert_eq!(clone.get("priorityClassName"), None);
    assert_eq!(clone["tolerations"], json!([]));
    let near = &of(&objects, Kind::Pod)["spec"]["affinity"]["nodeAffinity"];
    assert!(near.to_string().contains("zone"), "{near}");
}

#[test]
fn rules_of_ones_own_stand_beside_the_wish_for_the_archives_node() {
    let mut observed = observed(everything_otherwise(), planned());
    observed.policy_exists = true;
    observed.classes.insert("slow".into(), Some("d".into()));
    let archive = json!({"directory": {"persistentVolumeClaim": "wal"}});
    observed.archive.as_mut().unwrap().spec = serde_json::from_value(archive).unwrap();
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!()
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let objects = made_by(&observed);
    let affinity = &of(&objects, Kind::Pod)["spec"]["affinity"];
    assert!(affinity["podAntiAffinity"].is_object(), "{affinity}");
    let wishes = &affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(wishes.as_array().unwrap().len(), 1);
}

#[test]
fn a_clone_is_protected_only_if_that_is_asked_for() {
    let annotations =
        |into: Json| of(&made_for(into), Kind::StatefulSet)["metadata"]["annotations"].clone();
    assert_eq!(annotations(into_set()), json!({}));
    let asked = annotations(json!({"statefulSet": "copy", "policy": "gold"}));
    // The source has two containers: which one runs PostgreSQL is said, as the restore has found it.
    let expected = json!({"highwater.dev/policy": "gold", "highwater.dev/container": "db"});
    assert_eq!(asked, expected);

    let mut source = recovered();
    source.restore.spec.into.policy = Some("gold".into());
    source.into.policy = Some("gold".into());
    let theirs = json!({"highwater.dev/policy": "silver", "highwater.dev/credentials": "s", "highwater.dev/port": "5433",
        "highwater.dev/backup-now": "1", "team": "a"});
    source.live.as_mut().unwrap().metadata.annotations = serde_json::from_value(theirs).unwrap();
    let objects = made_by(&source);
    let expected = json!({"highwater.dev/policy": "gold", "highwater.dev/credentials": "s", "highwater.dev/port": "5433",
        "highwater.dev/container": "db"});
    assert_eq!(
        of(&objects, Kind::StatefulSet)["metadata"]["annotations"],
        expected
    );
}

#[test]
fn a_clone_that_is_not_started_is_handed_over_as_it_is() {
    let observed = {
        let mut observed = recovered();
        observed.into.replicas = Some(0);
        let step = plan(&observed, &image());
        done(observed, &step)
    };
    let Step::Complete(message) = plan(&observed, &image()) else {
        panic!("it waits for a pod that nobody makes")
    };
    assert!(
        message.contains("kubectl scale statefulset copy"),
        "{message}"
    );
}

#[test]
fn claims_have_the_names_that_are_given() {
    let names = |names: Json| observed(json!({"volumes": {"names": names}}), planned());
    let given = json!([{"volume": "wal", "claim": "orders.wal"}, {"volume": "data", "claim": "orders-data"}]);
    let Step::WriteDown(volumes) = plan(&names(given), &image()) else {
        panic!()
    };
    let claims: Vec<_> = volumes
        .iter()
        .map(|v| (v.volume.as_str(), v.claim.as_str()))
        .collect();
    assert_eq!(claims, [("data", "orders-data"), ("wal", "orders.wal")]);
    for (given, said) in [
        (
            json!([{"volume": "data", "claim": "a"}]),
            "backup b (data, wal): no claim is given for wal",
        ),
        (
            json!([{"volume": "data", "claim": "a"}, {"volume": "wal", "claim": "b"}, {"volume": "fast", "claim": "c"}]),
            "backup b (data, wal): it has no fast",
        ),
        (json!([]), "no claim is given for data, wal"),
    ] {
        match plan(&names(given), &image()) {
            Step::Fail(refused) => assert!(refused.message.contains(said), "{}", refused.message),
            other => panic!("{other:?}"),
        }
    }
}

/// Of a namespace that was lost, with its Secrets.
fn naming() -> Json {
    let mut spec = set_spec();
    let pod = &mut spec["template"]["spec"];
    pod["imagePullSecrets"] = json!([{"name": "registry"}]);
    pod["containers"][1]["env"] = json!([
        {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "password", "key": "k"}}},
    ]);
    pod["containers"][1]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    spec
}

const NEEDS: &str =
    "; the pods of copy need Secrets password, registry and ConfigMap settings here";

/// Highwater may read no Secret, so it says what is named, and later what the kubelet misses.
#[test]
fn a_restore_lists_missing_secrets() {
    let of_lost = |into: Json| {
        let mut observed = observed(into, planned());
        observed.live = None;
        let status = observed.backup.as_mut().unwrap().status.as_mut().unwrap();
        status.stateful_set = Some(naming());
        observed
    };
    let mut alone = of_lost(into_set());
    alone.restore.spec.plan_only = Some(true);
    match plan(&alone, &image()) {
        Step::Show(message) => assert!(message.ends_with(NEEDS), "{message}"),
        other => panic!("{other:?}"),
    }
    // Claims need nothing.
    let mut claims = of_lost(json!({"volumes": {"namePrefix": "p"}}));
    claims.restore.spec.plan_only = Some(true);
    assert!(matches!(plan(&claims, &image()), Step::Show(said) if !said.contains("Secret")));

    let mut observed = of_lost(into_set());
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!()
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let step = plan(&observed, &image());
    let mut observed = done(observed, &step);
    let waiting = |observed: &Observed| match plan(observed, &image()) {
        Step::Wait(waiting) => (waiting.phase, waiting.message),
        other => panic!("{other:?}"),
    };
    // While WAL is replayed there is time to make them.
    let (phase, message) = waiting(&observed);
    assert_eq!(phase, Phase::Recovering);
    assert!(message.contains(NEEDS), "{message}");
    // The credentials of the bucket are missing: the recovery pod cannot start.
    observed.pod = Some(pending("r-recovery", "PodInitializing", ""));
    observed.failed_mounts = vec![
        "MountVolume.SetUp failed for volume \"archive-credentials\" : secret \"bucket\" not found"
            .into(),
        "Unable to attach or mount volumes: timed out waiting for the condition".into(),
    ];
    let (phase, message) = waiting(&observed);
    assert_eq!(phase, Phase::Missing);
    assert!(
        message.contains("secret \"bucket\" not found: create it"),
        "{message}"
    );

    // The clone is made, and waits for what is missing as any pod does.
    condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
    (observed.pod, observed.failed_mounts) = (None, Vec::new());
    let step = plan(&observed, &image());
    let mut observed = done(observed, &step);
    observed.clone_pod = Some(pending(
        "copy-0",
        "CreateContainerConfigError",
        "secret \"password\" not found",
    ));
    let (phase, message) = waiting(&observed);
    assert_eq!(phase, Phase::Missing);
    let said = "secret \"password\" not found: create it in this namespace, and the restore goes on by itself";
    assert!(
        message.contains(said) && message.ends_with(NEEDS),
        "{message}"
    );
    // Other trouble is no missing Secret.
    observed.clone_pod = Some(pending("copy-0", "ImagePullBackOff", "pg:15"));
    assert_eq!(waiting(&observed).0, Phase::HandingOver);
}

fn pending(name: &str, reason: &str, message: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "status": {"phase": "Pending", "containerStatuses": [{
            "name": "db", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}},
        }]},
    }))
    .unwrap()
}
