use serde_json::json;

use super::*;
use crate::{
    api::RestoreTarget,
    archive::{Request, examples::*, plan::plan},
    postgres::SegmentName,
};

fn rules() -> Rules {
    Rules {
        window: None,
        last: 0,
        periods: BTreeMap::new(),
        zone: TimeZone::UTC,
        minimum: 1,
    }
}

fn window(minutes: i64) -> Rules {
    Rules {
        window: Some(SignedDuration::from_mins(minutes)),
        ..rules()
    }
}

/// Segments 1 to 39, and a backup at each fourth; minute n is in segment n.
fn long() -> Contents {
    let contents = with_segments(empty(), 1, 1..40);
    (1..10).fold(contents, |contents, n| {
        let begin = f64::from(n) * 4.0;
        with_backup(contents, &format!("b{n}"), 1, begin + 0.1, begin + 0.5)
    })
}

fn decided(rules: &Rules, contents: &Contents) -> Decision {
    decide(rules, &Holds::default(), contents, at(1e6))
}

fn names(uids: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let names = uids.into_iter();
    names
        .map(|uid| uid.as_ref().trim_end_matches("-uid").to_owned())
        .collect()
}

fn needed(decision: &Decision, contents: &Contents) -> Vec<SegmentName> {
    let all = contents.segments.keys().copied();
    all.filter(|name| decision.needed.has(*name)).collect()
}

fn segments(timeline: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<SegmentName> {
    let numbers = numbers.into_iter();
    numbers.map(|number| segment(timeline, number)).collect()
}

#[test]
fn a_window_keeps_what_leads_to_its_beginning() {
    let contents = long();
    // The last commit is at minute 39.5: the window begins at 19.5.
    let decision = decided(&window(20), &contents);
    assert_eq!(names(&decision.goes), ["b1", "b2", "b3"]);
    let begins = &decision.kept["b4-uid"];
    assert_eq!(*begins, BTreeSet::from([Why::BeforeWindow]));
    assert_eq!(needed(&decision, &contents), segments(1, 16..40));
    // A backup that ends just then begins it.
    let decision = decided(&window(15), &contents);
    assert_eq!(names(&decision.goes), ["b1", "b2", "b3", "b4"]);
    let begins = &decision.kept["b5-uid"];
    assert!(begins.contains(&Why::BeforeWindow), "{begins:?}");
}

#[test]
fn the_window_ends_with_what_can_be_recovered_and_not_with_a_clock_that_runs_ahead() {
    let contents = long();
    let later = decide(&window(20), &Holds::default(), &contents, at(1e6));
    let then = decide(&window(20), &Holds::default(), &contents, at(39.5));
    assert_eq!(later.goes, then.goes);
    let early = decide(&window(20), &Holds::default(), &contents, at(30.0));
    assert_eq!(names(&early.goes), ["b1"]);
}

#[test]
fn counts_and_the_minimum_keep_the_newest() {
    let contents = long();
    let newest = |rules: &Rules| decided(rules, &contents).goes.len();
    assert_eq!(newest(&rules()), 8, "one at least");
    let none = Rules {
        minimum: 0,
        ..rules()
    };
    assert_eq!(newest(&none), 8, "never none");
    let two = Rules {
        minimum: 2,
        ..window(1)
    };
    assert_eq!(newest(&two), 7);
    let last = Rules { last: 3, ..rules() };
    let decision = decided(&last, &contents);
    assert_eq!(names(decision.kept.keys()), ["b7", "b8", "b9"]);
    assert_eq!(needed(&decision, &contents), segments(1, 28..40));
}

#[test]
fn of_each_period_the_newest_is_kept_with_the_wal_of_its_own() {
    // A backup each 7 hours of 20 days, from Friday, 2026-11-20, 12:00.
    let contents = (0..69).fold(with_segments(empty(), 1, 1..40), |contents, n| {
        let mut contents = with_backup(contents, &format!("b{n:02}"), 1, 0.0, 0.0);
        let (_, manifest) = contents.backups.last_mut().unwrap();
        let begin = 1.1 + f64::from(n) * 0.5;
        (manifest.start_lsn, manifest.stop_lsn) = (lsn(begin), lsn(begin + 0.1));
        manifest.stopped_at = at(f64::from(n) * 7.0 * 60.0);
        contents
    });
    let of = |period, most| {
        let periods = BTreeMap::from([(period, most)]);
        let decision = decided(&Rules { periods, ..rules() }, &contents);
        names(decision.kept.keys())
    };
    // 2026-12-10 08:00, 2026-12-09 18:00 (b66 is at 18:00), and so on.
    assert_eq!(of(Period::Hour, 2), ["b67", "b68"]);
    assert_eq!(of(Period::Day, 3).len(), 3);
    for (period, most, expected) in [
        (Period::Day, 100, 21),
        (Period::Week, 100, 4),
        (Period::Month, 100, 2),
        (Period::Year, 100, 1),
    ] {
        assert_eq!(of(period, most).len(), expected, "{period:?}");
    }
    let weekly = BTreeMap::from([(Period::Week, 2)]);
    let decision = decided(
        &Rules {
            periods: weekly,
            ..rules()
        },
        &contents,
    );
    let kept: Vec<_> = names(decision.kept.keys());
    let Some((_, manifest)) = contents.backups.iter().find(|(_, it)| it.name == kept[0]) else {
        panic!("{kept:?}");
    };
    let sunday: Timestamp = "2026-12-07T00:00:00Z".parse().unwrap();
    let since = sunday.duration_since(manifest.stopped_at);
    assert!(
        since > SignedDuration::ZERO && since <= SignedDuration::from_hours(7),
        "{kept:?}"
    );
    let own = SegmentName::containing(timeline(1), manifest.start_lsn, SIZE);
    let mut expected = vec![own];
    expected.extend(segments(1, 35..40));
    assert_eq!(needed(&decision, &contents), expected);
}

#[test]
fn a_backup_that_is_held_keeps_its_own_wal_and_where_asked_all_behind_it() {
    let contents = long();
    let hold = |to_any_time| Holds {
        backups: BTreeMap::from([("b2-uid".to_owned(), to_any_time)]),
        ..Holds::default()
    };
    let alone = decide(&rules(), &hold(false), &contents, at(1e6));
    assert_eq!(names(alone.kept.keys()), ["b2", "b9"]);
    let mut expected = segments(1, [8]);
    expected.extend(segments(1, 36..40));
    assert_eq!(needed(&alone, &contents), expected);
    let all = decide(&rules(), &hold(true), &contents, at(1e6));
    assert_eq!(needed(&all, &contents), segments(1, 8..40));
}

#[test]
fn what_a_restore_reads_stays() {
    let contents = long();
    let target: RestoreTarget = serde_json::from_value(json!({"lsn": lsn(14.5)})).unwrap();
    let request = Request {
        backup: None,
        target: Some(target),
        archive: "archive".into(),
        archive_name: "orders".into(),
        can_decrypt: false,
        ended: Vec::new(),
    };
    let plan = plan(&request, &contents).unwrap();
    let pin = Pin {
        backup: "b3-uid".into(),
        timeline: plan.timeline,
        wal_from: plan.wal_from,
        wal_to: plan.wal_to,
    };
    let holds = Holds {
        restores: vec![pin],
        ..Holds::default()
    };
    let decision = decide(&rules(), &holds, &contents, at(1e6));
    assert_eq!(names(decision.kept.keys()), ["b3", "b9"]);
    let mut expected = segments(1, 12..15);
    expected.extend(segments(1, 36..40));
    assert_eq!(needed(&decision, &contents), expected);
}

/// Timeline 1 was left in segment 20 and went on to 25, timeline 2 to 40; a backup of timeline 1 was taken behind the fork.
fn forked() -> Contents {
    let contents = with_segments(empty(), 1, 1..25);
    let contents = with_history(with_segments(contents, 2, 20..40), 2, &[(1, 20.5)]);
    let contents = with_backup(contents, "old", 1, 4.1, 4.5);
    let contents = with_backup(contents, "shared", 1, 16.1, 16.5);
    let contents = with_backup(contents, "dead", 1, 22.1, 22.5);
    with_backup(contents, "new", 2, 30.1, 30.5)
}

/// Trap 27.
#[test]
fn a_backup_of_a_dead_branch_does_not_count() {
    let contents = forked();
    let last = |last| decided(&Rules { last, ..rules() }, &contents);
    let two = last(2);
    let kept: Vec<(String, &BTreeSet<Why>)> =
        (two.kept.iter().map(|(uid, why)| (uid.clone(), why))).collect();
    assert_eq!(names(two.kept.keys()), ["dead", "new", "shared"]);
    assert_eq!(*kept[0].1, BTreeSet::from([Why::Beside]));
    // As long as a backup leads there, the dead branch can be restored, too.
    let mut expected = segments(1, 16..25);
    expected.extend(segments(2, 20..40));
    assert_eq!(needed(&two, &contents), expected);

    let one = last(1);
    assert_eq!(names(&one.goes), ["old", "shared", "dead"]);
    assert_eq!(needed(&one, &contents), segments(2, 30..40));
}

#[test]
fn without_a_backup_that_counts_nothing_goes() {
    for contents in [
        // A failover, and no backup since: that of the dead branch is the only one.
        with_backup(
            with_history(
                with_segments(with_segments(empty(), 1, 1..9), 2, 4..9),
                2,
                &[(1, 4.5)],
            ),
            "dead",
            1,
            6.1,
            6.5,
        ),
        // Its WAL is not all there.
        with_backup(
            with_segments(empty(), 1, [1, 2, 5, 6]),
            "holed",
            1,
            2.1,
            4.5,
        ),
        // The history of the newest timeline is not there yet.
        with_backup(
            with_segments(with_segments(empty(), 1, 1..9), 2, 4..9),
            "b",
            1,
            2.1,
            2.5,
        ),
    ] {
        let decision = decided(&window(1), &contents);
        assert!(decision.goes.is_empty(), "{:?}", decision.goes);
        assert_eq!(needed(&decision, &contents).len(), contents.segments.len());
    }
}

#[test]
fn of_a_timeline_whose_history_is_not_there_nothing_goes() {
    let mut contents = with_segments(long(), 5, 1..3);
    contents = with_segments(contents, 6, 38..40);
    contents = with_history(contents, 6, &[(1, 38.5)]);
    contents = with_backup(contents, "unknown", 5, 1.1, 1.5);
    let decision = decided(&rules(), &contents);
    assert!(decision.kept["unknown-uid"].contains(&Why::HistoryMissing));
    let kept = needed(&decision, &contents);
    assert!(segments(5, 1..3).iter().all(|name| kept.contains(name)));
}

/// Ten thousand backups and a million segments on fifty timelines.
#[test]
fn a_long_history_is_decided_quickly() {
    let timelines = 50;
    let mut contents = empty();
    let mut ancestors = Vec::new();
    for tli in 1..=timelines {
        let begin = u64::from(tli - 1) * 20_000;
        if tli > 1 {
            ancestors.push((tli - 1, begin as f64 + 0.5));
            contents = with_history(contents, tli, &ancestors);
        }
        contents = with_segments(contents, tli, begin..begin + 20_001);
        for n in 0..200 {
            let at = begin as f64 + f64::from(n) * 100.0 + 1.0;
            contents = with_backup(contents, &format!("b{tli}-{n}"), tli, at + 0.1, at + 0.5);
        }
    }
    let rules = Rules {
        last: 7,
        periods: BTreeMap::from([(Period::Day, 30), (Period::Month, 12)]),
        ..window(14 * 24 * 60)
    };
    let begin = std::time::Instant::now();
    let decision = decided(&rules, &contents);
    let took = begin.elapsed();
    println!(
        "{} of {} go, in {took:?}",
        decision.goes.len(),
        contents.backups.len()
    );
    assert!(decision.goes.len() > 9_000);
    // Ten times the mark of a release build.
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}
