//! A backup that only the catalog of an archive knows, as the rest of a restore reads backups. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::ObjectMeta;

use super::Rejection;
use crate::api::{
    ArchiveSource, BackupReason, BaseVolume, PgBackup, PgBackupSpec, PgBackupStatus, RestoreBase,
    RestorePlan, VolumeStatus, annotations,
    conditions::{COMPLETED, Status},
};

/// The backup: completed, as a backup has a manifest only when its agent has seen everything else, and with neither UID nor
/// VolumeSnapshots, so that nothing in this cluster is taken for its own.
pub fn backup(base: &RestoreBase) -> PgBackup {
    let RestoreBase {
        name,
        uid: _,
        namespace: _,
        stateful_set_name,
        volumes,
        stateful_set,
    } = base;
    let spec = PgBackupSpec {
        protection: stateful_set_name.clone(),
        reason: BackupReason::default(),
    };
    let completed = Condition {
        type_: COMPLETED.to_owned(),
        status: Status::True.as_str().to_owned(),
        reason: "Catalogued".to_owned(),
        message: String::new(),
        observed_generation: None,
        // Nobody reads it.
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    PgBackup {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec,
        status: Some(PgBackupStatus {
            volumes: volumes.iter().map(volume).collect(),
            stateful_set: stateful_set.clone(),
            conditions: vec![completed],
            ..PgBackupStatus::default()
        }),
    }
}

fn volume(base: &BaseVolume) -> VolumeStatus {
    let BaseVolume {
        claim,
        volume,
        mounts,
        driver,
        handle,
        capacity,
        restore_size,
        storage_class_name,
        volume_mode,
    } = base;
    VolumeStatus {
        claim: claim.clone(),
        volume: volume.clone(),
        mounts: mounts.clone(),
        driver: driver.clone(),
        volume_handle: String::new(),
        capacity: *capacity,
        storage_class_name: storage_class_name.clone(),
        volume_mode: volume_mode.clone(),
        volume_snapshot: String::new(),
        class_name: String::new(),
        volume_snapshot_uid: None,
        content: None,
        handle: Some(handle.clone()),
        cut_at: None,
        restore_size: *restore_size,
        ready: true,
        retained: true,
    }
}

/// Whoever writes a bucket, or a PgArchive, chooses handles, and a handle is another's data: only who writes Namespaces says
/// whose word counts. `allowed` is the Namespace's annotation.
pub fn not_allowed(
    source: &ArchiveSource,
    namespace: &str,
    allowed: Option<&str>,
) -> Option<Rejection> {
    let archive = &source.archive;
    (allowed != Some(archive.as_str())).then(|| {
        let key = annotations::IMPORT_FROM;
        Rejection::new(
            "ImportNotAllowed",
            format!(
                "snapshots are imported by what the catalog of PgArchive {archive} says only when a cluster admin allows it: kubectl annotate namespace {namespace} {key}={archive}, and create a new PgRestore (planOnly: true needs no such word)"
            ),
        )
    })
}

/// The plan is of what the restore names.
pub fn is_of_archive(source: &ArchiveSource, plan: &RestorePlan) -> Result<(), Rejection> {
    let ArchiveSource {
        archive,
        name,
        lineage,
        granted_by: _,
    } = source;
    let is_lineage = lineage.as_ref().is_none_or(|named| *named == plan.lineage);
    if plan.archive == *archive && plan.archive_name == *name && is_lineage {
        return Ok(());
    }
    Err(Rejection::new(
        "PlanNotOfSource",
        format!(
            "the plan is of {} in PgArchive {}, lineage {}, and not of the source: create a new PgRestore, and find out who wrote this one's status",
            plan.archive_name, plan.archive, plan.lineage
        ),
    ))
}
