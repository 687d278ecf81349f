//! What the last pass over a protection has read, for passes that only a backup calls for: nothing else has changed since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::observe::Observed;
use crate::api::PgProtection;

/// By protection.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<ObjectRef<PgProtection>, Known>>);

#[derive(Default)]
struct Known {
    /// Counts what has made earlier reads old.
    changes: u64,
    /// What was read, and until when it counts.
    observed: Option<(Observed, Timestamp)>,
}

impl Memory {
    /// Something that passes read has changed, or may have.
    pub fn changed(&self, about: &ObjectRef<PgProtection>) {
        let mut all = self.lock();
        let known = all.entry(about.clone()).or_default();
        known.changes += 1;
        known.observed = None;
    }

    /// To be asked before anything is read.
    pub fn changes(&self, about: &ObjectRef<PgProtection>) -> u64 {
        self.lock().get(about).map_or(0, |known| known.changes)
    }

    /// Keeps what was read since `changes` was asked for, unless something has changed meanwhile.
    pub fn keep(
        &self,
        about: &ObjectRef<PgProtection>,
        changes: u64,
        observed: Observed,
        until: Timestamp,
    ) {
        let mut all = self.lock();
        let known = all.entry(about.clone()).or_default();
        if known.changes == changes {
            known.observed = Some((observed, until));
        }
    }

    /// What was read, and until when it counts, if it does at `now`.
    pub fn recall(
        &self,
        about: &ObjectRef<PgProtection>,
        now: Timestamp,
    ) -> Option<(Observed, Timestamp)> {
        let all = self.lock();
        let kept = all.get(about)?.observed.clone();
        kept.filter(|(_, until)| now < *until)
    }

    /// The protection is gone.
    pub fn forget(&self, about: &ObjectRef<PgProtection>) {
        self.lock().remove(about);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef<PgProtection>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan_tests::observed, *};

    #[test]
    fn what_was_read_counts_until_something_changes() {
        let memory = Memory::default();
        let about = ObjectRef::new("orders").within("shop");
        let at = |second| Timestamp::from_second(second).unwrap();
        let counts = |second| memory.recall(&about, at(second)).is_some();
        memory.keep(&about, memory.changes(&about), observed(), at(300));
        assert!(counts(299) && !counts(300));
        memory.changed(&about);
        assert!(!counts(0));

        let before = memory.changes(&about);
        memory.changed(&about);
        memory.keep(&about, before, observed(), at(300));
        assert!(!counts(0), "it changed while it was read");
        memory.keep(&about, memory.changes(&about), observed(), at(300));
        assert!(counts(0));
        memory.forget(&about);
        assert!(!counts(0));
    }
}
