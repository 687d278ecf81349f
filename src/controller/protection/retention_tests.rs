use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{
    observe::{BackupSeen, Observed},
    plan::{Step, plan},
    plan_tests::{archiving, judge, set_condition},
    report,
    retention::{coming, condition},
};
use crate::api::{ExpiredWal, LastExpired, annotations, conditions::Status, names};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// One that is completed, and stopped at `second`.
fn backup(observed: &Observed, name: &str, second: i64) -> BackupSeen {
    let lineage = observed.protection.status.as_ref().unwrap();
    BackupSeen {
        name: name.into(),
        uid: format!("{name}-uid"),
        lineage: lineage.lineage.clone(),
        completed: Some(at(second)),
        ..BackupSeen::default()
    }
}

/// What the agent says where the newest `kept` of what is there are kept.
fn decide(observed: &mut Observed, kept: usize) {
    let policy = observed.policy.as_ref().unwrap().spec.retention.clone();
    let mut there: Vec<_> = observed.backups.iter().filter(|it| !it.goes).collect();
    there.retain(|it| it.completed.is_some());
    there.sort_by_key(|it| it.completed);
    let goes = there.len().saturating_sub(kept);
    let next: Vec<_> = there[..goes].iter().take(10).collect();
    let told = json!({
        "rules": policy,
        "lineage": observed.protection.status.as_ref().unwrap().lineage,
        "newest": there.last().map(|it| &it.uid),
        "kept": there.len() - goes,
        "expired": goes,
        "next": next.iter().map(|it| json!({
            "name": it.name, "uid": it.uid, "reason": "NoRule",
            "stoppedAt": MicroTime(it.completed.unwrap()),
        })).collect::<Vec<_>>(),
    });
    let status = observed.protection.status.as_mut().unwrap();
    status.retention = Some(serde_json::from_value(told).unwrap());
}

/// A policy that keeps the newest two, and five backups; the agent has decided.
fn five() -> Observed {
    let mut observed = archiving();
    keep(&mut observed, json!({"keep": {"last": 2}}));
    for number in 1..=5 {
        let backup = backup(&observed, &format!("b{number}"), number);
        observed.backups.push(backup);
    }
    decide(&mut observed, 2);
    observed
}

fn keep(observed: &mut Observed, retention: Json) {
    let policy = observed.policy.as_mut().unwrap();
    policy.spec.retention = serde_json::from_value(retention).unwrap();
}

/// The backup that goes at this second.
fn goes(observed: &Observed, second: i64) -> Option<String> {
    match plan(&judge(observed), observed, at(second)) {
        Step::ExpireBackup(expired) => Some(expired.name),
        _ => None,
    }
}

/// A pass: what it deletes is being deleted then.
fn pass(observed: &mut Observed, second: i64) -> Option<String> {
    let judgement = judge(observed);
    let step = plan(&judgement, observed, at(second));
    let ours = report::status(observed, &judgement, &step, &Ok(()), at(second));
    let status = observed.protection.status.as_mut().unwrap();
    status.last_expired = ours.last_expired;
    let Step::ExpireBackup(expired) = step else {
        return None;
    };
    let its = |it: &&mut BackupSeen| it.uid == expired.uid;
    observed.backups.iter_mut().find(its).unwrap().goes = true;
    Some(expired.name)
}

fn said(observed: &Observed, second: i64) -> (Status, &'static str, String) {
    condition(observed, at(second)).unwrap()
}

#[test]
fn one_goes_a_minute_the_oldest_first_and_each_by_a_decision_of_its_own() {
    let mut observed = five();
    assert_eq!(pass(&mut observed, 100).as_deref(), Some("b1"));
    let last = observed
        .protection
        .status
        .as_ref()
        .unwrap()
        .last_expired
        .clone();
    let expected = LastExpired {
        name: "b1".into(),
        at: MicroTime(at(100)),
    };
    assert_eq!(last, Some(expected));
    assert_eq!(pass(&mut observed, 1000), None, "nobody has decided anew");
    assert_eq!(coming(&observed), None);
    decide(&mut observed, 2);
    assert_eq!(coming(&observed), Some(at(160)));
    assert_eq!(pass(&mut observed, 159), None);
    assert_eq!(pass(&mut observed, 160).as_deref(), Some("b2"));
    decide(&mut observed, 2);
    assert_eq!(pass(&mut observed, 220).as_deref(), Some("b3"));
    decide(&mut observed, 2);
    assert_eq!(pass(&mut observed, 1000), None);
    assert_eq!(said(&observed, 1000).1, "WithinRetention");
}

/// The agent deletes WAL by what this says.
#[test]
fn what_keeps_wal_is_told() {
    let mut observed = five();
    observed.backups.truncate(2);
    decide(&mut observed, 2);
    assert_eq!(said(&observed, 100).1, "WithinRetention");
    let mut refused = observed.clone();
    let status = refused.protection.status.as_mut().unwrap();
    let wal = ExpiredWal {
        refused: Some("access denied".into()),
        ..ExpiredWal::default()
    };
    status.retention.as_mut().unwrap().wal = Some(wal);
    let told = said(&refused, 100);
    assert_eq!((told.0, told.1), (Status::False, "WalNotDeleted"));
    assert!(told.2.ends_with("access denied"), "{}", told.2);
    let mark = (annotations::PAUSED.to_owned(), "true".to_owned());
    let stateful_set = observed.stateful_set.as_mut().unwrap();
    let annotations = &mut stateful_set.metadata.annotations;
    annotations.get_or_insert_default().extend([mark]);
    assert_eq!(said(&observed, 100).1, "Paused");
}

type Change = fn(&mut Observed);

#[test]
fn nothing_goes_by_a_decision_about_something_else() {
    assert_eq!(goes(&five(), 100).as_deref(), Some("b1"));
    let changes: [(&str, Change); 11] = [
        ("other rules", |it| {
            keep(it, json!({"keep": {"last": 3}}));
        }),
        ("no rules", |it| keep(it, Json::Null)),
        ("a dry run", |it| {
            keep(it, json!({"keep": {"last": 2}, "dryRun": true}));
            decide(it, 2);
        }),
        ("a zone that nobody knows", |it| {
            keep(
                it,
                json!({"keep": {"last": 2}, "timeZone": "Europe/Atlantis"}),
            );
            decide(it, 2);
        }),
        ("another lineage", |it| {
            let status = it.protection.status.as_mut().unwrap();
            status.lineage = Some("0000000000".parse().unwrap());
        }),
        ("none yet", |it| {
            it.protection.status.as_mut().unwrap().retention = None;
        }),
        ("one that is kept went", |it| it.backups[3].goes = true),
        ("the newest went", |it| drop(it.backups.pop())),
        ("one that is kept went, and one came", |it| {
            it.backups.remove(3);
            it.backups.push(backup(it, "b6", 6));
        }),
        ("paused", |it| {
            let set = it.stateful_set.as_mut().unwrap();
            let mark = (annotations::PAUSED.to_owned(), "true".to_owned());
            set.annotations_mut().extend([mark]);
        }),
        ("nobody is there to clear the catalog", |it| {
            it.agent.running = false;
        }),
    ];
    for (what, change) in changes {
        let mut observed = five();
        change(&mut observed);
        assert_eq!(goes(&observed, 100), None, "{what}");
    }
    // Where one has a label, or was made anew, the others go.
    let mut observed = five();
    observed.backups[0].held = true;
    assert_eq!(goes(&observed, 100).as_deref(), Some("b2"));
    observed.backups[1].uid = "another".into();
    assert_eq!(goes(&observed, 100).as_deref(), Some("b3"));
}

#[test]
fn the_last_that_no_drill_found_wanting_stays() {
    let mut observed = five();
    observed.backups[3].unsound = true;
    assert_eq!(goes(&observed, 100).as_deref(), Some("b1"), "b5 is sound");
    observed.backups[4].unsound = true;
    assert_eq!(goes(&observed, 100), None);
    let (value, reason, message) = said(&observed, 100);
    assert_eq!((value, reason), (Status::False, "LastSoundBackup"));
    assert_eq!(
        message,
        "2 backups are kept, and 3 backups, as no other is left that no drill has found wanting"
    );
    observed.backups[1].unsound = true;
    assert_eq!(goes(&observed, 100).as_deref(), Some("b2"));
}

#[test]
fn failed_ones_are_kept_by_their_own_count() {
    let mut observed = five();
    keep(&mut observed, json!({"keep": {"last": 5}, "failed": 2}));
    decide(&mut observed, 5);
    let failed = |name: &str, second| BackupSeen {
        name: name.into(),
        uid: format!("{name}-uid"),
        failed: Some(at(second)),
        ..BackupSeen::default()
    };
    let all = [("f1", 10), ("f4", 40), ("f3", 30), ("f2", 20)];
    let all = all.map(|(name, second)| failed(name, second));
    observed.backups.extend(all);
    let (value, reason, message) = said(&observed, 100);
    assert_eq!((value, reason), (Status::False, "Expiring"));
    assert_eq!(
        message,
        "5 backups are kept; deleted one a minute at most: 2 backups that failed (f1, f2)"
    );
    assert_eq!(pass(&mut observed, 100).as_deref(), Some("f1"));
    assert_eq!(
        pass(&mut observed, 160).as_deref(),
        Some("f2"),
        "what is counted did not change"
    );
    assert_eq!(pass(&mut observed, 1000), None);
    keep(&mut observed, json!({"keep": {"last": 5}, "failed": 0}));
    assert_eq!(
        pass(&mut observed, 1000).as_deref(),
        Some("f3"),
        "whatever the agent says"
    );
}

/// Without them the next would come at once, again and again.
#[test]
fn what_failed_is_kept_where_another_would_come_in_its_place() {
    let mut observed = five();
    keep(&mut observed, json!({"keep": {"last": 5}, "failed": 0}));
    decide(&mut observed, 5);
    let lineage = observed.protection.status.as_ref().unwrap().lineage.clone();
    let lineage = lineage.unwrap();
    let told: crate::api::PgProtectionStatus = serde_json::from_value(json!({
        "primary": {"pod": "orders-0", "timeline": 1},
        "recoverable": {"backupNeededFrom": "0/3000000"},
    }))
    .unwrap();
    let (timeline, from) = (
        told.primary.as_ref().unwrap().timeline,
        told.recoverable
            .as_ref()
            .unwrap()
            .backup_needed_from
            .unwrap(),
    );
    let status = observed.protection.status.as_mut().unwrap();
    (status.primary, status.recoverable) = (told.primary, told.recoverable);
    let gap = |count| names::gap_backup("orders", lineage.as_str(), timeline, from, count);
    let first = names::first_backup("orders", lineage.as_str());
    for (second, name) in [gap(0), gap(1), first, "nightly".to_owned()]
        .into_iter()
        .enumerate()
    {
        let second = i64::try_from(second).unwrap();
        observed.backups.push(BackupSeen {
            uid: format!("{name}-uid"),
            name,
            failed: Some(at(1000 + second)),
            ..BackupSeen::default()
        });
    }
    let (_, _, message) = said(&observed, 1010);
    assert!(
        message.ends_with("1 backup that failed (nightly)"),
        "{message}"
    );
    assert_eq!(goes(&observed, 1005).as_deref(), Some("nightly"));
    // When the gap is closed they are as all others.
    let status = observed.protection.status.as_mut().unwrap();
    status.recoverable = None;
    assert_eq!(goes(&observed, 1005), Some(gap(0)));
}

#[test]
fn the_condition_says_what_goes_and_why_nothing_does() {
    let mut observed = five();
    let (_, _, message) = said(&observed, 100);
    assert_eq!(
        message,
        "2 backups are kept; deleted one a minute at most: 3 backups (b1, b2, b3)"
    );
    keep(&mut observed, json!({"keep": {"last": 2}, "dryRun": true}));
    assert_eq!(said(&observed, 100).1, "Undecided");
    decide(&mut observed, 2);
    let (value, reason, message) = said(&observed, 100);
    assert_eq!((value, reason), (Status::False, "DryRun"));
    assert_eq!(
        message,
        "2 backups are kept; without dryRun these would be deleted: 3 backups (b1, b2, b3)"
    );
    keep(
        &mut observed,
        json!({"window": "1d", "timeZone": "Europe/Atlantis"}),
    );
    let (value, reason, message) = said(&observed, 100);
    assert_eq!((value, reason), (Status::False, "RetentionInvalid"));
    assert!(
        message.starts_with("retention of PgBackupPolicy gold deletes nothing: ")
            && message.contains("Europe/Atlantis"),
        "{message}"
    );
    keep(&mut observed, Json::Null);
    assert_eq!(condition(&observed, at(100)), None);
    // What follows a deletion is no news; what stays so is.
    let mut observed = five();
    pass(&mut observed, 100);
    assert_eq!(said(&observed, 101).1, "Expiring");
    assert_eq!(said(&observed, 100 + 599).1, "Expiring");
    assert_eq!(said(&observed, 100 + 600).1, "Undecided");
    // It ends with the protection.
    set_condition(&mut observed, "Active", Status::True, "AgentRunning", 0);
    let set = observed.stateful_set.as_mut().unwrap();
    set.annotations_mut().clear();
    let judgement = judge(&observed);
    let step = plan(&judgement, &observed, at(200));
    let ours = report::status(&observed, &judgement, &step, &Ok(()), at(200));
    assert!(
        ours.conditions
            .iter()
            .all(|it| it.type_ != "WithinRetention")
    );
}

/// What may happen beside the controller's passes.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pass,
    Decide,
    Comes,
    Deleted(usize),
    Gone,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever is deleted by hand, comes, and is decided late: what is deleted is never one of the newest that are there.
    #[test]
    fn an_old_decision_deletes_nothing_that_is_needed_now(events in prop::collection::vec(
        prop_oneof![
            3 => Just(Event::Pass), 2 => Just(Event::Decide), 1 => Just(Event::Comes),
            1 => (0usize..8).prop_map(Event::Deleted), 1 => Just(Event::Gone),
        ], 1..60,
    )) {
        let mut observed = five();
        let mut second = 100;
        for event in events {
            second += 61;
            match event {
                Event::Decide => decide(&mut observed, 2),
                Event::Comes => {
                    let name = format!("b{second}");
                    let backup = backup(&observed, &name, second);
                    observed.backups.push(backup);
                }
                Event::Deleted(number) => {
                    if let Some(backup) = observed.backups.get_mut(number) {
                        backup.goes = true;
                    }
                }
                Event::Gone => observed.backups.retain(|it| !it.goes),
                Event::Pass => {
                    let there = observed.backups.iter().filter(|it| !it.goes);
                    let mut there: Vec<_> = there.map(|it| (it.completed, it.name.clone())).collect();
                    there.sort();
                    let needed = there.split_off(there.len().saturating_sub(2));
                    if let Some(gone) = pass(&mut observed, second) {
                        prop_assert!(needed.iter().all(|(_, name)| *name != gone), "{gone}");
                    }
                }
            }
        }
    }
}
