//! What must hold before a backup may begin: one rule after the other, in the order in which an admin would mend them. Pure:
//! they look at what was read, and at what the agent has found out of the primary ([`crate::api::Preflight`]).
//!
//! Whether a snapshot controller works, no rule can tell: nothing that is certain to be there says so. That its kinds are
//! served is looked at here; that nobody acts on a VolumeSnapshot is said of the attempt that waits for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{
    door::{ConnectionLimit, Rejection, instance, members, mounts, protection, site},
    observe::Observed,
};
use crate::api::{Preflight, Primary, Room, Transport, conditions};

/// Whether it holds; if it does not, why, and what to do.
pub type Rule = fn(&Observed) -> Result<(), Rejection>;

/// All of them, each by its name.
pub const RULES: [(&str, Rule); 18] = [
    ("protection", protection_is_there),
    ("policy", policy_is_there),
    ("turn", is_first),
    ("active", protection_is_active),
    ("privileges", role_has_privileges),
    ("wal-level", wal_level_allows_backups),
    ("replication-slots", slot_is_held_or_free),
    ("connections", connection_is_free),
    ("connected", agent_is_connected),
    ("wal-senders", wal_sender_is_free),
    ("wal-archiving", wal_is_archived),
    ("disk", disk_has_room),
    ("member", member_is_known),
    ("pod", pod_runs),
    ("snapshot-api", snapshots_are_served),
    ("volumes", volumes_can_be_snapshotted),
    ("directories", directories_are_on_volumes),
    ("at-once", others_leave_a_place),
];

/// The first that does not hold.
pub fn check(observed: &Observed) -> Result<(), Rejection> {
    RULES.iter().try_for_each(|(_, rule)| rule(observed))
}

fn protection_is_there(observed: &Observed) -> Result<(), Rejection> {
    let protection = protection(observed)?;
    match protection.metadata.deletion_timestamp {
        Some(_) => Err(Rejection::ProtectionDeleted(protection.name_any())),
        None => Ok(()),
    }
}

fn policy_is_there(observed: &Observed) -> Result<(), Rejection> {
    let named = &protection(observed)?.spec.policy;
    match observed.policy {
        Some(_) => Ok(()),
        None => Err(Rejection::PolicyNotFound(named.clone())),
    }
}

fn is_first(observed: &Observed) -> Result<(), Rejection> {
    match &observed.ahead {
        Some(other) => Err(Rejection::Queued(other.clone())),
        None => Ok(()),
    }
}

/// The agent is deployed, and the volumes can be snapshotted: else the condition says why not.
fn protection_is_active(observed: &Observed) -> Result<(), Rejection> {
    holds(observed, conditions::ACTIVE, |name, why| {
        Rejection::ProtectionNotActive { name, why }
    })
}

fn role_has_privileges(observed: &Observed) -> Result<(), Rejection> {
    let lacks = condition(observed, conditions::CONNECTED)
        .filter(|it| is_false(it) && it.reason == conditions::INSUFFICIENT_PRIVILEGES);
    match lacks {
        Some(condition) => Err(Rejection::InsufficientPrivileges {
            name: observed.backup.spec.protection.clone(),
            why: why(Some(condition)),
        }),
        None => Ok(()),
    }
}

fn wal_level_allows_backups(observed: &Observed) -> Result<(), Rejection> {
    match preflight(observed) {
        Some(Preflight { pod, wal_level, .. }) if wal_level == "minimal" => {
            Err(Rejection::WalLevelTooLow {
                pod: pod.clone(),
                level: wal_level.clone(),
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// Where PostgreSQL archives by itself none is needed.
fn slot_is_held_or_free(observed: &Observed) -> Result<(), Rejection> {
    let needed = match transport(observed) {
        Transport::Auto | Transport::Streaming | Transport::Sql => true,
        Transport::ArchiveCommand => false,
    };
    match preflight(observed) {
        Some(seen) if needed && !seen.holds_slot && seen.replication_slots.is_full() => {
            Err(Rejection::TooManyReplicationSlots {
                pod: seen.pod.clone(),
                maximum: seen.replication_slots.maximum,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// Backup mode has a session of its own.
fn connection_is_free(observed: &Observed) -> Result<(), Rejection> {
    let Some(seen) = preflight(observed) else {
        return Ok(());
    };
    let limits = [
        (Some(seen.connections), ConnectionLimit::Server),
        (seen.role_connections, ConnectionLimit::Role),
        (seen.database_connections, ConnectionLimit::Database),
    ];
    let mut full = limits
        .into_iter()
        .filter_map(|(room, limit)| Some((room.filter(|room| room.is_full())?, limit)));
    match full.next() {
        Some((Room { maximum, .. }, limit)) => Err(Rejection::TooManyConnections {
            pod: seen.pod.clone(),
            limit,
            maximum,
        }),
        None => Ok(()),
    }
}

fn agent_is_connected(observed: &Observed) -> Result<(), Rejection> {
    holds(observed, conditions::CONNECTED, |name, why| {
        Rejection::NotConnected { name, why }
    })
}

/// What streams has one, and where the policy leaves the choice, WAL comes without.
fn wal_sender_is_free(observed: &Observed) -> Result<(), Rejection> {
    let refused = condition(observed, conditions::WAL_ARCHIVING)
        .is_some_and(|it| is_false(it) && it.reason == conditions::STREAMING_REFUSED);
    match preflight(observed) {
        Some(seen) if refused && seen.wal_senders.is_full() => Err(Rejection::TooManyWalSenders {
            pod: seen.pod.clone(),
            maximum: seen.wal_senders.maximum,
        }),
        Some(_) | None => Ok(()),
    }
}

fn wal_is_archived(observed: &Observed) -> Result<(), Rejection> {
    let archiving = condition(observed, conditions::WAL_ARCHIVING);
    // The backup itself makes the checkpoint that PostgreSQL's archiver waits for.
    match archiving.is_some_and(|it| it.reason == conditions::WAITS_FOR_CHECKPOINT) {
        true => Ok(()),
        false => holds(observed, conditions::WAL_ARCHIVING, |name, why| {
            Rejection::WalNotArchived { name, why }
        }),
    }
}

/// How many bytes are free no SQL function tells, and no right that the controller has. What can be known is that the slot
/// keeps more than the policy lets it, and that the policy has it kept all the same. The condition is of all members: it
/// counts only where the primary itself keeps as much.
fn disk_has_room(observed: &Observed) -> Result<(), Rejection> {
    let over = condition(observed, conditions::SLOT_WITHIN_CEILING)
        .filter(|it| is_false(it) && it.reason == conditions::SLOT_OVER_CEILING);
    match over {
        Some(condition) if keeps_too_much(observed) => Err(Rejection::SlotOverCeiling {
            name: observed.backup.spec.protection.clone(),
            why: why(Some(condition)),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Whether what the primary has written and the archive has not is more than the slot may keep.
fn keeps_too_much(observed: &Observed) -> bool {
    let status = observed
        .protection
        .as_ref()
        .and_then(|it| it.status.as_ref());
    let lag = status.and_then(|status| status.wal.as_ref()?.lag_bytes);
    let lag = lag.and_then(|bytes| u64::try_from(bytes).ok());
    let ceiling = observed.policy.as_ref();
    let ceiling = ceiling.map(|policy| policy.spec.wal.slot_ceiling.get());
    lag.zip(ceiling)
        .is_some_and(|(lag, ceiling)| lag >= ceiling)
}

/// The primary, or the standby that the policy asks for.
fn member_is_known(observed: &Observed) -> Result<(), Rejection> {
    instance(observed).map(drop)
}

fn pod_runs(observed: &Observed) -> Result<(), Rejection> {
    site(observed).map(drop)
}

fn snapshots_are_served(observed: &Observed) -> Result<(), Rejection> {
    match observed.source.as_ref().is_some_and(|it| it.not_served) {
        true => Err(Rejection::SnapshotsNotServed),
        false => Ok(()),
    }
}

fn volumes_can_be_snapshotted(observed: &Observed) -> Result<(), Rejection> {
    members(observed, &site(observed)?).map(drop)
}

fn directories_are_on_volumes(observed: &Observed) -> Result<(), Rejection> {
    let site = site(observed)?;
    mounts(&site, &mut members(observed, &site)?).map(drop)
}

/// The last one: whoever could begin takes a place, or waits for one.
fn others_leave_a_place(observed: &Observed) -> Result<(), Rejection> {
    match &observed.full {
        Some(full) => Err(Rejection::AtOnce(format!(
            "waiting for backups of other databases to leave backup mode: {full}"
        ))),
        None => Ok(()),
    }
}

/// The condition of the protection is `True`, or `rejection` of its name and of why not.
fn holds(
    observed: &Observed,
    type_: &str,
    rejection: fn(String, String) -> Rejection,
) -> Result<(), Rejection> {
    match condition(observed, type_) {
        Some(condition) if condition.status == conditions::Status::True.as_str() => Ok(()),
        other => {
            let name = observed.backup.spec.protection.clone();
            Err(rejection(name, why(other)))
        }
    }
}

fn condition<'a>(observed: &'a Observed, type_: &str) -> Option<&'a Condition> {
    let status = observed.protection.as_ref()?.status.as_ref()?;
    conditions::find(&status.conditions, type_)
}

fn is_false(condition: &Condition) -> bool {
    condition.status == conditions::Status::False.as_str()
}

fn why(condition: Option<&Condition>) -> String {
    match condition {
        Some(condition) if !condition.message.is_empty() => condition.message.clone(),
        Some(condition) => condition.reason.clone(),
        None => "it has not been looked at yet".to_owned(),
    }
}

fn preflight(observed: &Observed) -> Option<&Preflight> {
    let status = observed.protection.as_ref()?.status.as_ref()?;
    // What is known of a former primary is not this one's.
    let is_of = |primary: &Primary| {
        status
            .preflight
            .as_ref()
            .is_some_and(|it| it.pod == primary.pod)
    };
    let foreign = status
        .primary
        .as_ref()
        .is_some_and(|primary| !is_of(primary));
    status.preflight.as_ref().filter(|_| !foreign)
}

fn transport(observed: &Observed) -> Transport {
    let policy = observed.policy.as_ref();
    policy.map(|it| it.spec.wal.transport).unwrap_or_default()
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
