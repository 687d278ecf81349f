use serde_json::json;

use super::*;

fn base() -> Json {
    let volume = |name: &str, path: &str| {
        json!({
            "claim": format!("{name}-orders-0"), "volume": name, "mounts": [{"path": path}], "driver": "d",
            "handle": format!("handle-{name}"), "capacity": 1000, "restoreSize": 2000,
            "storageClassName": "fast", "volumeMode": "Filesystem",
        })
    };
    json!({
        "name": "b", "uid": "backup-uid", "namespace": "lost", "statefulSetName": "orders",
        "statefulSet": set_spec(), "volumes": [volume("data", "/data"), volume("wal", "/wal")],
    })
}

fn planned_from_archive() -> Json {
    json!({"plan": plan_json(), "base": base(), "conditions": [condition("Planned", "True", "Planned")]})
}

/// Nothing of the source is in the cluster; a cluster admin allows the import.
fn lost(status: Json) -> Observed {
    let mut lost = observed(json!({"volumes": {"namePrefix": "copy"}}), status);
    lost.restore.spec.source =
        serde_json::from_value(json!({"archive": {"archive": "main", "name": "n"}})).unwrap();
    (lost.protection, lost.live) = (None, None);
    lost.snapshots = Vec::new();
    lost.import_from = Some("main".into());
    lost.backup = lost
        .restore
        .status
        .as_ref()
        .unwrap()
        .base
        .as_ref()
        .map(super::super::super::recorded::backup);
    lost
}

#[test]
fn without_a_word_of_a_cluster_admin_nothing_is_imported_by_what_a_bucket_says() {
    for allowed in [None, Some(""), Some("other")] {
        for status in [json!({}), planned_from_archive()] {
            let mut observed = lost(status);
            observed.import_from = allowed.map(str::to_owned);
            assert_eq!(refused(&observed), "ImportNotAllowed", "{allowed:?}");
            // A plan reads the bucket with credentials that whoever asks has.
            observed.restore.spec.plan_only = Some(true);
            assert!(!matches!(plan(&observed, &image()), Step::Fail(_)));
        }
    }
    // The word is asked for again until all is made.
    let mut observed = lost(planned_from_archive());
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("nothing is written down");
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    observed.import_from = None;
    assert_eq!(refused(&observed), "ImportNotAllowed");
}

#[test]
fn a_pod_plans_where_no_agent_does() {
    let mut observed = lost(json!({}));
    let step = plan(&observed, &image());
    let Step::Make(Phase::Planning, objects) = &step else {
        panic!("{step:?}")
    };
    let kinds: Vec<_> = objects.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::ServiceAccount, Kind::RoleBinding, Kind::Pod]);
    let pod = &objects[2].1;
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(pod["spec"]["serviceAccountName"], "r-planning");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["args"][0], "plan");
    assert_eq!(container["volumeMounts"][0]["readOnly"], true);
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["secretName"], "bucket");
    observed = done(observed, &step);
    assert!(matches!(plan(&observed, &image()), Step::Wait(_)));
    observed.planning_pod = serde_json::from_value(
        json!({"metadata": {"name": "r-planning"}, "status": {"phase": "Failed"}}),
    )
    .unwrap();
    let evicted = vec![(Kind::Pod, "r-planning".to_owned())];
    assert_eq!(plan(&observed, &image()), Step::Remove(evicted));
    observed.archive = None;
    assert_eq!(refused(&observed), "ArchiveNotFound");
}

#[test]
fn every_volume_is_imported_by_the_catalogs_handle_and_kept() {
    let mut observed = lost(planned_from_archive());
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("nothing is written down");
    };
    assert!(volumes.iter().all(|volume| volume.size == 2000));
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let objects = made_by(&observed);
    let contents: Vec<_> = objects
        .iter()
        .filter(|(kind, _)| *kind == Kind::VolumeSnapshotContent)
        .map(|(_, content)| content)
        .collect();
    assert_eq!(contents.len(), 2);
    for (content, handle) in contents.iter().zip(["handle-data", "handle-wal"]) {
        let spec = &content["spec"];
        assert_eq!(spec["deletionPolicy"], "Retain");
        assert_eq!(spec["source"]["snapshotHandle"], handle);
        assert_eq!(spec["volumeSnapshotRef"]["namespace"], "shop");
    }
    let is_pod = |(kind, _): &&(Kind, Json)| *kind == Kind::Pod;
    let (_, pod) = objects.iter().find(is_pod).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["image"], "pg:15");
}

#[test]
fn a_plan_of_another_archive_database_or_history_is_refused() {
    for (field, other) in [
        ("archive", "another"),
        ("archiveName", "another"),
        ("lineage", "1111111111"),
    ] {
        let mut status = planned_from_archive();
        status["plan"][field] = json!(other);
        let mut observed = lost(status);
        let source = observed.restore.spec.source.archive.as_mut().unwrap();
        source.lineage = Some("0000000000".parse().unwrap());
        assert_eq!(refused(&observed), "PlanNotOfSource", "{field}");
    }
}

#[test]
fn the_planning_pod_goes_when_the_restore_is_over() {
    let mut observed = lost(planned_from_archive());
    let status = observed.restore.status.as_mut().unwrap();
    status
        .conditions
        .push(serde_json::from_value(condition("Completed", "True", "Completed")).unwrap());
    let pod = (Kind::Pod, "r-planning".to_owned());
    observed.made = vec![pod.clone(), (Kind::Claim, "copy-data".to_owned())];
    assert_eq!(plan(&observed, &image()), Step::Remove(vec![pod]));
}
