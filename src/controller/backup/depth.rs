//! How much a pass reads for itself. What the watches have told says whether there is anything to do; what cannot be taken
//! back is decided by what was read for it. Pure.

use super::plan::{Plan, Step};
use crate::api::{
    PgBackup,
    conditions::{self, CREATE_FAILED, CUT},
};

/// What a decision rests on, from what costs nothing to what is known best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Watches alone, which may be late. A status that is applied over a newer one is refused by the API server.
    Told,
    /// The backup is read; its snapshots, protection and policy are as they were told.
    Backup,
    /// The backup and its snapshots are read; protection and policy are as they were told.
    Snapshots,
    /// Everything is read.
    Everything,
}

impl Plan {
    /// What this plan for `backup` must rest on before it is carried out.
    pub fn needs(&self, backup: &PgBackup) -> Depth {
        if !self.sweep.is_empty() {
            return Depth::Everything;
        }
        let beside = match self.make_deletable.is_empty() {
            true => Depth::Told,
            false => Depth::Snapshots,
        };
        beside.max(self.step.needs(backup))
    }
}

impl Step {
    fn needs(&self, backup: &PgBackup) -> Depth {
        match self {
            Self::Hold(rejection) if rejection.is_queue() => Depth::Told,
            // Waiting writes down what was seen, and what was seen cut stays cut.
            Self::AddFinalizer | Self::Await { .. } | Self::Done => Depth::Told,
            // Names are known beforehand: what is there and was not told of is found when it is made, and is ours or is not.
            Self::CreateSnapshots(_) if !could_not_create(backup) => Depth::Backup,
            // Why not is looked at: somebody else's object of the name, which no watch of ours tells, voids the attempt.
            Self::CreateSnapshots(_) => Depth::Snapshots,
            Self::Retain(_) | Self::Complete(_) => Depth::Snapshots,
            Self::LabelClaims(_)
            | Self::CreateGroup(_)
            | Self::RetainGroup(_)
            | Self::Hold(_)
            | Self::Accept(_)
            | Self::Abandon(_)
            | Self::Fail(_)
            | Self::Discard
            | Self::Release => Depth::Everything,
        }
    }
}

fn could_not_create(backup: &PgBackup) -> bool {
    let status = backup.status.as_ref();
    let cut = status.and_then(|status| conditions::find(&status.conditions, CUT));
    cut.is_some_and(|cut| cut.reason == CREATE_FAILED)
}
