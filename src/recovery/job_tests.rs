use super::*;
use crate::postgres::TimelineId;

fn plan() -> RestorePlan {
    serde_json::from_value(serde_json::json!({
        "summary": "", "backup": "b", "backupKey": "k", "archive": "a", "archiveName": "n", "lineage": "0000000000",
        "timeline": 2, "walFrom": "0/1000", "walTo": "0/2000", "bytes": 1,
    }))
    .unwrap()
}

fn control(timeline: u32) -> ControlData {
    ControlData {
        system_identifier: SystemIdentifier::new(1),
        state: "in archive recovery".into(),
        timeline: TimelineId::new(timeline).unwrap(),
        kept_settings: BTreeMap::new(),
    }
}

#[test]
fn a_killed_recovery_goes_on_where_it_was() {
    for (marker, timeline, expected) in [
        (None, None, Stage::Prepare),
        (Some(Step::Preparing), None, Stage::Prepare),
        (Some(Step::Prepared), None, Stage::Replay),
        (Some(Step::Prepared), Some(1), Stage::Replay),
        (Some(Step::Prepared), Some(2), Stage::Replay),
        (Some(Step::Prepared), Some(3), Stage::Promoted),
    ] {
        let control = timeline.map(control);
        assert_eq!(
            stage(marker, control.as_ref(), &plan()),
            expected,
            "{marker:?} {timeline:?}"
        );
    }
}

#[test]
fn without_a_target_all_wal_must_have_been_asked_for() {
    let mut plan = plan();
    let at = |lsn: u64| Some(Lsn::new(lsn));
    for (reached, expected) in [
        (None, at(0x1000)),
        (at(0x1fff), at(0x1fff)),
        (at(0x2000), None),
    ] {
        assert_eq!(ended_early(&plan, reached), expected, "{reached:?}");
    }
    plan.stop_at =
        serde_json::from_value(serde_json::json!({"lsn": "0/1800", "inclusive": true})).unwrap();
    assert_eq!(ended_early(&plan, at(0x1900)), None);
}

#[test]
fn percent_is_never_whole_before_the_end() {
    let at = |lsn: Option<u64>| percent(&plan(), lsn.map(Lsn::new));
    assert_eq!(at(None), "0%");
    assert_eq!(at(Some(0x1800)), "50%");
    assert_eq!(at(Some(0x2000)), "99%");
}

#[test]
fn what_an_earlier_try_said_stays_and_the_estimate_goes() {
    let marker = Marker::new("u");
    let mut progress = RestoreProgress::begun();
    progress.remaining_seconds = Some(9);
    progress.replayed_to = Some(micro_time(Timestamp::UNIX_EPOCH));
    begin(&mut progress, &marker, true);
    // Not yet of this try.
    assert_eq!(progress.replayed_to, None);
    is_promoted(&mut progress);
    assert_eq!(progress.remaining_seconds, None);
    let promoted = |replayed_to: Option<Timestamp>| Promoted {
        timeline: TimelineId::FIRST,
        end: None,
        replayed_to,
        answered_at: Timestamp::UNIX_EPOCH,
        superuser: String::new(),
        disabled_subscriptions: Vec::new(),
    };
    let at: Timestamp = "2026-11-20T14:03:12.123456789Z".parse().unwrap();
    answers(&mut progress, &promoted(Some(at)));
    assert_eq!(progress.replayed_to, Some(micro_time(at)));
    let said = progress.clone();

    // PostgreSQL was promoted before: it replays nothing, and knows of no commit.
    begin(&mut progress, &marker, false);
    is_promoted(&mut progress);
    answers(&mut progress, &promoted(None));
    assert_eq!(progress, said);
}
