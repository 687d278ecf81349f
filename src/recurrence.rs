//! When something comes again: cron's five fields in a time zone, or every so often. Pure.
//!
//! Fields as crontab(5) has them: minute, hour, day of month, month, day of week; `*`, numbers, ranges, lists, steps of `*` and
//! of ranges, names of months and days in three letters, 0 and 7 for Sunday. Where both days are restricted, either will do.
//! The words `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually`; `@every 6h`.
//!
//! Of what comes at one minute of one hour: where clocks are put forward, a run at a time of the day that does not exist comes at
//! the first instant after the gap; where they are put back, a run at a time that exists twice comes at the first. With several
//! minutes or hours (`*/15 * * * *`, `0 2,14 * * *`) it comes at each time that exists, as often as it does.

use std::sync::LazyLock;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    SignedDuration, Timestamp, Zoned,
    tz::{TimeZone, TimeZoneDatabase},
};

use crate::api::DurationText;

/// The time zones that the program brings along: the same wherever it runs.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// When something comes again.
#[derive(Clone, Debug)]
pub struct Recurrence(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Cron {
        cron: Box<Cron>,
        zone: TimeZone,
    },
    Every {
        period: SignedDuration,
        from: Timestamp,
    },
}

/// A text that tells no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// What lies behind the fifth field cannot be told: seconds before the others, or a year behind them.
    #[error(
        "{text:?} has {fields} fields, and cron has five: minute, hour, day of month, month, day of week. There are no seconds"
    )]
    Fields {
        /// What was given.
        text: String,
        /// How many.
        fields: usize,
    },
    /// Not as cron has it.
    #[error("{text:?} is not as cron has it: {cause}")]
    Cron {
        /// What was given.
        text: String,
        /// Why.
        cause: String,
    },
    /// Not as `@every` has it.
    #[error("{0:?} is no period: want @every and a whole number of m, h or d, as in @every 6h")]
    Period(String),
    /// Not in the time zone database.
    #[error("there is no time zone {0:?}: want a name of the time zone database, as Europe/Berlin")]
    Zone(String),
    /// As 30 February.
    #[error("{0:?} never comes")]
    Never(String),
}

/// The time zone of this name; UTC without one.
///
/// # Errors
/// Nobody knows it.
pub fn zone(name: Option<&str>) -> Result<TimeZone, RecurrenceError> {
    let Some(name) = name else {
        return Ok(TimeZone::UTC);
    };
    let known = ZONES.get(name);
    known.map_err(|_| RecurrenceError::Zone(name.to_owned()))
}

impl Recurrence {
    /// `text` in `zone`, which is UTC where none is named; `@every` counts from `from`, and its first run is one period later.
    ///
    /// # Errors
    /// What about them tells no time.
    pub fn parse(text: &str, zone: Option<&str>, from: Timestamp) -> Result<Self, RecurrenceError> {
        if let Some(period) = text.strip_prefix("@every ") {
            return every(period, from).ok_or_else(|| RecurrenceError::Period(text.to_owned()));
        }
        let zone = self::zone(zone)?;
        let fields = match text {
            "@midnight" => "@daily",
            text => text,
        };
        let count = fields.split_whitespace().count();
        if !fields.starts_with('@') && count != 5 {
            return Err(RecurrenceError::Fields {
                text: text.to_owned(),
                fields: count,
            });
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(fields)
            .map_err(|cause| RecurrenceError::Cron {
                text: text.to_owned(),
                cause: cause.to_string(),
            })?;
        let recurrence = Self(Kind::Cron {
            cron: Box::new(cron),
            zone,
        });
        match recurrence.after(from) {
            Some(_) => Ok(recurrence),
            None => Err(RecurrenceError::Never(text.to_owned())),
        }
    }

    /// The first one behind `at`.
    pub fn after(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Cron { cron, zone } => {
                let next = cron.find_next_occurrence(&local(at, zone), false);
                next.ok().map(|next| next.timestamp())
            }
            Kind::Every { period, from } => {
                let passed = periods(*period, *from, at)?;
                nth(*period, *from, passed.max(0).checked_add(1)?)
            }
        }
    }

    /// The last one at or before `at`.
    pub fn last(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Cron { cron, zone } => {
                let last = cron.find_previous_occurrence(&local(at, zone), true);
                last.ok().map(|last| last.timestamp())
            }
            Kind::Every { period, from } => {
                let passed = periods(*period, *from, at)?;
                (passed > 0).then(|| nth(*period, *from, passed)).flatten()
            }
        }
    }
}

fn every(period: &str, from: Timestamp) -> Option<Recurrence> {
    let period: DurationText = period.parse().ok()?;
    let period = SignedDuration::try_from(period.get()).ok()?;
    let from = Timestamp::from_second(from.as_second()).ok()?;
    (period >= SignedDuration::from_mins(1)).then_some(Recurrence(Kind::Every { period, from }))
}

/// In whole seconds, as cron counts.
fn local(at: Timestamp, zone: &TimeZone) -> Zoned {
    let second = at.as_second() - i64::from(at.subsec_nanosecond() < 0);
    Timestamp::from_second(second)
        .unwrap_or(at)
        .to_zoned(zone.clone())
}

/// How many whole periods lie between them.
fn periods(period: SignedDuration, from: Timestamp, at: Timestamp) -> Option<i64> {
    at.duration_since(from)
        .as_secs()
        .checked_div(period.as_secs())
}

fn nth(period: SignedDuration, from: Timestamp, count: i64) -> Option<Timestamp> {
    let seconds = period.as_secs().checked_mul(count)?;
    from.checked_add(SignedDuration::from_secs(seconds)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(text: &str, zone: &str) -> Recurrence {
        Recurrence::parse(text, Some(zone), Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn five_fields_and_words() {
        let at = time("2026-11-20T14:03:12.5Z");
        for (text, next, last) in [
            ("0 2 * * *", "2026-11-21T02:00:00Z", "2026-11-20T02:00:00Z"),
            ("3 14 * * *", "2026-11-21T14:03:00Z", "2026-11-20T14:03:00Z"),
            (
                "*/15 * * * *",
                "2026-11-20T14:15:00Z",
                "2026-11-20T14:00:00Z",
            ),
            ("0 5 * * 0", "2026-11-22T05:00:00Z", "2026-11-15T05:00:00Z"),
            ("0 5 * * 7", "2026-11-22T05:00:00Z", "2026-11-15T05:00:00Z"),
            (
                "0 5 * * sun",
                "2026-11-22T05:00:00Z",
                "2026-11-15T05:00:00Z",
            ),
            (
                "0 5 1 JAN-MAR *",
                "2027-01-01T05:00:00Z",
                "2026-03-01T05:00:00Z",
            ),
            ("0 0 1 * 1", "2026-11-23T00:00:00Z", "2026-11-16T00:00:00Z"),
            (
                "30 1,13 * * *",
                "2026-11-21T01:30:00Z",
                "2026-11-20T13:30:00Z",
            ),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
            ("@hourly", "2026-11-20T15:00:00Z", "2026-11-20T14:00:00Z"),
            ("@daily", "2026-11-21T00:00:00Z", "2026-11-20T00:00:00Z"),
            ("@midnight", "2026-11-21T00:00:00Z", "2026-11-20T00:00:00Z"),
            ("@weekly", "2026-11-22T00:00:00Z", "2026-11-15T00:00:00Z"),
            ("@monthly", "2026-12-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("@annually", "2027-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ] {
            let recurrence = cron(text, "UTC");
            assert_eq!(recurrence.after(at), Some(time(next)), "{text}");
            assert_eq!(recurrence.last(at), Some(time(last)), "{text}");
        }
    }

    #[test]
    fn every_so_often_counts_from_the_beginning() {
        let from = time("2026-11-20T14:03:12.9Z");
        let every = Recurrence::parse("@every 6h", None, from).unwrap();
        for (at, last, next) in [
            ("2026-11-19T00:00:00Z", None, "2026-11-20T20:03:12Z"),
            ("2026-11-20T20:03:11Z", None, "2026-11-20T20:03:12Z"),
            (
                "2026-11-20T20:03:12Z",
                Some("2026-11-20T20:03:12Z"),
                "2026-11-21T02:03:12Z",
            ),
            (
                "2026-11-22T02:03:11.9Z",
                Some("2026-11-21T20:03:12Z"),
                "2026-11-22T02:03:12Z",
            ),
        ] {
            assert_eq!(every.last(time(at)), last.map(time), "{at}");
            assert_eq!(every.after(time(at)), Some(time(next)), "{at}");
        }
    }

    /// In Berlin there was no 02:30 on 29 March 2026, and there were two on 25 October.
    #[test]
    fn where_clocks_are_put_forward_and_back() {
        let runs = |text: &str, from: &str, count: usize| {
            let recurrence = cron(text, "Europe/Berlin");
            let mut at = time(from);
            let next = || {
                at = recurrence.after(at).unwrap();
                at.to_string()
            };
            std::iter::repeat_with(next).take(count).collect::<Vec<_>>()
        };
        assert_eq!(
            runs("30 2 * * *", "2026-03-28T00:00:00Z", 3),
            [
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z"
            ],
            "03:00, as there is no 02:30"
        );
        assert_eq!(
            runs("30 2 * * *", "2026-10-24T00:00:00Z", 3),
            [
                "2026-10-24T00:30:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-26T01:30:00Z"
            ],
            "the first of two"
        );
        assert_eq!(
            runs("30 * * * *", "2026-10-25T00:00:00Z", 3),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:30:00Z"
            ],
            "hourly through both"
        );
        assert_eq!(
            runs("0 2,14 * * *", "2026-03-28T14:00:00Z", 2),
            ["2026-03-29T12:00:00Z", "2026-03-30T00:00:00Z"],
            "of several hours the one that is not there is left out"
        );
        assert_eq!(
            runs("0 2,14 * * *", "2026-10-24T14:00:00Z", 3),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T13:00:00Z"
            ],
            "and the one that is there twice comes twice"
        );
    }

    #[test]
    fn what_tells_no_time_is_refused_in_a_sentence() {
        for (text, zone, said) in [
            ("0 0 2 * * *", None, "has 6 fields, and cron has five"),
            ("0 2 * *", None, "has 4 fields, and cron has five"),
            ("", None, "has 0 fields"),
            ("99 2 * * *", None, "is not as cron has it"),
            ("*/0 2 * * *", None, "is not as cron has it"),
            ("0 5-2 * * *", None, "is not as cron has it"),
            ("@fortnightly", None, "is not as cron has it"),
            ("@every", None, "is not as cron has it"),
            ("@every 0h", None, "is no period"),
            ("@every 30s", None, "is no period"),
            ("@every 1h30m", None, "is no period"),
            ("0 2 30 2 *", None, "never comes"),
            (
                "0 2 * * *",
                Some("Europe/Berln"),
                "no time zone \"Europe/Berln\"",
            ),
        ] {
            let refused = Recurrence::parse(text, zone, Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(refused.to_string().contains(said), "{text}: {refused}");
        }
    }

    fn any_cron() -> impl Strategy<Value = Recurrence> {
        const TEXTS: [&str; 11] = [
            "* * * * *",
            "*/7 * * * *",
            "30 2 * * *",
            "0 0 * * *",
            "15 1-4 * * *",
            "0 */5 * * *",
            "0 2 31 * *",
            "30 2 * 3,10 0",
            "0 3 1 1 *",
            "@weekly",
            "@every 7h",
        ];
        const ZONES: [&str; 4] = [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
        ];
        (
            prop::sample::select(&TEXTS[..]),
            prop::sample::select(&ZONES[..]),
        )
            .prop_map(|(text, zone)| cron(text, zone))
    }

    proptest! {
        /// The one before and the one behind leave nothing between them.
        #[test]
        fn the_last_and_the_next_meet(
            recurrence in any_cron(),
            // Around changes of the clocks, and anywhere.
            second in prop_oneof![
                1_774_700_000..1_774_800_000_i64,
                1_792_850_000..1_793_000_000_i64,
                1_600_000_000..1_900_000_000_i64,
            ],
        ) {
            let at = Timestamp::from_second(second).unwrap();
            let (last, next) = (recurrence.last(at).unwrap(), recurrence.after(at).unwrap());
            prop_assert!(last <= at && at < next, "{last} {at} {next}");
            prop_assert_eq!(recurrence.after(last), Some(next));
            prop_assert_eq!(recurrence.last(next), Some(next));
            let before = last - SignedDuration::from_secs(1);
            prop_assert_eq!(recurrence.after(before), Some(last));
        }
    }
}
