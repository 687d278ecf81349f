//! What the agent is told: by its arguments, and by PgProtection, PgBackupPolicy and PgArchive, read together.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::slots::Limits;
use crate::{
    api::{
        Checkpoint, Member, PgArchive, PgArchiveSpec, PgBackupPolicy, PgProtection, Retention,
        StandbySlots, Transport, WalPolicy, conditions,
    },
    postgres::session::Secret,
};

/// Arguments of `highwater agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The namespace of the protection.
    #[arg(long, env = "HIGHWATER_NAMESPACE")]
    pub namespace: String,
    /// The PgProtection's name.
    #[arg(long)]
    pub protection: String,
    /// PostgreSQL's port.
    #[arg(long, default_value_t = 5432)]
    pub port: u16,
    /// The database to connect to.
    #[arg(long, default_value = "postgres")]
    pub database: String,
    /// The user to connect as, unless the file of --user-file is there. Default: postgres.
    #[arg(long)]
    pub user: Option<String>,
    /// A file with the user to connect as, read again at each connect.
    #[arg(long)]
    pub user_file: Option<PathBuf>,
    /// A file with the password, read again at each connect. Default: the environment variable HIGHWATER_PASSWORD.
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// The password itself.
    #[arg(long, env = "HIGHWATER_PASSWORD", hide = true, hide_env_values = true, value_parser = secret)]
    pub password: Option<Secret>,
    /// A directory with the archive's credentials, one file per key.
    #[arg(long)]
    pub archive_credentials: Option<PathBuf>,
    /// A PEM file with the certificate authority of the archive's endpoint.
    #[arg(long)]
    pub archive_ca: Option<PathBuf>,
    /// Where the volume of a directory archive is mounted.
    #[arg(long, default_value = "/var/lib/highwater/archive")]
    pub archive_directory: PathBuf,
    /// Where /livez, /readyz and /metrics listen.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub metrics_listen: std::net::SocketAddr,
    /// The name of this pod, for events.
    #[arg(long, env = "HOSTNAME", hide = true)]
    pub instance: Option<String>,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Nothing yet, and why.
    Nothing(NotReady),
    /// Ship WAL, serve backups.
    Protect(Arc<Config>),
    /// Drop the slots on these members, and say so.
    Unprotect(Vec<Member>),
}

/// How one database is protected.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The StatefulSet's running pods.
    pub members: Vec<Member>,
    /// The PgArchive's name.
    pub archive: String,
    /// Where the archive lies.
    pub store: PgArchiveSpec,
    /// The database's name in the archive.
    pub archive_name: String,
    /// How WAL is to come.
    pub transport: Transport,
    /// Whether commits may wait for the archive.
    pub synchronous: bool,
    /// How often the unfinished segment's new bytes are shipped.
    pub tail_interval: Duration,
    /// How much WAL slots may hold back, and where.
    pub slots: Limits,
    /// The longest time in backup mode.
    pub backup_mode: Duration,
    /// The longest time that backup mode may take to begin: a checkpoint.
    pub backup: Duration,
    /// How a backup's checkpoint is done.
    pub checkpoint: Checkpoint,
    /// What is kept of its backups.
    pub retention: Option<Retention>,
}

/// Why there is nothing to do yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Nothing was read yet.
    #[error("the protection was not read yet")]
    Starting,
    /// The controller has not written `status.archiveName` yet.
    #[error("the controller has not accepted this protection yet")]
    NotAccepted,
    /// The policy is not there.
    #[error("PgBackupPolicy {0} does not exist")]
    PolicyNotFound(String),
    /// The archive is not there.
    #[error("PgArchive {0} does not exist")]
    ArchiveNotFound(String),
}

impl NotReady {
    /// For a condition; nothing where the controller has not spoken yet.
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Starting | Self::NotAccepted => None,
            Self::PolicyNotFound(_) => Some("PolicyNotFound"),
            Self::ArchiveNotFound(_) => Some("ArchiveNotFound"),
        }
    }
}

/// `Active=False` with this reason asks the agent to drop its slots.
pub const UNPROTECTED: &str = "Unprotected";

fn unprotected(protection: &PgProtection) -> bool {
    let inactive = protection
        .status
        .as_ref()
        .and_then(|status| conditions::find(&status.conditions, conditions::ACTIVE))
        .is_some_and(|active| {
            active.status == conditions::Status::False.as_str() && active.reason == UNPROTECTED
        });
    protection.metadata.deletion_timestamp.is_some() || inactive
}

/// Puts the three objects together.
pub fn resolve(
    protection: &PgProtection,
    policy: Option<&PgBackupPolicy>,
    archive: Option<&PgArchive>,
) -> Wanted {
    if unprotected(protection) {
        let status = protection.status.as_ref();
        return Wanted::Unprotect(status.map(|s| s.members.clone()).unwrap_or_default());
    }
    match settings(protection, policy, archive) {
        Ok(config) => Wanted::Protect(Arc::new(config)),
        Err(reason) => Wanted::Nothing(reason),
    }
}

fn settings(
    protection: &PgProtection,
    policy: Option<&PgBackupPolicy>,
    archive: Option<&PgArchive>,
) -> Result<Config, NotReady> {
    let status = protection.status.as_ref().ok_or(NotReady::NotAccepted)?;
    let archive_name = status.archive_name.clone().ok_or(NotReady::NotAccepted)?;
    let policy = policy.ok_or_else(|| NotReady::PolicyNotFound(protection.spec.policy.clone()))?;
    let archive = archive.ok_or_else(|| NotReady::ArchiveNotFound(policy.spec.archive.clone()))?;
    Ok(Config {
        members: status.members.clone(),
        archive: policy.spec.archive.clone(),
        store: archive.spec.clone(),
        archive_name,
        transport: policy.spec.wal.transport,
        synchronous: policy.spec.wal.synchronous,
        tail_interval: policy.spec.wal.tail_interval.get(),
        slots: Limits {
            ceiling: policy.spec.wal.slot_ceiling.get(),
            on_limit: policy.spec.wal.on_slot_limit,
            standbys: standbys(&policy.spec.wal),
        },
        backup_mode: policy.spec.deadlines.backup_mode.get(),
        backup: policy.spec.deadlines.backup.get(),
        checkpoint: policy.spec.checkpoint,
        retention: policy.spec.retention.clone(),
    })
}

/// Where PostgreSQL archives by itself, it keeps what is not archived, and nobody would ship what a slot holds.
const fn standbys(wal: &WalPolicy) -> StandbySlots {
    match wal.transport {
        Transport::ArchiveCommand => StandbySlots::Never,
        Transport::Auto | Transport::Streaming | Transport::Sql => wal.standby_slots,
    }
}

/// The place of the archive: where this changes, everything is opened anew.
pub fn same_archive(a: &Config, b: &Config) -> bool {
    a.store == b.store && a.archive_name == b.archive_name && a.archive == b.archive
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{
        PgArchiveSpec, PgBackupPolicySpec, PgProtectionSpec, PgProtectionStatus, conditions::Status,
    };

    fn protection() -> PgProtection {
        let mut protection = PgProtection::new(
            "orders",
            PgProtectionSpec {
                stateful_set: "orders-db".into(),
                policy: "gold".into(),
                archive_name: None,
                connection: None,
                exclude_volumes: Vec::new(),
                allow_restore_to: Vec::new(),
            },
        );
        protection.status = Some(PgProtectionStatus {
            archive_name: Some("shop-orders-db".into()),
            ..Default::default()
        });
        protection
    }

    fn policy() -> PgBackupPolicy {
        let spec: PgBackupPolicySpec =
            serde_json::from_value(serde_json::json!({"archive": "main"})).unwrap();
        PgBackupPolicy::new("gold", spec)
    }

    fn archive() -> PgArchive {
        let spec: PgArchiveSpec =
            serde_json::from_value(serde_json::json!({"s3": {"bucket": "backups"}})).unwrap();
        PgArchive::new("main", spec)
    }

    #[test]
    fn defaults_of_the_policy_reach_the_config() {
        let Wanted::Protect(config) = resolve(&protection(), Some(&policy()), Some(&archive()))
        else {
            panic!("not protected");
        };
        assert_eq!(config.tail_interval, Duration::from_secs(5));
        assert_eq!(config.backup_mode, Duration::from_secs(900));
        assert_eq!(config.archive_name, "shop-orders-db");
    }

    /// Nobody would ship what it holds.
    #[test]
    fn where_postgresql_archives_by_itself_no_standby_holds_wal() {
        let mut policy = policy();
        policy.spec.wal.standby_slots = StandbySlots::Always;
        for (transport, expected) in [
            (Transport::Sql, StandbySlots::Always),
            (Transport::ArchiveCommand, StandbySlots::Never),
        ] {
            policy.spec.wal.transport = transport;
            assert_eq!(standbys(&policy.spec.wal), expected);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut fresh = protection();
        fresh.status = None;
        let (gold, main) = (policy(), archive());
        for (protection, policy, archive, expected) in [
            (&fresh, Some(&gold), Some(&main), NotReady::NotAccepted),
            (
                &protection(),
                None,
                None,
                NotReady::PolicyNotFound("gold".into()),
            ),
            (
                &protection(),
                Some(&gold),
                None,
                NotReady::ArchiveNotFound("main".into()),
            ),
        ] {
            assert_eq!(
                resolve(protection, policy, archive),
                Wanted::Nothing(expected)
            );
        }
    }

    #[test]
    fn deletion_and_the_reason_unprotected_drop_the_slots_and_other_reasons_do_not() {
        let (gold, main) = (policy(), archive());
        let drops = |protection: &PgProtection| {
            matches!(
                resolve(protection, Some(&gold), Some(&main)),
                Wanted::Unprotect(_)
            )
        };
        let mut deleted = protection();
        deleted.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
        );
        assert!(drops(&deleted));
        for (reason, expected) in [(UNPROTECTED, true), ("PolicyNotFound", false)] {
            let mut inactive = protection();
            conditions::upsert(
                &mut inactive.status.as_mut().unwrap().conditions,
                conditions::ACTIVE,
                Status::False,
                reason,
                "",
                None,
                Timestamp::UNIX_EPOCH,
            );
            assert_eq!(drops(&inactive), expected, "{reason}");
        }
    }
}
