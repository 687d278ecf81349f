//! Durations as admins write them.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A duration as text: a whole number and one of `s`, `m`, `h`, `d`, as in `5s` or `14d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DurationText(Duration);

/// The pattern of [`DurationText`]; the API server checks it before anything else does.
pub const DURATION_PATTERN: &str = "^[0-9]{1,6}(s|m|h|d)$";

impl DurationText {
    /// `count` seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to parse duration {0:?}: want a whole number and one of s, m, h, d, as in 5s or 14d"
)]
pub struct DurationParseError(String);

impl FromStr for DurationText {
    type Err = DurationParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let unit = match text.chars().next_back()? {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                _ => return None,
            };
            let digits = text.get(..text.len() - 1)?;
            let valid =
                (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            valid
                .then(|| digits.parse::<u64>().ok())
                .flatten()
                .map(|count| Self::seconds(count * unit))
        };
        parse().ok_or_else(|| DurationParseError(text.to_owned()))
    }
}

impl TryFrom<String> for DurationText {
    type Error = DurationParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DurationText> for String {
    fn from(duration: DurationText) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for DurationText {
    /// In the largest unit that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            s if s > 0 && s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            s if s > 0 && s % 3600 == 0 => write!(f, "{}h", s / 3600),
            s if s > 0 && s % 60 == 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl fmt::Debug for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DurationText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 7,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{DURATION_PATTERN}')"),
                "message": "want a whole number and one of s, m, h, d, as in 5s or 14d",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_whole_numbers_with_one_unit() {
        for (text, seconds) in [
            ("5s", 5),
            ("90s", 90),
            ("15m", 900),
            ("1h", 3600),
            ("14d", 1_209_600),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<DurationText>().map(|d| d.get().as_secs()),
                Ok(seconds),
                "{text}"
            );
        }
        for text in ["", "5", "s", "1h30m", "-1s", "1.5h", "5 s", "1234567s", "é"] {
            assert!(text.parse::<DurationText>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn prints_the_largest_whole_unit() {
        for (text, printed) in [("60s", "1m"), ("90s", "90s"), ("24h", "1d"), ("0s", "0s")] {
            assert_eq!(
                text.parse::<DurationText>().map(|d| d.to_string()),
                Ok(printed.to_owned())
            );
        }
    }
}
