use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::{api::PgRestore, controller::restore::Rejection};

const CREATED: &str = "2026-11-20T14:00:00Z";

/// So many milliseconds after the second of the object's creation.
fn at(millis: i64) -> Timestamp {
    let created: Timestamp = CREATED.parse().unwrap();
    created + SignedDuration::from_millis(millis)
}

fn text(millis: i64) -> String {
    at(millis).to_string()
}

fn condition(type_: &str, status: &str, second: i64) -> Json {
    json!({"type": type_, "status": status, "reason": "R", "message": "", "lastTransitionTime": text(second * 1000)})
}

fn observed(into: Json, status: Json, now: i64) -> Observed {
    let restore: PgRestore = serde_json::from_value(json!({
        "metadata": {"name": "r", "namespace": "shop", "uid": "u", "creationTimestamp": CREATED},
        "spec": {"source": {"protection": "orders"}, "into": into},
        "status": status,
    }))
    .unwrap();
    let mut observed = Observed::new(restore);
    observed.now = at(now);
    observed
}

fn plan() -> Json {
    json!({
        "summary": "to the end", "backup": "b", "backupKey": "k", "archive": "main", "archiveName": "n",
        "lineage": "0000000000", "timeline": 1, "walFrom": "0/28", "walTo": "0/5000", "bytes": 77,
    })
}

/// With its plan, its claims bound, and what the recovery pod has said so far.
fn status(progress: Json, phases: Json) -> Json {
    json!({
        "plan": plan(),
        "volumes": [{"claim": "c", "volume": "data", "volumeSnapshot": "s", "size": 1}],
        "conditions": [condition("Planned", "True", 0)],
        "progress": progress,
        "phases": phases,
    })
}

fn bound(mut observed: Observed) -> Observed {
    let claim = json!({"metadata": {"name": "c"}, "status": {"phase": "Bound"}});
    observed.claims = vec![serde_json::from_value(claim).unwrap()];
    observed
}

fn progress() -> Json {
    json!({
        "percent": "100%", "segments": 3,
        "startedAt": text(5500), "replayStartedAt": text(6000), "promotedAt": text(9250), "answeredAt": text(9300),
    })
}

fn completed() -> Step {
    Step::Complete(String::new())
}

#[test]
fn a_clone_that_is_not_started_is_measured_as_claims_are() {
    let of = |into: Json| {
        let observed = bound(observed(into, status(progress(), Json::Null), 9900));
        measured(&observed, &completed()).unwrap()
    };
    let claims = of(json!({"volumes": {"namePrefix": "p"}}));
    assert!(claims.total_seconds.is_some());
    assert_eq!(of(json!({"statefulSet": "copy", "replicas": 0})), claims);
    let started = of(json!({"statefulSet": "copy"}));
    assert_eq!(started.first_query_seconds, None);
}

#[test]
fn each_part_is_measured_once_and_from_the_end_of_the_one_before() {
    let waiting = Step::Remove(Vec::new());
    let into = || json!({"volumes": {"namePrefix": "p"}});
    let first = measured(&observed(into(), Json::Null, 300), &waiting).unwrap();
    assert_eq!(first.began_at, Some(MicroTime(at(300))));
    assert_eq!((first.plan_seconds, first.volumes_seconds), (None, None));

    let planned = status(Json::Null, json!(first));
    let planned = measured(&observed(into(), planned, 700), &waiting).unwrap();
    assert_eq!(planned.plan_seconds, Some(0.4));
    assert_eq!(
        (planned.queue_seconds, planned.volumes_seconds),
        (None, None)
    );

    let later = status(Json::Null, json!(planned));
    let later = measured(&bound(observed(into(), later, 2700)), &waiting).unwrap();
    assert_eq!(
        (later.plan_seconds, later.volumes_seconds),
        (Some(0.4), Some(2.0))
    );

    let replayed = status(progress(), json!(later));
    let replayed = measured(&bound(observed(into(), replayed, 9900)), &completed()).unwrap();
    let expected = RestorePhases {
        began_at: Some(MicroTime(at(300))),
        plan_seconds: Some(0.4),
        queue_seconds: None,
        volumes_seconds: Some(2.0),
        pod_seconds: Some(2.8),
        prepare_seconds: Some(0.5),
        replay_seconds: Some(3.25),
        first_query_seconds: Some(0.05),
        total_seconds: Some(9.0),
    };
    assert_eq!(replayed, expected);

    // Another pass says the same, and after the end there is nothing to measure.
    let again = status(progress(), json!(replayed));
    let again = measured(&bound(observed(into(), again, 60_000)), &completed());
    assert_eq!(again, Some(expected.clone()));
    let mut over = status(Json::Null, Json::Null);
    over["conditions"] = json!([
        condition("Planned", "True", 0),
        condition("Completed", "True", 9)
    ]);
    assert_eq!(
        measured(&bound(observed(into(), over, 60_000)), &Step::Rest),
        None
    );
}

#[test]
fn a_clone_answers_when_its_pod_is_ready() {
    let phases = json!({"beganAt": text(0), "planSeconds": 1.0, "volumesSeconds": 1.0});
    let clone = json!({"statefulSet": "copy"});
    let mut observed = bound(observed(clone, status(progress(), phases), 12_400));
    let pod = json!({"status": {"conditions": [condition("Ready", "True", 12)]}});
    observed.clone_pod = Some(serde_json::from_value(pod).unwrap());
    // What the recovery pod asked does not count.
    let before = measured(&observed, &Step::Remove(Vec::new())).unwrap();
    assert_eq!(before.first_query_seconds, None);
    // The condition has no fractions: seen in its second it is now, seen later it is the end of that.
    for (now, expected) in [(12_400, 3.15), (12_999, 3.749), (40_000, 3.75)] {
        observed.now = at(now);
        let phases = measured(&observed, &completed()).unwrap();
        assert_eq!(phases.first_query_seconds, Some(expected), "{now}");
        assert_eq!(phases.replay_seconds, Some(3.25));
    }
}

#[test]
fn a_drill_waits_for_others_outside_the_sum() {
    let mut status = status(progress(), json!({"beganAt": text(0), "planSeconds": 0.5}));
    let volumes = status.as_object_mut().unwrap().remove("volumes").unwrap();
    let mut waited = observed(json!({}), status.clone(), 3500);
    let verify = |observed: &mut Observed| {
        observed.restore.spec.verify = Some(serde_json::from_value(json!({})).unwrap());
    };
    verify(&mut waited);
    // The recovery pod of a drill that waits has said nothing.
    waited.restore.status.as_mut().unwrap().progress = None;
    let begun = Step::WriteDown(serde_json::from_value(volumes.clone()).unwrap());
    let phases = measured(&waited, &begun).unwrap();
    assert_eq!(
        (phases.plan_seconds, phases.queue_seconds),
        (Some(0.5), Some(3.0))
    );

    status["volumes"] = volumes;
    status["phases"] = json!(phases);
    let mut ended = bound(observed(json!({}), status, 4500));
    verify(&mut ended);
    let phases = measured(&ended, &completed()).unwrap();
    assert_eq!(
        (phases.volumes_seconds, phases.pod_seconds),
        (Some(1.0), Some(1.0))
    );
    assert_eq!(phases.total_seconds, Some(6.3));
    let last = last_restore(&ended, &completed()).unwrap();
    assert!(last.drill);
    assert_eq!(
        (last.restore.as_str(), last.seconds, last.bytes),
        ("r", 6.3, 77)
    );
    assert_eq!(
        (last.phases.began_at, last.phases.total_seconds),
        (None, None)
    );
    assert_eq!(last.phases.queue_seconds, Some(3.0));
    assert_eq!(last.at, MicroTime(at(4500)));
}

#[test]
fn without_a_first_query_there_is_no_sum_and_nothing_to_tell() {
    let refused = Step::Fail(Rejection::new("R", ""));
    for (progress, step) in [
        (Json::Null, completed()),
        (
            json!({"percent": "100%", "segments": 3, "startedAt": text(5500)}),
            completed(),
        ),
        (progress(), refused),
    ] {
        let status = status(progress, Json::Null);
        let observed = bound(observed(
            json!({"volumes": {"namePrefix": "p"}}),
            status,
            9900,
        ));
        let phases = measured(&observed, &step).unwrap();
        assert_eq!(phases.total_seconds, None, "{phases:?}");
        assert_eq!(last_restore(&observed, &step), None);
    }
}

#[test]
fn a_second_ends_a_second_after_it_began() {
    for (now, expected) in [(-5000, 0), (0, 0), (400, 400), (1000, 1000), (90_000, 1000)] {
        assert_eq!(within_its_second(at(0), at(now)), at(expected), "{now}");
    }
}

fn any_ends() -> impl Strategy<Value = [Option<i64>; 7]> {
    prop::array::uniform7(prop::option::of(-10_000i64..100_000))
}

fn of(ends: [Option<i64>; 7]) -> Ends {
    let [plan, queue, volumes, pod, prepare, replay, first_query] = ends.map(|end| end.map(at));
    Ends {
        plan,
        queue,
        volumes,
        pod,
        prepare,
        replay,
        first_query,
    }
}

proptest! {
    /// Whatever the clocks say and whatever nobody saw: no part is less than nothing, and together they are the time to the
    /// latest end.
    #[test]
    fn the_parts_are_the_whole(ends in any_ends()) {
        let phases = parts(&RestorePhases::default(), at(0), &of(ends));
        let parts = phases.named().map(|(_, seconds)| seconds);
        prop_assert!(parts.iter().flatten().all(|seconds| *seconds >= 0.0));
        let sum: f64 = parts.iter().flatten().sum();
        let latest = ends.into_iter().flatten().max().unwrap_or(0).max(0);
        prop_assert!((sum - latest as f64 / 1000.0).abs() < 0.01, "{sum} {latest}");
        for (part, end) in parts.iter().zip(ends) {
            prop_assert_eq!(part.is_some(), end.is_some());
        }
    }

    /// What was measured stays, however often it is looked at and in how many steps it came.
    #[test]
    fn what_was_measured_stays(ends in any_ends(), known in 0usize..7) {
        let mut earlier = ends;
        earlier[known..].fill(None);
        let first = parts(&RestorePhases::default(), at(0), &of(earlier));
        let whole = parts(&first, at(0), &of(ends));
        prop_assert_eq!(&parts(&whole, at(0), &of(ends)), &whole);
        let at_once = parts(&RestorePhases::default(), at(0), &of(ends));
        for ((name, one), (_, other)) in whole.named().into_iter().zip(at_once.named()) {
            let difference = one.unwrap_or_default() - other.unwrap_or_default();
            prop_assert!(difference.abs() < 0.01, "{name}: {one:?} {other:?}");
        }
    }
}
