use serde_json::{Value, json};

use super::*;

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// As the snapshot controller names them: SHA-256 of UID and handle, one behind the other, by `sha256sum`.
#[test]
fn members_are_named_as_the_snapshot_controller_names_them() {
    let uid = "0f9d3f0e-5b1c-4f5e-9a68-3d0d1b6b9f10";
    let hash = "1abaee7aab7556d280b1749e8b4e0d9de910f8b0db2d4795091d8b2ae473da03";
    assert_eq!(member_name(uid, "vol-1"), format!("snapshot-{hash}"));
    assert_eq!(
        member_content_name(uid, "vol-1"),
        format!("snapcontent-{hash}")
    );
    assert_ne!(member_name(uid, "vol-1"), member_name(uid, "vol-2"));
    assert_eq!(group_content_name(uid), format!("groupsnapcontent-{uid}"));
}

fn content(asked: &[&str], list: &[(&str, &str)]) -> VolumeGroupSnapshotContent {
    let list: Vec<_> = list
        .iter()
        .map(|(volume, snapshot)| json!({"volumeHandle": volume, "snapshotHandle": snapshot}))
        .collect();
    object(json!({
        "metadata": {"name": "groupsnapcontent-u1"},
        "spec": {"volumeGroupSnapshotRef": {"name": "g", "namespace": "shop", "uid": "u1"},
            "deletionPolicy": "Delete", "driver": "d", "source": {"volumeHandles": asked}},
        "status": {"volumeGroupSnapshotHandle": "gh", "volumeSnapshotInfoList": list},
    }))
}

#[test]
fn a_group_is_whole_only_with_exactly_its_volumes() {
    let expected = ["a".to_owned(), "b".to_owned()];
    let both = [("a", "sa"), ("b", "sb")];
    for (what, asked, list, differs) in [
        ("another order", &["b", "a"][..], &both[..], None),
        (
            "one is not asked for",
            &["a"],
            &[],
            Some("volume b is not in it"),
        ),
        (
            "one more is asked for",
            &["a", "b", "c"],
            &[],
            Some("volume c is in it"),
        ),
        ("one twice", &["a", "b", "b"], &[], Some("twice")),
        (
            "one is not answered",
            &["a", "b"],
            &both[..1],
            Some("volume b is not in it"),
        ),
        (
            "one more is answered",
            &["a", "b"],
            &[both[0], both[1], ("c", "sc")],
            Some("volume c is in it"),
        ),
        (
            "one is answered twice",
            &["a", "b"],
            &[both[0], both[1], ("b", "sc")],
            Some("twice"),
        ),
        (
            "two have one snapshot",
            &["a", "b"],
            &[both[0], ("b", "sa")],
            Some("a snapshot each"),
        ),
        (
            "one has none",
            &["a", "b"],
            &[both[0], ("b", "")],
            Some("a snapshot each"),
        ),
    ] {
        match (compare(&expected, &content(asked, list)), differs) {
            (Compared::Whole(pairs), None) => {
                assert_eq!(pairs["a"], "sa", "{what}");
                assert_eq!(pairs["b"], "sb", "{what}");
            }
            (Compared::Differs(why), Some(part)) => assert!(why.contains(part), "{what}: {why}"),
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
    let none = content(&["a", "b"], &[]);
    assert_eq!(compare(&expected, &none), Compared::Awaited);
}

#[test]
fn a_groups_content_is_known_by_uid() {
    let group: VolumeGroupSnapshot = object(json!({
        "metadata": {"name": "g", "namespace": "shop", "uid": "u1"},
        "spec": {"source": {"selector": {"matchLabels": {"l": "v"}}}},
    }));
    let good = content(&["a"], &[]);
    assert!(is_group_content_of(&group, &good));
    type Change = fn(&mut VolumeGroupSnapshot, &mut VolumeGroupSnapshotContent);
    let changes: [(&str, Change); 5] = [
        ("another UID", |_, c| {
            c.spec.volume_group_snapshot_ref.uid = Some("u2".into());
        }),
        ("another group", |_, c| {
            c.spec.volume_group_snapshot_ref.name = Some("h".into());
        }),
        ("another name", |_, c| {
            c.metadata.name = Some("imported".into())
        }),
        ("the group names another", |g, _| {
            g.status = Some(VolumeGroupSnapshotStatus {
                bound_volume_group_snapshot_content_name: Some("other".into()),
                error: None,
            });
        }),
        ("no UIDs", |g, c| {
            g.metadata.uid = None;
            c.spec.volume_group_snapshot_ref.uid = None;
        }),
    ];
    for (what, change) in changes {
        let (mut group, mut content) = (group.clone(), good.clone());
        change(&mut group, &mut content);
        assert!(!is_group_content_of(&group, &content), "{what}");
    }
}

#[test]
fn the_class_is_the_policys_or_the_drivers() {
    let class = |name: &str, driver: &str, default: bool| -> VolumeGroupSnapshotClass {
        object(json!({
            "metadata": {"name": name,
                "annotations": {DEFAULT_GROUP_CLASS_ANNOTATION: default.to_string()}},
            "driver": driver, "deletionPolicy": "Delete",
        }))
    };
    let classes = [
        class("gold", "fast.example", true),
        class("iron", "fast.example", false),
        class("lone", "slow.example", false),
        class("left", "twin.example", false),
        class("right", "twin.example", false),
    ];
    for (named, driver, expected) in [
        (None, "fast.example", Ok("gold")),
        (None, "slow.example", Ok("lone")),
        (None, "none.example", Err("NoGroupClass")),
        (None, "twin.example", Err("GroupClassAmbiguous")),
        (Some("iron"), "fast.example", Ok("iron")),
        (
            Some("iron"),
            "slow.example",
            Err("GroupClassDriverMismatch"),
        ),
        (Some("tin"), "fast.example", Err("GroupClassNotFound")),
    ] {
        let found = group_class_for(&classes, named, driver).map(ResourceExt::name_any);
        let found = found.as_deref().map_err(|none| none.reason());
        assert_eq!(found, expected, "{named:?} {driver}");
    }
}
