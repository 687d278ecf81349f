//! What holds of every plan, whatever the archive holds.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    api::{Immediate, RestoreTarget, TargetTime, TargetTimeline},
    archive::{
        Records,
        examples::*,
        sketches::{build, sketch},
    },
    postgres::SegmentName,
};

/// What fetch can hand out of the log that the plan follows, byte by byte as PostgreSQL asks: in the segment that holds a
/// switch the new timeline's copy, or the old one's up to there; nothing behind the end of the plan. `None` is a hole.
fn holder(contents: &Contents, plan: &RestorePlan, at: Lsn) -> Option<Option<Records>> {
    let ancestors = contents.ancestors(plan.timeline);
    let mut stretches: Vec<_> = ancestors;
    stretches.push((plan.timeline, plan.wal_to));
    let mut found = None;
    let mut begin = Lsn::new(0);
    for (id, end) in stretches {
        let name = SegmentName::containing(id, at, SIZE);
        if at < end && begin < name.end(SIZE) {
            let whole = contents
                .segments
                .get(&name)
                .map(|s| (name.end(SIZE), s.records));
            let tail = contents.tails.get(&name).map(|t| (t.end, t.records));
            if let Some((to, records)) = whole.or(tail).filter(|(to, _)| at < *to) {
                found = Some(records.filter(|_| to <= end));
            }
        }
        begin = end;
    }
    found
}

/// With or without a timeline.
fn targets() -> impl Strategy<Value = (Option<RestoreTarget>, bool)> {
    let timelines = proptest::option::weighted(0.3, 1u32..4);
    (on_any_timeline(), timelines).prop_map(|((target, inclusive), asked)| match asked {
        None => (target, inclusive),
        Some(3) => (followed(target, TargetTimeline::Current), inclusive),
        Some(id) => (
            followed(target, TargetTimeline::Id(timeline(id))),
            inclusive,
        ),
    })
}

fn followed(target: Option<RestoreTarget>, timeline: TargetTimeline) -> Option<RestoreTarget> {
    Some(RestoreTarget {
        timeline: Some(timeline),
        ..target.unwrap_or_default()
    })
}

fn on_any_timeline() -> impl Strategy<Value = (Option<RestoreTarget>, bool)> {
    let target = |time, lsn, inclusive| {
        Some(RestoreTarget {
            time,
            lsn,
            inclusive,
            ..RestoreTarget::default()
        })
    };
    prop_oneof![
        Just((None, true)),
        Just((
            Some(RestoreTarget {
                immediate: Some(Immediate {}),
                ..RestoreTarget::default()
            }),
            false,
        )),
        (0u32..4).prop_map(|n| (
            Some(RestoreTarget {
                name: Some(format!("p{n}")),
                ..RestoreTarget::default()
            }),
            false,
        )),
        ((0u32..150), any::<bool>()).prop_map(move |(n, i)| (
            target(Some(TargetTime(at(f64::from(n) / 8.0))), None, Some(i)),
            i
        )),
        ((0u32..120), any::<bool>())
            .prop_map(move |(n, i)| (target(None, Some(lsn(f64::from(n) / 8.0)), Some(i)), i)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    /// The short way and the long one.
    #[test]
    fn stretches_are_the_bounds_of_ranges(sketch in sketch()) {
        let contents = build(&sketch);
        for timeline in contents.timelines() {
            let ranges = contents.ranges(timeline);
            let bounds: Vec<_> = ranges.iter().map(|it| (it[0].from, it[it.len() - 1].to)).collect();
            prop_assert_eq!(contents.stretches(timeline), bounds);
        }
    }

    #[test]
    fn a_plan_can_be_done((target, inclusive) in targets(), sketch in sketch(), named in proptest::option::of(0usize..4)) {
        let contents = build(&sketch);
        let request = Request {
            backup: named.map(|index| format!("b{index}-uid")),
            target: target.clone(),
            archive: "a".into(),
            archive_name: "n".into(),
            can_decrypt: false,
            ended: Vec::new(),
        };
        let Ok(plan) = plan(&request, &contents) else { return Ok(()) };
        let (_, base) = contents.backups.iter().find(|(key, _)| *key == plan.backup_key).unwrap();

        // The base is consistent before the end, and on the line.
        prop_assert!(base.stop_lsn <= plan.wal_to);
        prop_assert!(contents.on_line(base, plan.timeline));
        prop_assert!(contents.has_history(plan.timeline));
        prop_assert_eq!(plan.wal_from, base.start_lsn);
        match target.as_ref().and_then(|target| target.timeline) {
            Some(TargetTimeline::Id(id)) => {
                let ancestors = contents.ancestors(id);
                let mut before = ancestors.iter().map(|(ancestor, _)| *ancestor);
                prop_assert!(plan.timeline == id || before.any(|it| it == plan.timeline));
            }
            Some(TargetTimeline::Current) => prop_assert_eq!(plan.timeline, base.timeline),
            Some(TargetTimeline::Latest) | None => {}
        }

        // Not a byte is missing, and the segment of the end is of the plan's timeline.
        let mut past = Vec::new();
        let mut unread: Option<Lsn> = None;
        for step in 0..14 * 64 {
            let here = Lsn::new(step * MIB / 64);
            if here >= plan.wal_from && here < plan.wal_to {
                let holder = holder(&contents, &plan, here);
                prop_assert!(holder.is_some(), "{} is missing", here);
                match holder.flatten() {
                    Some(records) if here >= base.stop_lsn => past.push(records),
                    None if here >= base.stop_lsn => unread = Some(here),
                    Some(_) | None => {}
                }
            }
        }

        // The target is reached, and nothing behind it.
        let target = target.unwrap_or_default();
        if let Some(TargetTime(time)) = target.time {
            prop_assert!(base.stopped_at <= time);
            let after = |commit: Timestamp| commit > time || (!inclusive && commit == time);
            let stops = past.iter().any(|records| records.last_commit.is_some_and(after));
            match &plan.stop_at {
                Some(stop) => {
                    prop_assert_eq!(stop.time.as_ref().map(|t| t.0), Some(time));
                    prop_assert!(stops || unread.is_some(), "PostgreSQL would not find a commit after the target");
                }
                None => prop_assert!(!stops && unread.is_none(), "commits after the target would be replayed"),
            }
        }
        let named = target.name.as_ref().map(|name| {
            let mut points = contents.restore_points.iter();
            points.find(|(_, point)| point.name == *name).unwrap().1.lsn
        });
        let end_of_backup = target.immediate.as_ref().map(|_| base.stop_lsn);
        let position = target.lsn.or(named).or(end_of_backup);
        if let Some(target) = position {
            prop_assert!(base.stop_lsn <= target && target <= plan.wal_to);
            let stops = past.iter().any(|records| records.last_record.is_some_and(|begin| begin >= target));
            match &plan.stop_at {
                Some(stop) => {
                    prop_assert_eq!(stop.lsn, Some(target));
                    prop_assert!(stops || unread >= Some(target), "PostgreSQL would not find a record after the target");
                }
                None => prop_assert!(!stops, "records after the target would be replayed"),
            }
        }
        if target.time.is_none() && position.is_none() {
            prop_assert_eq!(plan.stop_at, None);
        }
    }
}
