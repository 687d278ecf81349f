//! Whether an attempt may begin, and of what it consists. Pure: a chain of checks over what was read.
//!
//! What an admin, or time, can mend without touching the PgBackup keeps it waiting until `deadlines.backup`: a class that
//! is installed a minute later must not cost the first backup of a database. Only what can never come true again ends
//! it at once.

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime},
};
use kube::ResourceExt;

use super::{
    attempt::SnapshotSet,
    group,
    observe::{Observed, Source},
    plan::Proposal,
    redact::redact,
    volumes,
};
use crate::{
    api::{
        Attempt, DatabaseFacts, PgBackup, PgProtection, PgProtectionStatus, VolumeStatus,
        conditions, names,
    },
    csi::NoClass,
};

/// Why an attempt cannot begin, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Rejection {
    #[error(
        "there is no PgProtection {0} in this namespace: create it, or put the annotation highwater.dev/policy on its StatefulSet"
    )]
    ProtectionNotFound(String),
    #[error("PgProtection {0} is being deleted: create a new PgBackup when it exists again")]
    ProtectionDeleted(String),
    #[error(
        "there is no PgBackupPolicy {0} in this namespace: create it, or name another one in the PgProtection"
    )]
    PolicyNotFound(String),
    #[error("PgBackup {0} of the same protection comes first: backups are taken one at a time")]
    Queued(String),
    #[error("PgProtection {name} is not active: {why}")]
    ProtectionNotActive { name: String, why: String },
    #[error("the agent of PgProtection {name} is not connected to the database: {why}")]
    NotConnected { name: String, why: String },
    #[error(
        "no WAL of PgProtection {name} is archived, without which a backup does not restore: {why}"
    )]
    WalNotArchived { name: String, why: String },
    #[error("no member of StatefulSet {0} takes writes: look at the PgProtection's status")]
    NoPrimary(String),
    #[error(
        "there is no StatefulSet {0} in this namespace: create it, or correct the PgProtection"
    )]
    StatefulSetNotFound(String),
    #[error("pod {0}, the primary, is not running: wait for it, or look at its events")]
    PrimaryNotRunning(String),
    #[error(
        "pod {0} mounts no volume with a claim that is not excluded: there is nothing to snapshot"
    )]
    NoVolumes(String),
    #[error("PersistentVolumeClaim {0} is not bound to a volume: look at its events")]
    ClaimNotBound(String),
    #[error(
        "PersistentVolumeClaim {claim} is bound to a volume without a CSI driver ({volume}): move the data to a StorageClass with a CSI driver that takes snapshots, or exclude the volume"
    )]
    VolumeNotCsi { claim: String, volume: String },
    #[error(transparent)]
    NoClass(#[from] NoClass),
    #[error(
        "no container of pod {pod} mounts a snapshotted volume at {directory}, where the data directory is: put it on a volume with a claim, or do not exclude that volume"
    )]
    DataDirectoryNotOnVolume { pod: String, directory: String },
    #[error(
        "tablespace {directory} does not lie on a snapshotted volume: put it on a volume with a claim, or do not exclude that volume"
    )]
    TablespaceNotOnVolume { directory: String },
    #[error(
        "the volume with {directory} is mounted with subPathExpr, which a restore cannot follow: use subPath"
    )]
    SubPathExpression { directory: String },
}

impl Rejection {
    /// For conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ProtectionNotFound(_) => "ProtectionNotFound",
            Self::ProtectionDeleted(_) => "ProtectionDeleted",
            Self::PolicyNotFound(_) => "PolicyNotFound",
            Self::Queued(_) => "Queued",
            Self::ProtectionNotActive { .. } => "ProtectionNotActive",
            Self::NotConnected { .. } => "NotConnected",
            Self::WalNotArchived { .. } => "WalNotArchived",
            Self::NoPrimary(_) => "NoPrimary",
            Self::StatefulSetNotFound(_) => "StatefulSetNotFound",
            Self::PrimaryNotRunning(_) => "PrimaryNotRunning",
            Self::NoVolumes(_) => "NoVolumes",
            Self::ClaimNotBound(_) => "ClaimNotBound",
            Self::VolumeNotCsi { .. } => "VolumeNotCsi",
            Self::NoClass(none) => none.reason(),
            Self::DataDirectoryNotOnVolume { .. } => "DataDirectoryNotOnVolume",
            Self::TablespaceNotOnVolume { .. } => "TablespaceNotOnVolume",
            Self::SubPathExpression { .. } => "SubPathExpression",
        }
    }

    /// Whether waiting cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::ProtectionDeleted(_))
    }

    /// Whether only another backup is in the way.
    pub fn is_queue(&self) -> bool {
        matches!(self, Self::Queued(_))
    }

    /// Whether a watch tells when it changes: of protections, their policies and backups. The rest is read now and then.
    pub fn is_watched(&self) -> bool {
        match self {
            Self::ProtectionNotFound(_)
            | Self::ProtectionDeleted(_)
            | Self::PolicyNotFound(_)
            | Self::Queued(_)
            | Self::ProtectionNotActive { .. }
            | Self::NotConnected { .. }
            | Self::WalNotArchived { .. }
            | Self::NoPrimary(_) => true,
            Self::StatefulSetNotFound(_)
            | Self::PrimaryNotRunning(_)
            | Self::NoVolumes(_)
            | Self::ClaimNotBound(_)
            | Self::VolumeNotCsi { .. }
            | Self::NoClass(_)
            | Self::DataDirectoryNotOnVolume { .. }
            | Self::TablespaceNotOnVolume { .. }
            | Self::SubPathExpression { .. } => false,
        }
    }
}

/// Goes through the checks in the order in which an admin would mend them.
pub fn door(observed: &Observed, number: u32, now: jiff::Timestamp) -> Result<Proposal, Rejection> {
    let protection = protection(observed)?;
    let status = protection.status.as_ref();
    let (primary, facts) = connected(protection, status)?;
    let stateful_set = &protection.spec.stateful_set;
    let source = observed.source.as_ref();
    let (source, owner) = source
        .and_then(|source| Some((source, source.stateful_set.as_ref()?)))
        .ok_or_else(|| Rejection::StatefulSetNotFound(stateful_set.clone()))?;
    let pod = running(source, primary)?;
    let policy = observed.policy.as_ref();
    let policy = policy.and_then(|policy| policy.spec.snapshot.as_ref());
    let named = policy.and_then(|snapshot| snapshot.class_name.as_deref());
    let mut members = volumes::members(protection, source, pod, named)?;
    volumes::mounts(protection, owner, pod, facts, &mut members)?;
    let (group, one_by_one) = match group::choose(observed, &members, number) {
        Ok(group) => (group, None),
        Err(none) => (None, Some(none.told())),
    };
    if group.is_none() {
        name(&observed.backup, number, &mut members);
    }
    let attempt = Attempt {
        number,
        started_at: MicroTime(now),
        pod: pod.name_any(),
        pod_uid: pod.uid().unwrap_or_default(),
        address: primary.address.clone(),
        release_at: policy
            .map(|snapshot| snapshot.release_at)
            .unwrap_or_default(),
        one_by_one,
    };
    Ok(Proposal {
        set: SnapshotSet::new(attempt, members, group),
        stateful_set: redact(&owner.data["spec"]),
    })
}

/// A group's members are named by the snapshot controller; these by us, beforehand.
fn name(backup: &PgBackup, attempt: u32, members: &mut [VolumeStatus]) {
    let uid = backup.uid().unwrap_or_default();
    for member in members {
        member.volume_snapshot =
            names::volume_snapshot(&backup.name_any(), &uid, attempt, &member.claim);
    }
}

fn protection(observed: &Observed) -> Result<&PgProtection, Rejection> {
    let name = &observed.backup.spec.protection;
    let protection = observed
        .protection
        .as_ref()
        .ok_or_else(|| Rejection::ProtectionNotFound(name.clone()))?;
    if protection.metadata.deletion_timestamp.is_some() {
        return Err(Rejection::ProtectionDeleted(name.clone()));
    }
    if observed.policy.is_none() {
        return Err(Rejection::PolicyNotFound(protection.spec.policy.clone()));
    }
    match &observed.ahead {
        Some(other) => Err(Rejection::Queued(other.clone())),
        None => Ok(protection),
    }
}

/// The primary, and what it says of itself.
fn connected<'a>(
    protection: &'a PgProtection,
    status: Option<&'a PgProtectionStatus>,
) -> Result<(&'a crate::api::Member, &'a DatabaseFacts), Rejection> {
    let name = protection.name_any();
    let list = status.map_or(&[][..], |status| status.conditions.as_slice());
    if !conditions::is_true(list, conditions::ACTIVE) {
        let why = why(conditions::find(list, conditions::ACTIVE));
        return Err(Rejection::ProtectionNotActive { name, why });
    }
    if !conditions::is_true(list, conditions::CONNECTED) {
        let why = why(conditions::find(list, conditions::CONNECTED));
        return Err(Rejection::NotConnected { name, why });
    }
    let archiving = conditions::find(list, conditions::WAL_ARCHIVING);
    // The backup itself makes the checkpoint that PostgreSQL's archiver waits for.
    let waits = archiving.is_some_and(|it| it.reason == conditions::WAITS_FOR_CHECKPOINT);
    if !waits && !conditions::is_true(list, conditions::WAL_ARCHIVING) {
        let why = why(archiving);
        return Err(Rejection::WalNotArchived { name, why });
    }
    let none = || Rejection::NoPrimary(protection.spec.stateful_set.clone());
    let status = status.ok_or_else(none)?;
    let primary = status.primary.as_ref().ok_or_else(none)?;
    let member = status
        .members
        .iter()
        .find(|member| member.pod == primary.pod);
    let facts = status.database.as_ref().ok_or_else(none)?;
    Ok((member.ok_or_else(none)?, facts))
}

fn why(condition: Option<&Condition>) -> String {
    match condition {
        Some(condition) if !condition.message.is_empty() => condition.message.clone(),
        Some(condition) => condition.reason.clone(),
        None => "it has not been looked at yet".to_owned(),
    }
}

/// The primary's pod: the one that the agent is connected to, not one of the same name.
fn running<'a>(source: &'a Source, primary: &crate::api::Member) -> Result<&'a Pod, Rejection> {
    let runs = |pod: &&Pod| {
        let status = pod.status.as_ref();
        pod.metadata.uid.as_ref() == Some(&primary.uid)
            && pod.metadata.deletion_timestamp.is_none()
            && status.and_then(|s| s.phase.as_deref()) == Some("Running")
            && status.and_then(|s| s.pod_ip.as_deref()) == Some(&primary.address)
    };
    source
        .pod
        .as_ref()
        .filter(runs)
        .ok_or_else(|| Rejection::PrimaryNotRunning(primary.pod.clone()))
}
