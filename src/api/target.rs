//! What a recovery target is made of, parsed at the door.

use std::fmt;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::postgres::TimelineId;

/// A time with a time zone, in RFC 3339 or in PostgreSQL's own form.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct TargetTime(pub Timestamp);

impl TargetTime {
    /// `None`: no date and time, or no zone.
    fn parse(text: &str) -> Option<Self> {
        let utc = ["UTC", "GMT"].into_iter();
        let utc = utc.filter_map(|zone| text.strip_suffix(zone)).next();
        let utc = utc.map(|time| format!("{}Z", time.trim_end()));
        let text = utc.as_deref().unwrap_or(text);
        text.parse().map(Self).ok()
    }
}

impl<'de> Deserialize<'de> for TargetTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "failed to parse time {text:?}: want a date and time with a zone, as in 2026-11-20T14:03:12.5Z"
            ))
        })
    }
}

impl JsonSchema for TargetTime {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 40,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{}')", time_pattern()),
                "message": "want a date and time with a zone, as in 2026-11-20T14:03:12Z, 2026-11-20 15:03:12.5+01 or 2026-11-20 14:03:12 UTC",
            }],
        })
    }
}

/// The pattern of [`TargetTime`]; the API server checks it before anything else does. It lets in nothing that cannot be
/// parsed: days that there are, in the years from 1000 to 2999, and offsets up to PostgreSQL's most.
fn time_pattern() -> String {
    let leap_year = "[12][0-9](0[48]|[2468][048]|[13579][26])|(1[26]|2[048])00";
    let day = "(0[1-9]|1[0-9]|2[0-8])";
    let longer = "(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31";
    let date = format!("([12][0-9]{{3}}-((0[1-9]|1[0-2])-{day}|{longer})|({leap_year})-02-29)");
    let time = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?";
    let zone = "([Zz]|[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?| ?(UTC|GMT))";
    format!("^{date}[Tt ]{time}{zone}$")
}

/// A transaction id of 32 bits, or of 64 with its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetXid(u64);

impl TargetXid {
    /// What WAL records have: without the epoch.
    pub const fn in_wal(self) -> u32 {
        (self.0 & 0xFFFF_FFFF) as u32
    }
}

impl fmt::Display for TargetXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl JsonSchema for TargetXid {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetXid".into()
    }

    /// From the first id that a transaction may have (`FirstNormalTransactionId`).
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 3 })
    }
}

/// Which timeline to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest one.
    Latest,
    /// That of the backup.
    Current,
    /// This one.
    Id(TimelineId),
}

const LATEST: &str = "Latest";
const CURRENT: &str = "Current";

/// The pattern of [`TargetTimeline`]: numbers end where PostgreSQL's do, at 4294967295.
const TIMELINE_PATTERN: &str = "^(Latest|Current|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4([01][0-9]{8}|2([0-8][0-9]{7}|9([0-3][0-9]{6}|4([0-8][0-9]{5}|9([0-5][0-9]{4}|6([0-6][0-9]{3}|7([01][0-9]{2}|2([0-8][0-9]|9[0-5])))))))))$";

/// As the API has it: a number or a word.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(u32),
    Word(String),
}

impl Serialize for TargetTimeline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Latest => serializer.serialize_str(LATEST),
            Self::Current => serializer.serialize_str(CURRENT),
            Self::Id(id) => serializer.serialize_u32(id.get()),
        }
    }
}

impl<'de> Deserialize<'de> for TargetTimeline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = match NumberOrWord::deserialize(deserializer)? {
            NumberOrWord::Word(word) if word == LATEST => return Ok(Self::Latest),
            NumberOrWord::Word(word) if word == CURRENT => return Ok(Self::Current),
            NumberOrWord::Word(word) => word.parse().unwrap_or_default(),
            NumberOrWord::Number(number) => number,
        };
        let id = TimelineId::new(number).map(Self::Id);
        id.ok_or_else(|| {
            de::Error::custom("failed to parse timeline: want Latest, Current or a number from 1")
        })
    }
}

impl JsonSchema for TargetTimeline {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetTimeline".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 10,
            "x-kubernetes-validations": [{
                "rule": format!("string(self).matches('{TIMELINE_PATTERN}')"),
                "message": "want Latest, Current or the number of a timeline, as in 2",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn texts(pattern: &str) -> impl Strategy<Value = String> + use<> {
        let inner = pattern.trim_start_matches('^').trim_end_matches('$');
        string_regex(inner).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// What the API server accepts and nobody can decode would stop all restores.
        #[test]
        fn what_the_door_lets_in_is_decoded(
            time in texts(&time_pattern()),
            timeline in texts(TIMELINE_PATTERN),
        ) {
            prop_assert!(from_value::<TargetTime>(json!(time)).is_ok(), "{time}");
            prop_assert!(from_value::<TargetTimeline>(json!(timeline)).is_ok(), "{timeline}");
        }
    }

    #[test]
    fn a_time_says_its_zone() {
        let want: Timestamp = "2026-11-20T14:03:12.5Z".parse().unwrap();
        for text in [
            "2026-11-20T14:03:12.5Z",
            "2026-11-20t14:03:12.5z",
            "2026-11-20T15:03:12.500000+01:00",
            "2026-11-20 15:03:12.5+01",
            "2026-11-20 09:03:12.5-0500",
            "2026-11-20 14:03:12.5 UTC",
            "2026-11-20 14:03:12.5GMT",
        ] {
            let time: TargetTime =
                from_value(json!(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(time.0, want, "{text}");
        }
        for text in ["2026-11-20 14:03:12", "2026-11-20", "yesterday", "", "UTC"] {
            assert!(from_value::<TargetTime>(json!(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_timeline_is_a_word_or_a_number() {
        let second = TargetTimeline::Id(TimelineId::new(2).unwrap());
        for (value, want) in [
            (json!("Latest"), TargetTimeline::Latest),
            (json!("Current"), TargetTimeline::Current),
            (json!(2), second),
            (json!("2"), second),
        ] {
            assert_eq!(from_value::<TargetTimeline>(value).unwrap(), want);
        }
        for value in [json!(0), json!("latest"), json!(-1), json!("")] {
            assert!(from_value::<TargetTimeline>(value).is_err());
        }
        assert_eq!(to_value(second).unwrap(), json!(2));
    }

    #[test]
    fn the_epoch_of_a_transaction_id_is_left_out() {
        let xid: TargetXid = from_value(json!(4_294_967_296_u64 + 731)).unwrap();
        assert_eq!(
            (xid.in_wal(), xid.to_string().as_str()),
            (731, "4294968027")
        );
    }
}
