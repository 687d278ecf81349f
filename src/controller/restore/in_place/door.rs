//! What keeps a restore from going in the place of its source, found before anything is made. Pure.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};

use super::{
    super::{Rejection, claims, observe::Observed},
    asked, first_claim, replicas, scales,
};
use crate::api::{PgBackup, RestoredVolume};

const BY_HAND: &str = "docs/runbooks/in-place.md has the steps by hand";

/// Looks at the StatefulSet, its claims and the controller's rights.
pub fn refuse(observed: &Observed, backup: &PgBackup) -> Option<Rejection> {
    asked(&observed.restore)?;
    let Some(set) = &observed.live else {
        return Some(Rejection::new(
            "StatefulSetNotFound",
            "there is no StatefulSet in whose place it could go: create it again with replicas 0, or restore into a new one (into.statefulSet)",
        ));
    };
    owned(set)
        .or_else(|| forbidden(observed))
        .or_else(|| not_of_templates(set, backup))
        .or_else(|| claims_go_with_pods(set))
        .or_else(|| is_running(observed, set))
}

fn owned(set: &StatefulSet) -> Option<Rejection> {
    let mut owners = set.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    Some(Rejection::new(
        "OperatorOwned",
        format!(
            "the StatefulSet belongs to {} {}, which would start it in the middle: restore into volumes instead; {BY_HAND}",
            owner.kind, owner.name
        ),
    ))
}

fn forbidden(observed: &Observed) -> Option<Rejection> {
    let said = observed.in_place.as_ref()?.forbidden.as_ref()?;
    Some(Rejection::new(
        "InPlaceNotAllowed",
        format!(
            "the controller may not exchange volumes ({said}): kubectl apply -k manifests/in-place grants it; then create a new PgRestore"
        ),
    ))
}

fn spec(set: &StatefulSet) -> impl Iterator<Item = &StatefulSetSpec> {
    set.spec.iter()
}

/// A claim that the pod template names itself could not be exchanged without changing the StatefulSet.
fn not_of_templates(set: &StatefulSet, backup: &PgBackup) -> Option<Rejection> {
    let templates = spec(set).flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let templates: Vec<_> = templates.map(|it| it.metadata.name.as_deref()).collect();
    let volumes = backup.status.iter().flat_map(|status| &status.volumes);
    let others = volumes.map(|volume| volume.volume.as_str());
    let others: Vec<&str> = others.filter(|it| !templates.contains(&Some(it))).collect();
    (!others.is_empty()).then(|| {
        Rejection::new(
            "VolumeNotOfTemplate",
            format!(
                "{} of backup {} is in no volumeClaimTemplate of the StatefulSet: restore into volumes instead; {BY_HAND}",
                others.join(", "),
                backup.metadata.name.as_deref().unwrap_or_default()
            ),
        )
    })
}

/// Scaled to 0, such a StatefulSet deletes the very claims that are to be kept.
fn claims_go_with_pods(set: &StatefulSet) -> Option<Rejection> {
    let deletes = spec(set).any(|spec| {
        let policy = spec.persistent_volume_claim_retention_policy.as_ref();
        policy.is_some_and(|policy| policy.when_scaled.as_deref() == Some("Delete"))
    });
    deletes.then(|| {
        Rejection::new(
            "ClaimsNotRetained",
            "persistentVolumeClaimRetentionPolicy.whenScaled of the StatefulSet is Delete: scaled to 0 it would delete the old volumes; set it to Retain first",
        )
    })
}

fn is_running(observed: &Observed, set: &StatefulSet) -> Option<Rejection> {
    let (name, replicas) = (set.metadata.name.as_deref()?, replicas(set));
    // Once it was begun, the exchange waits for it.
    let begun = !observed.status().volumes.is_empty();
    (replicas > 0 && !scales(observed) && !begun).then(|| {
        Rejection::new(
            "StatefulSetRunning",
            format!(
                "StatefulSet {name} has replicas {replicas}: stop the application, kubectl scale statefulset {name} --replicas=0, then create a new PgRestore; or set into.inPlace.scale: true, and it is scaled when everything is recovered"
            ),
        )
    })
}

/// A claim that grew since the backup does not shrink.
pub fn at_least_as_large(observed: &Observed, volumes: &mut [RestoredVolume]) {
    let (Some(set), Some(seen)) = (&observed.live, &observed.in_place) else {
        return;
    };
    for volume in volumes {
        let claim = seen.claim(&first_claim(set, &volume.volume));
        let capacity = claim.and_then(|claim| claim.status.as_ref()?.capacity.as_ref());
        let has = capacity.and_then(|capacity| claims::bytes(capacity.get("storage")?));
        volume.size = volume.size.max(has.unwrap_or_default());
    }
}
