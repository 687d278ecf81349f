//! What the API server answers to a write is read like anything else: the pass that has its contents retained completes the
//! backup. Pure.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    observe::Observed,
    plan::{Plan, State, Step, plan},
    validate::validate,
};
use crate::csi::VolumeSnapshotContent;

/// What is known, and to be done, with `contents` as they are after the write; as before, where that completes nothing.
pub fn go_on(
    (observed, state, before): (Observed, State, Plan),
    contents: &[VolumeSnapshotContent],
    now: Timestamp,
) -> (Observed, State, Plan) {
    if contents.is_empty() {
        return (observed, state, before);
    }
    let mut newer = observed.clone();
    for known in &mut newer.contents {
        if let Some(content) = contents.iter().find(|it| it.uid() == known.uid()) {
            known.clone_from(content);
        }
    }
    let later = validate(&newer, now);
    let after = plan(&later, now);
    match after.step {
        Step::Complete(_) => (newer, later, after),
        Step::AddFinalizer
        | Step::Hold(_)
        | Step::Accept(_)
        | Step::CreateSnapshots(_)
        | Step::LabelClaims(_)
        | Step::CreateGroup(_)
        | Step::Await { .. }
        | Step::Retain(_)
        | Step::RetainGroup(_)
        | Step::Abandon(_)
        | Step::Fail(_)
        | Step::Discard
        | Step::Release
        | Step::Done => (observed, state, before),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::{controller::backup::model::base::proved, csi::DeletionPolicy};

    fn now() -> Timestamp {
        "2026-01-01T00:03:00Z".parse().unwrap()
    }

    /// Neither content is retained yet.
    fn deletable() -> (Observed, State, Plan) {
        let mut observed = proved();
        for content in &mut observed.contents {
            content.spec.deletion_policy = DeletionPolicy::Delete;
        }
        let state = validate(&observed, now());
        let plan = plan(&state, now());
        (observed, state, plan)
    }

    #[test]
    fn it_is_completed_only_by_contents_that_came_back_retained() {
        let retained = proved().contents;
        let step = |contents: &[VolumeSnapshotContent]| go_on(deletable(), contents, now()).2.step;
        assert!(matches!(step(&[]), Step::Retain(_)), "none came back");
        assert!(matches!(step(&retained[..1]), Step::Retain(_)), "one did");
        assert!(matches!(step(&retained), Step::Complete(_)));
        let mut other = retained.clone();
        other[1].metadata.uid = Some("another".to_owned());
        assert!(matches!(step(&other), Step::Retain(_)), "another one did");
        let mut going = retained.clone();
        going[0].metadata.deletion_timestamp = Some(Time(now()));
        assert!(matches!(step(&going), Step::Retain(_)), "it goes");
        let mut changed = retained;
        changed[0].status.as_mut().unwrap().ready_to_use = Some(false);
        assert!(matches!(step(&changed), Step::Retain(_)), "not ready");
    }
}
