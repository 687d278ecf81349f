//! Which member an attempt is made of. Pure.

use k8s_openapi::api::core::v1::Pod;

use super::door::Rejection;
use crate::api::{
    Attempt, BackupSource, Instead, Member, PgBackup, PgBackupPolicy, PgProtection, VolumeStatus,
};

/// The member whose volumes are snapshotted.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance<'a> {
    /// Its pod.
    pub member: &'a Member,
    /// What it is.
    pub role: Role,
}

/// What the member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes, as the policy wants it.
    Primary,
    /// The same, although the policy prefers a standby.
    PrimaryInstead(NoStandby),
    /// It streams from the primary.
    Standby,
}

/// Why it is no standby although the policy prefers one, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoStandby {
    #[error(
        "no standby of StatefulSet {0} streams from the primary on its timeline: look at status.standbys of the PgProtection and at pg_stat_wal_receiver of the standby"
    )]
    None(String),
    #[error(
        "attempt {0} was of a standby and is void, so the next one is of the primary: the reason was in condition Accepted, and is in its Events"
    )]
    GivenUp(u32),
}

impl NoStandby {
    /// For conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::None(_) => "NoStandby",
            Self::GivenUp(_) => "StandbyGivenUp",
        }
    }

    /// As it is written down.
    pub fn told(&self) -> Instead {
        Instead {
            reason: self.reason().to_owned(),
            message: self.to_string(),
        }
    }
}

/// The member of the next attempt of `backup`.
///
/// # Errors
/// Nobody takes writes, or the policy asks for a standby and there is none.
pub fn choose<'a>(
    backup: &PgBackup,
    protection: &'a PgProtection,
    policy: Option<&PgBackupPolicy>,
) -> Result<Instance<'a>, Rejection> {
    let last = backup.status.as_ref();
    let last = last.and_then(|status| status.attempt.as_ref());
    let of_primary = |role| primary(protection).map(|it| it.in_the_role(role));
    let stateful_set = &protection.spec.stateful_set;
    let none = || NoStandby::None(stateful_set.clone());
    let source = policy.map(|policy| policy.spec.backup_from);
    match (source.unwrap_or_default(), standby(protection, last)) {
        (BackupSource::Primary, _) => of_primary(Role::Primary),
        (BackupSource::PreferStandby, None) => of_primary(Role::PrimaryInstead(none())),
        (BackupSource::PreferStandby, Some(member)) => {
            match last.filter(|last| last.standby.is_some()) {
                Some(last) => of_primary(Role::PrimaryInstead(NoStandby::GivenUp(last.number))),
                None => Ok(Instance::of_standby(member)),
            }
        }
        (BackupSource::Standby, None) => Err(Rejection::NoStandby(none())),
        (BackupSource::Standby, Some(member)) => Ok(Instance::of_standby(member)),
    }
}

impl<'a> Instance<'a> {
    fn of_standby(member: &'a Member) -> Self {
        Self {
            member,
            role: Role::Standby,
        }
    }

    fn in_the_role(self, role: Role) -> Self {
        Self { role, ..self }
    }
}

fn primary(protection: &PgProtection) -> Result<Instance<'_>, Rejection> {
    let status = protection.status.as_ref();
    let member = status.and_then(|status| {
        let primary = status.primary.as_ref()?;
        let mut members = status.members.iter();
        members.find(|member| member.pod == primary.pod)
    });
    let none = || Rejection::NoPrimary(protection.spec.stateful_set.clone());
    Ok(Instance {
        member: member.ok_or_else(none)?,
        role: Role::Primary,
    })
}

/// One of the standbys; of several another one, as attempts fail. Two attempts in a row count as one: of those, one is of
/// the primary where that is allowed.
fn standby<'a>(protection: &'a PgProtection, last: Option<&Attempt>) -> Option<&'a Member> {
    let status = protection.status.as_ref()?;
    let members = status.members.iter();
    let standbys: Vec<&Member> = members
        .filter(|member| status.standbys.contains(&member.pod))
        .collect();
    let turn = last.map_or(0, |last| last.number.div_ceil(2));
    let turn = usize::try_from(turn).unwrap_or_default();
    standbys.get(turn.checked_rem(standbys.len())?).copied()
}

/// The attempt, if it is of a standby, and a snapshot of it is still to be made. Another standby answers as well as this one
/// does, where it has got its address: what is in backup mode and what is cut would be two servers.
pub fn unmade_of_standby(backup: &PgBackup) -> Option<&Attempt> {
    let status = backup.status.as_ref()?;
    let unmade = |volume: &VolumeStatus| volume.volume_snapshot_uid.is_none();
    let attempt = status.attempt.as_ref()?;
    let unmade = status.volumes.iter().any(unmade);
    (unmade && attempt.standby.is_some()).then_some(attempt)
}

/// It has had its address since it was accepted, as the same pod.
pub fn is_accepted_pod(attempt: &Attempt, pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| is_at(pod, &attempt.pod_uid, &attempt.address))
}

/// It is the pod with this UID, not one of the same name, has this address, and stays.
pub fn is_at(pod: &Pod, uid: &str, address: &str) -> bool {
    let at = pod.status.as_ref().and_then(|it| it.pod_ip.as_deref());
    pod.metadata.uid.as_deref() == Some(uid)
        && pod.metadata.deletion_timestamp.is_none()
        && at == Some(address)
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
