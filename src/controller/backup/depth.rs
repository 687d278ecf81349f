//! How much a pass reads for itself. What the watches have told says whether there is anything to do; what cannot be taken
//! back is decided by what was read for it. Pure.

use super::plan::{Plan, Step};

/// What a decision rests on, from what costs nothing to what is known best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Watches alone, which may be late. A status that is applied over a newer one is refused by the API server.
    Told,
    /// The backup and its snapshots are read; protection and policy are as they were told.
    Snapshots,
    /// Everything is read.
    Everything,
}

impl Plan {
    /// What this plan must rest on before it is carried out.
    pub fn needs(&self) -> Depth {
        if !self.make_deletable.is_empty() || !self.sweep.is_empty() {
            return Depth::Everything;
        }
        match &self.step {
            Step::Hold(rejection) if rejection.is_queue() => Depth::Told,
            // Waiting writes down what was seen, and what was seen cut stays cut.
            Step::AddFinalizer | Step::Await { .. } | Step::Done => Depth::Told,
            Step::CreateSnapshots(_) | Step::Retain(_) | Step::Complete(_) => Depth::Snapshots,
            Step::LabelClaims(_)
            | Step::CreateGroup(_)
            | Step::RetainGroup(_)
            | Step::Hold(_)
            | Step::Accept(_)
            | Step::Abandon(_)
            | Step::Fail(_)
            | Step::Release => Depth::Everything,
        }
    }
}
