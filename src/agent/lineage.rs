//! Whether a database goes on with the lineage it is known by, or starts a new one. Pure.

use std::fmt;

use super::wal::Path;
use crate::{
    archive::LineageId,
    postgres::{Lsn, SystemIdentifier, TimelineId},
};

/// What the database says.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its system identifier.
    pub system_identifier: SystemIdentifier,
    /// Its timeline, and how it came there.
    pub path: Path,
    /// How far it has flushed.
    pub flushed: Lsn,
}

/// What the archive says of the lineage in status.
#[derive(Clone, Debug)]
pub struct Archived {
    /// Whose WAL it holds.
    pub system_identifier: SystemIdentifier,
    /// Where WAL ends, by timeline, with what does not count yet.
    pub ends: Vec<(TimelineId, Lsn)>,
    /// The timeline history that the archive holds for the database's timeline: ancestors as in [`Path`].
    pub ancestors: Option<Vec<(TimelineId, Lsn)>>,
}

/// Why a new lineage starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The protection knows none.
    First,
    /// The archive does not hold the one that the protection knows.
    NotInArchive(LineageId),
    /// The database is another cluster.
    OtherCluster {
        /// In the archive.
        archived: SystemIdentifier,
        /// Of the database.
        found: SystemIdentifier,
    },
    /// The archive is ahead of the database: the database was set back.
    SetBack {
        /// The timeline.
        timeline: TimelineId,
        /// Where the archive ends on it.
        archived: Lsn,
        /// Where the database ends on it.
        found: Lsn,
    },
    /// The archive knows a timeline that came after the database's.
    OldTimeline {
        /// The newest in the archive.
        archived: TimelineId,
        /// Of the database.
        found: TimelineId,
    },
    /// The database's timeline has another history than the archive's timeline of the same number.
    OtherHistory(TimelineId),
    /// A segment of the same name has other content.
    Conflict(String),
    /// The archive holds so many of this cluster, and the protection knows none of them.
    Several(usize),
    /// The archive goes on where the database left that timeline: the original may still be at work.
    LeftBehind {
        /// The timeline that was left.
        timeline: TimelineId,
        /// Where the archive ends on it.
        archived: Lsn,
        /// Where the database left it.
        left: Lsn,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the first of this protection"),
            Self::NotInArchive(lineage) => {
                write!(f, "the archive does not hold lineage {lineage}")
            }
            Self::OtherCluster { archived, found } => write!(
                f,
                "the database is another cluster: system identifier {found}, the archive has {archived}"
            ),
            Self::SetBack {
                timeline,
                archived,
                found,
            } => write!(
                f,
                "the database was set back: it ends at {found} on timeline {timeline}, the archive at {archived}"
            ),
            Self::OldTimeline { archived, found } => write!(
                f,
                "the database is on timeline {found}, the archive already has timeline {archived}"
            ),
            Self::OtherHistory(timeline) => write!(
                f,
                "timeline {timeline} of the database has another history than the archive's"
            ),
            Self::Conflict(what) => f.write_str(what),
            Self::Several(count) => write!(
                f,
                "the archive holds {count} lineages of this cluster, and none is known to be this protection's"
            ),
            Self::LeftBehind {
                timeline,
                archived,
                left,
            } => write!(
                f,
                "the database left timeline {timeline} at {left}, and the archive goes on there to {archived}: it may be a copy of one that still runs"
            ),
        }
    }
}

/// Two histories must never share a lineage, and none is refused for ever: what does not continue starts anew.
///
/// # Errors
/// Why a new lineage starts.
pub fn continues(database: &Database, archived: &Archived) -> Result<(), Why> {
    let Path {
        timeline,
        ancestors,
    } = &database.path;
    if archived.system_identifier != database.system_identifier {
        return Err(Why::OtherCluster {
            archived: archived.system_identifier,
            found: database.system_identifier,
        });
    }
    if archived
        .ancestors
        .as_ref()
        .is_some_and(|theirs| theirs != ancestors)
    {
        return Err(Why::OtherHistory(*timeline));
    }
    let newest = archived.ends.iter().map(|(id, _)| *id).max();
    if let Some(newest) = newest.filter(|newest| newest > timeline) {
        return Err(Why::OldTimeline {
            archived: newest,
            found: *timeline,
        });
    }
    let same = archived.ends.iter().find(|(id, _)| id == timeline);
    match same {
        Some((_, end)) if *end > database.flushed => Err(Why::SetBack {
            timeline: *timeline,
            archived: *end,
            found: database.flushed,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Whether a database whose protection knows no lineage may take one that is there: it must go on with it, and be no copy
/// of the one that wrote it. What that wrote behind the fork may be what a failover lost; only who knows the lineage can say.
///
/// # Errors
/// Why a new lineage starts.
pub fn adopts(database: &Database, archived: &Archived) -> Result<(), Why> {
    continues(database, archived)?;
    let ours = |(timeline, _): &(TimelineId, Lsn)| *timeline == database.path.timeline;
    // What came of older forks is decided where the newest timeline is this database's.
    if archived.ends.iter().any(ours) {
        return Ok(());
    }
    for (timeline, end) in &archived.ends {
        let mut ancestors = database.path.ancestors.iter();
        match ancestors.find(|(ancestor, _)| ancestor == timeline) {
            None => return Err(Why::OtherHistory(*timeline)),
            Some((_, left)) if left < end => {
                return Err(Why::LeftBehind {
                    timeline: *timeline,
                    archived: *end,
                    left: *left,
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SystemIdentifier = SystemIdentifier::new(7_391_000_000_000_000_001);
    const OTHER: SystemIdentifier = SystemIdentifier::new(7_391_000_000_000_000_002);

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn database(id: u32, ancestors: &[(u32, u64)], flushed: u64) -> Database {
        let ancestors = ancestors
            .iter()
            .map(|(id, lsn)| (timeline(*id), Lsn::new(*lsn)));
        Database {
            system_identifier: ONE,
            path: Path {
                timeline: timeline(id),
                ancestors: ancestors.collect(),
            },
            flushed: Lsn::new(flushed),
        }
    }

    fn archived(ends: &[(u32, u64)]) -> Archived {
        Archived {
            system_identifier: ONE,
            ends: ends
                .iter()
                .map(|(id, lsn)| (timeline(*id), Lsn::new(*lsn)))
                .collect(),
            ancestors: None,
        }
    }

    #[test]
    fn a_history_that_goes_on_keeps_its_lineage() {
        for (name, database, archived) in [
            ("an empty archive", database(1, &[], 100), archived(&[])),
            ("further on", database(1, &[], 100), archived(&[(1, 90)])),
            (
                "exactly there",
                database(1, &[], 100),
                archived(&[(1, 100)]),
            ),
            (
                "a new timeline",
                database(2, &[(1, 80)], 100),
                archived(&[(1, 80)]),
            ),
            // The old primary had shipped what the standby never got.
            (
                "a failover that lost WAL",
                database(2, &[(1, 80)], 85),
                archived(&[(1, 90)]),
            ),
        ] {
            assert_eq!(continues(&database, &archived), Ok(()), "{name}");
        }
    }

    #[test]
    fn another_history_starts_a_lineage() {
        let other = Archived {
            system_identifier: OTHER,
            ..archived(&[])
        };
        let forked = Archived {
            ancestors: Some(vec![(timeline(1), Lsn::new(70))]),
            ..archived(&[(2, 90)])
        };
        for (name, database, archived) in [
            ("another cluster", database(1, &[], 100), other),
            ("set back", database(1, &[], 80), archived(&[(1, 90)])),
            (
                "an old primary",
                database(1, &[], 100),
                archived(&[(1, 80), (2, 90)]),
            ),
            (
                "another fork of the same number",
                database(2, &[(1, 80)], 100),
                forked,
            ),
        ] {
            assert!(continues(&database, &archived).is_err(), "{name}");
        }
    }

    #[test]
    fn a_copy_does_not_take_the_originals_lineage() {
        for (name, database, archived, taken) in [
            (
                "nothing is there",
                database(1, &[], 100),
                archived(&[]),
                true,
            ),
            (
                "further on",
                database(1, &[], 100),
                archived(&[(1, 90)]),
                true,
            ),
            (
                "promoted at the end",
                database(2, &[(1, 80)], 100),
                archived(&[(1, 80)]),
                true,
            ),
            (
                "a copy, and the original went on",
                database(2, &[(1, 80)], 100),
                archived(&[(1, 81)]),
                false,
            ),
            (
                "a sibling",
                database(3, &[(1, 80)], 100),
                archived(&[(1, 80), (2, 90)]),
                false,
            ),
            (
                "set back",
                database(1, &[], 80),
                archived(&[(1, 90)]),
                false,
            ),
        ] {
            assert_eq!(adopts(&database, &archived).is_ok(), taken, "{name}");
        }
    }
}
