//! The id of one unbroken history of one cluster in an archive.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Names one unbroken history of one cluster. Random, ten characters of `0-9a-z` without `i l o u`, so that it fits in
/// names and keys and cannot be misread.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LineageId(String);

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 10;

impl LineageId {
    /// The id that these random bytes give.
    pub fn from_random(bytes: [u8; LENGTH]) -> Self {
        Self(
            bytes
                .iter()
                .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
                .collect(),
        )
    }

    /// As in keys and names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is not a lineage id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to parse lineage {0:?}: want {LENGTH} characters of 0-9 and a-z without i, l, o, u"
)]
pub struct LineageParseError(String);

impl FromStr for LineageId {
    type Err = LineageParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.len() == LENGTH && text.bytes().all(|b| ALPHABET.contains(&b));
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| LineageParseError(text.to_owned()))
    }
}

impl TryFrom<String> for LineageId {
    type Error = LineageParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LineageId> for String {
    fn from(lineage: LineageId) -> Self {
        lineage.0
    }
}

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for LineageId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LineageId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-hjkmnp-tv-z]{10}$", "maxLength": 10 })
    }
}
