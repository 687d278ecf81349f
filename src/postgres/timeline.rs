//! Timeline ids.

use std::{fmt, num::NonZeroU32, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The number of a timeline, from 1 (PostgreSQL manual, section 26.3.6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline of a new cluster.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for 0, which is no timeline.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, as `recovery_target_timeline` takes it.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A text that is not a timeline as file names have it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse timeline {0:?}: want 8 hexadecimal digits, not all zero")]
pub struct TimelineParseError(pub(super) String);

impl FromStr for TimelineId {
    type Err = TimelineParseError;

    /// From the 8 hexadecimal digits of a file name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        valid
            .then(|| u32::from_str_radix(text, 16).ok())
            .flatten()
            .and_then(Self::new)
            .ok_or_else(|| TimelineParseError(text.to_owned()))
    }
}

impl fmt::Display for TimelineId {
    /// The decimal number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::UpperHex for TimelineId {
    /// `{:08X}` is the form that file names have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::UpperHex::fmt(&self.0.get(), f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for TimelineId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimelineId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": u32::MAX })
    }
}
