//! What a recovery that failed leaves, and for how long.

use serde_json::json;

use super::*;

/// A recovery that failed at 14:00, looked at so many seconds later.
fn failed(keep: Option<bool>, seconds: i64) -> Observed {
    let observed = written();
    let step = plan(&observed, &image());
    let mut observed = done(observed, &step);
    observed.restore.spec.keep_failed = keep;
    condition_added(&mut observed, condition("Recovered", "False", "Gap"));
    let at: jiff::Timestamp = "2026-11-20T14:00:00Z".parse().unwrap();
    observed.now = at + jiff::SignedDuration::from_secs(seconds);
    observed
}

#[test]
fn a_recovery_that_failed_says_what_is_kept() {
    for (keep, said) in [
        (None, "for an hour; keepFailed"),
        (Some(true), "until this PgRestore is deleted"),
    ] {
        let Step::Fail(rejection) = plan(&failed(keep, 0), &image()) else {
            panic!("it does not fail");
        };
        assert_eq!(rejection.reason, "Gap");
        let message = &rejection.message;
        assert!(
            message.starts_with("said (") && message.contains(said),
            "{message}"
        );
    }
}

#[test]
fn what_a_failed_recovery_left_goes_after_an_hour_and_no_sooner() {
    for (keep, seconds, removed) in [
        (None, 0, None),
        (None, 3599, None),
        (None, 3600, Some(true)),
        (Some(false), 7200, Some(true)),
        (Some(true), 3599, None),
        (Some(true), 3600, Some(false)),
        // A clock that was set back keeps it longer.
        (None, -100, None),
    ] {
        let mut observed = failed(keep, seconds);
        condition_added(&mut observed, condition("Completed", "False", "Gap"));
        let what = format!("{keep:?} {seconds}");
        match (plan(&observed, &image()), removed) {
            (Step::Keep(time), None) => {
                assert_eq!(
                    i64::try_from(time.as_secs()).unwrap(),
                    3600 - seconds,
                    "{what}"
                );
            }
            (Step::Remove(made), Some(claims)) => {
                assert!(made.contains(&(Kind::Pod, names::recovery("r"))), "{what}");
                let takes_claims = made.iter().any(|(kind, _)| *kind == Kind::Claim);
                assert_eq!(takes_claims, claims, "{what}");
                observed.made.retain(|it| !made.contains(it));
                assert_eq!(plan(&observed, &image()), Step::Rest, "{what}");
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn what_a_failed_recovery_left_goes_at_once_when_it_is_deleted() {
    let mut observed = failed(Some(true), 0);
    condition_added(&mut observed, condition("Completed", "False", "Gap"));
    observed.restore.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-11-20T14:00:00Z")).unwrap();
    assert_eq!(
        plan(&observed, &image()),
        Step::Remove(observed.made.clone())
    );
}
