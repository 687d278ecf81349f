//! Drills by the clock: when one is made, left out, and forgotten. Pure.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{observe::Observed, plan::Step, schedule};
use crate::api::{PgRestore, conditions, names};

/// So many that have ended are kept.
const KEPT: usize = 3;

/// A PgRestore that the policy's `verify` asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether `Completed` is decided.
    pub over: bool,
}

impl DrillSeen {
    /// What matters of it here.
    pub fn of(restore: &PgRestore) -> Self {
        let status = restore.status.as_ref();
        let is_over = |list: &[_]| {
            conditions::is_true(list, conditions::COMPLETED)
                || conditions::is_false(list, conditions::COMPLETED)
        };
        Self {
            name: restore.name_any(),
            uid: restore.uid().unwrap_or_default(),
            over: status.is_some_and(|status| is_over(&status.conditions)),
        }
    }
}

/// What to do next about drills.
pub fn next(observed: &Observed, now: Timestamp) -> Option<Step> {
    stale(observed).or_else(|| due(observed, now))
}

/// The oldest of those that ended, where there are more than are kept. Their names hold the time.
fn stale(observed: &Observed) -> Option<Step> {
    let mut over: Vec<_> = observed.drills.iter().filter(|drill| drill.over).collect();
    over.sort_by(|a, b| a.name.cmp(&b.name));
    let oldest = over.first().filter(|_| over.len() > KEPT)?;
    Some(Step::DeleteDrill {
        name: oldest.name.clone(),
        uid: oldest.uid.clone(),
    })
}

/// One at a time; and none before there is a backup, or while nobody is there to plan it.
fn due(observed: &Observed, now: Timestamp) -> Option<Step> {
    let due = schedule::drills(observed, now)?.ok()?.due()?;
    let name = names::scheduled_drill(&observed.protection.name_any(), due);
    let mut others = observed.drills.iter().filter(|drill| drill.name != name);
    if let Some(other) = others.find(|drill| !drill.over) {
        let under_way = other.name.clone();
        return Some(Step::SkipDrill { due, under_way });
    }
    let status = observed.protection.status.as_ref()?;
    (status.last_backup.is_some() && observed.agent.running).then_some(Step::Drill { name })
}
