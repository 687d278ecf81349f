//! What a completed backup is proved by. Pure.

use super::{
    attempt::{Running, Seen, Session},
    group::GroupSeen,
};
use crate::{
    api::VolumeStatus,
    csi::{Cut, DeletionPolicy, Reading},
};

/// Each thing that must have been observed of one attempt; `None` is not observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proofs {
    /// `pg_backup_start` returned in this attempt.
    pub session: Option<()>,
    /// Every cut was read and written down before the stop was sent.
    pub cuts: Option<()>,
    /// `pg_backup_stop` returned in the same session.
    pub stop: Option<()>,
    /// The archive has every byte from start to stop.
    pub archived: Option<()>,
    /// Every snapshot is ready, and is the one that was written down.
    pub ready: Option<Vec<Cut>>,
    /// The archive has the manifest.
    pub catalogued: Option<()>,
    /// Every content was read with deletion policy Retain.
    pub retained: Option<()>,
}

impl Proofs {
    /// What this observation proves.
    pub fn of(running: &Running) -> Self {
        let Running {
            set,
            seen,
            group,
            agent,
            cut_since,
            // It counts before a snapshot is made.
            replaced: _,
        } = running;
        let holds = |it: bool| it.then_some(());
        let stopped = agent.stopped_since.is_some();
        Self {
            session: holds(stopped || matches!(agent.session, Session::Open { .. })),
            cuts: holds(cut_since.is_some()),
            stop: holds(stopped),
            archived: holds(agent.archived),
            ready: set
                .members()
                .iter()
                .zip(seen)
                .map(|(member, seen)| ready(member, seen).filter(|_| running.is_whole()))
                .collect(),
            catalogued: holds(agent.catalogued),
            retained: holds(
                seen.iter().all(is_retained) && group.as_ref().is_none_or(is_group_retained),
            ),
        }
    }
}

/// The snapshot, if it is ready and the very one that was written down at the cut.
fn ready(member: &VolumeStatus, seen: &Seen) -> Option<Cut> {
    let Seen::There(there) = seen else {
        return None;
    };
    let Reading::Ready(cut) = &there.reading else {
        return None;
    };
    let same = member.volume_snapshot_uid.as_ref() == Some(&there.uid)
        && member.content.as_ref() == Some(&cut.content)
        && member.handle.as_ref() == Some(&cut.handle);
    same.then(|| cut.clone())
}

fn is_retained(seen: &Seen) -> bool {
    matches!(seen, Seen::There(there)
        if there.content.as_ref().is_some_and(|content| content.policy == DeletionPolicy::Retain))
}

fn is_group_retained(seen: &GroupSeen) -> bool {
    seen.content()
        .is_some_and(|content| content.policy == DeletionPolicy::Retain)
}

/// Everything was observed: only this makes a backup complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    ready: Vec<Cut>,
}

impl Evidence {
    /// `None` until every proof is there; nothing is inferred.
    pub fn collect(proofs: &Proofs) -> Option<Self> {
        let Proofs {
            session,
            cuts,
            stop,
            archived,
            ready,
            catalogued,
            retained,
        } = proofs.clone();
        session
            .and(cuts)
            .and(stop)
            .and(archived)
            .and(catalogued)
            .and(retained)?;
        Some(Self {
            ready: ready.filter(|cuts| !cuts.is_empty())?,
        })
    }

    /// How many snapshots it is about.
    pub fn snapshots(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::backup::{model::base::proved, observe::Observed};

    type Clear = fn(&mut Proofs);
    type Change = fn(&mut Observed);
    type IsMissing = fn(&Proofs) -> bool;

    fn proofs(observed: &Observed) -> Proofs {
        let Observed {
            backup,
            snapshots,
            contents,
            groups,
            ..
        } = observed;
        Proofs::of(&Running::read(backup, snapshots, contents, groups).unwrap())
    }

    #[test]
    fn each_proof_is_needed() {
        let complete = proofs(&proved());
        let evidence = Evidence::collect(&complete).expect("everything is proved");
        assert_eq!(evidence.snapshots(), 2);
        let without: [(&str, Clear); 8] = [
            ("session", |p| p.session = None),
            ("cuts", |p| p.cuts = None),
            ("stop", |p| p.stop = None),
            ("archived", |p| p.archived = None),
            ("ready", |p| p.ready = None),
            ("a snapshot", |p| p.ready = Some(Vec::new())),
            ("catalogued", |p| p.catalogued = None),
            ("retained", |p| p.retained = None),
        ];
        for (what, clear) in without {
            let mut proofs = complete.clone();
            clear(&mut proofs);
            assert_eq!(Evidence::collect(&proofs), None, "without {what}");
        }
    }

    #[test]
    fn what_is_not_observed_is_not_proved() {
        let unobserved: [(&str, Change, IsMissing); 4] = [
            (
                "a snapshot is not ready",
                |o| {
                    let status = o.contents[1].status.as_mut().unwrap();
                    status.ready_to_use = Some(false);
                },
                |p| p.ready.is_none(),
            ),
            (
                "a content goes with its snapshot",
                |o| o.contents[1].spec.deletion_policy = DeletionPolicy::Delete,
                |p| p.retained.is_none(),
            ),
            (
                "the manifest has no key",
                |o| o.backup.status.as_mut().unwrap().catalog = None,
                |p| p.catalogued.is_none(),
            ),
            (
                "the agent speaks of another attempt",
                |o| {
                    let status = o.backup.status.as_mut().unwrap();
                    status.session.as_mut().unwrap().attempt = 2;
                },
                |p| p.session.is_none() && p.stop.is_none() && p.archived.is_none(),
            ),
        ];
        for (what, change, is_missing) in unobserved {
            let mut observed = proved();
            change(&mut observed);
            let proofs = proofs(&observed);
            assert!(is_missing(&proofs), "{what}: {proofs:?}");
            assert_eq!(Evidence::collect(&proofs), None, "{what}");
        }
    }
}
