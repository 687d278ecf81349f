//! Timeline histories: whether they parse, agree with each other, and leave their parents where WAL is.

use std::collections::BTreeMap;

use super::super::{Lineage, ReadError};
use super::{
    Problem, Run,
    index::trouble,
    inventory::Inventory,
    objects::{Outcome, read_file},
};
use crate::postgres::{Lsn, TimelineHistory, TimelineId};

/// Of WAL.
const PAGE: u64 = 8192;

/// Reads all history files.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn read(
    lineage: &Lineage,
    inventory: &Inventory,
    run: &Run,
) -> Result<BTreeMap<TimelineId, TimelineHistory>, ReadError> {
    let mut histories = BTreeMap::new();
    for (timeline, object) in &inventory.histories {
        let key = &object.location;
        let content = match read_file(lineage, object, run).await? {
            Outcome::Sound(content) => content,
            other => {
                run.find(Problem::HistoryDamaged, key, trouble(other));
                continue;
            }
        };
        let text = String::from_utf8_lossy(&content.plain);
        match TimelineHistory::parse(*timeline, &text) {
            Ok(history) => drop(histories.insert(*timeline, history)),
            Err(error) => run.find(Problem::HistoryDamaged, key, error.to_string()),
        }
    }
    Ok(histories)
}

/// What the histories say against each other: one that descends from another must repeat it.
pub(super) fn contradictions(
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<(TimelineId, String)> {
    let mut found = Vec::new();
    for (timeline, history) in histories {
        let entries = history.entries();
        let Some((parent, before)) = entries.split_last() else {
            continue;
        };
        let Some(older) = histories.get(&parent.timeline) else {
            continue;
        };
        if older.entries() != before {
            let what = format!(
                "it says another way to timeline {} than that timeline's own history",
                parent.timeline
            );
            found.push((*timeline, what));
        }
    }
    found
}

/// Whether the history of a timeline says what its WAL says of where it began.
pub(super) fn fork_trouble(
    history: &TimelineHistory,
    found: Option<(TimelineId, Lsn)>,
) -> Option<String> {
    let parent = history.parent()?;
    let (timeline, at) = found?;
    // A record that was lost in a crash is given up at a page's begin, behind the last whole one.
    let given_up = at < parent.switch_lsn && parent.switch_lsn.get().is_multiple_of(PAGE);
    let same = timeline == parent.timeline && (at == parent.switch_lsn || given_up);
    (!same).then(|| {
        format!(
            "its history says that it left timeline {} at {}, its WAL that it left timeline {timeline} at {at}",
            parent.timeline, parent.switch_lsn
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::examples::*;

    fn history(tli: u32, ancestors: &[(u32, f64)]) -> TimelineHistory {
        let contents = with_history(empty(), tli, ancestors);
        contents.histories[&timeline(tli)].clone()
    }

    #[test]
    fn who_descends_repeats_what_came_before() {
        let two = history(2, &[(1, 4.5)]);
        for (three, contradicts) in [
            (history(3, &[(1, 4.5), (2, 6.25)]), false),
            (history(3, &[(1, 4.25), (2, 6.25)]), true),
            (history(3, &[(2, 6.25)]), true),
            // Of another branch: timeline 2 is not on its way.
            (history(3, &[(1, 5.5)]), false),
        ] {
            let all = [two.clone(), three.clone()].map(|history| (history.timeline(), history));
            let found = contradictions(&BTreeMap::from(all));
            assert_eq!(!found.is_empty(), contradicts, "{three:?}");
        }
    }

    #[test]
    fn the_wal_says_where_it_left() {
        let two = history(2, &[(1, 4.5)]);
        for (found, wrong) in [
            (None, false),
            (Some((timeline(1), lsn(4.5))), false),
            (Some((timeline(1), lsn(4.4))), false),
            (Some((timeline(1), lsn(4.6))), true),
            (Some((timeline(3), lsn(4.5))), true),
        ] {
            assert_eq!(fork_trouble(&two, found).is_some(), wrong, "{found:?}");
        }
        // Behind the last record only a page's begin is a place to give a record up.
        let within = history(2, &[(1, 4.5 + 1.0 / 1024.0)]);
        assert!(fork_trouble(&within, Some((timeline(1), lsn(4.5)))).is_some());
    }
}
