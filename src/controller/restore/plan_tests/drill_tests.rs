//! A restore that is a drill: what it makes, what it says of the backup, what it leaves.

use serde_json::json;

use super::*;
use crate::api::conditions::VERIFIED;

/// As it is when the agent has planned and nothing is made.
fn drill() -> Observed {
    let mut observed = observed(json!({}), planned());
    let spec = &mut observed.restore.spec;
    spec.verify = Some(serde_json::from_value(json!({"checks": ["Amcheck"]})).unwrap());
    observed.into = drill::destination(spec, "r");
    observed
}

/// When its claims are written down and made.
fn begun() -> Observed {
    let mut observed = drill();
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("nothing is written down");
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let step = plan(&observed, &image());
    done(observed, &step)
}

fn decided(status: &str, reason: &str) -> Observed {
    let mut observed = begun();
    condition_added(&mut observed, condition("Recovered", status, reason));
    observed
}

fn told(observed: &Observed) -> Verdict {
    match plan(observed, &image()) {
        Step::Tell(verdict) => verdict,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drill_has_claims_of_its_own() {
    let observed = begun();
    let claims: Vec<&str> = observed
        .made
        .iter()
        .filter(|(kind, _)| *kind == Kind::Claim)
        .map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(claims, ["r-data", "r-wal"]);
    assert!(matches!(plan(&observed, &image()), Step::Wait(_)));
}

#[test]
fn a_drill_that_is_passed_tells_and_leaves_nothing() {
    let mut observed = decided("True", "Recovered");
    let verdict = told(&observed);
    assert_eq!(
        (verdict.status(), verdict.reason.as_str()),
        (Status::True, "Verified")
    );
    assert_eq!(verdict.backup.as_deref(), Some("b"));
    assert_eq!(verdict.protection.as_deref(), Some("orders"));
    let passed = verdict.passed.unwrap();
    assert_eq!(
        (passed.backup.as_str(), passed.restore.as_str()),
        ("b", "r")
    );

    // Once.
    condition_added(&mut observed, condition(VERIFIED, "True", "Verified"));
    let recovery = (Kind::Pod, names::recovery("r"));
    assert_eq!(
        plan(&observed, &image()),
        Step::Remove(vec![recovery.clone()])
    );
    observed.made.retain(|made| *made != recovery);
    assert!(matches!(plan(&observed, &image()), Step::Complete(_)));
    condition_added(&mut observed, condition("Completed", "True", "Completed"));
    let left = observed.made.clone();
    assert!(left.iter().any(|(kind, _)| *kind == Kind::Claim));
    assert_eq!(plan(&observed, &image()), Step::Remove(left.clone()));

    // Also where it is deleted before all of that is gone.
    observed.restore.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-11-20T15:00:00Z")).unwrap();
    assert_eq!(plan(&observed, &image()), Step::Remove(left));
    observed.made.clear();
    assert_eq!(plan(&observed, &image()), Step::RemoveFinalizer);
}

#[test]
fn a_drill_that_fails_tells_and_keeps_what_it_made() {
    let mut observed = decided("False", "VerificationFailed");
    let verdict = told(&observed);
    assert_eq!(
        (verdict.status(), verdict.reason.as_str(), &verdict.passed),
        (Status::False, "VerificationFailed", &None)
    );
    condition_added(
        &mut observed,
        condition(VERIFIED, "False", "VerificationFailed"),
    );
    assert_eq!(refused(&observed), "VerificationFailed");
    condition_added(
        &mut observed,
        condition("Completed", "False", "VerificationFailed"),
    );
    observed.now = "2026-11-20T16:00:00Z".parse().unwrap();
    let Step::Remove(removed) = plan(&observed, &image()) else {
        panic!("its pod stays for ever");
    };
    assert!(removed.contains(&(Kind::Pod, names::recovery("r"))));
    assert!(
        !removed.iter().any(|(kind, _)| *kind == Kind::Claim),
        "{removed:?}"
    );
}

#[test]
fn a_drill_tells_of_a_backup_that_is_still_there_alone() {
    let mut observed = decided("True", "Recovered");
    (observed.backup, observed.protection) = (None, None);
    let verdict = told(&observed);
    assert_eq!((verdict.backup, verdict.protection), (None, None));
}

#[test]
fn an_older_drill_does_not_take_a_newer_ones_place() {
    let at = |at: &str| -> crate::api::LastVerified {
        serde_json::from_value(json!({"restore": "r", "backup": "b", "at": at, "target": "t"}))
            .unwrap()
    };
    let (old, new) = (
        at("2026-11-20T14:00:00.000000Z"),
        at("2026-11-20T15:00:00.000000Z"),
    );
    for (told, before, newer) in [
        (&old, None, true),
        (&new, Some(&old), true),
        (&old, Some(&old), true),
        (&old, Some(&new), false),
    ] {
        assert_eq!(drill::is_newer(told, before), newer, "{told:?} {before:?}");
    }
}

#[test]
fn so_many_drills_run_at_once() {
    let mut observed = drill();
    observed.drills = vec!["shop/other".to_owned()];
    let Step::Wait(waiting) = plan(&observed, &image()) else {
        panic!("it begins beside another");
    };
    assert!(
        waiting.message.contains("shop/other"),
        "{}",
        waiting.message
    );
    observed.drills_at_once = 2;
    assert!(matches!(plan(&observed, &image()), Step::WriteDown(_)));
    // One that has begun goes on, and a restore that is none does not wait.
    let mut begun = begun();
    begun.drills = observed.drills.clone();
    assert!(
        matches!(plan(&begun, &image()), Step::Wait(waiting) if waiting.phase == Phase::Recovering)
    );
    let mut restore = super::observed(into_set(), planned());
    restore.drills = observed.drills;
    assert!(matches!(plan(&restore, &image()), Step::WriteDown(_)));
}

#[test]
fn drills_that_run_are_those_that_have_begun_and_are_not_decided() {
    let mut running = begun().restore;
    running.metadata.uid = Some("u-2".to_owned());
    let with = |type_: &str, status: &str| {
        let mut restore = running.clone();
        let conditions = &mut restore.status.as_mut().unwrap().conditions;
        conditions.push(serde_json::from_value(condition(type_, status, "Any")).unwrap());
        restore
    };
    let mut plan_only = running.clone();
    plan_only.spec.plan_only = Some(true);
    let mut no_drill = running.clone();
    no_drill.spec.verify = None;
    let mut planned = drill().restore;
    planned.metadata.uid = Some("u-3".to_owned());
    for (restore, runs) in [
        (running.clone(), true),
        (with("Completed", "Unknown"), true),
        (with("Completed", "True"), false),
        (with("Completed", "False"), false),
        (plan_only, false),
        (no_drill, false),
        (planned, false),
    ] {
        let found = drill::running([&restore], "u-1");
        assert_eq!(!found.is_empty(), runs, "{restore:?}");
    }
    assert_eq!(drill::running([&running], "u-2"), Vec::<String>::new());
}
