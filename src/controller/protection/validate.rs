//! What a protection asks for, checked against what was observed. Pure.

use k8s_openapi::api::apps::v1::StatefulSetSpec;

use super::{
    Rejection,
    agent::{Agent, Objects},
    find::{self, Found},
    mounts,
    observe::{Observed, Volume},
};
use crate::{
    api::{PgProtectionSpec, names},
    controller::Image,
    csi::{VolumeSnapshotClass, class_for},
    postgres::SegmentSize,
};

/// What can be done for a protection. An agent may be possible where backups are not: WAL is shipped all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The database's name in the archive.
    pub archive_name: String,
    /// The agent's objects.
    pub agent: Result<Objects, Rejection>,
    /// Whether its volumes can be snapshotted.
    pub backups: Result<(), Rejection>,
}

/// Judges it.
pub fn validate(observed: &Observed, image: &Image) -> Judgement {
    let found = found(observed);
    let backups = match &found {
        Ok(found) => volumes(observed, found),
        Err(rejection) => Err(rejection.clone()),
    };
    Judgement {
        archive_name: archive_name(observed),
        agent: found.and_then(|found| agent(observed, found, image)),
        backups,
    }
}

fn archive_name(observed: &Observed) -> String {
    let PgProtectionSpec {
        stateful_set,
        policy: _,
        archive_name,
        connection: _,
        exclude_volumes: _,
        allow_restore_to: _,
    } = &observed.protection.spec;
    archive_name.clone().unwrap_or_else(|| {
        let namespace = observed
            .protection
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default();
        format!("{namespace}-{stateful_set}")
    })
}

fn set_spec(observed: &Observed) -> Result<&StatefulSetSpec, Rejection> {
    observed
        .stateful_set
        .as_ref()
        .and_then(|set| set.spec.as_ref())
        .ok_or_else(|| {
            Rejection::new(
                "StatefulSetNotFound",
                format!(
                    "StatefulSet {} does not exist; what is archived stays",
                    observed.protection.spec.stateful_set
                ),
            )
        })
}

fn found(observed: &Observed) -> Result<Found, Rejection> {
    let spec = set_spec(observed)?;
    let pod = spec.template.spec.as_ref().ok_or_else(|| {
        Rejection::new(
            "ContainerNotFound",
            "the StatefulSet's pod template is empty",
        )
    })?;
    let connection = observed.protection.spec.connection.as_ref();
    find::find(pod, &observed.marks(), connection)
}

fn agent(observed: &Observed, found: Found, image: &Image) -> Result<Objects, Rejection> {
    let policy = observed.policy.as_ref().ok_or_else(|| {
        Rejection::new(
            "PolicyNotFound",
            format!(
                "PgBackupPolicy {} does not exist in this namespace: create it, or name another",
                observed.protection.spec.policy
            ),
        )
    })?;
    let archive = observed.archive.as_ref().ok_or_else(|| {
        Rejection::new(
            "ArchiveNotFound",
            format!(
                "PgArchive {}, which PgBackupPolicy {} names, does not exist in this namespace: create it",
                policy.spec.archive, observed.protection.spec.policy
            ),
        )
    })?;
    let metadata = &observed.protection.metadata;
    let agent = Agent {
        protection: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        found,
        archive: archive.spec.clone(),
        segment_size: segment_size(observed),
        image: image.clone(),
    };
    if agent.protection.len() > names::LONGEST_OWNER {
        return Err(Rejection::new(
            "NameTooLong",
            format!(
                "its name has more than {} characters, and its agent could not be told from others by its ServiceAccount: make a PgProtection of a shorter name",
                names::LONGEST_OWNER
            ),
        ));
    }
    if is_foreign(observed, &agent.uid) {
        return Err(Rejection::new(
            "AgentNameTaken",
            format!(
                "Deployment {} exists and is not this protection's: rename it, or make a PgProtection of another name by hand",
                names::agent(&agent.protection)
            ),
        ));
    }
    Ok(agent.objects())
}

/// Known once an agent was connected.
fn segment_size(observed: &Observed) -> SegmentSize {
    let status = observed.protection.status.as_ref();
    let database = status.and_then(|status| status.database.as_ref());
    database.map_or(SegmentSize::DEFAULT, |database| database.segment_size)
}

/// Whether the Deployment of the agent's name is somebody else's.
fn is_foreign(observed: &Observed, uid: &str) -> bool {
    observed.agent.deployment.as_ref().is_some_and(|live| {
        !live["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|owner| owner["uid"] == uid)
    })
}

/// Whether snapshots of the claims hold the whole database, and can be made.
fn volumes(observed: &Observed, found: &Found) -> Result<(), Rejection> {
    let spec = set_spec(observed)?;
    let pod = spec.template.spec.clone().unwrap_or_default();
    let included = mounts::included(spec, &pod, &observed.protection.spec.exclude_volumes);
    let container = pod
        .containers
        .iter()
        .find(|container| container.name == found.container);
    let on_claim = |path: &str| {
        container
            .and_then(|container| mounts::innermost(container, path))
            .is_some_and(|mount| included.iter().any(|volume| volume.volume == mount.name))
    };
    let database = observed
        .protection
        .status
        .as_ref()
        .and_then(|status| status.database.as_ref());
    if let Some(database) = database {
        let data = ("DataDirectoryNotOnVolume", "PGDATA");
        let space = ("TablespaceNotOnVolume", "tablespace");
        let spaces = database.tablespaces.iter().map(|path| (space, path));
        let all = std::iter::once((data, &database.data_directory)).chain(spaces);
        for ((reason, what), path) in all {
            if !on_claim(path) {
                return Err(Rejection::new(
                    reason,
                    format!(
                        "{what} {path} is not on a volume with a PersistentVolumeClaim that is included, so a snapshot would not hold it: mount one there, or take it out of spec.excludeVolumes"
                    ),
                ));
            }
        }
    }
    let class = observed
        .policy
        .as_ref()
        .and_then(|policy| policy.spec.snapshot.as_ref())
        .and_then(|snapshot| snapshot.class_name.as_deref());
    let classes = observed.classes.as_ref().ok_or_else(|| {
        Rejection::new(
            "SnapshotsNotServed",
            "the cluster does not serve snapshot.storage.k8s.io/v1: install the external-snapshotter's CRDs and its snapshot controller",
        )
    })?;
    observed
        .volumes
        .iter()
        .try_for_each(|volume| snapshot_class(volume, class, classes).map(drop))
}

/// The class by which a volume is snapshotted: the one that is named, or the driver's default.
fn snapshot_class<'a>(
    volume: &Volume,
    named: Option<&str>,
    classes: &'a [VolumeSnapshotClass],
) -> Result<&'a VolumeSnapshotClass, Rejection> {
    let Volume { claim, driver } = volume;
    let driver = driver.as_deref().ok_or_else(|| {
        Rejection::new(
            "VolumeNotCsi",
            format!(
                "the volume of claim {claim} is not a CSI driver's, so it cannot be snapshotted: move the database to a StorageClass whose driver makes snapshots"
            ),
        )
    })?;
    class_for(classes, named, driver, claim)
        .map_err(|none| Rejection::new(none.reason(), none.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_cannot_be_snapshotted_is_told() {
        let volume = |driver: Option<&str>| Volume {
            claim: "data-orders-0".into(),
            driver: driver.map(Into::into),
        };
        let reason = |driver| {
            snapshot_class(&volume(driver), None, &[])
                .unwrap_err()
                .reason
        };
        assert_eq!(reason(None), "VolumeNotCsi");
        assert_eq!(reason(Some("x")), "NoSnapshotClass");
    }
}
