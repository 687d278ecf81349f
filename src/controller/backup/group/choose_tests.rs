use serde_json::{Value, json};

use super::tests::{class, object, time, wishing};
use crate::controller::backup::{door::door, observe::Observed};

#[test]
fn a_group_is_made_only_where_it_is_asked_for_and_possible() {
    let atomic = || json!({"groupConsistency": "Atomic"});
    type Change = fn(&mut Observed);
    let cases: [(&str, Value, Change, Result<bool, &str>); 9] = [
        ("asked for", atomic(), |_| {}, Ok(true)),
        ("not asked for", json!({}), |_| {}, Ok(false)),
        (
            "refused",
            json!({"groupConsistency": "None"}),
            |_| {},
            Ok(false),
        ),
        (
            "one volume",
            atomic(),
            |o| {
                let pod = o.source.as_mut().unwrap().pod.as_mut().unwrap();
                pod.spec
                    .as_mut()
                    .unwrap()
                    .volumes
                    .as_mut()
                    .unwrap()
                    .remove(1);
            },
            Ok(false),
        ),
        (
            "no CRDs",
            atomic(),
            |o| o.groups.classes = None,
            Err("GroupSnapshotsNotServed"),
        ),
        (
            "no class",
            atomic(),
            |o| o.groups.classes = Some(vec![class("other", "other.example")]),
            Err("NoGroupClass"),
        ),
        (
            "the class that is named is not there",
            json!({"groupConsistency": "Atomic", "groupClassName": "none-such"}),
            |_| {},
            Err("GroupClassNotFound"),
        ),
        (
            "two drivers",
            atomic(),
            |o| {
                let source = o.source.as_mut().unwrap();
                let volume = source.volumes.get_mut("pv-wal-orders-0").unwrap();
                let csi = volume.spec.as_mut().unwrap().csi.as_mut().unwrap();
                csi.driver = "other.example".into();
                let other = json!({"metadata": {"name": "other"}, "driver": "other.example",
                    "deletionPolicy": "Delete"});
                source.classes.push(object(other));
            },
            Err("GroupOfSeveralDrivers"),
        ),
        (
            "an attempt by a group is void",
            atomic(),
            |o| {
                let void = json!({"attempt": 1, "volumeGroupSnapshot": "g", "className": "c",
                    "volumeHandles": ["h"]});
                o.backup.status = Some(object(json!({"group": void})));
            },
            Err("GroupGivenUp"),
        ),
    ];
    for (what, policy, change, expected) in cases {
        let mut observed = wishing(policy);
        change(&mut observed);
        let proposal = door(&observed, 2, time("2026-01-01T00:00:00Z")).unwrap();
        let why = proposal.set.attempt().one_by_one.clone();
        let group = proposal.set.group();
        let found = why.map_or(Ok(group.is_some()), |why| Err(why.reason));
        assert_eq!(
            found.as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|it| *it),
            "{what}"
        );
        for member in proposal.set.members() {
            assert_eq!(member.volume_snapshot.is_empty(), group.is_some(), "{what}");
        }
        if let Some(group) = group {
            assert_eq!(group.volume_handles, ["h-data-orders-0", "h-wal-orders-0"]);
            assert_eq!(group.volume_group_snapshot, "nightly-backup-u-2");
        }
    }
}
