//! A restore that is a drill: what is looked at, and what came of it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IntoResources;

/// What a drill looks at in the restored database, beyond that PostgreSQL recovers, starts and answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// `Amcheck`: pg_amcheck over every database, B-tree indexes against their tables. `Checksums`: pg_checksums over every file;
    /// the cluster must have data checksums. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub checks: Vec<VerifyCheck>,
    /// One statement that the restored database must answer without an error, asked in the database that the agent connects to by
    /// a role that may read every table, view and sequence of it (and has `pg_monitor`) and nothing else: passwords in the
    /// system catalogs it may not. Where the first column is a boolean it must be true in each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub sql: Option<String>,
    /// A program of your own that looks at the restored database, in a container of its own beside it. Exit code 0 passes;
    /// any other fails the drill, with the last lines that it printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<VerifyProgram>,
}

/// A program that looks at the restored database. It finds it by `PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE` and `PGPASSWORD`, as
/// the role that `sql` is asked by. Its container runs as user 65532 without privileges, and has no volume of the database, no
/// Secret, no ServiceAccount's token and no variable of the source's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyProgram {
    /// The image that has the program. It is pulled with the pull secrets of the source's pods.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": r"self.matches('^[^\\s]+$')",
        "message": "image must hold no spaces, as in registry.example/orders-check:1",
    }]))]
    pub image: String,
    /// When it is pulled. Default: as of any container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// The program in it and its first arguments; no shell is asked, and the image's entrypoint is not run.
    #[schemars(length(min = 1, max = 16), inner(length(max = 1024)))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.size() == 0 || self[0] != ''",
        "message": "command must begin with the program, as in [psql]",
    }]))]
    pub command: Vec<String>,
    /// More arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 8192)))]
    pub args: Vec<String>,
    /// Seconds after which it is killed, and the drill fails. Default: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self >= 1 && self <= 86400",
        "message": "deadlineSeconds must be from 1 to 86400, which is a day",
    }]))]
    pub deadline_seconds: Option<i32>,
    /// What its container asks for. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<IntoResources>,
}

impl VerifyProgram {
    /// How long it may run.
    pub fn deadline(&self) -> Duration {
        let seconds = self.deadline_seconds.and_then(|it| u64::try_from(it).ok());
        Duration::from_secs(seconds.unwrap_or(600))
    }
}

/// When an image is pulled, as Kubernetes has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// Where the node lacks it.
    IfNotPresent,
    /// Not at all.
    Never,
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
    /// `Start`, `Sql`, `Program`, `Amcheck` or `Checksums`.
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
    /// The drill's own program.
    Program,
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
            Self::Program => "program",
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
