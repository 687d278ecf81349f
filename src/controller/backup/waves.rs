//! In which order the snapshots of an attempt are made. Pure.
//!
//! A copy of a standby is whole where its pg_control says that replay must reach at least, and PostgreSQL cannot tell whether
//! that was copied last: a page of another volume that was cut later may be of later. So the volume with pg_control waits
//! until the cut of every other one is written down. On a primary the order says nothing.

use super::attempt::{Recorded, SnapshotSet};
use crate::api::{ReleaseAt, VolumeStatus};

impl SnapshotSet<Recorded> {
    /// Whether the snapshot of `member` may be made, by what is written down of the others.
    pub fn is_due(&self, member: &VolumeStatus) -> bool {
        let Some(standby) = &self.attempt().standby else {
            return true;
        };
        if member.claim != standby.control_claim {
            return true;
        }
        let mut others = self.members().iter().filter(|it| it.claim != member.claim);
        others.all(|other| self.is_cut(other))
    }

    /// Whether it is written down that the member is cut, as the policy wants it.
    fn is_cut(&self, member: &VolumeStatus) -> bool {
        let cut = member.cut_at.is_some() && member.handle.is_some();
        match self.attempt().release_at {
            ReleaseAt::Cut => cut,
            ReleaseAt::Ready => cut && member.ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::backup::model::base::proved;

    fn set(
        standby: bool,
        release_at: ReleaseAt,
        edit: fn(&mut VolumeStatus),
    ) -> SnapshotSet<Recorded> {
        let mut status = proved().backup.status.unwrap();
        let volumes = &mut status.volumes;
        for volume in volumes.iter_mut() {
            (volume.cut_at, volume.handle, volume.ready) = (None, None, false);
        }
        let last = volumes.last_mut().unwrap();
        edit(last);
        let attempt = status.attempt.as_mut().unwrap();
        attempt.release_at = release_at;
        if standby {
            let control_claim = volumes[0].claim.clone();
            attempt.standby = Some(crate::api::StandbyAttempt { control_claim });
        }
        SnapshotSet::read_back(&status).unwrap()
    }

    fn cut(volume: &mut VolumeStatus) {
        let now = jiff::Timestamp::UNIX_EPOCH;
        volume.cut_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
            now,
        ));
        volume.handle = Some("handle".to_owned());
    }

    fn ready(volume: &mut VolumeStatus) {
        cut(volume);
        volume.ready = true;
    }

    #[test]
    fn pg_control_of_a_standby_comes_last() {
        let due = |set: &SnapshotSet<Recorded>| -> Vec<bool> {
            set.members().iter().map(|it| set.is_due(it)).collect()
        };
        type Case = (&'static str, bool, ReleaseAt, fn(&mut VolumeStatus), bool);
        let cases: [Case; 6] = [
            ("of a primary", false, ReleaseAt::Cut, |_| {}, true),
            ("nothing is cut", true, ReleaseAt::Cut, |_| {}, false),
            (
                "the other is made",
                true,
                ReleaseAt::Cut,
                |it| it.volume_snapshot_uid = Some("u".into()),
                false,
            ),
            ("the other is cut", true, ReleaseAt::Cut, cut, true),
            ("cut, and not ready", true, ReleaseAt::Ready, cut, false),
            ("ready", true, ReleaseAt::Ready, ready, true),
        ];
        for (what, standby, release_at, edit, expected) in cases {
            let set = set(standby, release_at, edit);
            assert_eq!(due(&set), [expected, true], "{what}");
        }
    }
}
