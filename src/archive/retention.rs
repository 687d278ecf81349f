//! Which backups of a lineage are kept, and which WAL is needed. Pure: nothing is deleted here.
//!
//! Backups count only where they can be restored from on the line that is lived on: with all of their WAL, before every
//! fork. The window ends with the newest time that can be recovered, not with the clock, if that is later: where no backups
//! or no WAL come any more, nothing goes, and a clock that is wrong deletes nothing either. Without a backup that counts
//! nothing goes at all.

mod expired;
mod keep;
mod wal;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{
    Contents,
    window::{bases, newest_timeline},
};
use crate::postgres::{Lsn, SegmentName, TimelineId};

pub use expired::{Due, Expired, ExpiredRange};
pub use wal::Needed;

/// What is to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// So far back every time can be recovered.
    pub window: Option<SignedDuration>,
    /// So many backups, the newest ones, with every time since the oldest of them.
    pub last: usize,
    /// The newest of so many hours, days, weeks (from Monday), months and years that have one: to their own end alone.
    pub periods: BTreeMap<Period, usize>,
    /// Where a day begins.
    pub zone: TimeZone,
    /// Never fewer backups than so many, and never fewer than one.
    pub minimum: usize,
}

/// A span of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// From its first minute.
    Hour,
    /// From midnight.
    Day,
    /// From Monday, as ISO 8601 has it.
    Week,
    /// From the first day.
    Month,
    /// From January.
    Year,
}

/// What is kept whatever the rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Backups by the UID of their PgBackup, and whether every time since is to be recoverable, too.
    pub backups: BTreeMap<String, bool>,
    /// The UID of the last backup that passed a drill.
    pub verified: Option<String>,
    /// Restores, and backups, that are not finished.
    pub restores: Vec<Pin>,
}

/// What a restore reads, or what a backup that is not in the catalog yet will need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The UID of the backup that it begins with, or is.
    pub backup: String,
    /// Along the line of this one.
    pub timeline: TimelineId,
    /// From the first byte,
    pub wal_from: Lsn,
    /// to the last.
    pub wal_to: Lsn,
}

/// Why a backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It was taken within the window.
    Window,
    /// The window begins behind it.
    BeforeWindow,
    /// It is one of the newest.
    Last,
    /// There would be too few.
    Minimum,
    /// It is the newest of its period.
    Period(Period),
    /// Somebody holds it.
    Held,
    /// It is the last one that passed a drill.
    Verified,
    /// A restore reads it.
    Restored,
    /// It does not count, and is not older than those that do.
    Beside,
    /// Nothing can be said of it: the history of its timeline is not there.
    HistoryMissing,
    /// No backup can be restored from on the line that is lived on.
    NoneCounts,
}

impl Why {
    /// Whether every time since the backup is to be recoverable.
    const fn is_to_any_time(self) -> bool {
        match self {
            Self::Window | Self::BeforeWindow | Self::Last | Self::Minimum => true,
            Self::Period(_)
            | Self::Held
            | Self::Verified
            | Self::Restored
            | Self::Beside
            | Self::HistoryMissing
            | Self::NoneCounts => false,
        }
    }
}

/// What is to be done with a lineage.
#[derive(Clone, Debug)]
pub struct Decision {
    /// By the UID of the PgBackup; never without a reason.
    pub kept: BTreeMap<String, BTreeSet<Why>>,
    /// UIDs of PgBackups, the oldest first: their manifests go before their snapshots, and their WAL last.
    pub goes: Vec<String>,
    /// Those of them that do not count.
    pub beside: BTreeSet<String>,
    /// Which WAL is needed by what is kept.
    pub needed: Needed,
}

/// Decides at `now`, by the controller's clock.
pub fn decide(rules: &Rules, holds: &Holds, contents: &Contents, now: Timestamp) -> Decision {
    let lived_on = newest_timeline(contents);
    let counting = match contents.has_history(lived_on) {
        true => bases(contents, lived_on),
        false => Vec::new(),
    };
    let Some(newest) = counting.last() else {
        return nothing(contents);
    };
    let end = newest.covered(contents, lived_on).min(now);
    let kept = keep::kept(rules, holds, (contents, lived_on, &counting), end);
    let mut gone: Vec<_> = contents.backups.iter().map(|(_, it)| it).collect();
    gone.retain(|manifest| !kept.contains_key(&manifest.uid));
    gone.sort_by_key(|manifest| (manifest.stopped_at, &manifest.uid));
    let goes: Vec<_> = gone.into_iter().map(|it| it.uid.clone()).collect();
    let counts: BTreeSet<&str> = counting.iter().map(|it| it.manifest.uid.as_str()).collect();
    let beside = goes.iter().filter(|uid| !counts.contains(uid.as_str()));
    Decision {
        beside: beside.cloned().collect(),
        goes,
        needed: Needed::by(&kept, holds, contents),
        kept,
    }
}

/// Which WAL must stay.
#[derive(Clone, Debug)]
pub struct Stays {
    /// Of the backups that count.
    known: Needed,
    /// Of all that are in the catalog, as if each counted: what a lost namespace has left there is not nobody's.
    catalogued: Needed,
    /// Of each of those its own: nothing is in the catalog without it.
    own: Needed,
}

impl Stays {
    /// `decision` is about the backups that have a PgBackup still, `contents` has all that are in the catalog.
    pub fn by(
        decision: &Decision,
        (rules, holds): (&Rules, &Holds),
        contents: &Contents,
        now: Timestamp,
    ) -> Self {
        let all = contents.backups.iter().map(|(_, it)| it.uid.clone());
        let all = all.map(|uid| (uid, BTreeSet::new())).collect();
        Self {
            known: decision.needed.clone(),
            catalogued: decide(rules, holds, contents, now).needed,
            own: Needed::by(&all, &Holds::default(), contents),
        }
    }

    /// Whether anything of the segment must.
    pub fn has(&self, segment: SegmentName) -> bool {
        self.known.has(segment) || self.catalogued.has(segment) || self.own.has(segment)
    }
}

fn nothing(contents: &Contents) -> Decision {
    let uids = contents.backups.iter().map(|(_, it)| it.uid.clone());
    let why = BTreeSet::from([Why::NoneCounts]);
    Decision {
        kept: uids.map(|uid| (uid, why.clone())).collect(),
        goes: Vec::new(),
        beside: BTreeSet::new(),
        needed: Needed::everything(),
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
