//! The identifier that `initdb` gives a cluster.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The system identifier of a cluster: made once by `initdb`, the same in all copies of the cluster
/// (`pg_control_system()`). Written as a decimal string, as JSON numbers cannot hold it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemIdentifier(u64);

impl SystemIdentifier {
    /// From the number in `pg_control` or a long WAL page header.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number as `pg_control` has it.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A text that is not a system identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse system identifier {0:?}: want a decimal number")]
pub struct SystemIdentifierParseError(String);

impl FromStr for SystemIdentifier {
    type Err = SystemIdentifierParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| SystemIdentifierParseError(text.to_owned()))
    }
}

impl TryFrom<String> for SystemIdentifier {
    type Error = SystemIdentifierParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SystemIdentifier> for String {
    fn from(identifier: SystemIdentifier) -> Self {
        identifier.to_string()
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for SystemIdentifier {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SystemIdentifier".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{1,20}$", "maxLength": 20 })
    }
}
