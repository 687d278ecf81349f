//! Which backup the policy's retention has deleted next. Pure.
//!
//! What is kept the agent decides, as it knows what the archive holds. Here it is looked at once more before each deletion: the
//! decision must be about the rules, the lineage and at least the backups that are there now.

use jiff::{SignedDuration, Timestamp};

use super::{
    Rejection,
    observe::{BackupSeen, Observed},
    plan::{Step, spoken_for},
    schedule::is_paused,
};
use crate::{
    api::{PgProtectionStatus, Retention, RetentionStatus, conditions::Status},
    recurrence::zone,
};

/// From one deletion to the next: whoever has written the wrong rule has time to see it.
const APART: SignedDuration = SignedDuration::from_mins(1);
/// So long after a deletion the agent must have decided anew.
const SETTLED: SignedDuration = SignedDuration::from_mins(10);
/// So many names are told.
const NAMED: usize = 5;

/// A backup that nothing keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its name.
    pub name: String,
    /// Its UID: another one of that name stays.
    pub uid: String,
    /// Its `resourceVersion`: one that has got a label meanwhile stays.
    pub version: Option<String>,
    /// Why it goes, in a sentence.
    pub why: &'static str,
}

/// How a protection stands with its policy's retention.
struct Standing<'a> {
    observed: &'a Observed,
    retention: &'a Retention,
    status: &'a PgProtectionStatus,
    /// The agent's decision, if it is about these rules and this lineage.
    decided: Option<&'a RetentionStatus>,
}

impl<'a> Standing<'a> {
    /// `None`: the policy keeps everything.
    fn of(observed: &'a Observed) -> Option<Self> {
        let retention = observed.policy.as_ref()?.spec.retention.as_ref()?;
        let status = observed.protection.status.as_ref()?;
        let is_it = |decided: &&RetentionStatus| {
            decided.rules == *retention && status.lineage.as_ref() == Some(&decided.lineage)
        };
        Some(Self {
            observed,
            retention,
            status,
            decided: status.retention.as_deref().filter(is_it),
        })
    }

    fn rejection(&self) -> Option<Rejection> {
        let error = zone(self.retention.time_zone.as_deref()).err()?;
        let policy = &self.observed.protection.spec.policy;
        Some(Rejection::new(
            "RetentionInvalid",
            format!("retention of PgBackupPolicy {policy} deletes nothing: {error}"),
        ))
    }

    /// The backups that the decision is about.
    fn completed(&self) -> impl Iterator<Item = &'a BackupSeen> {
        let lineage = self.status.lineage.as_ref();
        let its = move |it: &&BackupSeen| it.lineage.as_ref() == lineage && !it.goes;
        let all = self.observed.backups.iter().filter(its);
        all.filter(|it| it.completed.is_some())
    }

    /// Whether those are there that the decision counted, and no newer one: what comes is newer than all others, so that nothing
    /// stands in for one that went.
    fn is_up_to_date(&self, decided: &RetentionStatus) -> bool {
        let there = i64::try_from(self.completed().count()).unwrap_or(i64::MAX);
        let newest = self.completed().max_by_key(|it| it.completed);
        there >= decided.kept.saturating_add(decided.expired)
            && newest.map(|it| &it.uid) == decided.newest.as_ref()
    }

    /// Completed ones that nothing keeps, the oldest first.
    fn behind(&self) -> Vec<Expired> {
        let Some(decided) = self.decided else {
            return Vec::new();
        };
        let goes = |it: &BackupSeen| decided.next.iter().any(|next| next.uid == it.uid);
        let stays = |it: &BackupSeen| !goes(it) && !it.unsound;
        // A drill may have found all that would stay wanting.
        let sound_stays = self.completed().any(stays);
        let next = decided.next.iter();
        next.filter_map(|next| self.completed().find(|it| it.uid == next.uid))
            .filter(|it| !it.held && (sound_stays || it.unsound))
            .map(|it| expired(it, "nothing in the policy's retention keeps it"))
            .collect()
    }

    /// Failed ones beyond those that are kept, the oldest first.
    fn failed(&self) -> Vec<Expired> {
        let spoken_for = spoken_for(self.observed);
        let failed = self.observed.backups.iter();
        let mut failed: Vec<_> = failed
            .filter(|it| !it.goes && !it.held)
            .filter_map(|it| Some((it.failed?, it)))
            .collect();
        failed.sort_by_key(|(at, it)| (*at, it.name.clone()));
        let kept = usize::try_from(self.retention.failed).unwrap_or(usize::MAX);
        let most = failed.len().saturating_sub(kept);
        let oldest = failed.into_iter().take(most).map(|(_, it)| it);
        oldest
            .filter(|it| !spoken_for.contains(&it.name))
            .map(|it| expired(it, "it failed, and newer ones that failed are kept"))
            .collect()
    }

    fn last_at(&self) -> Option<Timestamp> {
        Some(self.status.last_expired.as_ref()?.at.0)
    }

    /// What may be deleted, the first first, if it were the time.
    fn expired(&self) -> Vec<Expired> {
        if self.rejection().is_some() {
            return Vec::new();
        }
        let behind = self.decided.filter(|decided| self.is_up_to_date(decided));
        let mut all = behind.map_or_else(Vec::new, |_| self.behind());
        all.extend(self.failed());
        all
    }

    fn deletes(&self) -> bool {
        !self.retention.dry_run && !is_paused(self.observed) && self.observed.agent.running
    }
}

fn expired(backup: &BackupSeen, why: &'static str) -> Expired {
    Expired {
        name: backup.name.clone(),
        uid: backup.uid.clone(),
        version: backup.version.clone(),
        why,
    }
}

/// The deletion that is due.
pub fn next(observed: &Observed, now: Timestamp) -> Option<Step> {
    let standing = Standing::of(observed).filter(Standing::deletes)?;
    let is_time = standing.last_at().is_none_or(|last| last + APART <= now);
    let first = standing.expired().into_iter().next().filter(|_| is_time)?;
    Some(Step::ExpireBackup(first))
}

/// When the next deletion may be due.
pub fn coming(observed: &Observed) -> Option<Timestamp> {
    let standing = Standing::of(observed).filter(Standing::deletes)?;
    let last = standing.last_at()?;
    (!standing.expired().is_empty()).then(|| last + APART)
}

/// What condition `WithinRetention` says; nothing where everything is kept.
pub fn condition(observed: &Observed, now: Timestamp) -> Option<(Status, &'static str, String)> {
    let standing = Standing::of(observed)?;
    if let Some(Rejection { reason, message }) = standing.rejection() {
        return Some((Status::False, reason, message));
    }
    let Some(decided) = standing.decided else {
        let message = "the agent has not decided yet what the policy's retention keeps".to_owned();
        return Some((Status::Unknown, UNDECIDED, message));
    };
    let settling = standing.last_at().is_some_and(|last| now < last + SETTLED);
    if decided.expired > 0 && !settling && !standing.is_up_to_date(decided) {
        let message =
            "the backups have changed since the agent has counted them: it decides anew".to_owned();
        return Some((Status::Unknown, UNDECIDED, message));
    }
    let (behind, failed) = (standing.behind(), standing.failed());
    let kept = format!("{} backups are kept", decided.kept);
    let Some(what) = what_goes(decided.expired, &behind, &failed) else {
        return Some(at_rest(observed, decided, kept));
    };
    let retention = standing.retention;
    Some(if retention.dry_run {
        let message = format!("{kept}; without dryRun these would be deleted: {what}");
        (Status::False, "DryRun", message)
    } else if is_paused(observed) {
        let message = format!("{kept}; annotation highwater.dev/paused keeps these: {what}");
        (Status::False, "Paused", message)
    } else if decided.expired > 0 && behind.is_empty() && failed.is_empty() {
        let message = format!(
            "{kept}, and {}, as no other is left that no drill has found wanting",
            plural(decided.expired)
        );
        (Status::False, "LastSoundBackup", message)
    } else {
        let message = format!("{kept}; deleted one a minute at most: {what}");
        (Status::False, "Expiring", message)
    })
}

/// Where no backup goes: what keeps WAL that nothing needs. The agent deletes it by reason `WithinRetention`, and by `WalNotDeleted`
/// tries again.
fn at_rest(
    observed: &Observed,
    decided: &RetentionStatus,
    kept: String,
) -> (Status, &'static str, String) {
    let refused = decided.wal.as_ref().and_then(|wal| wal.refused.as_ref());
    match (refused, is_paused(observed)) {
        (_, true) => {
            let message = format!("{kept}; annotation highwater.dev/paused keeps all WAL");
            (Status::True, "Paused", message)
        }
        (Some(refused), false) => {
            let message = format!("{kept}; WAL that nothing needs is not deleted: {refused}");
            (Status::False, "WalNotDeleted", message)
        }
        (None, false) => (Status::True, "WithinRetention", kept),
    }
}

const UNDECIDED: &str = "Undecided";

fn what_goes(expired: i64, behind: &[Expired], failed: &[Expired]) -> Option<String> {
    let mut parts = Vec::new();
    if expired > 0 {
        parts.push(format!("{}{}", plural(expired), named(behind)));
    }
    if !failed.is_empty() {
        let count = i64::try_from(failed.len()).unwrap_or(i64::MAX);
        parts.push(format!("{} that failed{}", plural(count), named(failed)));
    }
    (!parts.is_empty()).then(|| parts.join(", and "))
}

fn plural(count: i64) -> String {
    match count {
        1 => "1 backup".to_owned(),
        count => format!("{count} backups"),
    }
}

/// The first of them.
fn named(expired: &[Expired]) -> String {
    let names = expired.iter().take(NAMED).map(|it| it.name.as_str());
    let names: Vec<_> = names.collect();
    match (names.is_empty(), expired.len() > NAMED) {
        (true, _) => String::new(),
        (false, true) => format!(" ({}, …)", names.join(", ")),
        (false, false) => format!(" ({})", names.join(", ")),
    }
}
