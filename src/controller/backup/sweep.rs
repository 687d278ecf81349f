//! The janitor: what is left of void attempts, and the next removal of each. Pure.
//!
//! A VolumeSnapshot that failed may still be cut later, so it is deleted until it and its content are seen gone. The
//! content's policy comes first: with Retain the snapshot would outlive both, with nobody to know of it.

use kube::ResourceExt;

use super::{
    attempt::{Content, is_of},
    group::{GroupRemoval, attempt_of_member, is_member, is_member_content},
};
use crate::{
    api::{PgBackup, VolumeStatus, annotations, names},
    csi::{self, DeletionPolicy, VolumeSnapshot, VolumeSnapshotContent},
};

/// Which attempts are not void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None: the backup failed, waits for its next attempt, or is deleted.
    None,
    /// The running one, or the completed one.
    Attempt(u32),
}

/// The next thing to do about something that is left over.
#[derive(Clone, Debug, PartialEq)]
pub enum Removal {
    /// Make its content go with it.
    MakeDeletable {
        /// The content.
        content: Content,
        /// The attempt that it was made for.
        attempt: u32,
    },
    /// Delete the VolumeSnapshot.
    DeleteSnapshot {
        /// Its name.
        name: String,
        /// Its UID: another one of that name stays.
        uid: String,
    },
    /// Delete a content whose VolumeSnapshot is gone.
    DeleteContent(Content),
    /// Something about a group.
    Group(GroupRemoval),
    /// It is going; others have to finish.
    Going,
}

/// The next removals. Empty when nothing is left.
pub fn sweep(
    backup: &PgBackup,
    keep: Keep,
    snapshots: &[VolumeSnapshot],
    contents: &[VolumeSnapshotContent],
) -> Vec<Removal> {
    let void = |attempt: u32| match keep {
        Keep::None => true,
        Keep::Attempt(kept) => attempt != kept,
    };
    // Members of a group go with it.
    let left = |snapshot: &VolumeSnapshot| {
        if is_member(backup, snapshot) {
            return None;
        }
        let attempt = attempt_of(backup, snapshot).filter(|attempt| void(*attempt))?;
        Some(remove_snapshot(snapshot, attempt, contents))
    };
    let orphaned = |content: &VolumeSnapshotContent| {
        let of_group = is_member_content(&content);
        if of_group || snapshots.iter().any(|snapshot| refers(content, snapshot)) {
            return None;
        }
        let attempt = orphan_of(backup, content).filter(|attempt| void(*attempt))?;
        Some(remove_orphan(content, attempt))
    };
    let orphans = contents.iter().filter_map(orphaned);
    snapshots.iter().filter_map(left).chain(orphans).collect()
}

fn remove_snapshot(
    snapshot: &VolumeSnapshot,
    attempt: u32,
    contents: &[VolumeSnapshotContent],
) -> Removal {
    if let Some(content) = contents.iter().find(|content| refers(content, snapshot)) {
        let labelled = content.labels().contains_key(annotations::BACKUP_UID_LABEL);
        if content.spec.deletion_policy != DeletionPolicy::Delete || !labelled {
            let content = Content::of(content);
            return Removal::MakeDeletable { content, attempt };
        }
    }
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Removal::Going;
    }
    Removal::DeleteSnapshot {
        name: snapshot.name_any(),
        uid: snapshot.uid().unwrap_or_default(),
    }
}

fn remove_orphan(content: &VolumeSnapshotContent, attempt: u32) -> Removal {
    if content.spec.deletion_policy != DeletionPolicy::Delete {
        let content = Content::of(content);
        Removal::MakeDeletable { content, attempt }
    } else if content.metadata.deletion_timestamp.is_some() {
        Removal::Going
    } else {
        Removal::DeleteContent(Content::of(content))
    }
}

/// Whether the content was made for this snapshot. The snapshot need not point back yet, but the name must be the one
/// that it will point back to.
fn refers(content: &VolumeSnapshotContent, snapshot: &VolumeSnapshot) -> bool {
    let Some(uid) = snapshot.metadata.uid.as_deref() else {
        return false;
    };
    let reference = &content.spec.volume_snapshot_ref;
    let status = snapshot.status.as_ref();
    let bound = status.and_then(|status| status.bound_volume_snapshot_content_name.clone());
    reference.uid.as_deref() == Some(uid)
        && reference.namespace == snapshot.metadata.namespace
        && reference.name == snapshot.metadata.name
        && content.name_any() == bound.unwrap_or_else(|| csi::content_name(uid))
}

/// The attempt that a snapshot was made for, if by us: its UID is written down, or labels and name say so. The name
/// follows from UID, attempt and claim, so that copied labels alone do not get a foreign snapshot deleted.
pub fn attempt_of(backup: &PgBackup, snapshot: &VolumeSnapshot) -> Option<u32> {
    let recorded = recorded(backup, |volume| {
        volume.volume_snapshot_uid.is_some() && volume.volume_snapshot_uid == snapshot.metadata.uid
    });
    if recorded.is_some() {
        return recorded;
    }
    let attempt = snapshot
        .labels()
        .get(annotations::ATTEMPT_LABEL)?
        .parse()
        .ok()?;
    let claim = snapshot.spec.source.persistent_volume_claim_name.as_ref()?;
    let uid = backup.metadata.uid.as_ref()?;
    let name = names::volume_snapshot(&backup.name_any(), uid, attempt, claim);
    (is_of(snapshot, backup, attempt) && snapshot.name_any() == name).then_some(attempt)
}

/// The attempt that a content without its snapshot was made for: it is written down, our label is on it, or it was made
/// for a snapshot of one of our names, or for a member of our group. Somebody may have deleted that before its UID was written down or the label was
/// on: with a class that says Retain, nothing else tells of the content then.
pub fn orphan_of(backup: &PgBackup, content: &VolumeSnapshotContent) -> Option<u32> {
    let reference = &content.spec.volume_snapshot_ref;
    if reference.namespace != backup.metadata.namespace {
        return None;
    }
    let recorded = recorded(backup, |volume| {
        volume.volume_snapshot_uid.is_some() && volume.volume_snapshot_uid == reference.uid
    });
    recorded
        .or_else(|| labelled(backup, content))
        .or_else(|| named(backup, content))
        .or_else(|| attempt_of_member(backup, content))
}

/// By our label, which every content of a void attempt gets.
pub fn labelled(backup: &PgBackup, content: &VolumeSnapshotContent) -> Option<u32> {
    let labels = content.labels();
    let ours = backup.metadata.uid.is_some()
        && labels.get(annotations::BACKUP_UID_LABEL) == backup.metadata.uid.as_ref();
    let attempt = labels.get(annotations::ATTEMPT_LABEL)?.parse().ok()?;
    ours.then_some(attempt)
}

/// By the snapshot's name. Only of contents that the snapshot controller made: one that a person made to import a
/// snapshot may refer to a name of ours, too.
fn named(backup: &PgBackup, content: &VolumeSnapshotContent) -> Option<u32> {
    let reference = &content.spec.volume_snapshot_ref;
    let (name, uid) = (reference.name.as_ref()?, reference.uid.as_ref()?);
    if content.name_any() != csi::content_name(uid) {
        return None;
    }
    recorded(backup, |volume| volume.volume_snapshot == *name)
        .or_else(|| names::attempt_of(&backup.name_any(), backup.metadata.uid.as_ref()?, name))
}

/// The number of the attempt that is written down, if one of its volumes is meant.
fn recorded(backup: &PgBackup, is_meant: impl Fn(&VolumeStatus) -> bool) -> Option<u32> {
    let status = backup.status.as_ref()?;
    let attempt = status.attempt.as_ref()?.number;
    status.volumes.iter().any(is_meant).then_some(attempt)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content(name: &str, namespace: &str, of: &str) -> VolumeSnapshotContent {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": "c"},
            "spec": {"driver": "d", "deletionPolicy": "Retain", "source": {"volumeHandle": "h"},
                "volumeSnapshotRef": {"name": of, "namespace": namespace, "uid": "u"}},
        }))
        .unwrap()
    }

    #[test]
    fn a_content_whose_snapshot_went_is_known_by_the_snapshots_name() {
        let backup: PgBackup = serde_json::from_value(json!({
            "metadata": {"name": "nightly", "namespace": "shop", "uid": "0123456789"},
            "spec": {"protection": "orders"},
        }))
        .unwrap();
        let ours = "nightly-01234567-2-data";
        for (what, content, expected) in [
            (
                "made for ours",
                content("snapcontent-u", "shop", ours),
                Some(2),
            ),
            ("made by a person", content("imported", "shop", ours), None),
            ("elsewhere", content("snapcontent-u", "other", ours), None),
            (
                "of another backup",
                content("snapcontent-u", "shop", "nightly-11234567-2-data"),
                None,
            ),
        ] {
            assert_eq!(orphan_of(&backup, &content), expected, "{what}");
        }
    }
}
