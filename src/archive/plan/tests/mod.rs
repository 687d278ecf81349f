mod named;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::*;
use crate::{
    api::{RestoreTarget, TargetTime},
    archive::{ClockPair, Tail, examples::*},
};

fn request(target: Option<RestoreTarget>) -> Request {
    Request {
        backup: None,
        target,
        archive: "archive".into(),
        archive_name: "orders".into(),
        can_decrypt: false,
        ended: Vec::new(),
    }
}

fn to_time(minutes: f64) -> Option<RestoreTarget> {
    Some(RestoreTarget {
        time: Some(TargetTime(at(minutes))),
        ..RestoreTarget::default()
    })
}

fn to_lsn(segments: f64) -> Option<RestoreTarget> {
    Some(RestoreTarget {
        lsn: Some(lsn(segments)),
        ..RestoreTarget::default()
    })
}

fn planned(contents: &Contents, target: Option<RestoreTarget>) -> RestorePlan {
    plan(&request(target), contents).unwrap()
}

fn refused(contents: &Contents, target: Option<RestoreTarget>) -> Refusal {
    plan(&request(target), contents).unwrap_err()
}

/// Segments 2 to 9 and a tail to 10.5 whose last commit is at minute 10.25; backups at 2.1 to 2.5 and 6.1 to 6.5; the
/// database was quiet at minute 12.
fn plain() -> Contents {
    let contents = with_tail(with_segments(empty(), 1, 2..10), 1, 10.5, Some(10.25));
    let contents = with_backup(contents, "old", 1, 2.1, 2.5);
    let mut contents = with_backup(contents, "new", 1, 6.1, 6.5);
    contents.clocks.push(ClockPair {
        lsn: lsn(10.5),
        at: at(12.0),
        timeline: timeline(1),
    });
    contents
}

#[test]
fn an_entry_whose_backup_is_gone_begins_no_restore() {
    let mut contents = plain();
    let uid = |name: &str| {
        let (_, manifest) = contents
            .backups
            .iter()
            .find(|(_, it)| it.name == name)
            .unwrap();
        manifest.uid.clone()
    };
    let (old, new) = (uid("old"), uid("new"));
    assert_ne!(old, new);
    contents.keep_backups(&[old].into());
    assert_eq!(planned(&contents, None).backup, "old");
    contents.keep_backups(&[new].into());
    assert_eq!(refused(&contents, None).reason(), "NoBackup");
}

#[test]
fn latest_is_the_newest_backup_and_a_pinned_end() {
    let plan = planned(&plain(), None);
    assert_eq!(
        (plan.backup.as_str(), plan.wal_from, plan.wal_to),
        ("new", lsn(6.1), lsn(10.5))
    );
    assert_eq!((plan.timeline, plan.stop_at), (timeline(1), None));
    assert_eq!(plan.backup_key, "new-folder");
}

#[test]
fn a_time_is_stopped_at_the_first_commit_after_it() {
    for (minutes, backup, wal_to) in [
        (7.2, "new", 8.0),
        (7.7, "new", 9.0),
        (3.2, "old", 4.0),
        (10.1, "new", 10.5),
    ] {
        let plan = planned(&plain(), to_time(minutes));
        assert_eq!(
            (plan.backup.as_str(), plan.wal_to),
            (backup, lsn(wal_to)),
            "{minutes}"
        );
        let stop = plan.stop_at.unwrap();
        assert_eq!(
            (stop.time, stop.inclusive),
            (Some(MicroTime(at(minutes))), true)
        );
    }
}

#[test]
fn a_time_at_the_last_commit_stops_there_only_if_exclusive() {
    let exclusive = RestoreTarget {
        inclusive: Some(false),
        ..to_time(10.25).unwrap()
    };
    assert!(planned(&plain(), Some(exclusive)).stop_at.is_some());
    assert_eq!(planned(&plain(), to_time(10.25)).stop_at, None);
}

#[test]
fn a_quiet_time_after_the_last_commit_is_the_end_and_said_so() {
    let plan = planned(&plain(), to_time(11.5));
    assert_eq!((plan.stop_at, plan.wal_to), (None, lsn(10.5)));
    assert!(
        plan.summary.contains("nothing was committed after it"),
        "{}",
        plan.summary
    );
}

#[test]
fn where_nobody_read_the_records_postgresql_decides() {
    let mut contents = plain();
    let unread = Tail {
        end: lsn(10.5),
        records: None,
        encrypted: false,
    };
    contents.tails.insert(segment(1, 10), unread);
    let plan = planned(&contents, to_time(11.5));
    assert_eq!(
        (plan.stop_at.and_then(|stop| stop.time), plan.wal_to),
        (Some(MicroTime(at(11.5))), lsn(10.5))
    );
    let plan = planned(&contents, to_lsn(10.49));
    assert_eq!(plan.stop_at.and_then(|stop| stop.lsn), Some(lsn(10.49)));
}

#[test]
fn an_lsn_behind_the_last_record_is_the_end() {
    let plan = planned(&plain(), to_lsn(10.5));
    assert_eq!((plan.stop_at, plan.wal_to), (None, lsn(10.5)));
    let plan = planned(&plain(), to_lsn(8.2));
    assert_eq!(
        (plan.stop_at.and_then(|stop| stop.lsn), plan.wal_to),
        (Some(lsn(8.2)), lsn(9.0))
    );
    // The record at 8.95 begins in segment 9 at the earliest.
    assert_eq!(planned(&plain(), to_lsn(8.95)).wal_to, lsn(10.0));
}

#[test]
fn targets_outside_are_refused_and_the_refusal_says_what_is_possible() {
    for (target, reason) in [
        (to_time(2.0), "TargetBeforeWindow"),
        (to_time(12.1), "TargetAfterWindow"),
        (to_lsn(2.4), "TargetBeforeWindow"),
        (to_lsn(10.6), "TargetAfterWindow"),
    ] {
        let refusal = refused(&plain(), target);
        assert_eq!(refusal.reason(), reason);
        let text = refusal.to_string();
        for part in [
            "12:02:30Z",
            "12:12:00Z",
            "0/280000",
            "0/A80000",
            "timeline 1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    assert_eq!(
        refused(&with_segments(empty(), 1, 2..4), None).reason(),
        "NoBackup"
    );
}

#[test]
fn a_gap_is_never_crossed_and_never_taken_for_the_end() {
    let mut contents = plain();
    contents.segments.remove(&segment(1, 8));
    assert_eq!(refused(&contents, None).reason(), "WalMissing");
    assert_eq!(refused(&contents, to_time(9.2)).reason(), "WalMissing");
    let refusal = refused(&contents, to_lsn(9.2)).to_string();
    assert!(refusal.contains("0/800000 to 0/900000"), "{refusal}");
    assert_eq!(planned(&contents, to_time(7.2)).wal_to, lsn(8.0));
    // The nearest point that the refusal names can be had.
    assert_eq!(planned(&contents, to_lsn(8.0)).wal_to, lsn(8.0));
    // With a hole before it, the older backup only reaches so far.
    contents.segments.remove(&segment(1, 4));
    assert_eq!(refused(&contents, to_time(5.0)).reason(), "WalMissing");
}

#[test]
fn a_backup_without_its_wal_is_none() {
    let mut contents = plain();
    contents.segments.remove(&segment(1, 6));
    assert_eq!(refused(&contents, to_time(7.2)).reason(), "WalMissing");
    contents.segments.remove(&segment(1, 2));
    assert_eq!(refused(&contents, None).reason(), "NoBackup");
}

/// Timeline 2 left timeline 1 at 5.5; timeline 1 went on to 8; both have a backup behind the fork.
fn forked() -> Contents {
    let contents = with_segments(with_segments(empty(), 1, 2..8), 2, 5..9);
    let contents = with_history(contents, 2, &[(1, 5.5)]);
    let contents = with_backup(contents, "before", 1, 2.1, 2.5);
    let contents = with_backup(contents, "dead", 1, 6.1, 6.5);
    with_backup(contents, "alive", 2, 7.1, 7.5)
}

#[test]
fn a_backup_on_a_dead_branch_is_not_chosen_but_can_be_named() {
    let plan = planned(&forked(), to_time(7.2));
    assert_eq!(
        (plan.backup.as_str(), plan.timeline),
        ("before", timeline(2))
    );
    assert_eq!(planned(&forked(), None).backup, "alive");
    let named = Request {
        backup: Some("dead-uid".into()),
        ..request(None)
    };
    let plan = super::plan(&named, &forked()).unwrap();
    assert_eq!((plan.timeline, plan.wal_to), (timeline(1), lsn(8.0)));
    let named = Request {
        backup: Some("before-uid".into()),
        ..request(None)
    };
    assert_eq!(
        super::plan(&named, &forked()).unwrap().timeline,
        timeline(2)
    );
    let named = Request {
        backup: Some("no-such".into()),
        ..request(None)
    };
    assert_eq!(
        super::plan(&named, &forked()).unwrap_err().reason(),
        "BackupUnusable"
    );
}

#[test]
fn before_the_fork_the_old_timeline_is_pinned() {
    let plan = planned(&forked(), to_time(4.2));
    assert_eq!((plan.timeline, plan.wal_to), (timeline(1), lsn(5.0)));
}

#[test]
fn right_after_a_promotion_the_old_tail_up_to_the_fork_counts() {
    let contents = with_tail(with_segments(empty(), 1, 2..5), 1, 5.75, Some(5.6));
    let contents = with_backup(with_history(contents, 2, &[(1, 5.5)]), "b", 1, 2.1, 2.5);
    let plan = planned(&contents, None);
    assert_eq!((plan.timeline, plan.wal_to), (timeline(1), lsn(5.5)));
    // The new timeline's copy counts as soon as it goes further.
    let plan = planned(&with_tail(contents, 2, 5.6, Some(5.55)), None);
    assert_eq!((plan.timeline, plan.wal_to), (timeline(2), lsn(5.6)));
}

#[test]
fn at_the_fork_itself_the_old_timeline_stops_where_it_was_left() {
    // Its segment goes on behind the fork, with what the new timeline never had.
    let contents = with_history(with_segments(empty(), 1, 2..6), 2, &[(1, 5.5)]);
    let contents = with_backup(contents, "b", 1, 2.1, 2.5);
    let plan = planned(&contents, to_lsn(5.5));
    assert_eq!((plan.timeline, plan.wal_to), (timeline(1), lsn(5.5)));
    // PostgreSQL stops at a record, and none begins there that it is given: told to stop, it would call that an error.
    assert_eq!(plan.stop_at, None);
    let said = "where timeline 1 was left";
    assert!(plan.summary.contains(said), "{}", plan.summary);
    // Before it there may be one.
    let stop = planned(&contents, to_lsn(5.25)).stop_at;
    assert_eq!(stop.and_then(|stop| stop.lsn), Some(lsn(5.25)));
}

/// Its bytes are the old timeline's, under a name that recovery along the old one does not ask for.
#[test]
fn a_copy_of_the_new_timeline_that_does_not_reach_the_fork_leads_nowhere() {
    let old = with_history(with_segments(empty(), 1, 2..5), 2, &[(1, 5.5)]);
    let old = with_backup(old, "b", 1, 2.1, 2.5);
    for (end, reached) in [(5.3, 5.0), (5.5, 5.0), (5.6, 5.6)] {
        let contents = with_tail(old.clone(), 2, end, Some(5.2));
        let plan = planned(&contents, None);
        let timeline = timeline(if reached == 5.0 { 1 } else { 2 });
        assert_eq!((plan.wal_to, plan.timeline), (lsn(reached), timeline));
        // Nor does it where another timeline goes on from there.
        let contents = with_history(contents, 3, &[(1, 5.5), (2, 7.0)]);
        assert_eq!(planned(&contents, None).wal_to, lsn(reached));
    }
}

#[test]
fn an_old_primarys_clock_says_nothing_of_the_new_timeline() {
    let mut contents = forked();
    contents.clocks.push(ClockPair {
        lsn: lsn(5.5),
        at: at(99.0),
        timeline: timeline(1),
    });
    assert_eq!(
        refused(&contents, to_time(50.0)).reason(),
        "TargetAfterWindow"
    );
}

#[test]
fn a_timeline_without_history_cannot_be_followed() {
    let mut contents = forked();
    contents.histories.clear();
    assert_eq!(
        refused(&contents, None),
        Refusal::HistoryMissing {
            timeline: timeline(2)
        }
    );
    let named = Request {
        backup: Some("before-uid".into()),
        ..request(None)
    };
    assert_eq!(
        super::plan(&named, &contents).unwrap().timeline,
        timeline(1)
    );
}

#[test]
fn encrypted_wal_in_the_way_wants_a_key_before_anything_is_made() {
    let mut contents = plain();
    let encrypt = |contents: &mut Contents, number| {
        let segment = contents.segments.get_mut(&segment(1, number));
        segment.unwrap().encrypted = true;
    };
    let with_key = |target| Request {
        can_decrypt: true,
        ..request(target)
    };
    encrypt(&mut contents, 8);
    let refused = plan(&request(None), &contents).unwrap_err();
    assert_eq!(refused, Refusal::KeyMissing { from: lsn(8.0) });
    assert_eq!(refused.reason(), "DecryptionKeyMissing");
    assert!(plan(&with_key(None), &contents).is_ok());
    // What lies behind the target need not be read.
    assert!(plan(&request(to_lsn(7.5)), &contents).is_ok());
    assert!(plan(&request(to_lsn(8.5)), &contents).is_err());
    // What cannot be done at all is said first.
    let beyond = plan(&request(to_lsn(99.0)), &contents).unwrap_err();
    assert_eq!(beyond.reason(), "TargetAfterWindow");
    let mut tail = plain();
    tail.tails.get_mut(&segment(1, 10)).unwrap().encrypted = true;
    let refused = plan(&request(None), &tail).unwrap_err();
    assert_eq!(refused, Refusal::KeyMissing { from: lsn(10.0) });
    assert!(plan(&request(to_lsn(9.5)), &tail).is_ok());
}
