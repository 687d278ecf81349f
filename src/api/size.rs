//! Sizes as admins write them.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A number of bytes as text: a whole number and one of `Ki`, `Mi`, `Gi`, `Ti`, or none, as in `50Gi`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SizeText(u64);

/// The pattern of [`SizeText`]; the API server checks it before anything else does. It lets in nothing that 64 bits do not
/// hold.
pub const SIZE_PATTERN: &str = "^([0-9]{1,12}(Ki|Mi)?|[0-9]{1,10}Gi|[0-9]{1,7}Ti)$";

const UNITS: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

impl SizeText {
    /// So many bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to parse size {0:?}: want a whole number of bytes, or one with Ki, Mi, Gi or Ti, as in 50Gi"
)]
pub struct SizeParseError(String);

impl FromStr for SizeText {
    type Err = SizeParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
            let (digits, shift) = match unit {
                Some((unit, shift)) => (text.strip_suffix(unit)?, *shift),
                None => (text, 0),
            };
            let valid =
                (1..=12).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            let count = valid.then(|| digits.parse::<u64>().ok()).flatten()?;
            count.checked_mul(1 << shift).map(Self)
        };
        parse().ok_or_else(|| SizeParseError(text.to_owned()))
    }
}

impl TryFrom<String> for SizeText {
    type Error = SizeParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SizeText> for String {
    fn from(size: SizeText) -> Self {
        size.to_string()
    }
}

impl fmt::Display for SizeText {
    /// In the largest unit that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, shift)| self.0 > 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for SizeText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SizeText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 14,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{SIZE_PATTERN}')"),
                "message": "want a whole number of bytes, or one with Ki, Mi, Gi or Ti, as in 50Gi",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;

    proptest! {
        /// What the API server accepts and nobody can decode would stop everything that watches its kind.
        #[test]
        fn what_the_door_lets_in_is_decoded(
            text in string_regex(SIZE_PATTERN.trim_matches(['^', '$'])).unwrap(),
        ) {
            prop_assert!(text.parse::<SizeText>().is_ok(), "{text}");
        }
    }

    #[test]
    fn the_greatest_of_each_unit_is_decoded() {
        for text in [
            "999999999999",
            "999999999999Mi",
            "9999999999Gi",
            "9999999Ti",
        ] {
            assert!(text.parse::<SizeText>().is_ok(), "{text}");
        }
    }

    #[test]
    fn parses_and_prints_whole_numbers_with_a_unit() {
        for (text, bytes, printed) in [
            ("0", 0, "0"),
            ("512", 512, "512"),
            ("64Ki", 65_536, "64Ki"),
            ("1024Mi", 1 << 30, "1Gi"),
            ("50Gi", 50 << 30, "50Gi"),
            ("1Ti", 1 << 40, "1Ti"),
        ] {
            let size: SizeText = text.parse().unwrap();
            assert_eq!(
                (size.get(), size.to_string().as_str()),
                (bytes, printed),
                "{text}"
            );
        }
        for text in [
            "",
            "Gi",
            "1G",
            "1.5Gi",
            "-1",
            "1 Gi",
            "1gi",
            "1Pi",
            "99999999999Ti",
        ] {
            assert!(text.parse::<SizeText>().is_err(), "{text:?}");
        }
    }
}
