//! What is exchanged next. Pure.
//!
//! In this order, each part seen to be done before the next begins: written down; each volume kept whatever happens to its claim
//! (`Retain`); the StatefulSet at 0, and no pod with one of the claims; a snapshot cut of each old volume; the claims, one by one;
//! the recovered volumes' own reclaim policy. The StatefulSet is looked at in each pass: a member that somebody starts between
//! two claims would begin empty.

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value as Json, json};

use super::{
    super::{
        Identity,
        act::Kind,
        observe::Observed,
        plan::{Phase, Step, Waiting},
        running::is_ready,
    },
    RETAIN, Seen,
    act::Effect,
    name_of, policy, replicas, scales, volume_of,
    written::begin,
};
use crate::{
    api::{ExchangedClaim, InPlaceStatus, annotations, names},
    csi::{Reading, reading},
};

/// The next step of a restore whose volumes are recovered and free.
pub fn exchange(observed: &Observed) -> Step {
    let Some(seen) = &observed.in_place else {
        return waits("waiting for the StatefulSet's claims to be read");
    };
    let status = observed.status();
    let Some(written) = &status.in_place else {
        return match begin(observed, &status, seen) {
            Ok(written) => Step::WriteDownExchange(written),
            Err(message) => waits(message),
        };
    };
    let unfinished: Vec<&ExchangedClaim> = written
        .claims
        .iter()
        .filter(|claim| !is_done(seen, claim))
        .collect();
    if unfinished.is_empty() {
        return finish(observed, written, seen);
    }
    retained(seen, &unfinished)
        .or_else(|| stopped(observed, written))
        .or_else(|| free(seen, &unfinished))
        .or_else(|| snapshots(observed, seen, &unfinished))
        .unwrap_or_else(|| claims(observed, seen, &unfinished))
}

/// Whether a restore that is being deleted is between two states: what was begun is ended.
pub fn must_go_on(observed: &Observed) -> bool {
    let status = observed.status();
    let (Some(written), Some(seen)) = (&status.in_place, &observed.in_place) else {
        return false;
    };
    let is_as_it_was = |claim: &ExchangedClaim| {
        let ExchangedClaim {
            claim: name,
            volume: _,
            before,
            after,
        } = claim;
        let before = before.as_ref();
        let kept = before.is_none_or(|it| is_on(seen, name, &it.persistent_volume));
        let recovered = after.as_ref();
        kept && recovered.is_none_or(|it| is_on(seen, &it.claim, &it.persistent_volume))
    };
    !written.claims.iter().all(is_as_it_was)
}

/// What is set back where nothing was exchanged: a recovered volume goes with its claim, as any does. The old volumes are left as
/// they are.
pub fn abandoned(observed: &Observed) -> Option<Step> {
    let status = observed.status();
    let (written, seen) = (status.in_place.as_ref()?, observed.in_place.as_ref()?);
    let effects = own_policies(written, seen);
    (!effects.is_empty()).then_some(Step::Exchange(effects))
}

/// Where a recovered volume's reclaim policy is another than its own.
fn own_policies(written: &InPlaceStatus, seen: &Seen) -> Vec<Effect> {
    let recovered = written.claims.iter().filter_map(|it| it.after.as_ref());
    let changed = recovered.filter(|it| {
        let volume = seen.volume(&it.persistent_volume);
        volume.is_some_and(|volume| policy(volume) != it.reclaim_policy)
    });
    changed
        .map(|it| Effect::Policy {
            volume: it.persistent_volume.clone(),
            policy: it.reclaim_policy.clone(),
        })
        .collect()
}

fn waits(message: impl Into<String>) -> Step {
    Step::Wait(Waiting {
        phase: Phase::Exchanging,
        message: message.into(),
        remove: Vec::new(),
    })
}

fn is_on(seen: &Seen, claim: &str, volume: &str) -> bool {
    seen.claim(claim).is_some_and(|claim| {
        claim.metadata.deletion_timestamp.is_none() && volume_of(claim) == Some(volume)
    })
}

fn is_bound(seen: &Seen, claim: &str, volume: &str) -> bool {
    let phase = seen.claim(claim).and_then(|it| it.status.as_ref());
    let phase = phase.and_then(|status| status.phase.as_deref());
    is_on(seen, claim, volume) && phase == Some("Bound")
}

fn is_done(seen: &Seen, exchanged: &ExchangedClaim) -> bool {
    let ExchangedClaim {
        claim,
        volume: _,
        before,
        after,
    } = exchanged;
    let given = after
        .as_ref()
        .is_none_or(|it| is_bound(seen, claim, &it.persistent_volume));
    let kept = before
        .as_ref()
        .is_none_or(|it| is_bound(seen, &it.claim, &it.persistent_volume));
    given && kept
}

/// Every volume that is about to lose its claim.
fn retained(seen: &Seen, unfinished: &[&ExchangedClaim]) -> Option<Step> {
    let mut effects = Vec::new();
    for name in unfinished.iter().flat_map(|claim| volumes(claim)) {
        match seen.volume(name) {
            None => {
                return Some(waits(format!(
                    "PersistentVolume {name} is gone, and nothing else is touched: see status.inPlace for what there was"
                )));
            }
            Some(volume) if policy(volume) == RETAIN => {}
            Some(_) => effects.push(Effect::Policy {
                volume: name.to_owned(),
                policy: RETAIN.to_owned(),
            }),
        }
    }
    (!effects.is_empty()).then_some(Step::Exchange(effects))
}

fn volumes(exchanged: &ExchangedClaim) -> impl Iterator<Item = &str> {
    let before = exchanged.before.iter().map(|it| &it.persistent_volume);
    let after = exchanged.after.iter().map(|it| &it.persistent_volume);
    before.chain(after).map(String::as_str)
}

fn stopped(observed: &Observed, written: &InPlaceStatus) -> Option<Step> {
    // Without the StatefulSet nothing is started.
    let replicas = observed.live.as_ref().map(replicas).unwrap_or_default();
    let set = &written.stateful_set;
    match (replicas, scales(observed)) {
        (0, _) => None,
        (_, true) => Some(Step::Exchange(vec![Effect::Scale {
            set: set.clone(),
            replicas: 0,
        }])),
        (replicas, false) => Some(waits(format!(
            "StatefulSet {set} was scaled to {replicas} meanwhile: kubectl scale statefulset {set} --replicas=0, and the exchange of its claims goes on"
        ))),
    }
}

fn free(seen: &Seen, unfinished: &[&ExchangedClaim]) -> Option<Step> {
    let touched: Vec<&str> = unfinished.iter().flat_map(|it| claim_names(it)).collect();
    let holder = seen.holders.iter().find_map(|holder| {
        let claim = holder.claims.iter();
        let claim = claim.map(String::as_str).find(|it| touched.contains(it))?;
        Some((&holder.pod, claim))
    });
    holder.map(|(pod, claim)| {
        waits(format!(
            "waiting for pod {pod} to end: it has claim {claim}"
        ))
    })
}

fn claim_names(exchanged: &ExchangedClaim) -> impl Iterator<Item = &str> {
    let before = exchanged.before.iter().map(|it| it.claim.as_str());
    let after = exchanged.after.iter().map(|it| it.claim.as_str());
    before.chain(after).chain([exchanged.claim.as_str()])
}

/// Of each old volume that still has its claim. The cut is enough here: the snapshot controller itself keeps the claim until
/// the snapshot is ready.
fn snapshots(observed: &Observed, seen: &Seen, unfinished: &[&ExchangedClaim]) -> Option<Step> {
    let mut effects = Vec::new();
    let mut waiting = Vec::new();
    for exchanged in unfinished {
        let Some(before) = &exchanged.before else {
            continue;
        };
        if !is_on(seen, &exchanged.claim, &before.persistent_volume) {
            continue;
        }
        let Some(name) = &before.volume_snapshot else {
            continue;
        };
        let found = seen.snapshots.iter().find_map(|it| {
            let snapshot = it.snapshot.as_ref()?;
            let is_it = snapshot.metadata.name.as_ref() == Some(name);
            is_it.then(|| reading(snapshot, it.content.as_ref()))
        });
        match found {
            None => effects.push(Effect::Make(
                Kind::VolumeSnapshot,
                snapshot(observed, exchanged, name),
            )),
            Some(Reading::Pending) => waiting.push(name.clone()),
            Some(Reading::Failed { message }) => waiting.push(format!("{name} ({message})")),
            Some(Reading::Cut(_) | Reading::Ready(_)) => {}
        }
    }
    match (effects.is_empty(), waiting.is_empty()) {
        (false, _) => Some(Step::Exchange(effects)),
        (true, false) => Some(waits(format!(
            "waiting for VolumeSnapshot {} of what is there now",
            waiting.join(", ")
        ))),
        (true, true) => None,
    }
}

/// It carries the restore's name and not its UID: it does not go with the restore.
fn kept_labels(identity: &Identity) -> Json {
    json!({annotations::RESTORE_LABEL: names::label(&identity.name)})
}

fn snapshot(observed: &Observed, exchanged: &ExchangedClaim, name: &str) -> Json {
    let backup = observed.backup.as_ref();
    let volumes = backup.iter().flat_map(|it| &it.status);
    let class = volumes
        .flat_map(|status| &status.volumes)
        .find(|volume| volume.volume == exchanged.volume)
        .map(|volume| &volume.class_name);
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {
            "name": name,
            "namespace": observed.identity.namespace,
            "labels": kept_labels(&observed.identity),
        },
        "spec": {
            "volumeSnapshotClassName": class.filter(|class| !class.is_empty()),
            "source": {"persistentVolumeClaimName": exchanged.claim},
        },
    })
}

/// The claims that may be taken off their volumes are, and volumes without a claim get theirs.
fn claims(observed: &Observed, seen: &Seen, unfinished: &[&ExchangedClaim]) -> Step {
    let mut moves = Moves {
        observed,
        seen,
        effects: Vec::new(),
        waiting: Vec::new(),
    };
    for exchanged in unfinished {
        moves.of(exchanged);
    }
    match moves.effects.is_empty() {
        false => Step::Exchange(moves.effects),
        true => waits(moves.waiting.join("; ")),
    }
}

struct Moves<'a> {
    observed: &'a Observed,
    seen: &'a Seen,
    effects: Vec<Effect>,
    waiting: Vec<String>,
}

impl Moves<'_> {
    fn of(&mut self, exchanged: &ExchangedClaim) {
        let ExchangedClaim {
            claim,
            volume,
            before,
            after,
        } = exchanged;
        let mut is_free = true;
        if let Some(before) = before {
            is_free &= self.taken_off(claim, &before.persistent_volume);
        }
        if let Some(after) = after {
            is_free &= self.taken_off(&after.claim, &after.persistent_volume);
        }
        if !is_free {
            return;
        }
        if let Some(after) = after {
            let labels = set_labels(self.observed, volume);
            self.given(claim, &after.persistent_volume, &labels);
        }
        if let Some(before) = before {
            let labels = kept_labels(&self.observed.identity);
            self.given(&before.claim, &before.persistent_volume, &labels);
        }
    }

    /// Whether `claim` is on `volume` no more.
    fn taken_off(&mut self, claim: &str, volume: &str) -> bool {
        let Some(found) = self.seen.claim(claim) else {
            return true;
        };
        if volume_of(found) != Some(volume) {
            return true;
        }
        match (&found.metadata.deletion_timestamp, &found.metadata.uid) {
            (None, Some(uid)) => self.effects.push(Effect::DeleteClaim {
                name: claim.to_owned(),
                uid: uid.clone(),
            }),
            (Some(_), _) | (None, None) => {
                self.waiting
                    .push(format!("waiting for claim {claim} to go"));
            }
        }
        false
    }

    /// `volume` gets a claim called `claim`.
    fn given(&mut self, claim: &str, volume: &str, labels: &Json) {
        match (self.seen.claim(claim), self.seen.volume(volume)) {
            (Some(found), _) if volume_of(found) != Some(volume) => self.waiting.push(format!(
                "claim {claim} was made by somebody else meanwhile: with no pod of the StatefulSet started, delete it (kubectl delete pvc {claim})"
            )),
            (Some(_), _) => self.waiting.push(format!("waiting for claim {claim} to be bound")),
            (None, Some(found)) => {
                let namespace = &self.observed.identity.namespace;
                self.effects.push(Effect::Reserve {
                    volume: volume.to_owned(),
                    claim: claim.to_owned(),
                });
                let claim = claim_json(namespace, claim, labels, found);
                self.effects.push(Effect::Make(Kind::Claim, claim));
            }
            (None, None) => {}
        }
    }
}

/// As the StatefulSet controller labels the claims that it makes.
fn set_labels(observed: &Observed, volume: &str) -> Json {
    let Some(spec) = observed.live.as_ref().and_then(|it| it.spec.as_ref()) else {
        return json!({});
    };
    let templates = spec.volume_claim_templates.iter().flatten();
    let template = templates
        .filter(|it| it.metadata.name.as_deref() == Some(volume))
        .find_map(|it| it.metadata.labels.clone());
    let mut labels = template.unwrap_or_default();
    labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
    json!(labels)
}

/// A claim for this volume and no other.
fn claim_json(namespace: &str, name: &str, labels: &Json, volume: &PersistentVolume) -> Json {
    let spec = volume.spec.clone().unwrap_or_default();
    let storage = spec.capacity.and_then(|mut it| it.remove("storage"));
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "accessModes": spec.access_modes,
            "resources": {"requests": {"storage": storage}},
            // Without one the default class would be filled in, and the volume not fit.
            "storageClassName": spec.storage_class_name.unwrap_or_default(),
            "volumeMode": spec.volume_mode,
            "volumeName": name_of(volume),
        },
    })
}

/// Every claim has its volume.
fn finish(observed: &Observed, written: &InPlaceStatus, seen: &Seen) -> Step {
    let effects = own_policies(written, seen);
    if !effects.is_empty() {
        return Step::Exchange(effects);
    }
    let set = &written.stateful_set;
    let Some(live) = observed.live.as_ref().filter(|_| scales(observed)) else {
        return Step::Complete(format!(
            "the claims of StatefulSet {set} have the restored volumes; {}kubectl scale statefulset {set} --replicas=1 starts it",
            kept(written)
        ));
    };
    if observed.restore.metadata.deletion_timestamp.is_none() {
        if replicas(live) == 0 {
            return Step::Exchange(vec![Effect::Scale {
                set: set.clone(),
                replicas: 1,
            }]);
        }
        if !observed.clone_pod.as_ref().is_some_and(is_ready) {
            return waits(format!("waiting for the first pod of {set} to be ready"));
        }
    }
    let others = match written.replicas > 1 {
        true => format!(
            "; it had {} members: docs/runbooks/in-place.md, \"The other members\"",
            written.replicas
        ),
        false => String::new(),
    };
    Step::Complete(format!(
        "StatefulSet {set} answers with the restored volumes; {}status.inPlace has the rest{others}",
        kept(written)
    ))
}

fn kept(written: &InPlaceStatus) -> String {
    let before = written.claims.iter().filter_map(|it| it.before.as_ref());
    let claims: Vec<&str> = before.map(|it| it.claim.as_str()).collect();
    match claims.is_empty() {
        true => String::new(),
        false => format!("the old ones are kept as {}; ", claims.join(", ")),
    }
}
