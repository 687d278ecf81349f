use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{
    drills::DrillSeen,
    observe::{BackupSeen, Observed},
    plan::{Step, plan},
    plan_tests::{archiving, judge, set_condition},
    report,
};
use crate::api::{
    BackupReason, Member, PgProtectionStatus, ScheduleStatus, annotations, conditions,
    conditions::Status,
};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A protection with a backup, whose policy has these schedules, created at noon.
fn protected(schedules: Json) -> Observed {
    let mut observed = archiving();
    observed.protection.metadata.creation_timestamp = Some(Time(time("2026-11-20T12:00:00Z")));
    let lineage = observed.protection.status.as_ref().unwrap().lineage.clone();
    observed.backups = vec![BackupSeen {
        lineage,
        completed: Some(time("2026-11-20T12:00:30Z")),
        ..backup("first")
    }];
    observed.pods = 1;
    observed.members = vec![Member {
        pod: "orders-0".into(),
        uid: "pod-1".into(),
        address: "10.0.0.1".into(),
    }];
    change(&mut observed, schedules);
    observed
}

fn nightly() -> Json {
    json!([{"name": "nightly", "cron": "0 2 * * *", "timeZone": "Europe/Berlin"}])
}

fn change(observed: &mut Observed, schedules: Json) {
    let policy = observed.policy.as_mut().unwrap();
    policy.spec.schedules = serde_json::from_value(schedules).unwrap();
}

/// One that is under way.
fn backup(name: &str) -> BackupSeen {
    BackupSeen {
        name: name.into(),
        ..BackupSeen::default()
    }
}

/// A pass: what it does, and what it leaves in the status.
fn pass(observed: &mut Observed, at: &str) -> Step {
    let (step, status) = decide(observed, time(at));
    observed.protection.status = Some(status);
    if let Step::TakeBackup { name, .. } = &step {
        observed.backups.push(backup(name));
    }
    step
}

fn decide(observed: &Observed, now: Timestamp) -> (Step, PgProtectionStatus) {
    let judgement = judge(observed);
    let step = plan(&judgement, observed, now);
    let ours = report::status(observed, &judgement, &step, &Ok(()), now);
    let mut status = observed.protection.status.clone().unwrap_or_default();
    status.schedules = ours.schedules;
    status.verification = ours.verification;
    status.last_backup = ours.last_backup;
    for condition in ours.conditions {
        status.conditions.retain(|it| it.type_ != condition.type_);
        status.conditions.push(condition);
    }
    (step, status)
}

fn finish(observed: &mut Observed, at: &str) {
    for backup in &mut observed.backups {
        backup.completed.get_or_insert(time(at));
    }
}

fn scheduled(name: &str) -> Step {
    Step::TakeBackup {
        name: name.into(),
        reason: BackupReason::Scheduled,
        annotation: None,
    }
}

fn told(observed: &Observed) -> &ScheduleStatus {
    &observed.protection.status.as_ref().unwrap().schedules[0]
}

fn said(observed: &Observed) -> (String, String) {
    let list = &observed.protection.status.as_ref().unwrap().conditions;
    let it = conditions::find(list, "Scheduled").unwrap();
    (it.reason.clone(), it.message.clone())
}

fn rests(step: &Step) -> bool {
    matches!(step, Step::Rest(_))
}

#[test]
fn a_schedule_counts_from_when_it_is_seen() {
    let mut observed = protected(nightly());
    assert!(rests(&pass(&mut observed, "2026-11-20T12:01:00Z")));
    let next = Some(Time(time("2026-11-21T01:00:00Z")));
    assert_eq!(told(&observed).next_schedule_time, next);
    assert_eq!(told(&observed).last_schedule_time, None);
    assert_eq!(
        said(&observed),
        (
            "Scheduled".into(),
            "nightly: 0 2 * * * Europe/Berlin".into()
        )
    );
    assert!(rests(&pass(&mut observed, "2026-11-21T00:59:59Z")));
    assert_eq!(
        pass(&mut observed, "2026-11-21T01:00:00Z"),
        scheduled("orders-20261121t010000z")
    );
    assert_eq!(
        told(&observed).last_schedule_time,
        Some(Time(time("2026-11-21T01:00:00Z")))
    );
    assert!(rests(&pass(&mut observed, "2026-11-21T01:00:01Z")));
}

#[test]
fn the_pass_comes_when_a_backup_is_due() {
    let mut observed = protected(nightly());
    let step = pass(&mut observed, "2026-11-21T00:45:00Z");
    assert_eq!(step, Step::Rest(std::time::Duration::from_secs(900)));
    let step = pass(&mut observed, "2026-11-21T00:59:59.5Z");
    assert_eq!(step, Step::Rest(std::time::Duration::from_millis(500)));
}

#[test]
fn what_was_missed_is_caught_up_once() {
    let mut observed = protected(json!([
        {"name": "nightly", "cron": "0 2 * * *"}, {"name": "hourly", "cron": "@hourly"},
    ]));
    pass(&mut observed, "2026-11-20T12:01:00Z");
    let late = "2026-11-23T14:30:00Z";
    assert_eq!(
        pass(&mut observed, late),
        scheduled("orders-20261123t140000z")
    );
    finish(&mut observed, late);
    assert!(rests(&pass(&mut observed, late)), "nor for the other one");
    let status = observed.protection.status.as_ref().unwrap();
    let last = |at: usize| status.schedules[at].last_schedule_time.clone().unwrap();
    assert_eq!(last(0).0, time("2026-11-23T14:00:00Z"), "hourly");
    assert_eq!(last(1).0, time("2026-11-23T02:00:00Z"), "nightly");
}

/// It was made, and the controller died before it said so.
#[test]
fn a_backup_that_was_made_is_not_made_twice() {
    let mut observed = protected(nightly());
    pass(&mut observed, "2026-11-20T12:01:00Z");
    observed.backups.push(backup("orders-20261121t010000z"));
    assert_eq!(
        pass(&mut observed, "2026-11-21T01:00:05Z"),
        scheduled("orders-20261121t010000z"),
        "the same name: it is the same one, and none that is under way"
    );
    assert!(rests(&pass(&mut observed, "2026-11-21T01:00:06Z")));
    observed.backups.truncate(1);
    assert!(
        rests(&pass(&mut observed, "2026-11-21T01:00:07Z")),
        "one that was deleted is not made again"
    );
}

#[test]
fn what_is_due_while_another_is_under_way_is_left_out() {
    let mut observed = protected(nightly());
    pass(&mut observed, "2026-11-20T12:01:00Z");
    observed.backups.push(backup("by-hand"));
    let skip = Step::SkipBackup {
        due: time("2026-11-21T01:00:00Z"),
        under_way: "by-hand".into(),
    };
    assert_eq!(pass(&mut observed, "2026-11-21T01:00:00Z"), skip);
    let skipped = told(&observed).last_skipped_time.clone().unwrap();
    assert_eq!(skipped.0, time("2026-11-21T01:00:00Z"));
    finish(&mut observed, "2026-11-21T01:00:30Z");
    assert!(rests(&pass(&mut observed, "2026-11-21T01:01:00Z")));
    assert_eq!(
        pass(&mut observed, "2026-11-22T01:00:00Z"),
        scheduled("orders-20261122t010000z")
    );
}

#[test]
fn what_is_due_waits_for_the_database() {
    let mut observed = protected(nightly());
    pass(&mut observed, "2026-11-20T12:01:00Z");
    set_condition(&mut observed, "Connected", Status::False, "NoPrimary", 1);
    assert!(rests(&pass(&mut observed, "2026-11-21T01:00:00Z")));
    let next = told(&observed).next_schedule_time.clone().unwrap();
    assert_eq!(next.0, time("2026-11-21T01:00:00Z"), "it is overdue");
    set_condition(&mut observed, "Connected", Status::True, "Connected", 2);
    assert_eq!(
        pass(&mut observed, "2026-11-21T09:00:00Z"),
        scheduled("orders-20261121t010000z")
    );
}

#[test]
fn what_a_suspended_schedule_leaves_out_is_not_caught_up() {
    let suspended = json!([{"name": "nightly", "cron": "0 2 * * *", "suspend": true}]);
    let going = json!([{"name": "nightly", "cron": "0 2 * * *"}]);
    let mut observed = protected(going.clone());
    pass(&mut observed, "2026-11-20T12:01:00Z");
    change(&mut observed, suspended);
    assert!(rests(&pass(&mut observed, "2026-11-21T12:00:00Z")));
    assert_eq!(said(&observed).0, "Suspended");
    change(&mut observed, going);
    assert!(rests(&pass(&mut observed, "2026-11-21T13:00:00Z")));
    assert_eq!(
        pass(&mut observed, "2026-11-22T02:00:00Z"),
        scheduled("orders-20261122t020000z")
    );
}

#[test]
fn a_schedule_that_is_changed_counts_anew() {
    let mut observed = protected(nightly());
    pass(&mut observed, "2026-11-20T12:01:00Z");
    change(
        &mut observed,
        json!([{"name": "nightly", "cron": "@hourly"}]),
    );
    assert!(rests(&pass(&mut observed, "2026-11-20T15:30:00Z")));
    assert_eq!(
        pass(&mut observed, "2026-11-20T16:00:00Z"),
        scheduled("orders-20261120t160000z")
    );
}

#[test]
fn a_paused_database_is_caught_up_once() {
    let mut observed = protected(nightly());
    pass(&mut observed, "2026-11-20T12:01:00Z");
    let mark = |observed: &mut Observed, value: &str| {
        let set = observed.stateful_set.as_mut().unwrap();
        set.annotations_mut()
            .insert(annotations::PAUSED.into(), value.into());
    };
    mark(&mut observed, "true");
    assert!(rests(&pass(&mut observed, "2026-11-23T12:00:00Z")));
    assert_eq!(said(&observed).0, "Paused");
    let set = observed.stateful_set.as_mut().unwrap();
    set.annotations_mut()
        .insert(annotations::BACKUP_NOW.into(), "1".into());
    let asked = pass(&mut observed, "2026-11-23T12:00:01Z");
    assert!(
        matches!(
            asked,
            Step::TakeBackup {
                reason: BackupReason::Annotation,
                ..
            }
        ),
        "what is asked for is taken"
    );
    let status = observed.protection.status.as_mut().unwrap();
    status.backup_now = Some("1".into());
    finish(&mut observed, "2026-11-23T12:01:00Z");
    mark(&mut observed, "false");
    assert_eq!(
        pass(&mut observed, "2026-11-23T13:00:00Z"),
        scheduled("orders-20261123t010000z")
    );
    assert!(rests(&pass(&mut observed, "2026-11-23T13:00:01Z")));
}

#[test]
fn jitter_is_a_databases_own_and_always_the_same() {
    let jitter = json!([{"name": "nightly", "cron": "0 2 * * *", "jitter": "30m"}]);
    let start = |uid: &str, seen: &str| {
        let mut observed = protected(jitter.clone());
        observed.protection.metadata.uid = Some(uid.into());
        pass(&mut observed, seen);
        told(&observed).next_schedule_time.clone().unwrap().0
    };
    let due = time("2026-11-21T02:00:00Z");
    let mut starts = BTreeSet::new();
    for count in 0..50 {
        let uid = format!("uid-{count}");
        let begins = start(&uid, "2026-11-20T12:01:00Z");
        let late = begins.duration_since(due);
        assert!(!late.is_negative() && late <= SignedDuration::from_mins(30));
        assert_eq!(start(&uid, "2026-11-20T21:00:00Z"), begins);
        starts.insert(begins);
    }
    assert!(starts.len() > 40, "{}", starts.len());

    let mut observed = protected(jitter);
    pass(&mut observed, "2026-11-20T12:01:00Z");
    let begins = told(&observed).next_schedule_time.clone().unwrap().0;
    let before = begins - SignedDuration::from_secs(1);
    assert!(rests(&pass(&mut observed, &before.to_string())));
    assert_eq!(
        pass(&mut observed, &begins.to_string()),
        scheduled("orders-20261121t020000z")
    );
}

#[test]
fn a_schedule_that_cannot_be_understood_is_told_and_keeps_no_other() {
    let mut observed = protected(json!([
        {"name": "bad", "cron": "0 2 * * *", "timeZone": "Europe/Berln"},
        {"name": "good", "cron": "0 3 * * *"},
    ]));
    pass(&mut observed, "2026-11-20T12:01:00Z");
    let (reason, message) = said(&observed);
    assert_eq!(reason, "ScheduleInvalid");
    assert!(
        message.contains("bad") && message.contains("Europe/Berln"),
        "{message}"
    );
    assert_eq!(
        pass(&mut observed, "2026-11-21T03:00:00Z"),
        scheduled("orders-20261121t030000z")
    );
}

#[test]
fn a_policy_without_schedules_says_so() {
    let mut observed = protected(json!([]));
    assert!(rests(&pass(&mut observed, "2026-11-20T12:01:00Z")));
    assert_eq!(said(&observed).0, "NoSchedule");
}

/// The same, whose policy asks for drills.
fn drilled() -> Observed {
    let mut observed = protected(json!([]));
    let weekly = json!({"cron": "0 5 * * 0", "drill": {"checks": ["Amcheck"]}});
    observed.policy.as_mut().unwrap().spec.verify = serde_json::from_value(weekly).unwrap();
    observed
}

fn drill(name: &str, over: bool) -> DrillSeen {
    DrillSeen {
        name: name.into(),
        uid: format!("uid of {name}"),
        over,
    }
}

/// 22 November is the Sunday.
#[test]
fn drills_come_by_the_clock_one_at_a_time_and_few_are_kept() {
    let mut observed = drilled();
    assert!(rests(&pass(&mut observed, "2026-11-20T12:01:00Z")));
    let told = |observed: &Observed| {
        let status = observed.protection.status.as_ref().unwrap();
        status.verification.clone().unwrap()
    };
    let sunday = Time(time("2026-11-22T05:00:00Z"));
    assert_eq!(told(&observed).next_schedule_time, Some(sunday.clone()));
    let wanted = Step::Drill {
        name: "orders-drill-20261122t050000z".into(),
    };
    assert_eq!(pass(&mut observed, "2026-11-22T05:00:00Z"), wanted);
    assert_eq!(told(&observed).last_schedule_time, Some(sunday));
    observed
        .drills
        .push(drill("orders-drill-20261122t050000z", false));
    assert!(rests(&pass(&mut observed, "2026-11-22T05:00:01Z")));

    let skipped = Step::SkipDrill {
        due: time("2026-11-29T05:00:00Z"),
        under_way: "orders-drill-20261122t050000z".into(),
    };
    assert_eq!(pass(&mut observed, "2026-11-29T05:00:00Z"), skipped);
    assert!(rests(&pass(&mut observed, "2026-11-29T05:00:01Z")));

    observed.drills = ["1", "3", "2", "4"].map(|name| drill(name, true)).into();
    let forgotten = Step::DeleteDrill {
        name: "1".into(),
        uid: "uid of 1".into(),
    };
    assert_eq!(pass(&mut observed, "2026-11-29T06:00:00Z"), forgotten);
    observed.drills.remove(0);
    assert!(
        rests(&pass(&mut observed, "2026-11-29T06:00:01Z")),
        "three stay"
    );
    observed.drills.push(drill("5", false));
    assert!(
        rests(&pass(&mut observed, "2026-11-29T06:00:02Z")),
        "it is not over"
    );
}

#[test]
fn no_drill_begins_without_a_backup_or_an_agent() {
    for lacks in ["backup", "agent"] {
        let mut observed = drilled();
        match lacks {
            "backup" => observed.backups[0].completed = None,
            _ => observed.agent.running = false,
        }
        pass(&mut observed, "2026-11-20T12:01:00Z");
        assert!(
            rests(&pass(&mut observed, "2026-11-22T05:00:00Z")),
            "{lacks}"
        );
        observed.backups[0].completed = Some(time("2026-11-20T12:00:30Z"));
        observed.agent.running = true;
        // The backup is told of first.
        pass(&mut observed, "2026-11-22T05:00:01Z");
        pass(&mut observed, "2026-11-22T05:00:01Z");
        let status = observed.protection.status.as_ref().unwrap();
        let last = status.verification.clone().unwrap().last_schedule_time;
        assert_eq!(last, Some(Time(time("2026-11-22T05:00:00Z"))), "{lacks}");
    }
}

#[test]
fn a_verify_that_cannot_be_understood_is_told() {
    let mut observed = drilled();
    let policy = observed.policy.as_mut().unwrap();
    policy.spec.verify.as_mut().unwrap().time_zone = Some("Europe/Berln".into());
    for _ in 0..2 {
        assert!(rests(&pass(&mut observed, "2026-11-22T05:00:00Z")));
        let (reason, message) = said(&observed);
        assert_eq!(reason, "ScheduleInvalid");
        assert!(message.contains("schedule verify of"), "{message}");
    }
    let before = observed.protection.status.clone();
    pass(&mut observed, "2026-11-22T06:00:00Z");
    assert_eq!(observed.protection.status, before, "nothing new is written");
}

/// What happens between two passes.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Nothing,
    Finished,
    Deleted,
    Unreachable,
    Back,
}

fn happens() -> impl Strategy<Value = (i64, bool, Happens)> {
    const ALL: [Happens; 5] = [
        Happens::Nothing,
        Happens::Finished,
        Happens::Deleted,
        Happens::Unreachable,
        Happens::Back,
    ];
    (
        prop_oneof![1..120_i64, 1..7200_i64, 1..200_000_i64],
        any::<bool>(),
        prop::sample::select(&ALL[..]),
    )
}

proptest! {
    /// Whatever happens, and wherever the controller dies between act and report: no time of the schedule is served twice, none
    /// from before the schedule was seen is, none but the newest is, and in the end nothing is left over.
    #[test]
    fn each_time_is_dealt_with_once(story in prop::collection::vec(happens(), 1..60)) {
        let mut observed = protected(json!([{"name": "often", "cron": "*/20 * * * *"}]));
        let begin = time("2026-11-20T12:01:00Z");
        let mut now = begin;
        let mut told_of = BTreeSet::new();
        for (seconds, dies, happens) in story {
            now += SignedDuration::from_secs(seconds);
            match happens {
                Happens::Nothing => {}
                Happens::Finished => finish(&mut observed, &now.to_string()),
                Happens::Deleted => observed.backups.truncate(1),
                Happens::Unreachable => set_condition(&mut observed, "Connected", Status::False, "X", 1),
                Happens::Back => set_condition(&mut observed, "Connected", Status::True, "Connected", 1),
            }
            let (step, status) = decide(&observed, now);
            if let Step::TakeBackup { name, .. } = &step {
                prop_assert!(!told_of.contains(name), "{name} twice");
                let at = &name["orders-".len()..];
                let at: jiff::civil::DateTime = jiff::civil::DateTime::strptime("%Y%m%dt%H%M%Sz", at).unwrap();
                let at = at.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
                prop_assert!(begin < at && at <= now, "{at} at {now}");
                prop_assert!(now.duration_since(at) < SignedDuration::from_mins(20), "an old one");
                if !observed.backups.iter().any(|it| it.name == *name) {
                    observed.backups.push(backup(name));
                }
                if !dies {
                    told_of.insert(name.clone());
                }
            }
            if !dies {
                observed.protection.status = Some(status);
            }
        }
        set_condition(&mut observed, "Connected", Status::True, "Connected", 1);
        let (_, status) = decide(&observed, now);
        if let Some(schedule) = status.schedules.first() {
            let next = schedule.next_schedule_time.clone().unwrap().0;
            prop_assert!(next > now, "{next} at {now}");
        }
    }
}
