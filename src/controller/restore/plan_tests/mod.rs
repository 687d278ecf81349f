//! What a restore does next, on observations made by hand.

mod archive_tests;
mod clone_tests;
mod door_tests;
mod drill_tests;
mod ending_tests;
mod grant_tests;
mod import_tests;
mod in_place_tests;
mod into_tests;
mod program_tests;
mod reach_tests;

use serde_json::json;

use super::*;
use crate::api::PgRestore;

fn image() -> Image {
    Image {
        name: "highwater:1".into(),
        pull_policy: "IfNotPresent".into(),
    }
}

fn restore(into: Json, status: Json) -> PgRestore {
    serde_json::from_value(json!({
        "metadata": {"name": "r", "namespace": "shop", "uid": "u-1", "finalizers": [annotations::RESTORE_FINALIZER]},
        "spec": {"source": {"protection": "orders"}, "into": into},
        "status": status,
    }))
    .unwrap()
}

fn condition(type_: &str, status: &str, reason: &str) -> Json {
    json!({"type": type_, "status": status, "reason": reason, "message": "said", "lastTransitionTime": "2026-11-20T14:00:00Z"})
}

fn set_spec() -> Json {
    json!({
        "serviceName": "orders",
        "replicas": 3,
        "selector": {"matchLabels": {"app": "orders"}},
        "template": {
            "metadata": {"labels": {"app": "orders"}, "annotations": {"highwater.dev/policy": "gold", "team": "a"}},
            "spec": {
                "securityContext": {"fsGroup": 999},
                "serviceAccountName": "orders", "serviceAccount": "orders", "automountServiceAccountToken": true,
                "containers": [
                    {"name": "exporter", "image": "e"},
                    {"name": "db", "image": "pg:15", "ports": [{"containerPort": 5432}],
                     "env": [{"name": "PGDATA", "value": "/data/pg"}],
                     "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "wal", "mountPath": "/wal"}]},
                ],
                "volumes": [
                    {"name": "wal", "persistentVolumeClaim": {"claimName": "orders-wal"}},
                    {"name": "scratch", "persistentVolumeClaim": {"claimName": "shared"}},
                ],
            },
        },
        "volumeClaimTemplates": [{"metadata": {"name": "data", "namespace": "theirs", "labels": {"app": "orders"}},
            "spec": {"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "seed", "namespace": "theirs"},
                "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Gi"}}}}],
    })
}

/// A backup with the volumes `data` and `wal`.
fn backup() -> Json {
    let volume = |name: &str, path: &str| {
        json!({
            "claim": format!("{name}-orders-0"), "volume": name, "mounts": [{"path": path}], "driver": "d",
            "volumeHandle": "v", "capacity": 1000, "restoreSize": 2000, "storageClassName": "fast",
            "volumeMode": "Filesystem", "volumeSnapshot": format!("snap-{name}"), "className": "c",
            "volumeSnapshotUid": format!("uid-{name}"), "content": format!("content-{name}"),
            "handle": format!("handle-{name}"), "ready": true, "retained": true,
        })
    };
    json!({
        "metadata": {"name": "b", "namespace": "shop", "uid": "backup-uid"},
        "spec": {"protection": "orders"},
        "status": {
            "volumes": [volume("data", "/data"), volume("wal", "/wal")],
            "statefulSet": set_spec(),
            "conditions": [condition("Completed", "True", "Completed")],
        },
    })
}

fn plan_json() -> Json {
    json!({
        "summary": "to the end", "backup": "b", "backupKey": "k", "archive": "main", "archiveName": "n",
        "lineage": "0000000000", "timeline": 1, "walFrom": "0/28", "walTo": "0/5000", "bytes": 1,
    })
}

fn planned() -> Json {
    json!({"plan": plan_json(), "conditions": [condition("Planned", "True", "Planned")]})
}

#[test]
fn a_plan_alone_is_shown_and_nothing_is_made() {
    let alone = |into: Json, status: Json| {
        let mut observed = observed(into, status);
        observed.restore.spec.plan_only = Some(true);
        observed.restore.metadata.finalizers = None;
        plan(&observed, &image())
    };
    let Step::Show(message) = alone(json!({}), planned()) else {
        panic!("the plan is shown");
    };
    for said in ["to the end", "backup b", "0/5000", "data (2000 bytes)"] {
        assert!(message.contains(said), "{said} in {message}");
    }
    // What would be refused is refused.
    let too_small = json!({"statefulSet": "copy", "size": "1"});
    assert!(
        matches!(alone(too_small, planned()), Step::Fail(refused) if refused.reason == "SizeTooSmall")
    );
    assert!(matches!(alone(json!({}), json!({})), Step::Wait(_)));
    let shown = json!({"plan": plan_json(), "conditions": [
        condition("Planned", "True", "Planned"), condition("Completed", "True", "PlanOnly"),
    ]});
    assert_eq!(alone(json!({}), shown), Step::Rest);
}

/// As it is when the agent has planned and nothing is made.
fn observed(into: Json, status: Json) -> Observed {
    let mut observed = Observed::new(restore(into, status));
    let parse = |value: Json| serde_json::from_value(value).unwrap();
    observed.protection = Some(
        serde_json::from_value(json!({
            "metadata": {"name": "orders"}, "spec": {"statefulSet": "orders", "policy": "gold"},
        }))
        .unwrap(),
    );
    observed.backup = Some(parse(backup()));
    observed.archive = Some(
        serde_json::from_value(json!({
            "metadata": {"name": "main"},
            "spec": {"s3": {"bucket": "backups"}, "credentials": {"secretName": "bucket"}},
        }))
        .unwrap(),
    );
    observed.live = Some(
        serde_json::from_value(json!({"metadata": {"name": "orders"}, "spec": set_spec()}))
            .unwrap(),
    );
    observed.classes.insert("fast".into(), Some("d".into()));
    observed.snapshots = ["data", "wal"]
        .map(|name| claims::SnapshotSeen {
            snapshot: serde_json::from_value(json!({
                "metadata": {"name": format!("snap-{name}"), "uid": format!("uid-{name}")},
                "spec": {"source": {}},
            }))
            .unwrap(),
            content: serde_json::from_value(json!({
                "metadata": {"name": format!("content-{name}"), "labels": {annotations::BACKUP_UID_LABEL: "backup-uid"}},
                "spec": {
                    "driver": "d", "deletionPolicy": "Retain", "source": {"volumeHandle": "v"},
                    "volumeSnapshotRef": {"name": format!("snap-{name}"), "namespace": "shop", "uid": format!("uid-{name}")},
                },
                "status": {"snapshotHandle": format!("handle-{name}")},
            }))
            .unwrap(),
        })
        .to_vec();
    observed
}

fn into_set() -> Json {
    json!({"statefulSet": "copy"})
}

/// The reason of a refusal.
fn refused(observed: &Observed) -> String {
    match plan(observed, &image()) {
        Step::Fail(rejection) => rejection.reason,
        other => panic!("{other:?}"),
    }
}

/// After the volumes were written down.
fn written() -> Observed {
    let mut observed = observed(into_set(), planned());
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("nothing is written down");
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    observed
}

/// Carries out `step` on `observed`.
fn done(mut observed: Observed, step: &Step) -> Observed {
    if let Step::Make(_, objects) = step {
        for (kind, object) in objects {
            observed.made.push((*kind, name_of(object).to_owned()));
        }
    }
    observed
}

/// The objects of the next step, which makes some.
fn made_by(observed: &Observed) -> Vec<(Kind, Json)> {
    match plan(observed, &image()) {
        Step::Make(_, objects) => objects,
        other => panic!("{other:?}"),
    }
}

/// When the WAL was replayed and the recovery pod is gone.
fn recovered() -> Observed {
    let mut observed = written();
    condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
    observed
}

fn condition_added(observed: &mut Observed, condition: Json) {
    let status = observed.restore.status.as_mut().unwrap();
    status
        .conditions
        .push(serde_json::from_value(condition).unwrap());
}

#[test]
fn it_is_written_down_before_anything_is_made() {
    let mut first = observed(into_set(), planned());
    first.restore.metadata.finalizers = None;
    assert_eq!(plan(&first, &image()), Step::AddFinalizer);
    let volumes = written().status().volumes;
    let names: Vec<_> = volumes
        .iter()
        .map(|v| (v.claim.as_str(), v.volume_snapshot.as_str(), v.size))
        .collect();
    assert_eq!(
        names,
        [
            ("data-copy-0", "snap-data", 2000),
            ("wal-copy-0", "snap-wal", 2000)
        ]
    );
}

#[test]
fn it_waits_for_the_agent() {
    for status in [
        json!(null),
        json!({"conditions": [condition("Planned", "Unknown", "Reading")]}),
    ] {
        let step = plan(&observed(into_set(), status), &image());
        assert!(
            matches!(
                step,
                Step::Wait(Waiting {
                    phase: Phase::Planning,
                    ..
                })
            ),
            "{step:?}"
        );
    }
}

#[test]
fn claims_and_pod_are_made_at_once_and_only_what_is_missing() {
    let observed = written();
    let step = plan(&observed, &image());
    let Step::Make(Phase::Recovering, objects) = &step else {
        panic!("{step:?}")
    };
    let kinds: Vec<Kind> = objects.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Claim,
            Kind::Claim,
            Kind::ServiceAccount,
            Kind::RoleBinding,
            Kind::Pod
        ]
    );
    assert_eq!(
        objects[0].1["spec"]["accessModes"],
        json!(["ReadWriteOncePod"])
    );
    let pod = &objects[4].1;
    assert_eq!(pod["metadata"]["labels"].get("app"), None);
    assert_eq!(pod["spec"]["securityContext"], json!({"fsGroup": 999}));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "pg:15");
    assert_eq!(container.get("env"), None);
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(
        mounts.contains(&json!({"name": "restored-0", "mountPath": "/data"})),
        "{mounts:?}"
    );

    assert!(!pod.to_string().contains("decryption"));

    let mut half = observed.clone();
    half.made = vec![(Kind::Claim, "data-copy-0".into())];
    let Step::Make(_, rest) = plan(&half, &image()) else {
        panic!()
    };
    assert_eq!(rest.len(), 4);

    let whole = done(observed, &step);
    assert!(matches!(
        plan(&whole, &image()),
        Step::Wait(Waiting {
            phase: Phase::Recovering,
            ..
        })
    ));
    let mut evicted = whole;
    evicted.pod = serde_json::from_value(
        json!({"metadata": {"name": "r-recovery"}, "status": {"phase": "Failed"}}),
    )
    .unwrap();
    assert_eq!(
        plan(&evicted, &image()),
        Step::Remove(vec![(Kind::Pod, "r-recovery".into())])
    );
}

/// The key is a file that recovery is told the path of, for that container alone.
#[test]
fn the_decryption_key_is_mounted_into_the_recovery_container() {
    let mut observed = written();
    let decryption = json!({"secretName": "age", "key": "old-and-new"});
    observed.restore.spec.decryption = serde_json::from_value(decryption).unwrap();
    let Step::Make(_, objects) = plan(&observed, &image()) else {
        panic!()
    };
    let spec = &objects[4].1["spec"];
    let recovery = &spec["containers"][0];
    let path = json!("--decryption-identity=/etc/highwater/decryption/identity");
    assert!(recovery["args"].as_array().unwrap().contains(&path));
    let mount =
        json!({"name": "decryption", "mountPath": "/etc/highwater/decryption", "readOnly": true});
    assert!(
        recovery["volumeMounts"]
            .as_array()
            .unwrap()
            .contains(&mount)
    );
    let init = spec["initContainers"][0]["volumeMounts"].to_string();
    assert!(!init.contains("decryption"), "{init}");
    let volumes = spec["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "decryption");
    let secret = &volume.unwrap()["secret"];
    assert_eq!(secret["secretName"], "age");
    assert_eq!(
        secret["items"],
        json!([{"key": "old-and-new", "path": "identity"}])
    );
}

/// As the agents of the archive: a claim that is ReadWriteOnce is mounted on one node at a time.
#[test]
fn recovery_runs_beside_whatever_mounts_the_archives_claim() {
    let mut observed = written();
    let archive = json!({"directory": {"persistentVolumeClaim": "wal"}});
    observed.archive.as_mut().unwrap().spec = serde_json::from_value(archive).unwrap();
    let Step::Make(_, objects) = plan(&observed, &image()) else {
        panic!()
    };
    let pod = &objects[4].1;
    let label = &pod["metadata"]["labels"]["highwater.dev/archive-claim"];
    assert_eq!(label, "wal");
    let affinity = &pod["spec"]["affinity"];
    let wishes = &affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    let selected = &wishes[0]["podAffinityTerm"]["labelSelector"]["matchLabels"];
    assert_eq!(*selected, json!({"highwater.dev/archive-claim": "wal"}));
    assert!(affinity.get("nodeAffinity").is_some(), "{affinity}");
}

#[test]
fn volumes_alone_are_free_once_the_pod_is_gone() {
    let mut observed = observed(json!({"volumes": {"namePrefix": "p"}}), planned());
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!()
    };
    assert_eq!(volumes[0].claim, "p-data");
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let step = plan(&observed, &image());
    let mut observed = done(observed, &step);
    condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
    let pod = vec![(Kind::Pod, "r-recovery".to_owned())];
    assert_eq!(plan(&observed, &image()), Step::Remove(pod.clone()));
    observed.made.retain(|made| *made != pod[0]);
    assert!(matches!(plan(&observed, &image()), Step::Complete(_)));
}

#[test]
fn what_is_left_when_it_is_over() {
    let observed = written();
    let step = plan(&observed, &image());
    let observed = done(observed, &step);

    let mut completed = observed.clone();
    condition_added(&mut completed, condition("Completed", "True", "Completed"));
    let Step::Remove(made) = plan(&completed, &image()) else {
        panic!()
    };
    assert!(
        made.iter().all(|(kind, _)| *kind != Kind::Claim),
        "{made:?}"
    );
    completed.made.retain(|(kind, _)| *kind == Kind::Claim);
    assert_eq!(plan(&completed, &image()), Step::Rest);
    completed.restore.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-11-20T14:00:00Z")).unwrap();
    assert_eq!(plan(&completed, &image()), Step::RemoveFinalizer);

    let mut refused = observed.clone();
    condition_added(&mut refused, condition("Completed", "False", "NameTaken"));
    assert_eq!(
        plan(&refused, &image()),
        Step::Remove(observed.made.clone())
    );

    let mut deleted = observed.clone();
    deleted.restore.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-11-20T14:00:00Z")).unwrap();
    assert_eq!(plan(&deleted, &image()), Step::Remove(observed.made));
    deleted.made.clear();
    assert_eq!(plan(&deleted, &image()), Step::RemoveFinalizer);
}
