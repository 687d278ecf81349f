//! The new claims, and the snapshots they are made from. Pure.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::{Identity, Rejection, clone, source::Source};
use crate::{
    api::{IntoVolumes, PgBackup, RestoreInto, RestoredVolume, VolumeStatus, annotations},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};

/// A snapshot of the backup, as it was found.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSeen {
    /// The VolumeSnapshot of that name.
    pub snapshot: Option<VolumeSnapshot>,
    /// The content that the backup names.
    pub content: Option<VolumeSnapshotContent>,
}

/// The claim's name: what the clone's StatefulSet looks for, the one that is given, or the prefix and the volume's name.
/// `None`: names are given, and none for this volume.
pub fn claim_name(into: &RestoreInto, volume: &str) -> Option<String> {
    match (&into.stateful_set, &into.volumes) {
        (Some(set), _) => Some(format!("{volume}-{set}-0")),
        (None, Some(IntoVolumes { name_prefix, names })) => match name_prefix {
            Some(prefix) => Some(format!("{prefix}-{volume}")),
            None => {
                let named = names.iter().find(|named| named.volume == volume);
                named.map(|named| named.claim.clone())
            }
        },
        (None, None) => Some(volume.to_owned()),
    }
}

/// Names are given, and not one for each volume of the backup.
fn refuse_names(into: &RestoreInto, backup: &PgBackup) -> Option<Rejection> {
    let given = &into.volumes.as_ref()?.names;
    let has = backup.status.iter().flat_map(|status| &status.volumes);
    let has: Vec<&str> = has.map(|volume| volume.volume.as_str()).collect();
    let unnamed: Vec<&str> = has
        .iter()
        .filter(|volume| claim_name(into, volume).is_none())
        .copied()
        .collect();
    let unknown = given.iter().map(|named| named.volume.as_str());
    let unknown: Vec<&str> = unknown.filter(|volume| !has.contains(volume)).collect();
    let wrong = match (&unnamed[..], &unknown[..]) {
        ([], []) => return None,
        ([], unknown) => format!("it has no {}", unknown.join(", ")),
        (unnamed, []) => format!("no claim is given for {}", unnamed.join(", ")),
        (unnamed, unknown) => format!(
            "no claim is given for {}, and it has no {}",
            unnamed.join(", "),
            unknown.join(", ")
        ),
    };
    Some(Rejection::new(
        "VolumesNotNamed",
        format!(
            "into.volumes.names must give a claim for each volume of backup {} ({}): {wrong}",
            backup.metadata.name.as_deref().unwrap_or_default(),
            has.join(", "),
        ),
    ))
}

/// The least size: a restore into less is refused by the driver, or loses the end of the file system.
pub fn least_size(volume: &VolumeStatus) -> i64 {
    volume.capacity.max(volume.restore_size.unwrap_or_default())
}

/// A Kubernetes quantity in bytes, rounded up.
pub fn bytes(quantity: &Quantity) -> Option<i64> {
    let value = number(quantity)?.ceil();
    (0.0..9.0e18).contains(&value).then_some(value as i64)
}

/// A Kubernetes quantity.
pub fn number(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: f64 = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        other => 10f64.powi(other.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// What is made for each volume of `backup`; to be written down before the first is made. `seen`: its snapshots as they were
/// found; `None` where none is looked for, and each is imported by the handle that an archive's catalog has.
///
/// # Errors
/// A size that is too small; volumes without a name; a snapshot that is gone for good.
pub fn volumes(
    identity: &Identity,
    into: &RestoreInto,
    backup: &PgBackup,
    seen: Option<&[SnapshotSeen]>,
) -> Result<Vec<RestoredVolume>, Rejection> {
    if let Some(refused) = refuse_names(into, backup) {
        return Err(refused);
    }
    let status = backup.status.clone().unwrap_or_default();
    let wanted = into.size.as_ref().map(|size| {
        bytes(size).ok_or_else(|| {
            Rejection::new(
                "InvalidSize",
                format!("into.size {:?} is no quantity: write it as in 20Gi", size.0),
            )
        })
    });
    let wanted = wanted.transpose()?;
    let none = SnapshotSeen::default();
    let mut volumes = Vec::new();
    for (at, volume) in status.volumes.iter().enumerate() {
        let least = least_size(volume);
        if let Some(wanted) = wanted.filter(|wanted| *wanted < least) {
            return Err(too_small(&volume.volume, wanted, least));
        }
        let Some(claim) = claim_name(into, &volume.volume) else {
            continue;
        };
        volumes.push(RestoredVolume {
            claim,
            volume: volume.volume.clone(),
            volume_snapshot: match seen {
                Some(seen) => {
                    let seen = seen.get(at).unwrap_or(&none);
                    snapshot_name(identity, backup, volume, seen)?
                }
                None => import_name(identity, &volume.volume),
            },
            size: wanted.unwrap_or(least),
        });
    }
    Ok(volumes)
}

fn too_small(volume: &str, wanted: i64, least: i64) -> Rejection {
    Rejection::new(
        "SizeTooSmall",
        format!(
            "into.size is {wanted} bytes, the volume {volume} needs at least {least}: give more, or leave size out"
        ),
    )
}

/// The backup's own VolumeSnapshot, or the name of one to be imported.
fn snapshot_name(
    identity: &Identity,
    backup: &PgBackup,
    volume: &VolumeStatus,
    seen: &SnapshotSeen,
) -> Result<String, Rejection> {
    let is_the_one = |snapshot: &&VolumeSnapshot| {
        snapshot.metadata.uid.is_some()
            && snapshot.metadata.uid == volume.volume_snapshot_uid
            && snapshot.metadata.deletion_timestamp.is_none()
    };
    if seen.snapshot.as_ref().filter(is_the_one).is_some() {
        return Ok(volume.volume_snapshot.clone());
    }
    if seen
        .content
        .as_ref()
        .is_some_and(|content| is_ours(content, backup, volume))
    {
        return Ok(import_name(identity, &volume.volume));
    }
    Err(Rejection::new(
        "SnapshotGone",
        format!(
            "neither VolumeSnapshot {} nor the content of backup {} is there any more: restore from another backup, or, if the storage still has snapshot {}, have a cluster admin make the content again (docs/runbooks/restore.md, \"Import a snapshot\")",
            volume.volume_snapshot,
            backup.metadata.name.as_deref().unwrap_or_default(),
            volume.handle.as_deref().unwrap_or_default(),
        ),
    ))
}

/// Whether `content` is one that was made for this backup. Whoever writes a status chooses handles; the content, its
/// binding and its label only cluster admins and controllers write.
pub fn is_ours(content: &VolumeSnapshotContent, backup: &PgBackup, volume: &VolumeStatus) -> bool {
    let labels = content.metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get(annotations::BACKUP_UID_LABEL));
    let handle = content
        .status
        .as_ref()
        .and_then(|status| status.snapshot_handle.as_ref());
    backup.metadata.uid.is_some()
        && label == backup.metadata.uid.as_ref()
        && content.spec.volume_snapshot_ref.namespace == backup.metadata.namespace
        && content.spec.driver == volume.driver
        && handle.is_some()
        && handle == volume.handle.as_ref()
}

/// The VolumeSnapshot that an import makes; its content has the same name, as UIDs differ in all namespaces.
pub fn import_name(identity: &Identity, volume: &str) -> String {
    let hash = hex::encode(&Sha256::digest(volume.as_bytes())[..4]);
    format!("highwater-{}-{hash}", identity.uid)
}

/// The content and the VolumeSnapshot of an import. Retain: the handle belongs to the backup.
pub fn import(identity: &Identity, volume: &VolumeStatus) -> (Json, Json) {
    let name = import_name(identity, &volume.volume);
    let content = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotContent",
        "metadata": {"name": name, "labels": identity.labels()},
        "spec": {
            "deletionPolicy": "Retain",
            "driver": volume.driver,
            "source": {"snapshotHandle": volume.handle},
            "sourceVolumeMode": volume.volume_mode,
            "volumeSnapshotRef": {"name": name, "namespace": identity.namespace},
        },
    });
    let snapshot = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name, "namespace": identity.namespace, "labels": identity.labels()},
        "spec": {"source": {"volumeSnapshotContentName": name}},
    });
    (content, snapshot)
}

/// The claim for one volume.
pub fn claim(
    identity: &Identity,
    into: &RestoreInto,
    source: &Source,
    volume: &VolumeStatus,
    restored: &RestoredVolume,
) -> Json {
    let template = source
        .spec
        .volume_claim_templates
        .iter()
        .flatten()
        .find(|template| template.metadata.name.as_deref() == Some(&volume.volume));
    let access_modes = template
        .and_then(|template| template.spec.as_ref()?.access_modes.clone())
        .unwrap_or_else(|| vec!["ReadWriteOnce".to_owned()]);
    let class = into
        .storage_class_name
        .as_ref()
        .or(volume.storage_class_name.as_ref());
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": restored.claim,
            "namespace": identity.namespace,
            "labels": clone::labels(identity, &into.labels),
        },
        "spec": {
            "accessModes": access_modes,
            "dataSource": {
                "apiGroup": "snapshot.storage.k8s.io",
                "kind": "VolumeSnapshot",
                "name": restored.volume_snapshot,
            },
            "resources": {"requests": {"storage": restored.size.to_string()}},
            "storageClassName": class,
            "volumeMode": volume.volume_mode,
        },
    })
}
