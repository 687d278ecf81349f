//! Whether a target that one history of a database does not have may be looked for in an older one.

use super::Refusal;
use crate::{api::RestoreTarget, archive::Contents};

/// Whether an older lineage may be tried, where the one with `contents` refused `target`. Only a time or a name says by itself
/// which history is meant; and what lies in this one, or may, is never restored from another, which may have its namesake.
pub fn tries_older(target: Option<&RestoreTarget>, refusal: &Refusal, contents: &Contents) -> bool {
    let Some(target) = target.filter(|target| target.time.is_some() || target.name.is_some())
    else {
        return false;
    };
    let mut points = contents.restore_points.iter();
    let may_have_it = target.name.as_ref().is_some_and(|name| {
        points.any(|(_, point)| point.name == *name) || contents.unsearched().is_some()
    });
    let is_elsewhere = match refusal {
        Refusal::NoBackup { .. }
        | Refusal::BackupUnusable { .. }
        | Refusal::HistoryMissing { .. }
        | Refusal::BeforeWindow { .. }
        | Refusal::TimelineUnknown { .. }
        | Refusal::RestorePointNotFound { .. } => true,
        // This history it is, and it cannot be had.
        Refusal::AfterWindow { .. }
        | Refusal::Gap { .. }
        | Refusal::TransactionNotFound { .. }
        | Refusal::TargetAmbiguous { .. }
        | Refusal::KeyMissing { .. } => false,
    };
    is_elsewhere && !may_have_it
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        archive::{Request, RestorePoint, examples::*, plan::plan},
        postgres::TimelineId,
    };

    /// Segments 2 to 9; a backup from 4.1 to 4.5; restore points before it, twice behind it, and on another branch.
    fn current() -> Contents {
        let contents = with_backup(with_segments(empty(), 1, 2..10), "b", 1, 4.1, 4.5);
        let mut contents = with_history(with_segments(contents, 2, 8..9), 2, &[(1, 8.5)]);
        for (tli, name, end) in [
            (1, "early", 3.0),
            (1, "twice", 6.0),
            (1, "twice", 7.0),
            (1, "dead", 9.0),
            (2, "once", 8.75),
        ] {
            let point = RestorePoint {
                name: name.to_owned(),
                lsn: lsn(end),
                at: at(end),
            };
            let timeline: TimelineId = timeline(tli);
            contents.restore_points.push((timeline, point));
        }
        contents
    }

    fn tries(contents: &Contents, target: serde_json::Value) -> bool {
        let request = Request {
            backup: None,
            target: Some(serde_json::from_value(target).unwrap()),
            archive: "archive".into(),
            archive_name: "orders".into(),
            can_decrypt: false,
            ended: Vec::new(),
        };
        let refusal = plan(&request, contents).unwrap_err();
        tries_older(request.target.as_ref(), &refusal, contents)
    }

    #[test]
    fn what_this_history_has_is_not_looked_for_in_an_older_one() {
        let contents = current();
        for (target, older) in [
            (json!({"name": "unknown"}), true),
            (json!({"name": "twice"}), false),
            (json!({"name": "early"}), false),
            (json!({"name": "dead"}), false),
            (json!({"time": at(1.0)}), true),
            (json!({"time": at(99.0)}), false),
            (json!({"lsn": lsn(1.0)}), false),
            (json!({"xid": 1000}), false),
            (json!({"time": at(5.0), "timeline": 7}), true),
        ] {
            assert_eq!(tries(&contents, target.clone()), older, "{target}");
        }
        let mut holed = current();
        holed.segments.remove(&segment(1, 6));
        assert!(!tries(&holed, json!({"name": "once"})), "behind a gap");
        assert!(!tries(&holed, json!({"time": at(8.0)})), "behind a gap");
    }

    #[test]
    fn without_a_backup_an_older_history_may_have_it() {
        let mut contents = current();
        contents.backups.clear();
        assert!(tries(&contents, json!({"time": at(6.0)})));
        assert!(tries(&contents, json!({"name": "unknown"})));
        assert!(!tries(&contents, json!({"name": "twice"})));
    }

    #[test]
    fn a_name_that_wal_may_hold_which_nobody_can_read_is_not_looked_for_elsewhere() {
        let mut contents = with_tail(current(), 2, 9.5, None);
        assert!(tries(&contents, json!({"name": "unknown"})));
        contents.tails.get_mut(&segment(2, 9)).unwrap().encrypted = true;
        assert!(!tries(&contents, json!({"name": "unknown"})));
        assert!(tries(&contents, json!({"time": at(1.0)})));
    }
}
