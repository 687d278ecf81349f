//! Nothing that is promised goes, whatever the archive holds; and little else stays.

use proptest::prelude::*;

use super::*;
use crate::{
    api::{Gap, Immediate, RecoveryWindow, RestorePlan, RestoreTarget, TargetTime, TargetTimeline},
    archive::{
        Refusal, Request,
        examples::*,
        plan::plan,
        sketches::{Sketch, build, sketch},
        window::window,
    },
};

fn rules() -> impl Strategy<Value = Rules> {
    (
        proptest::option::of(0i64..14),
        0usize..4,
        proptest::option::of(1usize..3),
        0usize..3,
    )
        .prop_map(|(window, last, hours, minimum)| Rules {
            window: window.map(SignedDuration::from_mins),
            last,
            periods: hours.map(|most| (Period::Hour, most)).into_iter().collect(),
            zone: TimeZone::UTC,
            minimum,
        })
}

fn holds() -> impl Strategy<Value = Holds> {
    proptest::collection::btree_map((0usize..4).prop_map(uid), any::<bool>(), 0..2).prop_map(
        |backups| Holds {
            backups,
            ..Holds::default()
        },
    )
}

fn uid(number: usize) -> String {
    format!("b{number}-uid")
}

/// What is left when the decision was carried out.
fn carried_out(contents: &Contents, decision: &Decision) -> Contents {
    let mut left = contents.clone();
    left.backups
        .retain(|(_, manifest)| !decision.goes.contains(&manifest.uid));
    let needed = |name| decision.needed.has(name);
    let now = (at(1e6), at(1e6));
    left.expired = left.expired.next(&left, needed, now);
    let due = Due {
        expired: &left.expired,
        needed: &needed,
        since: at(1e6),
        size: SIZE,
    };
    let gone = |name: &SegmentName| due.has(*name);
    left.segments.retain(|name, _| !gone(name));
    left.tails.retain(|name, _| !gone(name));
    left
}

fn planned(
    contents: &Contents,
    backup: Option<String>,
    target: RestoreTarget,
) -> Result<RestorePlan, Refusal> {
    let request = Request {
        backup,
        target: Some(target),
        archive: "a".into(),
        archive_name: "n".into(),
        can_decrypt: false,
        ended: Vec::new(),
    };
    plan(&request, contents)
}

fn to_time(minute: f64) -> RestoreTarget {
    RestoreTarget {
        time: Some(TargetTime(at(minute))),
        ..RestoreTarget::default()
    }
}

fn to_its_end(timeline: TimelineId) -> RestoreTarget {
    RestoreTarget {
        immediate: Some(Immediate {}),
        timeline: Some(TargetTimeline::Id(timeline)),
        ..RestoreTarget::default()
    }
}

/// The first promise that is broken. `before`: all that there was.
fn broken(
    (rules, holds): (&Rules, &Holds),
    before: &Contents,
    decision: &Decision,
    left: &Contents,
) -> Option<String> {
    // What could be recovered of the window still can be, to the same end.
    let lived_on = newest_timeline(before);
    let end = bases(before, lived_on)
        .last()
        .map(|base| base.covered(before, lived_on));
    if let Some((end, window)) = end.zip(rules.window) {
        let begin = end.checked_sub(window).unwrap();
        for eighth in 0..16 * 8 {
            let minute = f64::from(eighth) / 8.0;
            if at(minute) < begin || at(minute) > end {
                continue;
            }
            let was = planned(before, None, to_time(minute));
            let Ok(was) = was else { continue };
            match planned(left, None, to_time(minute)) {
                Ok(is) if is == was => {}
                is => return Some(format!("minute {minute} of the window: {was:?}, {is:?}")),
            }
        }
    }
    for (_, manifest) in &before.backups {
        let named = || Some(manifest.uid.clone());
        if !decision.kept.contains_key(&manifest.uid) {
            continue;
        }
        // Who is kept restores to its own end, if it did.
        let target = to_its_end(manifest.timeline);
        let was = planned(before, named(), target.clone()).is_ok();
        if was && planned(left, named(), target).is_err() {
            return Some(format!("{} does not restore", manifest.name));
        }
        // And who is held with all behind it leads as far as it did.
        let latest = RestoreTarget::default();
        if holds.backups.get(&manifest.uid) == Some(&true) {
            let (was, is) = (
                planned(before, named(), latest.clone()),
                planned(left, named(), latest),
            );
            if let Ok(was) = was
                && is.as_ref().ok() != Some(&was)
            {
                return Some(format!("{} is held: {was:?}, {is:?}", manifest.name));
            }
        }
    }
    if let Some(told) = broken_word(before, left) {
        return Some(told);
    }
    let counting = |contents: &Contents| bases(contents, lived_on).len();
    let (was, is) = (counting(before), counting(left));
    let least = rules.minimum.max(rules.last).max(1).min(was);
    (is < least).then(|| format!("{is} of {was} backups are left"))
}

/// The first thing that the window says and that is not so: every moment of it can be recovered, if it could be, but for the gaps,
/// and none of them is new.
fn broken_word(before: &Contents, left: &Contents) -> Option<String> {
    let (was, is) = (window(before), window(left));
    let lived_on = newest_timeline(left);
    let gaps = |of: &RecoveryWindow| {
        let timelines = of.timelines.iter().filter(|it| it.id == lived_on);
        timelines.flat_map(|it| it.gaps.clone()).collect::<Vec<_>>()
    };
    let known = gaps(&was);
    let within = |gap: &Gap| {
        known
            .iter()
            .any(|it| it.from <= gap.from && gap.to <= it.to)
    };
    let lost = gaps(&is);
    if let Some(new) = lost.iter().find(|it| !within(it)) {
        return Some(format!("{new:?} is told as lost"));
    }
    let (from, to) = (is.from?.0, is.to?.0);
    (0..16 * 8).find_map(|eighth| {
        let minute = f64::from(eighth) / 8.0;
        if at(minute) < from || at(minute) > to || !lost.is_empty() {
            return None;
        }
        let error = planned(left, None, to_time(minute)).err()?;
        planned(before, None, to_time(minute)).ok()?;
        Some(format!(
            "minute {minute} is in the window {from} to {to}: {error}"
        ))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn nothing_that_is_promised_goes(sketch in sketch(), rules in rules(), holds in holds()) {
        let before = build(&sketch);
        let decision = decide(&rules, &holds, &before, at(1e6));
        let left = carried_out(&before, &decision);
        let broken = broken((&rules, &holds), &before, &decision, &left);
        prop_assert_eq!(broken, None);
        for (_, manifest) in &before.backups {
            let kept = decision.kept.get(&manifest.uid);
            prop_assert_ne!(kept.is_some(), decision.goes.contains(&manifest.uid));
            prop_assert!(kept.is_none_or(|whys| !whys.is_empty()));
        }
        // What was decided once is not decided otherwise when it was done, or is half done.
        for halfway in [left, without_backups(&before, &decision)] {
            let again = decide(&rules, &holds, &halfway, at(1e6));
            prop_assert_eq!(&again.goes, &Vec::<String>::new());
        }
    }

    /// Backups by the window alone: those in it, and one before.
    #[test]
    fn no_more_stays_than_the_window_needs(sketch in sketch(), minutes in 0i64..14) {
        let contents = build(&sketch);
        let rules = Rules {
            window: Some(SignedDuration::from_mins(minutes)),
            last: 0,
            periods: BTreeMap::new(),
            zone: TimeZone::UTC,
            minimum: 1,
        };
        let decision = decide(&rules, &Holds::default(), &contents, at(1e6));
        let lived_on = newest_timeline(&contents);
        let counting = bases(&contents, lived_on);
        let Some(newest) = counting.last().filter(|_| contents.has_history(lived_on)) else {
            return Ok(());
        };
        let begin = newest.covered(&contents, lived_on) - SignedDuration::from_mins(minutes);
        let kept = counting.iter().filter(|it| decision.kept.contains_key(&it.manifest.uid));
        let before: Vec<_> = kept.filter(|it| it.manifest.stopped_at < begin).collect();
        prop_assert!(before.len() <= 1);
        // Of the oldest backup's WAL nothing before its start.
        let oldest = contents.backups.iter().filter(|(_, it)| decision.kept.contains_key(&it.uid));
        let oldest = oldest.map(|(_, it)| it.start_lsn).min().unwrap();
        for name in contents.segments.keys() {
            let known = contents.has_history(name.timeline());
            prop_assert!(!known || !decision.needed.has(*name) || name.end(SIZE) > oldest);
        }
    }
}

/// Manifests go first; WAL may be left for a while.
fn without_backups(contents: &Contents, decision: &Decision) -> Contents {
    let mut left = contents.clone();
    left.backups
        .retain(|(_, manifest)| !decision.goes.contains(&manifest.uid));
    left
}

/// Control: whatever is deleted beside, somebody misses it.
#[test]
fn a_needed_segment_that_goes_is_missed() {
    let sketch = Sketch {
        old: vec![true; 14],
        new: vec![true; 14],
        unread: vec![false; 14],
        fork: Some(6.5),
        tail: None,
        backups: vec![(false, 2.0, 0.5), (false, 4.0, 0.25), (true, 8.0, 0.5)],
        clock: None,
        points: Vec::new(),
    };
    let before = build(&sketch);
    let rules = Rules {
        window: Some(SignedDuration::from_mins(8)),
        last: 0,
        periods: BTreeMap::new(),
        zone: TimeZone::UTC,
        minimum: 1,
    };
    let holds = Holds::default();
    let decision = decide(&rules, &holds, &before, at(1e6));
    assert_eq!(decision.goes, ["b0-uid"]);
    let left = carried_out(&before, &decision);
    let judged = |left: &Contents| broken((&rules, &holds), &before, &decision, left);
    assert_eq!(judged(&left), None);
    // The old timeline's behind the fork is needed by those who restore to that timeline alone.
    let line = left.pieces(timeline(2)).into_iter();
    let line = line
        .map(|piece| crate::postgres::SegmentName::containing(piece.timeline, piece.from, SIZE));
    for name in line {
        let mut harmed = left.clone();
        harmed.segments.remove(&name);
        assert!(judged(&harmed).is_some(), "{name} went unnoticed");
    }
    for backup in 0..left.backups.len() {
        let mut harmed = left.clone();
        let (_, manifest) = harmed.backups.remove(backup);
        assert!(
            judged(&harmed).is_some(),
            "{} went unnoticed",
            manifest.name
        );
    }
}
