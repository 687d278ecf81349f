//! How much a pass reads for itself. What the watches have told says whether there is anything to do; what cannot be taken
//! back is decided by what was read for it. Pure.

use super::plan::{Plan, Step};

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
    /// What this plan must rest on before it is carried out.
    pub fn needs(&self) -> Depth {
        if !self.sweep.is_empty() {
            return Depth::Everything;
        }
        let beside = match self.make_deletable.is_empty() {
            true => Depth::Told,
            false => Depth::Snapshots,
        };
        beside.max(self.step.needs())
    }
}

impl Step {
    fn needs(&self) -> Depth {
        match self {
            Self::Hold(rejection) if rejection.is_queue() => Depth::Told,
            // Waiting writes down what was seen, and what was seen cut stays cut.
            Self::AddFinalizer | Self::Await { .. } | Self::Done => Depth::Told,
            // Names are known beforehand: what is there and was not told of is found when it is made, and is ours or is not.
            Self::CreateSnapshots(_) => Depth::Backup,
            Self::Retain(_) | Self::Complete(_) => Depth::Snapshots,
            Self::LabelClaims(_)
            | Self::CreateGroup(_)
            | Self::RetainGroup(_)
            | Self::Hold(_)
            | Self::Accept(_)
            | Self::Abandon(_)
            | Self::Fail(_)
            | Self::Release => Depth::Everything,
        }
    }
}
