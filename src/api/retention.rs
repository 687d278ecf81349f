//! What is kept of a database's backups: what a policy says, and what follows from it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DurationText;
use crate::archive::LineageId;

/// What is kept of a database's backups. Each rule keeps what it names, and what none keeps goes. A label
/// `highwater.dev/keep` on a PgBackup keeps it whatever the rules say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.window) || has(self.keep)",
    "message": "retention needs a window, as in 14d, or keep, as in {last: 7}: leave retention out to keep everything",
}]))]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Every moment so far back can be recovered, as far as it could be at all: the backups taken since, and the newest before
    /// that leads there. It ends with the newest moment that can be recovered, not with the clock: where nothing is archived
    /// any more, nothing goes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<DurationText>,
    /// Backups that are kept beside those of the window. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Never fewer backups than so many, of those that can be restored from on the line that the database is on. Default: 2.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub minimum: u32,
    /// So many PgBackups that failed are kept, the newest. Default: 3.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1000))]
    pub failed: u32,
    /// Where hours, days, weeks, months and years of `keep` begin: a name of the time zone database, as in `Europe/Berlin`.
    /// Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",
        "message": "timeZone must be a name of the time zone database, as in Europe/Berlin",
    }]))]
    pub time_zone: Option<String>,
    /// So long after it was seen that nothing kept needs it any more, WAL is deleted: who reads it then, such as a restore in another
    /// namespace or another cluster, must be done by then. Default: 1d.
    #[serde(default = "one_day")]
    pub wal_grace: DurationText,
    /// Deletes nothing while it is true: status and condition WithinRetention of each PgProtection say what would go. Default:
    /// false.
    #[serde(default)]
    pub dry_run: bool,
}

const fn one_day() -> DurationText {
    DurationText::seconds(86_400)
}

const fn two() -> u32 {
    2
}

const fn three() -> u32 {
    3
}

/// Backups that are kept beside those of the window, by number. Of an hour, day, week, month or year the newest backup stands
/// for all; periods without one do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.last) || has(self.hourly) || has(self.daily) || has(self.weekly) || has(self.monthly) || has(self.yearly)",
    "message": "keep needs a number of last, hourly, daily, weekly, monthly or yearly",
}]))]
#[serde(rename_all = "camelCase")]
pub struct Keep {
    /// The newest so many, with every moment since the oldest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub last: Option<u32>,
    /// The newest backup of each of so many hours: to its own end alone, as with all that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub hourly: Option<u32>,
    /// Of so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub daily: Option<u32>,
    /// Of so many weeks, which begin on Monday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub weekly: Option<u32>,
    /// Of so many months.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub monthly: Option<u32>,
    /// Of so many years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub yearly: Option<u32>,
}

/// What the policy's retention keeps of the lineage's backups, by what the archive holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionStatus {
    /// The policy's `retention` that this follows from.
    pub rules: Retention,
    /// The lineage whose backups these are.
    pub lineage: LineageId,
    /// The UID of the newest PgBackup that was counted: nothing is deleted while a newer one is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// So many backups are kept.
    pub kept: i64,
    /// Why, by reason; a backup may be kept for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub reasons: Vec<KeptFor>,
    /// So many backups are kept by nothing.
    pub expired: i64,
    /// Those of them that go first, the oldest first: at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub next: Vec<ExpiredBackup>,
    /// WAL that nothing kept needs. Absent: nobody has looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<ExpiredWal>,
}

/// WAL that nothing kept needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpiredWal {
    /// So many whole segments of it are in the archive.
    pub segments: i64,
    /// When the first of them are deleted, if nothing needs them until then. Absent: there are none, or none is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<MicroTime>,
    /// What was deleted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<DeletedWal>,
    /// Why the store did not delete: tried again with the next backup, and each hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// WAL that was deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletedWal {
    /// When.
    pub at: MicroTime,
    /// Whole segments.
    pub segments: i64,
    /// Bytes, as they lay in the store.
    pub bytes: i64,
}

/// How many backups are kept for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptFor {
    /// `Window`, `BeforeWindow` (the one that leads to its beginning), `Last`, `Minimum`, `Hourly`, `Daily`, `Weekly`, `Monthly`,
    /// `Yearly`, `Label`, `Verified` (the last that passed a drill), `Restore` (one reads it), `OtherBranch` (it does not count,
    /// and is not older than what is kept), `HistoryMissing`, or `NoneCounts`: none can be restored from where the database
    /// is now.
    pub reason: String,
    /// So many.
    pub backups: i64,
}

/// A backup that nothing keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpiredBackup {
    /// The PgBackup's name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When its backup mode ended.
    pub stopped_at: MicroTime,
    /// `NoRule`: no rule keeps it. `OtherBranch`: on the line that the database is on nothing can be restored from it, and it is
    /// older than what is kept.
    pub reason: String,
}

/// The backup that was deleted last, as nothing kept it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastExpired {
    /// The PgBackup's name.
    pub name: String,
    /// When.
    pub at: MicroTime,
}
