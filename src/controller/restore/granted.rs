//! A restore from another namespace: what a PgProtection there allows, and what of its backup is taken over. Pure.

use k8s_openapi::{api::core::v1::NodeSelectorTerm, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Rejection, claims, recorded};
use crate::{
    api::{
        Grant, PgBackup, PgBackupStatus, PgProtection, RestoreBase, RestorePlan, VolumeStatus,
        conditions::{self, COMPLETED},
    },
    csi::VolumeSnapshotContent,
};

/// What the other namespace has.
#[derive(Clone, Debug, Default)]
pub struct Granting {
    /// The PgProtection.
    pub protection: Option<PgProtection>,
    /// The backup that the plan begins with, by name and UID.
    pub backup: Option<PgBackup>,
    /// The contents of its snapshots, in its order.
    pub contents: Vec<Option<VolumeSnapshotContent>>,
    /// Where its volumes can be reached from.
    pub topology: Vec<NodeSelectorTerm>,
}

/// One message for what is not there and what does not allow it: nobody finds out by it what other namespaces have.
pub fn not_granted(grant: &Grant, to: &str, seen: Option<&Granting>) -> Option<Rejection> {
    let Grant {
        namespace,
        protection,
    } = grant;
    let found = seen.and_then(|seen| seen.protection.as_ref());
    let is_granted = found.is_some_and(|found| {
        is_it(&found.metadata, grant, protection)
            && found
                .spec
                .allow_restore_to
                .iter()
                .any(|allowed| allowed == to)
    });
    (!is_granted).then(|| {
        Rejection::new(
            "NotGranted",
            format!(
                "there is no PgProtection {protection} in namespace {namespace} that allows restores to namespace {to}: whoever may edit it adds {to} to its spec.allowRestoreTo (kubectl edit pgx {protection} -n {namespace}); then create a new PgRestore"
            ),
        )
    })
}

/// Names that a request was made with are others' words: what was found must say itself what it is.
fn is_it(found: &ObjectMeta, grant: &Grant, name: &str) -> bool {
    found.namespace.as_ref() == Some(&grant.namespace) && found.name.as_deref() == Some(name)
}

/// A catalog is the word of who writes the bucket, and a plan that of a pod: what they name must be the protection's own.
///
/// # Errors
/// It is not, or its snapshot is gone.
pub fn vouched(
    grant: &Grant,
    plan: &RestorePlan,
    seen: Option<&Granting>,
) -> Result<(), Rejection> {
    let refused = |reason, what: String| {
        Err(Rejection::new(
            reason,
            format!(
                "backup {} of the plan {what}: create a new PgRestore, with another target if this goes on",
                plan.backup
            ),
        ))
    };
    let of = || {
        format!(
            "PgProtection {} in namespace {}",
            grant.protection, grant.namespace
        )
    };
    let is_its = |backup: &&PgBackup| {
        backup.spec.protection == grant.protection && is_it(&backup.metadata, grant, &plan.backup)
    };
    let backup = seen.and_then(|seen| seen.backup.as_ref()).filter(is_its);
    let Some(backup) = backup else {
        return refused("BackupNotFound", format!("is none of {}", of()));
    };
    let is_completed =
        |status: &&PgBackupStatus| conditions::is_true(&status.conditions, COMPLETED);
    let Some(status) = backup.status.as_ref().filter(is_completed) else {
        return refused("BackupNotCompleted", "is not completed".to_owned());
    };
    let contents = seen.map(|seen| seen.contents.as_slice());
    for (at, volume) in status.volumes.iter().enumerate() {
        let content = contents.and_then(|all| all.get(at)?.as_ref());
        if !content.is_some_and(|content| claims::is_ours(content, backup, volume)) {
            let what = format!("has no snapshot of volume {} any more", volume.volume);
            return refused("SnapshotGone", what);
        }
    }
    Ok(())
}

/// Backup, and StatefulSet that one of its name in the restore's namespace stands for. Where a namespace grants the restore the
/// plan's base has no say in them.
pub fn source(
    granting: Option<&Granting>,
    base: Option<&RestoreBase>,
) -> (Option<PgBackup>, Option<String>) {
    match granting {
        Some(granting) => {
            let protection = granting.protection.as_ref();
            let set = protection.map(|it| it.spec.stateful_set.clone());
            (granting.backup.as_ref().map(backup), set)
        }
        None => {
            let set = base.map(|base| base.stateful_set_name.clone());
            (base.map(recorded::backup), set)
        }
    }
}

/// The backup, with neither UID nor VolumeSnapshots, so that nothing in the restore's namespace is taken for its own.
fn backup(found: &PgBackup) -> PgBackup {
    let mut backup = found.clone();
    backup.metadata.uid = None;
    backup.metadata.namespace = None;
    let volumes = backup.status.iter_mut().flat_map(|it| &mut it.volumes);
    for volume in volumes {
        strip(volume);
    }
    backup
}

fn strip(volume: &mut VolumeStatus) {
    volume.volume_snapshot = String::new();
    volume.volume_snapshot_uid = None;
    volume.content = None;
}
