//! What the policy's retention keeps of the backups, as the status tells it. Pure, but for the deletion of WAL.

pub mod wal;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{ExpiredBackup, ExpiredWal, Keep, KeptFor, Retention, RetentionStatus, annotations},
    archive::{
        Contents, LineageId,
        retention::{Decision, Holds, Period, Rules, Why, decide},
    },
    clock::micro_time,
    recurrence::{RecurrenceError, zone},
};

/// So many of the backups that nothing keeps are named.
const NAMED: usize = 10;

/// What is kept, and by which rules.
pub struct Decided {
    /// The policy's.
    pub retention: Retention,
    /// The same, as the decision takes them.
    pub rules: Rules,
    /// What is kept whatever they say.
    pub holds: Holds,
    /// What follows.
    pub decision: Decision,
}

impl Decided {
    /// What is kept of what `contents` has at `now`. `holds`: what is kept whatever the rules say.
    ///
    /// # Errors
    /// The time zone is not known.
    pub fn of(
        retention: &Retention,
        holds: Holds,
        contents: &Contents,
        now: Timestamp,
    ) -> Result<Self, RecurrenceError> {
        let rules = rules(retention)?;
        Ok(Self {
            decision: decide(&rules, &holds, contents, now),
            retention: retention.clone(),
            rules,
            holds,
        })
    }

    /// As the status tells it.
    pub fn status(
        &self,
        (lineage, contents): (&LineageId, &Contents),
        wal: Option<ExpiredWal>,
    ) -> RetentionStatus {
        let Self {
            retention,
            rules: _,
            holds: _,
            decision,
        } = self;
        RetentionStatus {
            rules: retention.clone(),
            lineage: lineage.clone(),
            newest: newest(contents),
            kept: count(decision.kept.len()),
            reasons: reasons(decision),
            expired: count(decision.goes.len()),
            next: next(decision, contents),
            wal,
        }
    }
}

/// The rules as the decision takes them.
fn rules(retention: &Retention) -> Result<Rules, RecurrenceError> {
    let Retention {
        window,
        keep,
        minimum,
        failed: _,
        wal_grace: _,
        time_zone,
        dry_run: _,
    } = retention;
    let Keep {
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
    } = keep.clone().unwrap_or_default();
    let number = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let periods = [
        (Period::Hour, hourly),
        (Period::Day, daily),
        (Period::Week, weekly),
        (Period::Month, monthly),
        (Period::Year, yearly),
    ];
    let periods = periods.into_iter();
    Ok(Rules {
        // One that is too long for that is longer than time.
        window: window.map(|it| SignedDuration::try_from(it.get()).unwrap_or(SignedDuration::MAX)),
        last: last.map_or(0, number),
        periods: periods
            .filter_map(|(period, most)| Some((period, number(most?))))
            .collect(),
        zone: zone(time_zone.as_deref())?,
        minimum: number(*minimum),
    })
}

/// Whether the PgBackup with this value of the label `highwater.dev/keep` keeps every moment since.
pub fn is_to_any_time(label: &str) -> bool {
    label == annotations::KEEP_POINT_IN_TIME
}

fn reasons(decision: &Decision) -> Vec<KeptFor> {
    let mut by_reason: BTreeMap<Why, usize> = BTreeMap::new();
    for why in decision.kept.values().flatten() {
        *by_reason.entry(*why).or_default() += 1;
    }
    let by_reason = by_reason.into_iter();
    by_reason
        .map(|(why, backups)| KeptFor {
            reason: reason(why).to_owned(),
            backups: count(backups),
        })
        .collect()
}

const fn reason(why: Why) -> &'static str {
    match why {
        Why::Window => "Window",
        Why::BeforeWindow => "BeforeWindow",
        Why::Last => "Last",
        Why::Minimum => "Minimum",
        Why::Period(Period::Hour) => "Hourly",
        Why::Period(Period::Day) => "Daily",
        Why::Period(Period::Week) => "Weekly",
        Why::Period(Period::Month) => "Monthly",
        Why::Period(Period::Year) => "Yearly",
        Why::Held => "Label",
        Why::Verified => "Verified",
        Why::Restored => "Restore",
        Why::Beside => "OtherBranch",
        Why::HistoryMissing => "HistoryMissing",
        Why::NoneCounts => "NoneCounts",
    }
}

fn next(decision: &Decision, contents: &Contents) -> Vec<ExpiredBackup> {
    let by_uid: BTreeMap<&str, _> = contents
        .backups
        .iter()
        .map(|(_, manifest)| (manifest.uid.as_str(), manifest))
        .collect();
    let gone = decision.goes.iter().take(NAMED);
    gone.filter_map(|uid| by_uid.get(uid.as_str()))
        .map(|manifest| ExpiredBackup {
            name: manifest.name.clone(),
            uid: manifest.uid.clone(),
            stopped_at: micro_time(manifest.stopped_at),
            reason: match decision.beside.contains(&manifest.uid) {
                true => "OtherBranch",
                false => "NoRule",
            }
            .to_owned(),
        })
        .collect()
}

fn newest(contents: &Contents) -> Option<String> {
    let all = contents.backups.iter().map(|(_, manifest)| manifest);
    let newest = all.max_by_key(|manifest| manifest.stopped_at);
    newest.map(|manifest| manifest.uid.clone())
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::archive::examples::*;

    fn told(retention: Value, holds: &Holds, contents: &Contents) -> Value {
        let retention = serde_json::from_value(retention).unwrap();
        let lineage = &contents.identity.lineage;
        let decided = Decided::of(&retention, holds.clone(), contents, at(1e6)).unwrap();
        serde_json::to_value(decided.status((lineage, contents), None)).unwrap()
    }

    /// Segments 1 to 39, and a backup at each fourth; minute n is in segment n.
    fn nine() -> Contents {
        let contents = with_segments(empty(), 1, 1..40);
        (1..10).fold(contents, |contents, n| {
            let begin = f64::from(n) * 4.0;
            with_backup(contents, &format!("b{n}"), 1, begin + 0.1, begin + 0.5)
        })
    }

    #[test]
    fn the_status_says_what_is_kept_why_and_what_goes_first() {
        let holds = Holds {
            backups: BTreeMap::from([("b1-uid".to_owned(), false)]),
            verified: Some("b3-uid".to_owned()),
            ..Holds::default()
        };
        let told = told(
            json!({"window": "10m", "keep": {"last": 2}}),
            &holds,
            &nine(),
        );
        assert_eq!((&told["kept"], &told["expired"]), (&json!(5), &json!(4)));
        let reasons = json!([
            {"reason": "Window", "backups": 2},
            {"reason": "BeforeWindow", "backups": 1},
            {"reason": "Last", "backups": 2},
            {"reason": "Minimum", "backups": 2},
            {"reason": "Label", "backups": 1},
            {"reason": "Verified", "backups": 1},
        ]);
        assert_eq!(told["reasons"], reasons);
        let first = json!({
            "name": "b2", "uid": "b2-uid", "reason": "NoRule", "stoppedAt": micro_time(at(8.5)),
        });
        assert_eq!(told["next"][0], first);
        assert_eq!(told["next"].as_array().unwrap().len(), 4);
        assert_eq!(told["rules"]["window"], "10m");
        assert_eq!(told["newest"], "b9-uid");
    }

    #[test]
    fn each_period_is_its_own() {
        for (keep, kept) in [
            (json!({"hourly": 1}), "Hourly"),
            (json!({"daily": 1}), "Daily"),
            (json!({"weekly": 1}), "Weekly"),
            (json!({"monthly": 1}), "Monthly"),
            (json!({"yearly": 1}), "Yearly"),
        ] {
            let retention = json!({"keep": keep, "minimum": 1, "timeZone": "Asia/Kathmandu"});
            let told = told(retention, &Holds::default(), &nine());
            let reasons = told["reasons"].as_array().unwrap();
            assert!(
                reasons.contains(&json!({"reason": kept, "backups": 1})),
                "{reasons:?}"
            );
        }
    }

    #[test]
    fn what_does_not_count_says_so() {
        let contents = with_segments(empty(), 1, 1..12);
        let contents = with_history(with_segments(contents, 2, 4..20), 2, &[(1, 4.5)]);
        let dead = with_backup(contents, "dead", 1, 5.1, 5.5);
        let contents = with_backup(
            with_backup(dead, "first", 2, 8.1, 8.5),
            "new",
            2,
            18.1,
            18.5,
        );
        let told = told(
            json!({"keep": {"last": 1}, "minimum": 1}),
            &Holds::default(),
            &contents,
        );
        let next = told["next"].as_array().unwrap().iter();
        let next: Vec<_> = next
            .map(|it| (it["name"].as_str(), it["reason"].as_str()))
            .collect();
        let expected = [
            (Some("dead"), Some("OtherBranch")),
            (Some("first"), Some("NoRule")),
        ];
        assert_eq!(next, expected);
    }

    #[test]
    fn a_time_zone_that_nobody_knows_decides_nothing() {
        let retention = json!({"window": "1d", "timeZone": "Europe/Atlantis"});
        let retention = serde_json::from_value(retention).unwrap();
        let decided = Decided::of(&retention, Holds::default(), &nine(), at(1e6));
        assert!(matches!(decided.err(), Some(RecurrenceError::Zone(_))));
    }
}
