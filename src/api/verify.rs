//! A restore that is a drill: what is looked at, and what came of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a drill looks at in the restored database, beyond that PostgreSQL recovers, starts and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// `Amcheck`: pg_amcheck over every database, B-tree indexes against their tables. `Checksums`: pg_checksums over every file;
    /// the cluster must have data checksums. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub checks: Vec<VerifyCheck>,
    /// One statement that the restored database must answer without an error, asked in the database that the agent connects to by
    /// a role that may read everything (`pg_read_all_data`, `pg_monitor`) and nothing else. Where the first column is a boolean it
    /// must be true in each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub sql: Option<String>,
}

/// A check that a drill may ask for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum VerifyCheck {
    /// `pg_amcheck`, in the restored database.
    Amcheck,
    /// `pg_checksums`, when it was stopped.
    Checksums,
}

/// One check that a restored database passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassedCheck {
    /// `Start`, `Sql`, `Amcheck` or `Checksums`.
    pub name: CheckName,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What a restored database is asked.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum CheckName {
    /// It recovered, was promoted and answers.
    Start,
    /// The drill's own statement.
    Sql,
    /// `pg_amcheck`.
    Amcheck,
    /// `pg_checksums`.
    Checksums,
}

impl CheckName {
    /// As a message has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Sql => "sql",
            Self::Amcheck => "amcheck",
            Self::Checksums => "checksums",
        }
    }
}

/// The last drill that a protection's backups passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastVerified {
    /// The PgRestore that was the drill.
    pub restore: String,
    /// The PgBackup that it began with.
    pub backup: String,
    /// When it passed.
    pub at: MicroTime,
    /// Up to where it was recovered, in a sentence.
    pub target: String,
}
