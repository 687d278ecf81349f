//! What a restore in place will exchange: found once, and written down before anything of the source is touched. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{
    super::observe::Observed, Seen, asked, first_claim, is_of_set, name_of, policy, replicas,
    volume_of,
};
use crate::api::{
    ExchangedClaim, InPlaceStatus, KeptVolume, PgRestoreStatus, RecoveredVolume, names,
};

/// What will be exchanged; an error: what is not as it must be.
pub fn begin(
    observed: &Observed,
    status: &PgRestoreStatus,
    seen: &Seen,
) -> Result<InPlaceStatus, String> {
    let set = observed.live.as_ref();
    let set = set.ok_or("the StatefulSet is gone: create it again with replicas 0")?;
    let set_name = set.metadata.name.clone().unwrap_or_default();
    let mut exchanged = Vec::new();
    for restored in &status.volumes {
        let first = first_claim(set, &restored.volume);
        exchanged.push(ExchangedClaim {
            before: before(observed, seen, &first)?,
            after: Some(after(seen, &restored.claim)?),
            volume: restored.volume.clone(),
            claim: first.clone(),
        });
        let others = seen.claims.iter().filter_map(|it| it.metadata.name.clone());
        for claim in others.filter(|it| *it != first) {
            if is_of_set(&claim, &set_name, &restored.volume) {
                exchanged.push(ExchangedClaim {
                    before: before(observed, seen, &claim)?,
                    after: None,
                    volume: restored.volume.clone(),
                    claim,
                });
            }
        }
    }
    Ok(InPlaceStatus {
        stateful_set: set_name,
        replicas: replicas(set),
        claims: exchanged,
    })
}

fn bound_volume<'a>(
    seen: &'a Seen,
    claim: &PersistentVolumeClaim,
) -> Result<&'a PersistentVolume, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    volume_of(claim)
        .and_then(|volume| seen.volume(volume))
        .ok_or_else(|| {
            format!("claim {name} has no volume: see what became of it, or delete the claim")
        })
}

fn before(observed: &Observed, seen: &Seen, claim: &str) -> Result<Option<KeptVolume>, String> {
    let Some(found) = seen.claim(claim) else {
        return Ok(None);
    };
    let volume = bound_volume(seen, found)?;
    let kept = names::before(claim, &observed.identity.name);
    let wanted = asked(&observed.restore).is_none_or(|asked| asked.snapshot != Some(false));
    Ok(Some(KeptVolume {
        persistent_volume: name_of(volume),
        claim: kept.clone(),
        volume_snapshot: wanted.then_some(kept),
    }))
}

fn after(seen: &Seen, claim: &str) -> Result<RecoveredVolume, String> {
    let found = seen.claim(claim);
    let found = found.ok_or_else(|| format!("claim {claim}, with what was recovered, is gone"))?;
    let volume = bound_volume(seen, found)?;
    Ok(RecoveredVolume {
        persistent_volume: name_of(volume),
        claim: claim.to_owned(),
        reclaim_policy: policy(volume).to_owned(),
    })
}
