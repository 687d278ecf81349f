//! Of what an attempt consists, and why there is none: the first of the [`rules`] that does not hold. Pure.
//!
//! What an admin, or time, can mend without touching the PgBackup keeps it waiting until `deadlines.backup`: a class that
//! is installed a minute later must not cost the first backup of a database. Only what can never come true again ends
//! it at once.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{ResourceExt, api::DynamicObject};

use super::{
    at_once::WAITS_FOR_OTHERS,
    attempt::SnapshotSet,
    group,
    instance::{self, Instance, NoStandby, Role, is_at},
    observe::{Observed, Source},
    plan::Proposal,
    redact::redact,
    rules, volumes,
};
use crate::{
    api::{
        Attempt, DatabaseFacts, Instead, PgBackup, PgProtection, StandbyAttempt, VolumeStatus,
        names,
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
    /// As it was said, at the deadline again.
    #[error("{0}")]
    AtOnce(String),
    /// As it was said: by a pass that did not get it, and at the deadline again.
    #[error("{why}")]
    TurnNotTaken { reason: &'static str, why: String },
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
        "{0}; or set backupFrom: PreferStandby in the policy, and the primary is backed up instead"
    )]
    NoStandby(NoStandby),
    #[error(
        "there is no StatefulSet {0} in this namespace: create it, or correct the PgProtection"
    )]
    StatefulSetNotFound(String),
    #[error("pod {0}, the primary, is not running: wait for it, or look at its events")]
    PrimaryNotRunning(String),
    #[error("pod {0}, the standby, is not running: wait for it, or look at its events")]
    StandbyNotRunning(String),
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
    #[error("the role of PgProtection {name} may not do what a backup needs: {why}")]
    InsufficientPrivileges { name: String, why: String },
    #[error(
        "wal_level is {level} on {pod}, and PostgreSQL takes no backup with it: set wal_level = replica, which takes a restart"
    )]
    WalLevelTooLow { pod: String, level: String },
    #[error(
        "no replication slot is free on {pod} (max_replication_slots is {maximum}), without which no WAL is held for the archive: drop one that nobody uses (SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots, which takes a restart"
    )]
    TooManyReplicationSlots { pod: String, maximum: i32 },
    #[error(
        "no connection is free on {pod} for the session in backup mode ({} {maximum}): close sessions, or {}",
        .limit.is(), .limit.remedy()
    )]
    TooManyConnections {
        pod: String,
        limit: ConnectionLimit,
        maximum: i32,
    },
    #[error(
        "no WAL sender is free on {pod} (max_wal_senders is {maximum}) to stream WAL as the policy says: end a standby or a backup that streams, raise max_wal_senders, which takes a restart, or set wal.transport: Auto"
    )]
    TooManyWalSenders { pod: String, maximum: i32 },
    #[error("the disk of PgProtection {name} may fill up before a backup is whole: {why}")]
    SlotOverCeiling { name: String, why: String },
    #[error(
        "the cluster does not serve snapshot.storage.k8s.io/v1: install the external-snapshotter's CRDs and its snapshot controller"
    )]
    SnapshotsNotServed,
}

/// What bounds how many sessions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// `max_connections`, without those that are kept for other roles.
    Server,
    /// Of the agent's role.
    Role,
    /// Of the database that the agent connects to.
    Database,
}

impl ConnectionLimit {
    const fn is(self) -> &'static str {
        match self {
            Self::Server => "the role may have",
            Self::Role => "the CONNECTION LIMIT of the role is",
            Self::Database => "the CONNECTION LIMIT of the database is",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::Server => "raise max_connections, which takes a restart",
            Self::Role => "raise it: ALTER ROLE ... CONNECTION LIMIT",
            Self::Database => "raise it: ALTER DATABASE ... CONNECTION LIMIT",
        }
    }
}

impl Rejection {
    /// For conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ProtectionNotFound(_) => "ProtectionNotFound",
            Self::ProtectionDeleted(_) => "ProtectionDeleted",
            Self::PolicyNotFound(_) => "PolicyNotFound",
            Self::Queued(_) => "Queued",
            Self::AtOnce(_) => WAITS_FOR_OTHERS,
            Self::TurnNotTaken { reason, .. } => reason,
            Self::ProtectionNotActive { .. } => "ProtectionNotActive",
            Self::NotConnected { .. } => "NotConnected",
            Self::WalNotArchived { .. } => "WalNotArchived",
            Self::NoPrimary(_) => "NoPrimary",
            Self::NoStandby(none) => none.reason(),
            Self::StatefulSetNotFound(_) => "StatefulSetNotFound",
            Self::PrimaryNotRunning(_) => "PrimaryNotRunning",
            Self::StandbyNotRunning(_) => "StandbyNotRunning",
            Self::NoVolumes(_) => "NoVolumes",
            Self::ClaimNotBound(_) => "ClaimNotBound",
            Self::VolumeNotCsi { .. } => "VolumeNotCsi",
            Self::NoClass(none) => none.reason(),
            Self::DataDirectoryNotOnVolume { .. } => "DataDirectoryNotOnVolume",
            Self::TablespaceNotOnVolume { .. } => "TablespaceNotOnVolume",
            Self::SubPathExpression { .. } => "SubPathExpression",
            Self::InsufficientPrivileges { .. } => "InsufficientPrivileges",
            Self::WalLevelTooLow { .. } => "WalLevelTooLow",
            Self::TooManyReplicationSlots { .. } => "TooManyReplicationSlots",
            Self::TooManyConnections { .. } => "TooManyConnections",
            Self::TooManyWalSenders { .. } => "TooManyWalSenders",
            Self::SlotOverCeiling { .. } => "SlotOverCeiling",
            Self::SnapshotsNotServed => "SnapshotsNotServed",
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
            | Self::AtOnce(_)
            | Self::ProtectionNotActive { .. }
            | Self::NotConnected { .. }
            | Self::WalNotArchived { .. }
            | Self::NoPrimary(_)
            | Self::NoStandby(_)
            | Self::InsufficientPrivileges { .. }
            | Self::WalLevelTooLow { .. }
            | Self::TooManyReplicationSlots { .. }
            | Self::TooManyConnections { .. }
            | Self::TooManyWalSenders { .. }
            | Self::SlotOverCeiling { .. } => true,
            Self::TurnNotTaken { .. }
            | Self::StatefulSetNotFound(_)
            | Self::PrimaryNotRunning(_)
            | Self::StandbyNotRunning(_)
            | Self::NoVolumes(_)
            | Self::ClaimNotBound(_)
            | Self::VolumeNotCsi { .. }
            | Self::NoClass(_)
            | Self::DataDirectoryNotOnVolume { .. }
            | Self::TablespaceNotOnVolume { .. }
            | Self::SubPathExpression { .. }
            | Self::SnapshotsNotServed => false,
        }
    }
}

/// The next attempt, if every rule holds.
pub fn door(observed: &Observed, number: u32, now: jiff::Timestamp) -> Result<Proposal, Rejection> {
    rules::check(observed)?;
    let site = site(observed)?;
    let mut members = members(observed, &site)?;
    let control_claim = mounts(&site, &mut members)?;
    let Site {
        instance,
        owner,
        pod,
        ..
    } = site;
    let policy = observed.policy.as_ref();
    let policy = policy.and_then(|policy| policy.spec.snapshot.as_ref());
    let (group, one_by_one) = match group::choose(observed, &members, number) {
        Ok(group) => (group, None),
        Err(none) => (None, Some(none.told())),
    };
    if group.is_none() {
        name(&observed.backup, number, &mut members);
    }
    let (standby, of_primary) = of(&instance.role, control_claim);
    let attempt = Attempt {
        number,
        started_at: MicroTime(now),
        pod: pod.name_any(),
        pod_uid: pod.uid().unwrap_or_default(),
        address: instance.member.address.clone(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        release_at: policy
            .map(|snapshot| snapshot.release_at)
            .unwrap_or_default(),
        one_by_one,
        standby,
        of_primary,
    };
    Ok(Proposal {
        set: SnapshotSet::new(attempt, members, group),
        stateful_set: redact(&owner.data["spec"]),
    })
}

/// What the attempt is of, as it is written down.
fn of(role: &Role, control_claim: String) -> (Option<StandbyAttempt>, Option<Instead>) {
    match role {
        Role::Primary => (None, None),
        Role::PrimaryInstead(none) => (None, Some(none.told())),
        Role::Standby => (Some(StandbyAttempt { control_claim }), None),
    }
}

/// A group's members are named by the snapshot controller; these by us, beforehand.
fn name(backup: &PgBackup, attempt: u32, members: &mut [VolumeStatus]) {
    let uid = backup.uid().unwrap_or_default();
    for member in members {
        member.volume_snapshot =
            names::volume_snapshot(&backup.name_any(), &uid, attempt, &member.claim);
    }
}

/// The protection, if there is one.
pub fn protection(observed: &Observed) -> Result<&PgProtection, Rejection> {
    let name = &observed.backup.spec.protection;
    let protection = observed.protection.as_ref();
    protection.ok_or_else(|| Rejection::ProtectionNotFound(name.clone()))
}

/// The member that is backed up next.
pub fn instance(observed: &Observed) -> Result<Instance<'_>, Rejection> {
    let protection = protection(observed)?;
    instance::choose(&observed.backup, protection, observed.policy.as_ref())
}

/// What the database says of itself.
fn facts(protection: &PgProtection) -> Result<&DatabaseFacts, Rejection> {
    let status = protection.status.as_ref();
    let facts = status.and_then(|status| status.database.as_ref());
    facts.ok_or_else(|| Rejection::NoPrimary(protection.spec.stateful_set.clone()))
}

/// Where an attempt is taken.
pub struct Site<'a> {
    protection: &'a PgProtection,
    instance: Instance<'a>,
    facts: &'a DatabaseFacts,
    source: &'a Source,
    owner: &'a DynamicObject,
    pod: &'a Pod,
}

/// The database's pod, as it was read.
pub fn site(observed: &Observed) -> Result<Site<'_>, Rejection> {
    let protection = protection(observed)?;
    let (instance, facts) = (instance(observed)?, facts(protection)?);
    let stateful_set = &protection.spec.stateful_set;
    let source = observed.source.as_ref();
    let (source, owner) = source
        .and_then(|source| Some((source, source.stateful_set.as_ref()?)))
        .ok_or_else(|| Rejection::StatefulSetNotFound(stateful_set.clone()))?;
    let pod = running(source, &instance)?;
    Ok(Site {
        protection,
        instance,
        facts,
        source,
        owner,
        pod,
    })
}

/// The volumes, each with its class; not named, and where they are mounted is not noted yet.
pub fn members(observed: &Observed, site: &Site<'_>) -> Result<Vec<VolumeStatus>, Rejection> {
    let policy = observed.policy.as_ref();
    let policy = policy.and_then(|policy| policy.spec.snapshot.as_ref());
    let named = policy.and_then(|snapshot| snapshot.class_name.as_deref());
    volumes::members(site.protection, site.source, site.pod, named)
}

/// Notes where the volumes are mounted; returns the claim of pg_control's.
pub fn mounts(site: &Site<'_>, members: &mut [VolumeStatus]) -> Result<String, Rejection> {
    let Site {
        protection,
        facts,
        owner,
        pod,
        ..
    } = site;
    volumes::mounts(protection, owner, pod, facts, members)
}

/// The member's pod: the one that the agent is connected to, not one of the same name.
fn running<'a>(source: &'a Source, instance: &Instance<'_>) -> Result<&'a Pod, Rejection> {
    let member = instance.member;
    let runs = |pod: &&Pod| {
        let status = pod.status.as_ref();
        is_at(pod, &member.uid, &member.address)
            && status.and_then(|s| s.phase.as_deref()) == Some("Running")
    };
    let name = member.pod.clone();
    let not_running = match instance.role {
        Role::Primary | Role::PrimaryInstead(_) => Rejection::PrimaryNotRunning(name),
        Role::Standby => Rejection::StandbyNotRunning(name),
    };
    source.pod.as_ref().filter(runs).ok_or(not_running)
}
