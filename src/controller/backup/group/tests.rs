use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{SnapshotPolicy, annotations, conditions},
    controller::backup::{
        act::Acted,
        build::build_labels,
        door::door,
        is_settled,
        model::base::{base, proved},
        observe::{self, Observed},
        plan::{Awaited, Step, plan},
        report::own_status,
        setback::Setback,
        sweep::{Removal, orphan_of},
        validate::validate,
    },
    csi::{
        DeletionPolicy,
        group::{
            GROUP_DELETED_ANNOTATION, MEMBER_ANNOTATION, VolumeGroupSnapshotClass,
            VolumeSnapshotInfo, group_content_name, member_content_name, member_name,
        },
    },
};

const UID: &str = "g-uid";

pub(super) fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) fn class(name: &str, driver: &str) -> VolumeGroupSnapshotClass {
    object(json!({"metadata": {"name": name}, "driver": driver, "deletionPolicy": "Delete"}))
}

/// What the door asks for, with the wish for a group.
pub(super) fn wishing(snapshot: Value) -> Observed {
    let mut observed = base();
    let policy: SnapshotPolicy = object(snapshot);
    observed.policy.as_mut().unwrap().spec.snapshot = Some(policy);
    observed.groups.classes = Some(vec![class("cow-groups", "cow.example")]);
    observed
}

/// A first attempt by a group of which everything is proved; only `Completed` is not written yet.
pub(in crate::controller::backup) fn grouped() -> Observed {
    let mut observed = proved();
    let wish = wishing(json!({"groupConsistency": "Atomic"}));
    observed.policy = wish.policy.clone();
    let proposal = door(&wish, 1, time("2026-01-01T00:01:00Z")).unwrap();
    let mut group = proposal.set.group().unwrap().clone();
    group.labelled = true;
    group.volume_group_snapshot_uid = Some(UID.into());
    group.content = Some(group_content_name(UID));
    group.handle = Some("gh".into());
    let status = observed.backup.status.as_mut().unwrap();
    let mut list = Vec::new();
    for (at, volume) in status.volumes.iter_mut().enumerate() {
        let handle = &volume.volume_handle;
        let (name, content_name) = (member_name(UID, handle), member_content_name(UID, handle));
        list.push(json!({"volumeHandle": handle, "snapshotHandle": volume.handle}));
        volume.volume_snapshot.clone_from(&name);
        volume.content = Some(content_name.clone());
        let snapshot = &mut observed.snapshots[at];
        snapshot.metadata.name = Some(name.clone());
        snapshot.metadata.labels = None;
        snapshot.metadata.owner_references = Some(object(json!([{
            "apiVersion": "groupsnapshot.storage.k8s.io/v1", "kind": "VolumeGroupSnapshot",
            "name": group.volume_group_snapshot, "uid": UID}])));
        let bound = snapshot.status.as_mut().unwrap();
        bound.bound_volume_snapshot_content_name = Some(content_name.clone());
        let content = &mut observed.contents[at];
        content.metadata.name = Some(content_name);
        content.metadata.annotations = Some([(MEMBER_ANNOTATION.into(), "gh".into())].into());
        content.spec.volume_snapshot_ref.name = Some(name);
    }
    let reference = json!({"name": group.volume_group_snapshot, "namespace": "shop", "uid": UID});
    observed.groups.snapshots = vec![object(json!({
        "metadata": {"name": group.volume_group_snapshot, "namespace": "shop", "uid": UID,
            "creationTimestamp": "2026-01-01T00:01:10Z",
            "labels": {annotations::BACKUP_UID_LABEL: "backup-uid", annotations::ATTEMPT_LABEL: "1"}},
        "spec": {"source": {"selector": {"matchLabels": {annotations::GROUP_LABEL: "backup-uid-1"}}}},
        "status": {"boundVolumeGroupSnapshotContentName": group_content_name(UID)},
    }))];
    observed.groups.contents = vec![object(json!({
        "metadata": {"name": group_content_name(UID), "uid": "gc-uid"},
        "spec": {"volumeGroupSnapshotRef": reference, "deletionPolicy": "Retain", "driver": "cow.example",
            "source": {"volumeHandles": group.volume_handles}},
        "status": {"volumeGroupSnapshotHandle": "gh", "volumeSnapshotInfoList": list},
    }))];
    status.group = Some(group);
    observed
}

fn step(observed: &Observed) -> Step {
    let now = time("2026-01-01T00:03:00Z");
    plan(&validate(observed, now), now).step
}

fn list(observed: &mut Observed) -> &mut Vec<VolumeSnapshotInfo> {
    let status = observed.groups.contents[0].status.as_mut().unwrap();
    &mut status.volume_snapshot_info_list
}

type Change = fn(&mut Observed);

#[test]
fn a_group_that_is_not_what_was_written_down_voids_the_attempt() {
    assert!(matches!(step(&grouped()), Step::Complete(_)));
    let changes: [(&str, Change); 10] = [
        ("is gone", |o| o.groups.snapshots.clear()),
        ("was replaced", |o| {
            o.groups.snapshots[0].metadata.uid = Some("another".into());
        }),
        ("is being deleted", |o| {
            let at = object(json!("2026-01-01T00:02:00Z"));
            o.groups.snapshots[0].metadata.deletion_timestamp = Some(at);
        }),
        ("is being deleted", |o| {
            let at = object(json!("2026-01-01T00:02:00Z"));
            o.groups.contents[0].metadata.deletion_timestamp = Some(at);
        }),
        ("is gone", |o| o.groups.contents.clear()),
        ("has another snapshot", |o| {
            let status = o.groups.contents[0].status.as_mut().unwrap();
            status.volume_group_snapshot_handle = Some("another".into());
        }),
        ("is not in it", |o| drop(list(o).pop())),
        ("should not be", |o| {
            let handles = &mut o.groups.contents[0].spec.source.volume_handles;
            handles.push("of-somebody".into());
        }),
        ("another snapshot than its group", |o| {
            list(o)[0].snapshot_handle = "another".into();
        }),
        ("did not make", |o| {
            let status = o.backup.status.as_mut().unwrap();
            status.volumes[0].volume_snapshot_uid = None;
            o.snapshots[0].metadata.owner_references = None;
        }),
    ];
    for (part, change) in changes {
        let mut observed = grouped();
        change(&mut observed);
        match step(&observed) {
            Step::Abandon(Setback::SnapshotLost(why)) => {
                assert!(why.contains(part), "{part}: {why}");
            }
            other => panic!("{part}: {other:?}"),
        }
    }
}

#[test]
fn a_group_is_complete_only_when_its_content_is_retained_too() {
    let mut observed = grouped();
    observed.groups.contents[0].spec.deletion_policy = DeletionPolicy::Delete;
    match step(&observed) {
        Step::RetainGroup(content) => assert_eq!(content.uid, "gc-uid"),
        other => panic!("{other:?}"),
    }
}

fn without(observed: &mut Observed, types: &[&str]) {
    let status = observed.backup.status.as_mut().unwrap();
    let list = &mut status.conditions;
    list.retain(|condition| !types.contains(&condition.type_.as_str()));
}

/// Not cut yet: the claims have no label, and there is no group.
fn beginning() -> Observed {
    let mut observed = grouped();
    without(
        &mut observed,
        &["Cut", "Stopped", "WalArchived", "Ready", "Catalogued"],
    );
    observed.groups.snapshots.clear();
    observed.groups.contents.clear();
    observed.snapshots.clear();
    observed.contents.clear();
    let status = observed.backup.status.as_mut().unwrap();
    status.session.as_mut().unwrap().stop_lsn = None;
    let group = status.group.as_mut().unwrap();
    group.labelled = false;
    group.volume_group_snapshot_uid = None;
    group.content = None;
    group.handle = None;
    for volume in &mut status.volumes {
        volume.volume_snapshot.clear();
        volume.volume_snapshot_uid = None;
        volume.content = None;
        volume.handle = None;
    }
    observed
}

#[test]
fn claims_are_labelled_before_backup_mode_and_the_group_is_made_in_it() {
    let mut observed = beginning();
    let mut waiting = observed.clone();
    without(&mut waiting, &["Session"]);
    waiting.backup.status.as_mut().unwrap().session = None;
    assert!(matches!(step(&waiting), Step::LabelClaims(_)));
    assert!(matches!(step(&observed), Step::LabelClaims(_)));
    for observed in [&mut waiting, &mut observed] {
        let status = observed.backup.status.as_mut().unwrap();
        status.group.as_mut().unwrap().labelled = true;
    }
    let awaited = |step: Step| match step {
        Step::Await { what, .. } => Some(what),
        _ => None,
    };
    assert_eq!(awaited(step(&waiting)), Some(Awaited::Session));
    assert!(matches!(step(&observed), Step::CreateGroup(_)));
    observed.groups.snapshots = grouped().groups.snapshots;
    assert_eq!(awaited(step(&observed)), Some(Awaited::Cut));
}

/// What a pass writes of an observation.
fn written(observed: &Observed, acted: Acted) -> Observed {
    let now = time("2026-01-01T00:03:00Z");
    let state = validate(observed, now);
    let plan = plan(&state, now);
    let own = own_status(observed, &state, &plan, &Ok(acted), now);
    let mut after = observed.clone();
    let before = observed.backup.status.clone().unwrap();
    after.backup.status = Some(own.into_status(&before));
    after
}

#[test]
fn the_members_names_are_written_down_with_the_groups_uid() {
    let mut observed = beginning();
    observed = written(
        &observed,
        Acted {
            labelled: true,
            ..Acted::default()
        },
    );
    assert!(recorded(&observed.backup).unwrap().labelled);
    let group = grouped().groups.snapshots.remove(0);
    observed = written(
        &observed,
        Acted {
            group: Some(group),
            ..Acted::default()
        },
    );
    let status = observed.backup.status.as_ref().unwrap();
    let uid = &status.group.as_ref().unwrap().volume_group_snapshot_uid;
    assert_eq!(uid.as_deref(), Some(UID));
    let names: Vec<_> = status
        .volumes
        .iter()
        .map(|it| it.volume_snapshot.clone())
        .collect();
    let expected = ["h-data-orders-0", "h-wal-orders-0"].map(|it| member_name(UID, it));
    assert_eq!(names, expected);
}

/// Its members are known by it, whatever becomes of the group.
#[test]
fn the_uid_of_a_group_is_written_down_also_when_the_attempt_is_void() {
    let mut observed = beginning();
    let status = observed.backup.status.as_mut().unwrap();
    status.group.as_mut().unwrap().labelled = true;
    observed.groups = grouped().groups;
    let content = &mut observed.groups.contents[0];
    content
        .spec
        .source
        .volume_handles
        .push("of-somebody".into());
    let uid = |observed: &Observed| {
        let group = recorded(&observed.backup);
        group.unwrap().volume_group_snapshot_uid.clone()
    };
    assert!(matches!(step(&observed), Step::Abandon(_)));
    let after = written(&observed, Acted::default());
    assert_eq!(uid(&after).as_deref(), Some(UID));
    let labels = &mut observed.groups.snapshots[0].metadata.labels;
    *labels = None;
    let after = written(&observed, Acted::default());
    assert_eq!(uid(&after), None, "it is somebody else's");
}

/// The agent stops when it reads `Cut=True`.
#[test]
fn backup_mode_does_not_end_before_the_group_is_compared() {
    let is_cut = |observed: &Observed| {
        let status = observed.backup.status.as_ref().unwrap();
        conditions::is_true(&status.conditions, conditions::CUT)
    };
    let mut cut = beginning();
    let whole = grouped();
    cut.backup
        .status
        .as_mut()
        .unwrap()
        .group
        .as_mut()
        .unwrap()
        .labelled = true;
    cut.groups = whole.groups;
    cut = written(&cut, Acted::default());
    (cut.snapshots, cut.contents) = (whole.snapshots, whole.contents);
    let after = written(&cut, Acted::default());
    assert!(is_cut(&after));
    let group = recorded(&after.backup).unwrap();
    assert_eq!(group.content, Some(group_content_name(UID)));
    assert_eq!(group.handle.as_deref(), Some("gh"));

    let mut awaited = cut.clone();
    let group = awaited.backup.status.as_mut().unwrap().group.as_mut();
    let group = group.unwrap();
    (group.content, group.handle) = (None, None);
    list(&mut awaited).clear();
    assert!(!is_cut(&written(&awaited, Acted::default())));
    let mut one_missing = cut;
    one_missing.snapshots.pop();
    assert!(!is_cut(&written(&one_missing, Acted::default())));
}

/// Does to a cluster in memory what a removal asks for; a group that goes takes along what may go.
fn remove(observed: &mut Observed, removal: &Removal) {
    match removal {
        Removal::MakeDeletable { content, attempt } => {
            let labels = build_labels(&observed.backup, *attempt);
            let mut all = observed.contents.iter_mut();
            let content = all
                .find(|it| it.uid().as_ref() == Some(&content.uid))
                .unwrap();
            content.spec.deletion_policy = DeletionPolicy::Delete;
            content.metadata.labels = Some(labels);
        }
        Removal::DeleteSnapshot { name, .. } => {
            assert!(
                observed.groups.contents.is_empty(),
                "a member goes before its group"
            );
            observed.snapshots.retain(|it| it.name_any() != *name);
            observed
                .contents
                .retain(|it| it.spec.volume_snapshot_ref.name.as_ref() != Some(name));
        }
        Removal::DeleteContent(content) => {
            assert!(
                observed.groups.contents.is_empty(),
                "a member goes before its group"
            );
            observed.contents.retain(|it| it.name_any() != content.name);
        }
        Removal::Group(GroupRemoval::Unlabel(claim)) => {
            observed.groups.labelled.retain(|it| it != claim);
        }
        Removal::Group(GroupRemoval::MakeDeletable { orphan, .. }) => {
            let content = &mut observed.groups.contents[0];
            content.spec.deletion_policy = DeletionPolicy::Delete;
            if *orphan {
                let mark = (GROUP_DELETED_ANNOTATION.to_owned(), "yes".to_owned());
                content.metadata.annotations = Some([mark].into());
            }
        }
        Removal::Group(GroupRemoval::DeleteSnapshot { .. }) => {
            observed.groups.snapshots.clear();
            let stays = |policy: DeletionPolicy| policy == DeletionPolicy::Retain;
            observed
                .groups
                .contents
                .retain(|it| stays(it.spec.deletion_policy));
            observed
                .contents
                .retain(|it| stays(it.spec.deletion_policy));
            observed.snapshots.clear();
            assert!(observed.groups.contents.is_empty() && observed.contents.is_empty());
        }
        Removal::Group(GroupRemoval::DeleteContent(_)) => {
            let content = &observed.groups.contents[0];
            let told = content.annotations().contains_key(GROUP_DELETED_ANNOTATION);
            assert!(told, "the sidecar would not let it go");
            assert_eq!(content.spec.deletion_policy, DeletionPolicy::Delete);
            observed.groups.contents.clear();
        }
        Removal::Going => {}
    }
}

#[test]
fn a_void_group_goes_first_and_leaves_nothing() {
    let cases: [(&str, Change); 6] = [
        ("whole", |_| {}),
        ("without its members", |o| {
            o.snapshots.clear();
            o.contents.clear();
        }),
        ("its content alone", |o| {
            o.groups.snapshots.clear();
            o.snapshots.clear();
            o.contents.clear();
        }),
        ("what it did not take along", |o| o.groups.snapshots.clear()),
        ("a content of a volume too many, alone", |o| {
            o.groups.snapshots.clear();
            o.groups.contents.clear();
            o.snapshots.clear();
            o.contents.truncate(1);
            let content = &mut o.contents[0];
            let more = "of-somebody";
            content.metadata.name = Some(member_content_name(UID, more));
            content.spec.source.volume_handle = Some(more.into());
            content.spec.volume_snapshot_ref.name = Some(member_name(UID, more));
            content.spec.volume_snapshot_ref.uid = None;
        }),
        ("a content of a group whose UID is not known", |o| {
            o.groups.snapshots.clear();
            o.groups.contents.clear();
            o.snapshots.clear();
            let status = o.backup.status.as_mut().unwrap();
            let group = status.group.as_mut().unwrap();
            group.volume_group_snapshot_uid = None;
            for content in &mut o.contents {
                content.metadata.labels = Some(build_labels(&o.backup, 1));
            }
        }),
    ];
    for (what, change) in cases {
        let mut observed = grouped();
        let status = observed.backup.status.as_mut().unwrap();
        let completed = json!({"type": "Completed", "status": "False", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:02:00Z"});
        status.conditions.push(object(completed));
        observed.groups.labelled = vec![Labelled {
            claim: "data-orders-0".into(),
            uid: None,
            version: None,
        }];
        change(&mut observed);
        for content in &observed.contents {
            assert_eq!(orphan_of(&observed.backup, content), Some(1), "{what}");
        }
        for _ in 0..10 {
            for removal in &validate(&observed, time("2026-01-01T00:04:00Z")).leftovers {
                remove(&mut observed, removal);
            }
        }
        let Groups {
            snapshots,
            contents,
            labelled,
            classes: _,
        } = &observed.groups;
        assert!(snapshots.is_empty() && contents.is_empty(), "{what}");
        assert!(labelled.is_empty(), "{what}");
        assert!(
            observed.snapshots.is_empty() && observed.contents.is_empty(),
            "{what}"
        );
    }
}

#[test]
fn a_running_group_loses_its_labels_after_the_cut_and_nothing_else() {
    let mut observed = grouped();
    observed.groups.labelled = vec![Labelled {
        claim: "data-orders-0".into(),
        uid: None,
        version: None,
    }];
    let left = |observed: &Observed| validate(observed, time("2026-01-01T00:03:00Z")).leftovers;
    let unlabel = Removal::Group(GroupRemoval::Unlabel(observed.groups.labelled[0].clone()));
    assert_eq!(left(&observed), [unlabel]);
    without(&mut observed, &["Cut"]);
    assert_eq!(left(&observed), []);
}

#[test]
fn a_completed_group_is_settled_once_no_claim_has_its_label() {
    let mut observed = grouped();
    assert!(is_settled(&written(&observed, Acted::default()).backup));
    observed.groups.labelled = vec![Labelled {
        claim: "data-orders-0".into(),
        uid: None,
        version: None,
    }];
    let left = written(&observed, Acted::default()).backup;
    let group = recorded(&left).unwrap();
    assert!(group.labelled && observe::is_finished(&left));
    assert!(!is_settled(&left), "its label is to be taken off");
}

#[test]
fn members_of_volumes_that_only_the_driver_named_are_looked_for() {
    let mut observed = grouped();
    list(&mut observed)[0].volume_handle = "of-somebody".into();
    let group = recorded(&observed.backup).unwrap().clone();
    let (snapshots, contents) = member_names(&observed, &group);
    assert_eq!(snapshots, [member_name(UID, "of-somebody")]);
    assert_eq!(contents, [member_content_name(UID, "of-somebody")]);
}
