use super::*;
use crate::{
    api::conditions,
    controller::backup::{model::base::proved, observe::Observed, validate::validate},
};

fn without(observed: &mut Observed, types: &[&str]) {
    let status = observed.backup.status.as_mut().unwrap();
    status
        .conditions
        .retain(|condition| !types.contains(&condition.type_.as_str()));
}

fn step_at(observed: &Observed, now: &str) -> Step {
    let now = now.parse().unwrap();
    plan(&validate(observed, now), now).step
}

/// Snapshots cut after the end of backup mode look like any other, and every later step would go through.
#[test]
fn a_stop_before_the_cut_was_written_down_voids_the_attempt() {
    let now = "2026-01-01T00:03:00Z";
    let proved = proved();
    assert!(matches!(step_at(&proved, now), Step::Complete(_)));

    let mut stopped_first = proved.clone();
    without(&mut stopped_first, &[conditions::CUT]);
    let abandoned = Step::Abandon(Setback::StoppedBeforeCut);
    assert_eq!(step_at(&stopped_first, now), abandoned);
    let late = "2026-01-01T01:00:01Z";
    let failed = Step::Fail(Setback::StoppedBeforeCut);
    assert_eq!(step_at(&stopped_first, late), failed);

    // How the session ended says nothing of it.
    without(&mut stopped_first, &[conditions::SESSION]);
    assert_eq!(step_at(&stopped_first, now), abandoned);

    let mut in_backup_mode = proved;
    without(&mut in_backup_mode, &[conditions::CUT, conditions::STOPPED]);
    let step = step_at(&in_backup_mode, now);
    assert!(
        matches!(
            step,
            Step::Await {
                what: Awaited::Stop,
                ..
            }
        ),
        "{step:?}"
    );
}
