use serde_json::json;

use super::*;

#[test]
fn a_snapshot_of_another_namespace_or_backup_is_not_imported() {
    for change in [
        (|o: &mut Observed| {
            let content = o.snapshots[0].content.as_mut().unwrap();
            content.spec.volume_snapshot_ref.namespace = Some("other".into());
        }) as fn(&mut Observed),
        |o| o.snapshots[0].content.as_mut().unwrap().metadata.labels = None,
        |o| {
            let status = o.snapshots[0]
                .content
                .as_mut()
                .unwrap()
                .status
                .as_mut()
                .unwrap();
            status.snapshot_handle = Some("another's".into());
        },
        |o| o.snapshots[0].content.as_mut().unwrap().spec.driver = "other".into(),
        // No label is not the label of a backup without a UID.
        |o| {
            o.snapshots[0].content.as_mut().unwrap().metadata.labels = None;
            o.backup.as_mut().unwrap().metadata.uid = None;
        },
    ] {
        let mut observed = observed(into_set(), planned());
        observed.snapshots[0].snapshot = None;
        change(&mut observed);
        assert_eq!(refused(&observed), "SnapshotGone");
    }
}

#[test]
fn a_snapshot_that_is_gone_is_imported_by_its_handle() {
    let mut observed = observed(into_set(), planned());
    observed.snapshots[0].snapshot = None;
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!()
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let Step::Make(_, objects) = plan(&observed, &image()) else {
        panic!()
    };
    let (_, content) = objects
        .iter()
        .find(|(kind, _)| *kind == Kind::VolumeSnapshotContent)
        .unwrap();
    assert_eq!(content["spec"]["deletionPolicy"], "Retain");
    assert_eq!(content["spec"]["source"]["snapshotHandle"], "handle-data");
    assert_eq!(content["spec"]["volumeSnapshotRef"]["namespace"], "shop");
    let (_, claim) = objects
        .iter()
        .find(|(kind, _)| *kind == Kind::Claim)
        .unwrap();
    assert_eq!(
        claim["spec"]["dataSource"]["name"],
        content["metadata"]["name"]
    );
}

/// As docs/runbooks/restore.md tells a cluster admin to make it.
#[test]
fn a_content_made_by_hand_is_imported() {
    let mut observed = observed(into_set(), planned());
    observed.snapshots[0].snapshot = None;
    observed.snapshots[0].content = serde_json::from_value(json!({
        "metadata": {"name": "content-data", "labels": {annotations::BACKUP_UID_LABEL: "backup-uid"}},
        "spec": {
            "driver": "d", "deletionPolicy": "Retain", "source": {"snapshotHandle": "handle-data"},
            "volumeSnapshotRef": {"name": "snap-data", "namespace": "shop"},
        },
        "status": {"snapshotHandle": "handle-data"},
    }))
    .unwrap();
    assert!(matches!(plan(&observed, &image()), Step::WriteDown(_)));
    observed.snapshots[0].content = None;
    let Step::Fail(rejection) = plan(&observed, &image()) else {
        panic!()
    };
    assert!(
        rejection.message.contains("handle-data") && rejection.message.contains("runbooks"),
        "{rejection:?}"
    );
}
