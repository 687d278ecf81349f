//! When backups are taken by themselves: what a policy says, and how far a protection is with it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Decryption, DurationText, Verify};

/// A period of `@every`.
const PERIOD: &str = "@every [1-9][0-9]{0,5}(m|h|d)";
/// The words for the usual ones.
const WORDS: &str = "@(hourly|daily|midnight|weekly|monthly|yearly|annually)";
const MINUTE: &str = "[0-5]?[0-9]";
const HOUR: &str = "([01]?[0-9]|2[0-3])";
const DAY: &str = "(0?[1-9]|[12][0-9]|3[01])";
const MONTH: &str = "(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))";
const WEEKDAY: &str = "([0-7]|(?i:sun|mon|tue|wed|thu|fri|sat))";

/// One of a policy's schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.timeZone) || !self.cron.startsWith('@every')",
    "message": "timeZone says nothing with @every, which counts elapsed time: leave it out, or name the hour, as in 0 2 * * *",
}]))]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// Its name, unlike that of the policy's other schedules.
    #[schemars(length(min = 1, max = 32))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
        "message": "name must begin and end with a letter or digit, and hold only a-z, 0-9 and -",
    }]))]
    pub name: String,
    /// When: five fields as cron has them (minute, hour, day of month, month, day of week), as in `0 2 * * *`; one of `@hourly`,
    /// `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`; or `@every` and a whole number of `m`, `h` or `d`,
    /// as in `@every 6h`, counted from the creation of the PgProtection. Where both days are restricted, either will do.
    #[schemars(length(min = 1, max = 100))]
    #[schemars(extend("x-kubernetes-validations" = cron_rules()))]
    pub cron: String,
    /// The time zone of the five fields and the words: a name of the time zone database, as in `Europe/Berlin`. Default: UTC. At one
    /// minute of one hour: a time that does not exist where clocks are put forward comes right after the gap, and one that exists
    /// twice comes once, the first time. With several minutes or hours it comes at each time that exists, as often as it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",
        "message": "timeZone must be a name of the time zone database, as in Europe/Berlin",
    }]))]
    pub time_zone: Option<String>,
    /// Each database begins later by a time of its own, which is always the same, between nothing and this. For a policy of
    /// many databases. Default: 0s.
    #[serde(default = "no_jitter")]
    pub jitter: DurationText,
    /// Takes no backups while it is true; what would have come meanwhile is not caught up. Default: false.
    #[serde(default)]
    pub suspend: bool,
}

const fn no_jitter() -> DurationText {
    DurationText::seconds(0)
}

/// Drills by the clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.timeZone) || !self.cron.startsWith('@every')",
    "message": "timeZone says nothing with @every, which counts elapsed time: leave it out, or name the hour, as in 0 2 * * *",
}]))]
#[serde(rename_all = "camelCase")]
pub struct VerificationSchedule {
    /// When, as `schedules[].cron` says it.
    #[schemars(length(min = 1, max = 100))]
    #[schemars(extend("x-kubernetes-validations" = cron_rules()))]
    pub cron: String,
    /// The time zone, as `schedules[].timeZone` says it. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",
        "message": "timeZone must be a name of the time zone database, as in Europe/Berlin",
    }]))]
    pub time_zone: Option<String>,
    /// Each database's drill begins later by a time of its own, between nothing and this. Default: 0s.
    #[serde(default = "no_jitter")]
    pub jitter: DurationText,
    /// Begins no drills while it is true. Default: false.
    #[serde(default)]
    pub suspend: bool,
    /// What a drill looks at, beyond that the database recovers, starts and answers.
    #[serde(default)]
    pub drill: Verify,
    /// The private key for encrypted WAL, in the database's namespace. Only recovery reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<Decryption>,
}

/// How far a protection is with one of its policy's schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// The schedule's name.
    pub name: String,
    /// Its `cron`, as it counts since `since`.
    pub cron: String,
    /// Its `timeZone`, as it counts since `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Since when it counts: what would have come before is not caught up.
    pub since: Time,
    /// The last time of the schedule that a backup was taken for, without jitter. Where several were missed, the last of them
    /// stands for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// The last time of the schedule that no backup was taken for, as another one was not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_skipped_time: Option<Time>,
    /// When the next backup is to be taken, jitter included. In the past: it is due, and taken as soon as it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,
}

/// What lets in what `crate::recurrence` understands, but for what depends on the calendar or a time zone.
fn cron_rules() -> Value {
    json!([
        {
            "rule": "!self.matches('^[^ @]+( +[^ ]+){5,}$')",
            "message": "cron has five fields: minute, hour, day of month, month, day of week. There are none for seconds or years: leave the sixth out",
        },
        {
            "rule": format!("self.matches('{}') || self.matches('^[^ @]+( +[^ ]+){{5,}}$')", cron_pattern()),
            "message": "cron must be five fields, as in 0 2 * * *, a word, as in @daily, or a period of whole minutes, hours or days, as in @every 6h",
        },
    ])
}

fn cron_pattern() -> String {
    let fields = [MINUTE, HOUR, DAY, MONTH, WEEKDAY].map(field).join(" +");
    format!("^({PERIOD}|{WORDS}|{fields})$")
}

/// A list of `*`, numbers and ranges, the first and last of which may have steps.
fn field(value: &str) -> String {
    let item = format!("([*](/[1-9][0-9]?)?|{value}(-{value}(/[1-9][0-9]?)?)?)");
    format!("{item}(,{item})*")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::{prelude::*, string::string_regex};

    use super::*;
    use crate::recurrence::{Recurrence, RecurrenceError};

    fn is_let_in() -> impl Strategy<Value = String> {
        // proptest knows no groups of flags.
        let pattern = cron_pattern().replace("(?i:", "(");
        string_regex(pattern.trim_matches(['^', '$'])).unwrap()
    }

    proptest! {
        /// What is left to the condition is a range that runs backwards, and a day that never comes.
        #[test]
        fn what_the_door_lets_in_is_understood(text in is_let_in()) {
            match Recurrence::parse(&text, None, Timestamp::UNIX_EPOCH) {
                Ok(_) | Err(RecurrenceError::Never(_)) => {}
                Err(RecurrenceError::Cron { .. }) => {
                    prop_assert!(text.contains('-'), "{text}");
                }
                Err(error) => prop_assert!(false, "{text}: {error}"),
            }
        }
    }
}
