//! Targets that are looked up: restore points, transactions, timelines, the backup's own end.

use serde_json::json;

use super::*;
use crate::{
    api::{Immediate, TargetTimeline},
    archive::{RestorePoint, Segment},
};

fn target(value: serde_json::Value) -> Option<RestoreTarget> {
    Some(serde_json::from_value(value).unwrap())
}

fn to_name(name: &str) -> Option<RestoreTarget> {
    target(json!({ "name": name }))
}

fn with_point(mut contents: Contents, tli: u32, name: &str, end: f64) -> Contents {
    let point = RestorePoint {
        name: name.to_owned(),
        lsn: lsn(end),
        at: at(end),
    };
    contents.restore_points.push((timeline(tli), point));
    contents
}

fn on_timeline(timeline: TargetTimeline, target: Option<RestoreTarget>) -> Option<RestoreTarget> {
    Some(RestoreTarget {
        timeline: Some(timeline),
        ..target.unwrap_or_default()
    })
}

#[test]
fn a_restore_point_is_the_end_of_its_record() {
    let contents = with_point(plain(), 1, "before release", 8.25);
    let plan = planned(&contents, to_name("before release"));
    assert_eq!((plan.backup.as_str(), plan.wal_to), ("new", lsn(9.0)));
    let stop = plan.stop_at.unwrap();
    assert_eq!((stop.lsn, stop.inclusive), (Some(lsn(8.25)), false));
    for said in ["before release", "0/840000", "12:08:15"] {
        assert!(plan.summary.contains(said), "{said} in {}", plan.summary);
    }
    // The older backup leads to the older point.
    let contents = with_point(contents, 1, "early", 4.0);
    assert_eq!(planned(&contents, to_name("early")).backup, "old");
    // Nothing follows it: the end of what there is.
    let contents = with_point(contents, 1, "last", 10.5);
    let plan = planned(&contents, to_name("last"));
    assert_eq!((plan.stop_at, plan.wal_to), (None, lsn(10.5)));
}

#[test]
fn a_restore_point_that_is_not_there_is_told_with_those_that_are() {
    let refusal = refused(&plain(), to_name("release"));
    assert_eq!(refusal.reason(), "RestorePointNotFound");
    assert!(refusal.to_string().contains("none at all"), "{refusal}");
    let contents = with_point(with_point(plain(), 1, "a", 4.0), 1, "b", 8.0);
    // Before the end of the first backup, or on another branch.
    let contents = with_point(with_point(contents, 1, "early", 2.4), 2, "other", 4.0);
    for name in ["release", "early", "other"] {
        let refusal = refused(&contents, to_name(name)).to_string();
        for said in ["b (2026-11-20T12:08:00Z), a (", "recoverable is "] {
            assert!(refusal.contains(said), "{said} in {refusal}");
        }
    }
}

#[test]
fn what_is_there_twice_is_refused_with_its_places() {
    let contents = with_point(with_point(plain(), 1, "nightly", 4.0), 1, "nightly", 8.0);
    let refusal = refused(&contents, to_name("nightly"));
    assert_eq!(refusal.reason(), "TargetAmbiguous");
    let text = refusal.to_string();
    for said in [
        "2 times",
        "LSN 0/400000",
        "LSN 0/800000",
        "inclusive: false",
    ] {
        assert!(text.contains(said), "{said} in {text}");
    }
    // What no backup leads to does not count.
    let contents = with_point(with_point(plain(), 1, "nightly", 2.2), 1, "nightly", 8.0);
    assert_eq!(planned(&contents, to_name("nightly")).backup, "new");
}

/// Both timelines archive the segment that holds a fork.
#[test]
fn a_restore_point_in_both_copies_of_a_segment_is_one() {
    let contents = with_point(with_point(forked(), 1, "release", 5.25), 1, "a", 5.375);
    let contents = with_point(contents, 2, "release", 5.25);
    let plan = planned(&contents, to_name("release"));
    let stop = plan.stop_at.and_then(|stop| stop.lsn);
    assert_eq!((plan.backup.as_str(), stop), ("before", Some(lsn(5.25))));
    let known = refused(&contents, to_name("b")).to_string();
    assert_eq!(known.matches("release (").count(), 1, "{known}");
    // Behind the fork it is another.
    let contents = with_point(contents, 2, "release", 7.75);
    let refusal = refused(&contents, to_name("release"));
    assert!(refusal.to_string().contains("2 times"), "{refusal}");
}

#[test]
fn wal_that_was_not_searched_for_a_restore_point_is_named() {
    let mut contents = with_point(plain(), 1, "a", 8.0);
    contents.tails.get_mut(&segment(1, 10)).unwrap().encrypted = true;
    let refusal = refused(&contents, to_name("release")).to_string();
    let said = format!(
        "segment {} was not searched: it is encrypted",
        segment(1, 10)
    );
    assert!(refusal.contains(&said), "{refusal}");
    assert_eq!(planned(&contents, to_name("a")).backup, "new");
    let whole = refused(&plain(), to_name("release")).to_string();
    assert!(!whole.contains("encrypted"), "{whole}");
}

/// Transactions 100 n to 100 n + 50 end in segment n.
fn with_transactions() -> Contents {
    let mut contents = plain();
    for (name, segment) in &mut contents.segments {
        let number = u32::try_from(name.start(SIZE).get() / MIB).unwrap();
        segment.ended = Some((100 * number, 100 * number + 50));
    }
    contents
}

fn to_xid(xid: u64, inclusive: Option<bool>, ended: Vec<Ended>) -> Request {
    Request {
        ended,
        ..request(target(json!({ "xid": xid, "inclusive": inclusive })))
    }
}

const fn ended(start: Lsn, end: Lsn, committed: Option<jiff::Timestamp>) -> Ended {
    Ended {
        timeline: crate::postgres::TimelineId::FIRST,
        start,
        end,
        committed,
    }
}

#[test]
fn a_transaction_is_looked_for_where_it_may_end() {
    let contents = with_transactions();
    let segments =
        |contents: &Contents, xid| to_look_up(&to_xid(xid, None, vec![]), contents).unwrap();
    // The unfinished segment says nothing of itself.
    assert_eq!(segments(&contents, 820), [segment(1, 8), segment(1, 10)]);
    assert_eq!(segments(&contents, 875), [segment(1, 10)]);
    // With its epoch.
    let with_epoch = (7 << 32) + 820;
    assert_eq!(
        segments(&contents, with_epoch),
        [segment(1, 8), segment(1, 10)]
    );
    // Before the end of the first backup no target can be.
    assert_eq!(segments(&contents, 150), [segment(1, 10)]);
    let mut unread = with_transactions();
    let one: &mut Segment = unread.segments.get_mut(&segment(1, 4)).unwrap();
    (one.records, one.ended) = (None, None);
    let one: &mut Segment = unread.segments.get_mut(&segment(1, 8)).unwrap();
    one.encrypted = true;
    assert_eq!(segments(&unread, 820), [segment(1, 4), segment(1, 10)]);
    assert_eq!(to_look_up(&request(to_lsn(8.0)), &unread), Ok(vec![]));
}

/// What a walk along the line finds, from the end of each backup to the end of its unbroken WAL.
#[test]
fn what_is_looked_through_is_what_the_line_leads_to() {
    // A hole, a fork in segment 8, a dead end behind it, and a segment of the dead end that the line does not have.
    let old = with_segments(empty(), 1, [1, 2, 3, 4, 6, 7, 8, 9]);
    let contents = with_segments(old, 2, [8, 9, 10]);
    let contents = with_history(contents, 2, &[(1, 8.5)]);
    let contents = with_backup(contents, "first", 1, 1.5, 2.5);
    let contents = with_backup(contents, "second", 1, 2.6, 3.5);
    let mut contents = with_tail(contents, 2, 11.5, None);
    let looked_up = |contents: &Contents| to_look_up(&to_xid(7, None, vec![]), contents).unwrap();
    for segment in contents.segments.values_mut() {
        segment.records = None;
    }
    // Nothing was read: all up to the hole. The backup stopped in segment 2.
    let before = [segment(1, 2), segment(1, 3), segment(1, 4)];
    assert_eq!(looked_up(&contents), before);
    let contents = with_backup(contents, "third", 1, 6.1, 7.0);
    let behind = [7, 8, 9, 10, 11].map(|number| segment(if number < 8 { 1 } else { 2 }, number));
    assert_eq!(looked_up(&contents), [&before[..], &behind].concat());
}

#[test]
fn a_transaction_is_stopped_at_behind_or_before_its_record() {
    let contents = with_transactions();
    let found = || vec![ended(lsn(8.25), lsn(8.5), Some(at(8.25)))];
    for (inclusive, stop, said) in [
        (None, 8.5, "committed at 2026-11-20T12:08:15Z"),
        (Some(true), 8.5, "the end of transaction 820"),
        (Some(false), 8.25, "before the end of transaction 820"),
    ] {
        let plan = plan(&to_xid(820, inclusive, found()), &contents).unwrap();
        assert!(plan.summary.contains(said), "{}", plan.summary);
        let at = plan.stop_at.unwrap();
        assert_eq!((at.lsn, at.inclusive), (Some(lsn(stop)), false));
        assert_eq!(plan.backup, "new");
    }
    let aborted = vec![ended(lsn(4.25), lsn(4.5), None)];
    let plan = plan(&to_xid(420, None, aborted), &contents).unwrap();
    assert!(plan.summary.contains("rolled back"), "{}", plan.summary);
    assert_eq!(plan.backup, "old");
}

#[test]
fn a_transaction_that_does_not_end_is_refused() {
    let contents = with_transactions();
    let refusal = |ended| plan(&to_xid(820, None, ended), &contents).unwrap_err();
    assert_eq!(refusal(vec![]).reason(), "TransactionNotFound");
    assert!(refusal(vec![]).to_string().contains("transaction 820 "));
    // In backup mode of the first backup.
    let early = vec![ended(lsn(2.2), lsn(2.3), None)];
    assert_eq!(refusal(early).reason(), "TransactionNotFound");
    let twice = [4.0, 8.0].map(|end| ended(lsn(end - 0.1), lsn(end), None));
    assert_eq!(refusal(twice.to_vec()).reason(), "TargetAmbiguous");
}

#[test]
fn recovery_itself_looks_a_transaction_up_in_encrypted_wal() {
    let mut contents = with_transactions();
    for number in 7..10 {
        let one = contents.segments.get_mut(&segment(1, number)).unwrap();
        one.encrypted = true;
    }
    let request = |xid| Request {
        can_decrypt: true,
        ..to_xid(xid, Some(false), vec![])
    };
    let found = plan(&request((1 << 32) + 820), &contents).unwrap();
    let stop = found.stop_at.unwrap();
    assert_eq!(
        (stop.xid, stop.lsn, stop.inclusive),
        (Some(820), None, false)
    );
    assert_eq!((found.backup.as_str(), found.wal_to), ("new", lsn(9.0)));
    // The record may lie before the end of that backup: another one is sure.
    let one = contents.segments.get_mut(&segment(1, 6)).unwrap();
    (one.ended, one.encrypted) = (Some((600, 900)), true);
    let found = plan(&request(820), &contents).unwrap();
    assert_eq!((found.backup.as_str(), found.wal_to), ("old", lsn(9.0)));
    let without_key = to_xid(820, None, vec![]);
    let refusal = plan(&without_key, &contents).unwrap_err();
    assert_eq!(refusal.reason(), "DecryptionKeyMissing");
    // No encrypted segment can hold it.
    assert_eq!(
        plan(&request(420), &contents).unwrap_err().reason(),
        "TransactionNotFound"
    );
}

#[test]
fn immediate_is_the_end_of_the_backup() {
    let immediate = || {
        Some(RestoreTarget {
            immediate: Some(Immediate {}),
            ..RestoreTarget::default()
        })
    };
    let newest = planned(&plain(), immediate());
    assert_eq!((newest.backup.as_str(), newest.wal_to), ("new", lsn(7.0)));
    let stop = newest.stop_at.unwrap();
    assert_eq!((stop.lsn, stop.inclusive), (Some(lsn(6.5)), false));
    let named = Request {
        backup: Some("old-uid".into()),
        ..request(immediate())
    };
    assert_eq!(plan(&named, &plain()).unwrap().wal_to, lsn(3.0));
    // WAL that is missing behind it does not matter; without any, the backup is enough.
    let alone = with_backup(with_segments(empty(), 1, 2..3), "only", 1, 2.1, 2.5);
    let plan = planned(&alone, immediate());
    assert_eq!(plan.stop_at.and_then(|stop| stop.lsn), Some(lsn(2.5)));
    let mut holed = plain();
    holed.segments.remove(&segment(1, 8));
    assert_eq!(planned(&holed, immediate()).backup, "new");
    assert_eq!(refused(&holed, None).reason(), "WalMissing");
}

#[test]
fn a_dead_branch_can_be_followed_by_its_number() {
    let by = |id| TargetTimeline::Id(timeline(id));
    let old = planned(&forked(), on_timeline(by(1), None));
    assert_eq!(
        (old.backup.as_str(), old.timeline, old.wal_to),
        ("dead", timeline(1), lsn(8.0))
    );
    // The same time on both branches.
    let old = planned(&forked(), on_timeline(by(1), to_time(7.2)));
    assert_eq!((old.backup.as_str(), old.timeline), ("dead", timeline(1)));
    for same in [by(2), TargetTimeline::Latest] {
        let new = planned(&forked(), on_timeline(same, to_time(7.2)));
        assert_eq!((new.backup.as_str(), new.timeline), ("before", timeline(2)));
    }
    let refusal = refused(&forked(), on_timeline(by(7), None));
    assert_eq!(refusal.reason(), "TimelineUnknown");
    assert!(refusal.to_string().contains("there are 1, 2"), "{refusal}");
    // A refusal says that there is another one.
    let refusal = refused(&forked(), to_lsn(99.0)).to_string();
    assert!(
        refusal.contains("follows another: there are 1"),
        "{refusal}"
    );
    // A backup that is not on it.
    let named = Request {
        backup: Some("alive-uid".into()),
        ..request(on_timeline(by(1), None))
    };
    assert_eq!(
        plan(&named, &forked()).unwrap_err().reason(),
        "BackupUnusable"
    );
}

#[test]
fn current_is_the_timeline_of_the_backup() {
    let current = |backup: Option<&str>, target| Request {
        backup: backup.map(|name| format!("{name}-uid")),
        ..request(on_timeline(TargetTimeline::Current, target))
    };
    for (backup, chosen, expected) in [
        (None, "alive", 2),
        (Some("before"), "before", 1),
        (Some("dead"), "dead", 1),
        (Some("alive"), "alive", 2),
    ] {
        let plan = plan(&current(backup, None), &forked()).unwrap();
        assert_eq!(
            (plan.backup.as_str(), plan.timeline),
            (chosen, timeline(expected))
        );
    }
    let none = plan(&current(None, None), &with_segments(empty(), 1, 2..4));
    assert_eq!(none.unwrap_err().reason(), "NoBackup");
}

#[test]
fn a_refusal_names_what_lies_on_both_sides_of_a_gap() {
    let mut contents = with_backup(plain(), "behind", 1, 9.1, 9.5);
    contents.segments.remove(&segment(1, 8));
    // The nearest points: the end before the gap, and the end of the first backup behind it.
    for target in [to_time(8.7), to_lsn(8.7)] {
        let text = refused(&contents, target).to_string();
        for said in [
            "0/800000 to 0/900000 is not in the archive",
            "2026-11-20T12:02:30Z to 2026-11-20T12:07:30Z (LSN 0/280000 to 0/800000)",
            " and 2026-11-20T12:09:30Z to 2026-11-20T12:12:00Z (LSN 0/980000 to 0/A80000)",
        ] {
            assert!(text.contains(said), "{said} in {text}");
        }
    }
}
