//! The volumes of a pod, and the class that snapshots each. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PersistentVolumeClaim, Pod, Volume, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{ResourceExt, api::DynamicObject};

use super::{door::Rejection, observe::Source};
use crate::{
    api::{DatabaseFacts, Mount, PgProtection, VolumeStatus, annotations},
    csi::class_for,
};

/// Names of the claims that `pod` mounts, by the volume's name in the pod. Too many is safe, one too few is not.
pub fn claims(pod: &Pod, excluded: &[String]) -> BTreeMap<String, String> {
    let claim = |volume: &Volume| {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some(source.claim_name.clone());
        }
        let ephemeral = volume.ephemeral.as_ref();
        ephemeral.map(|_| format!("{}-{}", pod.name_any(), volume.name))
    };
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter(|volume| !excluded.contains(&volume.name))
        .filter_map(|volume| Some((volume.name.clone(), claim(volume)?)))
        .collect()
}

/// One member for each claim, its snapshot not named yet.
pub fn members(
    protection: &PgProtection,
    source: &Source,
    pod: &Pod,
    named: Option<&str>,
) -> Result<Vec<VolumeStatus>, Rejection> {
    let mut members: Vec<VolumeStatus> = Vec::new();
    for (volume, claim) in claims(pod, &protection.spec.exclude_volumes) {
        // Two volumes of a pod may have the same claim; it is one volume all the same.
        if members.iter().all(|member| member.claim != claim) {
            members.push(member(source, &volume, &claim, named)?);
        }
    }
    if members.is_empty() {
        return Err(Rejection::NoVolumes(pod.name_any()));
    }
    members.sort_by(|a, b| a.claim.cmp(&b.claim));
    Ok(members)
}

fn member(
    source: &Source,
    volume: &str,
    name: &str,
    named: Option<&str>,
) -> Result<VolumeStatus, Rejection> {
    let unbound = || Rejection::ClaimNotBound(name.to_owned());
    let claim = source
        .claims
        .get(name)
        .filter(|c| is_bound(c))
        .ok_or_else(unbound)?;
    let spec = claim.spec.as_ref().ok_or_else(unbound)?;
    let volume_name = spec.volume_name.as_ref().ok_or_else(unbound)?;
    let persistent = source.volumes.get(volume_name).ok_or_else(unbound)?;
    let csi = persistent
        .spec
        .as_ref()
        .and_then(|spec| spec.csi.as_ref())
        .ok_or_else(|| Rejection::VolumeNotCsi {
            claim: name.to_owned(),
            volume: volume_name.clone(),
        })?;
    let capacity = |of: Option<&BTreeMap<String, Quantity>>| bytes(of?.get("storage")?);
    let status = claim.status.as_ref();
    Ok(VolumeStatus {
        claim: name.to_owned(),
        volume: volume.to_owned(),
        mounts: Vec::new(),
        driver: csi.driver.clone(),
        volume_handle: csi.volume_handle.clone(),
        capacity: capacity(status.and_then(|s| s.capacity.as_ref()))
            .or_else(|| capacity(persistent.spec.as_ref().and_then(|s| s.capacity.as_ref())))
            .unwrap_or_default(),
        storage_class_name: spec.storage_class_name.clone().filter(|n| !n.is_empty()),
        volume_mode: spec
            .volume_mode
            .clone()
            .unwrap_or_else(|| "Filesystem".into()),
        volume_snapshot: String::new(),
        class_name: class_for(&source.classes, named, &csi.driver, name)?.name_any(),
        volume_snapshot_uid: None,
        content: None,
        handle: None,
        cut_at: None,
        restore_size: None,
        ready: false,
        retained: false,
    })
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Bound") && claim.metadata.deletion_timestamp.is_none()
}

/// Notes where PostgreSQL's container mounts each member, and checks that data directory and tablespaces lie on one. Returns
/// the claim of the one with pg_control.
pub fn mounts(
    protection: &PgProtection,
    stateful_set: &DynamicObject,
    pod: &Pod,
    facts: &DatabaseFacts,
    members: &mut [VolumeStatus],
) -> Result<String, Rejection> {
    let claims = claims(pod, &protection.spec.exclude_volumes);
    let container = container(protection, stateful_set, pod, facts, &claims)?;
    let claim_of = |directory: &str| {
        let elsewhere = || Rejection::TablespaceNotOnVolume {
            directory: directory.to_owned(),
        };
        let (mount, claim) = on(container, directory, &claims).ok_or_else(elsewhere)?;
        let expression = mount.sub_path_expr.as_ref();
        if expression.is_some_and(|expression| !expression.is_empty()) {
            let directory = directory.to_owned();
            return Err(Rejection::SubPathExpression { directory });
        }
        Ok(claim.clone())
    };
    for directory in facts.tablespaces.iter().chain([&facts.data_directory]) {
        claim_of(directory)?;
    }
    for mount in container.volume_mounts.iter().flatten() {
        let claim = claims.get(&mount.name);
        if let Some(member) = members.iter_mut().find(|m| Some(&m.claim) == claim) {
            member.mounts.push(Mount {
                path: mount.mount_path.clone(),
                sub_path: mount.sub_path.clone().filter(|path| !path.is_empty()),
            });
        }
    }
    let data = facts.data_directory.trim_end_matches('/');
    claim_of(&format!("{data}/global"))
}

/// The one that runs PostgreSQL: as it was named, with the data directory on a claim.
fn container<'a>(
    protection: &PgProtection,
    stateful_set: &DynamicObject,
    pod: &'a Pod,
    facts: &DatabaseFacts,
    claims: &BTreeMap<String, String>,
) -> Result<&'a Container, Rejection> {
    let named = protection
        .spec
        .connection
        .as_ref()
        .and_then(|connection| connection.container.as_deref())
        .or_else(|| {
            let marks = stateful_set.annotations();
            marks.get(annotations::CONTAINER).map(String::as_str)
        });
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
    containers
        .filter(|container| named.is_none_or(|name| container.name == name))
        .find(|container| on(container, &facts.data_directory, claims).is_some())
        .ok_or_else(|| Rejection::DataDirectoryNotOnVolume {
            pod: pod.name_any(),
            directory: facts.data_directory.clone(),
        })
}

/// The mount that `path` lies on, and its claim, if it has one that is snapshotted.
fn on<'a>(
    container: &'a Container,
    path: &str,
    claims: &'a BTreeMap<String, String>,
) -> Option<(&'a VolumeMount, &'a String)> {
    let mount = innermost(container, path)?;
    Some((mount, claims.get(&mount.name)?))
}

/// The mount that `path` lies on.
fn innermost<'a>(container: &'a Container, path: &str) -> Option<&'a VolumeMount> {
    let holds = |mount: &&VolumeMount| {
        let at = mount.mount_path.trim_end_matches('/');
        path.strip_prefix(at)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .filter(holds)
        .max_by_key(|mount| mount.mount_path.trim_end_matches('/').len())
}

/// A quantity in bytes, rounded up.
fn bytes(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.as_str();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let factor: f64 = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    };
    if let (Ok(whole), true) = (number.parse::<i64>(), factor >= 1.0) {
        #[allow(clippy::cast_possible_truncation, reason = "the factors are whole")]
        return whole.checked_mul(factor as i64);
    }
    let value = number.parse::<f64>().ok()? * factor;
    #[allow(clippy::cast_possible_truncation, reason = "saturates")]
    Some(value.ceil() as i64)
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
