//! Which backups, and why.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::{Holds, Period, Rules, Why};
use crate::{
    archive::{Contents, Manifest, window::Base},
    postgres::TimelineId,
};

type Kept = BTreeMap<String, BTreeSet<Why>>;

/// `counting` are the backups of the timeline that is lived on, the newest last: at least one. `end` is that of the window.
pub(super) fn kept(
    rules: &Rules,
    holds: &Holds,
    (contents, lived_on, counting): (&Contents, TimelineId, &[Base<'_>]),
    end: Timestamp,
) -> Kept {
    let Rules {
        window,
        last,
        periods,
        zone,
        minimum,
    } = rules;
    let mut kept = Kept::new();
    let mut keep = |manifest: &Manifest, why| {
        kept.entry(manifest.uid.clone()).or_default().insert(why);
    };
    if let Some(window) = window {
        // A window that is longer than time begins with it.
        let begin = end.checked_sub(*window).unwrap_or(Timestamp::MIN);
        let within = counting.partition_point(|base| base.manifest.stopped_at < begin);
        let (before, within) = counting.split_at(within);
        within.iter().for_each(|it| keep(it.manifest, Why::Window));
        // Where its WAL ends before the window it leads to none of it.
        let leads = |base: &&Base<'_>| begin <= base.covered(contents, lived_on);
        if let Some(base) = before.last().filter(leads) {
            keep(base.manifest, Why::BeforeWindow);
        }
    }
    let newest = || counting.iter().rev().map(|base| base.manifest);
    newest().take(*last).for_each(|it| keep(it, Why::Last));
    let minimum = newest().take((*minimum).max(1));
    minimum.for_each(|it| keep(it, Why::Minimum));
    for (period, most) in periods {
        let of_periods = newest_of_each(*period, zone, newest()).take(*most);
        of_periods.for_each(|it| keep(it, Why::Period(*period)));
    }
    beside(&mut kept, holds, contents, counting);
    kept
}

/// What does not count, or is kept whatever the rules say.
fn beside(kept: &mut Kept, holds: &Holds, contents: &Contents, counting: &[Base<'_>]) {
    let counts: BTreeSet<&str> = counting.iter().map(|it| it.manifest.uid.as_str()).collect();
    let to_any_time = |it: &&Base<'_>| {
        let whys = kept.get(&it.manifest.uid);
        whys.is_some_and(|whys| whys.iter().any(|why| why.is_to_any_time()))
    };
    let oldest = counting.iter().find(to_any_time);
    let since = oldest.map(|base| base.manifest.stopped_at);
    let restored: BTreeSet<&str> = holds.restores.iter().map(|it| it.backup.as_str()).collect();
    for (_, manifest) in &contents.backups {
        let uid = manifest.uid.as_str();
        let whys = [
            (holds.backups.contains_key(uid), Why::Held),
            (holds.verified.as_deref() == Some(uid), Why::Verified),
            (restored.contains(uid), Why::Restored),
            (
                !counts.contains(uid) && Some(manifest.stopped_at) >= since,
                Why::Beside,
            ),
            (
                !contents.has_history(manifest.timeline),
                Why::HistoryMissing,
            ),
        ];
        for (_, why) in whys.into_iter().filter(|(holds, _)| *holds) {
            kept.entry(manifest.uid.clone()).or_default().insert(why);
        }
    }
}

/// The newest of each period, of those that come `newest_first`.
fn newest_of_each<'a>(
    period: Period,
    zone: &TimeZone,
    newest_first: impl Iterator<Item = &'a Manifest>,
) -> impl Iterator<Item = &'a Manifest> {
    let mut last = None;
    newest_first.filter(move |manifest| {
        let of = Some(number(period, &manifest.stopped_at.to_zoned(zone.clone())));
        let is_another = of != last;
        last = of;
        is_another
    })
}

/// Another one for each period.
fn number(period: Period, at: &Zoned) -> (i16, i16, i64) {
    match period {
        // By the instant, as an hour comes twice when clocks are set back.
        Period::Hour => (0, 0, at.timestamp().as_second().div_euclid(3600)),
        Period::Day => (at.year(), at.day_of_year(), 0),
        Period::Week => {
            let week = at.date().iso_week_date();
            (week.year(), week.week().into(), 0)
        }
        Period::Month => (at.year(), at.month().into(), 0),
        Period::Year => (at.year(), 0, 0),
    }
}
