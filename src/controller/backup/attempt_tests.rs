use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::controller::backup::{model::base::proved, observe::Observed};

/// What is there of the first member.
fn first(observed: &Observed) -> Seen {
    let Observed {
        backup,
        snapshots,
        contents,
        groups,
        ..
    } = observed;
    let running = Running::read(backup, snapshots, contents, groups).unwrap();
    running.seen[0].clone()
}

type Change = fn(&mut Observed);

#[test]
fn a_replaced_snapshot_is_lost() {
    let time = || Some("2026-01-01T01:00:00Z".parse().map(Time).unwrap());
    assert!(matches!(first(&proved()), Seen::There(_)));
    let changes: [(&str, Change); 9] = [
        ("is gone", |o| drop(o.snapshots.remove(0))),
        ("was replaced by another one", |o| {
            o.snapshots[0].metadata.uid = Some("another".into());
            let reference = &mut o.contents[0].spec.volume_snapshot_ref;
            reference.uid = Some("another".into());
        }),
        ("is of another claim", |o| {
            let source = &mut o.snapshots[0].spec.source;
            source.persistent_volume_claim_name = Some("another".into());
        }),
        ("is gone", |o| {
            o.contents[0].metadata.name = Some("another".into());
            let status = o.snapshots[0].status.as_mut().unwrap();
            status.bound_volume_snapshot_content_name = Some("another".into());
        }),
        ("is gone", |o| drop(o.contents.remove(0))),
        ("has another snapshot", |o| {
            let status = o.contents[0].status.as_mut().unwrap();
            status.snapshot_handle = Some("another".into());
        }),
        ("has another snapshot", |o| o.contents[0].status = None),
        ("the claim was made anew", |o| {
            o.contents[0].spec.source.volume_handle = Some("another".into());
        }),
        ("did not make", |o| {
            let status = o.backup.status.as_mut().unwrap();
            status.volumes[0].volume_snapshot_uid = None;
            o.snapshots[0].metadata.labels = None;
        }),
    ];
    for (at, (why, change)) in changes.into_iter().enumerate() {
        let mut observed = proved();
        change(&mut observed);
        let seen = first(&observed);
        assert!(
            matches!(&seen, Seen::Lost(said) if said.contains(why)),
            "{at}, {why}: {seen:?}"
        );
    }
    let mut snapshot_goes = proved();
    snapshot_goes.snapshots[0].metadata.deletion_timestamp = time();
    let mut content_goes = proved();
    content_goes.contents[0].metadata.deletion_timestamp = time();
    for observed in [snapshot_goes, content_goes] {
        let seen = first(&observed);
        assert!(
            matches!(&seen, Seen::Lost(said) if said.contains("is being deleted")),
            "{seen:?}"
        );
    }
}

#[test]
fn what_was_not_written_down_yet_may_be_missing() {
    let mut observed = proved();
    let status = observed.backup.status.as_mut().unwrap();
    let volume = &mut status.volumes[0];
    (volume.volume_snapshot_uid, volume.content, volume.handle) = (None, None, None);
    assert!(matches!(first(&observed), Seen::There(_)));
    observed.snapshots.remove(0);
    assert_eq!(first(&observed), Seen::Missing);
}
