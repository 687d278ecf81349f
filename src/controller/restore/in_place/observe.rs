//! Reads the volumes of a StatefulSet in whose place a restore goes.

use std::collections::BTreeSet;

use futures::future::{try_join, try_join_all};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::json;

use super::{
    super::{claims::SnapshotSeen, observe::Observed},
    Holder, Seen,
    act::{patch_volume, scale},
    is_of_set, scales, set_name,
};
use crate::{
    api::{PgBackup, PgRestoreStatus},
    csi::{VolumeSnapshot, VolumeSnapshotContent, content_name},
    kubernetes::{RequestError, request},
};

/// `None`: this restore is none in place, or is decided.
///
/// # Errors
/// As any request.
pub async fn observe(observed: &Observed, client: &Client) -> Result<Option<Seen>, RequestError> {
    let status = observed.status();
    let Some(set) = set_name(observed, &status) else {
        return Ok(None);
    };
    let namespace = &observed.identity.namespace;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let all = ListParams::default();
    let (claims, pods) = try_join(request(claims.list(&all)), request(pods.list(&all))).await?;
    let wanted = wanted(&status, observed.backup.as_ref(), set, &claims.items);
    let mut claims = claims.items;
    claims.retain(|claim| wanted.contains(&claim.name_any()));
    let (volumes, snapshots) = try_join(
        volumes(client, &status, &claims),
        snapshots(client, namespace, &status),
    )
    .await?;
    let forbidden = match status.volumes.is_empty() {
        true => forbidden(observed, client, set, &volumes).await?,
        false => None,
    };
    Ok(Some(Seen {
        forbidden,
        claims,
        volumes,
        snapshots,
        holders: pods.items.iter().filter_map(holder).collect(),
    }))
}

/// The names of all claims that matter.
fn wanted(
    status: &PgRestoreStatus,
    backup: Option<&PgBackup>,
    set: &str,
    all: &[PersistentVolumeClaim],
) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    wanted.extend(status.volumes.iter().map(|volume| volume.claim.clone()));
    for exchanged in status.in_place.iter().flat_map(|it| &it.claims) {
        wanted.insert(exchanged.claim.clone());
        wanted.extend(exchanged.before.iter().map(|it| it.claim.clone()));
        wanted.extend(exchanged.after.iter().map(|it| it.claim.clone()));
    }
    let volumes = backup.and_then(|backup| backup.status.as_ref());
    let volumes = volumes.iter().flat_map(|status| &status.volumes);
    let volumes: Vec<&str> = volumes.map(|volume| volume.volume.as_str()).collect();
    let names = all.iter().map(ResourceExt::name_any);
    wanted.extend(names.filter(|name| volumes.iter().any(|it| is_of_set(name, set, it))));
    wanted
}

async fn volumes(
    client: &Client,
    status: &PgRestoreStatus,
    claims: &[PersistentVolumeClaim],
) -> Result<Vec<PersistentVolume>, RequestError> {
    let mut names: BTreeSet<String> = claims
        .iter()
        .filter_map(|claim| claim.spec.as_ref()?.volume_name.clone())
        .collect();
    for exchanged in status.in_place.iter().flat_map(|it| &it.claims) {
        let before = exchanged.before.iter().map(|it| &it.persistent_volume);
        let after = exchanged.after.iter().map(|it| &it.persistent_volume);
        names.extend(before.chain(after).cloned());
    }
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let found = names.iter().map(|name| request(api.get_opt(name)));
    Ok(try_join_all(found).await?.into_iter().flatten().collect())
}

async fn snapshots(
    client: &Client,
    namespace: &str,
    status: &PgRestoreStatus,
) -> Result<Vec<SnapshotSeen>, RequestError> {
    let api: Api<VolumeSnapshot> = Api::namespaced(client.clone(), namespace);
    let contents: Api<VolumeSnapshotContent> = Api::all(client.clone());
    let exchanged = status.in_place.iter().flat_map(|it| &it.claims);
    let names = exchanged.filter_map(|it| it.before.as_ref()?.volume_snapshot.as_ref());
    let seen = names.map(async |name| {
        let snapshot = request(api.get_opt(name)).await?;
        let content = snapshot.as_ref().and_then(|it| it.metadata.uid.as_deref());
        let content = match content {
            Some(uid) => request(contents.get_opt(&content_name(uid))).await?,
            None => None,
        };
        Ok::<_, RequestError>(SnapshotSeen { snapshot, content })
    });
    try_join_all(seen).await
}

/// Asked before anything is made, by a change that is none: whoever finds out after recovery has waited for nothing.
async fn forbidden(
    observed: &Observed,
    client: &Client,
    set: &str,
    volumes: &[PersistentVolume],
) -> Result<Option<String>, RequestError> {
    let volume = volumes.first().map(ResourceExt::name_any);
    let patched = match &volume {
        Some(volume) => patch_volume(client, volume, json!({}), true).await,
        None => Ok(()),
    };
    let live = observed.live.as_ref().filter(|_| scales(observed));
    let scaled = match live {
        Some(_) => scale(client, &observed.identity.namespace, set, None).await,
        None => Ok(()),
    };
    for tried in [patched, scaled] {
        match tried {
            Err(error) if error.is_forbidden() => return Ok(Some(error.to_string())),
            Err(error) if error.is_not_found() => {}
            tried => tried?,
        }
    }
    Ok(None)
}

/// A pod that has ended has nothing mounted.
fn holder(pod: &Pod) -> Option<Holder> {
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    let volumes = pod.spec.as_ref()?.volumes.iter().flatten();
    let claims =
        volumes.filter_map(|it| Some(it.persistent_volume_claim.as_ref()?.claim_name.clone()));
    let claims: Vec<String> = claims.collect();
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    (!ended && !claims.is_empty()).then(|| Holder {
        pod: pod.name_any(),
        claims,
    })
}
