use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{api::names, controller::backup::attempt::Recorded};

const LIMITS: Limits = Limits {
    total: 5,
    per_driver: 3,
    per_node: 2,
};

/// What the status says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Never,
    Runs,
    Stopped,
    Void,
    Completed,
}

/// Created in the second of its number; on node `number % 3`, of driver `number % 2`.
fn backup(number: u8, attempt: u32, stage: Stage) -> PgBackup {
    let condition = |type_: &str, holds: bool| {
        let status = if holds { "True" } else { "Unknown" };
        json!({"type": type_, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let accepted = matches!(stage, Stage::Runs | Stage::Stopped | Stage::Completed);
    let stopped = matches!(stage, Stage::Stopped | Stage::Completed);
    let mut status = json!({"conditions": [condition("Accepted", accepted), condition("Stopped", stopped),
        condition("Completed", stage == Stage::Completed)]});
    if stage != Stage::Never {
        status["attempt"] = attempt_of(number, attempt);
        status["volumes"] = json!([volume(number)]);
        status["session"] = json!({"attempt": attempt, "startLsn": "0/1000028", "stopLsn": stopped.then_some("0/2000028")});
    }
    let name = format!("backup-{number}");
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("{name}-uid"),
            "creationTimestamp": format!("2026-01-01T00:00:{number:02}Z")},
        "spec": {"protection": format!("database-{number}")},
        "status": status,
    }))
    .unwrap()
}

/// When every attempt began, and so many minutes later.
fn minute(minutes: i64) -> Timestamp {
    let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    began + SignedDuration::from_mins(minutes)
}

fn attempt_of(number: u8, attempt: u32) -> Value {
    json!({"number": attempt, "startedAt": "2026-01-01T00:00:00.000000Z", "pod": "p", "podUid": "u",
        "address": "a", "node": format!("node-{}", number % 3)})
}

fn volume(number: u8) -> Value {
    json!({"claim": "data", "volume": "data", "mounts": [], "driver": format!("driver-{}", number % 2),
        "volumeHandle": "h", "capacity": 1, "volumeMode": "Filesystem", "className": "c",
        "volumeSnapshot": names::volume_snapshot("b", "u", 1, "data"), "ready": false, "retained": false})
}

fn enter(at_once: &AtOnce, number: u8, attempt: u32) -> Result<(), Full> {
    let planned = backup(number, attempt, Stage::Runs).status.unwrap();
    let set = SnapshotSet::<Recorded>::read_back(&planned).unwrap();
    let last = backup(
        number,
        attempt - 1,
        if attempt == 1 {
            Stage::Never
        } else {
            Stage::Void
        },
    );
    at_once.enter(&last, &set, minute(1))
}

fn next(at_once: &AtOnce) -> Vec<String> {
    let next = at_once.next(minute(1)).into_iter();
    next.map(|it| it.name).collect()
}

#[test]
fn who_finds_no_place_is_told_which_limit_it_is() {
    let at_once = AtOnce::new(LIMITS);
    for number in [0, 3] {
        enter(&at_once, number, 1).unwrap();
    }
    let node = enter(&at_once, 6, 1).unwrap_err();
    assert_eq!(node, Full::Node("node-0".to_owned(), 2));
    enter(&at_once, 1, 1).unwrap();
    enter(&at_once, 5, 1).unwrap();
    let driver = enter(&at_once, 7, 1).unwrap_err();
    assert_eq!(driver, Full::Driver("driver-1".to_owned(), 3));
    enter(&at_once, 2, 1).unwrap();
    assert_eq!(enter(&at_once, 4, 1).unwrap_err(), Full::Total(5));
    let said = node.to_string();
    assert_eq!(
        said,
        "2 at once on node node-0, as --backups-at-once-per-node of the controller says"
    );
}

#[test]
fn a_place_is_free_when_backup_mode_is_over_and_the_first_that_fits_gets_it() {
    let at_once = AtOnce::new(LIMITS);
    for number in [0, 3] {
        enter(&at_once, number, 1).unwrap();
    }
    for number in [9, 6, 12] {
        enter(&at_once, number, 1).unwrap_err();
    }
    assert!(next(&at_once).is_empty());
    at_once.note(&backup(0, 1, Stage::Runs));
    assert!(next(&at_once).is_empty(), "it runs");
    at_once.note(&backup(0, 1, Stage::Stopped));
    assert_eq!(next(&at_once), ["backup-6"], "the oldest one");
    enter(&at_once, 9, 1).unwrap_err();
    enter(&at_once, 6, 1).unwrap();
    at_once.forget(&backup(3, 1, Stage::Runs));
    assert_eq!(next(&at_once), ["backup-9"], "the other one was deleted");
    at_once.leave(&backup(9, 1, Stage::Never));
    assert_eq!(next(&at_once), ["backup-12"], "9 waits for something else");
}

#[test]
fn what_was_told_late_gives_no_place_away() {
    let at_once = AtOnce::new(Limits { total: 1, ..LIMITS });
    enter(&at_once, 1, 2).unwrap();
    for (attempt, stage) in [(0, Stage::Never), (1, Stage::Runs), (1, Stage::Void)] {
        at_once.note(&backup(1, attempt, stage));
        assert!(enter(&at_once, 2, 1).is_err(), "{attempt} {stage:?}");
    }
    enter(&at_once, 1, 2).expect("a write that failed is tried again");
    at_once.note(&backup(1, 2, Stage::Void));
    enter(&at_once, 2, 1).unwrap();
}

#[test]
fn a_controller_that_starts_learns_who_runs() {
    let at_once = AtOnce::new(LIMITS);
    for (number, stage) in [(0, Stage::Runs), (3, Stage::Runs), (6, Stage::Stopped)] {
        at_once.note(&backup(number, 1, stage));
    }
    enter(&at_once, 9, 1).unwrap_err();
    // 3 went while nobody watched.
    at_once.keep(|it| it.name != "backup-3");
    enter(&at_once, 9, 1).unwrap();
}

#[test]
fn a_backup_that_hangs_keeps_nobody_waiting_for_long() {
    let at_once = AtOnce::new(LIMITS);
    for number in [0, 3] {
        enter(&at_once, number, 1).unwrap();
    }
    enter(&at_once, 6, 1).unwrap_err();
    assert_eq!(at_once.next_lapse(minute(1)), Some(minute(10)));
    assert!(at_once.next(minute(9)).is_empty());
    assert_eq!(at_once.next(minute(10)).len(), 1);
    assert_eq!(at_once.next_lapse(minute(10)), None);
}

#[test]
fn who_tries_again_stands_behind_the_others() {
    let at_once = AtOnce::new(LIMITS);
    for number in [0, 3] {
        enter(&at_once, number, 1).unwrap();
    }
    enter(&at_once, 6, 1).unwrap_err();
    at_once.note(&backup(0, 1, Stage::Void));
    enter(&at_once, 0, 2).unwrap_err();
    assert_eq!(next(&at_once), ["backup-6"]);
    enter(&at_once, 6, 1).unwrap();
    at_once.note(&backup(6, 1, Stage::Stopped));
    assert_eq!(next(&at_once), ["backup-0"]);
}

/// As one whose pass fails would else be woken by each event, and keep a place from all behind it.
#[test]
fn of_whom_nothing_is_known_nothing_is_kept() {
    let at_once = AtOnce::new(LIMITS);
    for number in [0, 3] {
        enter(&at_once, number, 1).unwrap();
    }
    for number in [6, 9] {
        enter(&at_once, number, 1).unwrap_err();
    }
    at_once.doubt(&backup(6, 1, Stage::Never));
    at_once.doubt(&backup(0, 1, Stage::Never));
    assert!(next(&at_once).is_empty(), "who runs, runs");
    at_once.note(&backup(0, 1, Stage::Stopped));
    assert_eq!(next(&at_once), ["backup-9"]);
}

/// What happens to a backup.
#[derive(Clone, Debug)]
enum Event {
    Asks(u8),
    Stops(u8),
    GivesUp(u8),
    GoesAway(u8),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0u8..4, 0u8..12).prop_map(|(kind, number)| match kind {
        0 | 1 => Event::Asks(number),
        2 => Event::Stops(number),
        _ if number % 2 == 0 => Event::GivesUp(number),
        _ => Event::GoesAway(number),
    });
    proptest::collection::vec(event, 0..60)
}

fn is_within(running: &BTreeSet<u8>, limits: Limits) -> bool {
    let most = |of: fn(u8) -> u8| {
        let counts = (0..3).map(|which| running.iter().filter(|it| of(**it) == which).count());
        counts.max().unwrap_or_default()
    };
    running.len() <= limits.total.into()
        && most(|number| number % 2) <= limits.per_driver.into()
        && most(|number| number % 3) <= limits.per_node.into()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Never more than the limits, and whoever waits and fits is woken.
    #[test]
    fn limits_hold_and_nobody_is_forgotten(events in events()) {
        let at_once = AtOnce::new(LIMITS);
        let (mut running, mut waiting) = (BTreeSet::new(), BTreeSet::new());
        for event in events {
            match event {
                Event::Asks(number) if !running.contains(&number) => {
                    match enter(&at_once, number, 1) {
                        Ok(()) => {
                            waiting.remove(&number);
                            running.insert(number);
                        }
                        Err(_) => {
                            waiting.insert(number);
                        }
                    }
                }
                Event::Asks(_) => {}
                Event::Stops(number) if running.remove(&number) => {
                    at_once.note(&backup(number, 1, Stage::Stopped));
                }
                Event::GivesUp(number) if running.remove(&number) => {
                    at_once.note(&backup(number, 1, Stage::Void));
                }
                Event::Stops(_) | Event::GivesUp(_) => {}
                Event::GoesAway(number) => {
                    running.remove(&number);
                    waiting.remove(&number);
                    at_once.forget(&backup(number, 1, Stage::Runs));
                }
            }
            prop_assert!(is_within(&running, LIMITS), "{running:?}");
            let oldest = waiting.iter().copied().find(|number| {
                let with: BTreeSet<u8> = running.iter().copied().chain([*number]).collect();
                is_within(&with, LIMITS)
            });
            let first = next(&at_once).into_iter().next();
            prop_assert_eq!(first, oldest.map(|number| format!("backup-{number}")));
        }
    }
}
