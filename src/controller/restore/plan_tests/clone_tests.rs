use serde_json::json;

use super::*;
use crate::api::RestoreInto;

#[test]
fn the_clone_waits_for_the_recovery_pods_end() {
    let observed = written();
    let step = plan(&observed, &image());
    let mut observed = done(observed, &step);
    condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
    let pod = |terminated: Json| {
        serde_json::from_value(json!({
            "metadata": {"name": "r-recovery"},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "recovery", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": terminated,
            }]},
        }))
        .unwrap()
    };
    observed.pod = Some(pod(json!({"running": {}})));
    assert!(matches!(plan(&observed, &image()), Step::Wait(_)));
    observed.pod = Some(pod(json!({"terminated": {"exitCode": 1}})));
    assert!(
        matches!(plan(&observed, &image()), Step::Wait(_)),
        "it will be started again"
    );
    observed.pod = Some(pod(json!({"terminated": {"exitCode": 0}})));
    let step = plan(&observed, &image());
    let Step::Make(Phase::HandingOver, objects) = &step else {
        panic!("{step:?}")
    };
    let kinds: Vec<Kind> = objects.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Service, Kind::StatefulSet]);

    let mut observed = done(observed, &step);
    let Step::Wait(waiting) = plan(&observed, &image()) else {
        panic!()
    };
    assert_eq!(waiting.remove, [(Kind::Pod, "r-recovery".to_owned())]);
    observed.clone_pod = serde_json::from_value(json!({
        "metadata": {"name": "copy-0"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    assert!(matches!(plan(&observed, &image()), Step::Complete(_)));
}

#[test]
fn the_clone_is_like_the_source_and_selected_by_nothing_of_it() {
    let objects = made_by(&recovered());
    let (service, set) = (&objects[0].1, &objects[1].1);
    let spec = &set["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["serviceName"], "copy");
    let labels = spec["template"]["metadata"]["labels"].as_object().unwrap();
    assert!(
        labels
            .keys()
            .all(|label| label.starts_with("highwater.dev/")),
        "{labels:?}"
    );
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(labels.get(key), Some(value));
    }
    assert_eq!(spec["selector"]["matchLabels"], service["spec"]["selector"]);
    assert_eq!(
        spec["template"]["metadata"]["annotations"],
        json!({"team": "a"})
    );
    assert_eq!(
        spec["volumeClaimTemplates"][0]["metadata"],
        json!({"name": "data"})
    );
    let volumes = spec["template"]["spec"]["volumes"].as_array().unwrap();
    assert_eq!(
        volumes[0]["persistentVolumeClaim"]["claimName"],
        "wal-copy-0"
    );
    assert_eq!(
        volumes[1].get("persistentVolumeClaim"),
        None,
        "the source's claim is never mounted"
    );
    assert_eq!(service["spec"]["ports"][0]["port"], 5432);
}

fn volumes_alone() -> RestoreInto {
    serde_json::from_value(json!({"volumes": {"namePrefix": "p"}})).unwrap()
}

#[test]
fn literals_that_the_backup_left_out_are_asked_for() {
    let mut observed = observed(into_set(), planned());
    observed.live = None;
    let status = observed.backup.as_mut().unwrap().status.as_mut().unwrap();
    let env = status
        .stateful_set
        .as_mut()
        .unwrap()
        .pointer_mut("/template/spec/containers/1/env")
        .unwrap();
    *env = json!([{"name": "POSTGRES_PASSWORD"}]);
    let Step::Fail(rejection) = plan(&observed, &image()) else {
        panic!()
    };
    assert_eq!(rejection.reason, "EnvironmentUnknown");
    assert!(rejection.message.contains("POSTGRES_PASSWORD"));
    observed.into = volumes_alone();
    assert!(matches!(plan(&observed, &image()), Step::WriteDown(_)));
}

/// As Patroni does, that takes its lease with them.
#[test]
fn the_clone_has_none_of_the_sources_rights() {
    let (_, set) = &made_by(&recovered())[1];
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod.get("serviceAccountName"), None);
    assert_eq!(pod.get("serviceAccount"), None);
}

#[test]
fn a_cluster_that_shares_state_is_not_cloned() {
    let secret = json!({"secretKeyRef": {"name": "s", "key": "k"}});
    let env = |name: &str| json!({"name": "db", "env": [{"name": name, "value": "orders"}]});
    let cases = [
        (env("SCOPE"), true),
        (env("PATRONI_SCOPE"), true),
        (env("PATRONI_ETCD3_HOSTS"), true),
        (env("SPILO_CONFIGURATION"), true),
        (env("STKEEPER_CLUSTER_NAME"), true),
        (env("STOLON_CLUSTER_NAME"), true),
        (env("REPMGR_PARTNER_NODES"), true),
        (env("PG_AUTOCTL_MONITOR"), true),
        (
            json!({"name": "db", "env": [{"name": "SCOPE", "valueFrom": secret}]}),
            true,
        ),
        (
            json!({"name": "db", "envFrom": [{"prefix": "PATRONI_", "configMapRef": {"name": "c"}}]}),
            true,
        ),
        // What is in it cannot be known.
        (
            json!({"name": "db", "envFrom": [{"configMapRef": {"name": "c"}}]}),
            false,
        ),
        (env("PGDATA"), false),
        (env("TELESCOPE"), false),
    ];
    for field in ["containers", "initContainers"] {
        for (container, is_refused) in &cases {
            let mut observed = observed(into_set(), planned());
            let mut spec = set_spec();
            let pod = &mut spec["template"]["spec"];
            pod["containers"] = json!([{"name": "main"}]);
            pod[field] = json!([container]);
            observed.live.as_mut().unwrap().spec = serde_json::from_value(spec).unwrap();
            match plan(&observed, &image()) {
                Step::Fail(rejection) if *is_refused => {
                    assert_eq!(rejection.reason, "SharedClusterName", "{container}");
                }
                Step::WriteDown(_) if !is_refused => {}
                other => panic!("{field} {container}: {other:?}"),
            }
            // Volumes start nothing.
            observed.into = volumes_alone();
            let step = plan(&observed, &image());
            assert!(matches!(step, Step::WriteDown(_)), "{container}: {step:?}");
        }
    }
}

#[test]
fn a_selector_made_meanwhile_stops_the_clone() {
    let mut observed = recovered();
    let made = made_by(&observed);
    observed.selecting = vec![clone::Selecting {
        name: "PodDisruptionBudget all".into(),
        selector: Default::default(),
    }];
    // Recovered data is worth more than an answer: nothing is given up.
    let Step::Wait(waiting) = plan(&observed, &image()) else {
        panic!("the clone is made all the same")
    };
    assert_eq!(waiting.phase, Phase::HandingOver);
    assert!(
        waiting.message.contains("PodDisruptionBudget all"),
        "{waiting:?}"
    );
    assert_eq!(waiting.remove, []);
    observed.selecting.clear();
    assert_eq!(made_by(&observed), made);
}
