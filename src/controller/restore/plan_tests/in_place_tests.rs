//! A restore in the place of its source: what is refused, and the exchange of claims on a small model of volumes, claims and
//! pods, in which anything may happen between two changes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    api::InPlaceStatus,
    controller::restore::in_place::{Holder, Seen, act::Effect},
};

fn in_place(scale: bool) -> Json {
    json!({"inPlace": {"scale": scale}})
}

/// Planned, with the volume `data` alone, of a StatefulSet of so many replicas.
fn begins(scale: bool, replicas: i32) -> Observed {
    let mut observed = observed(in_place(scale), planned());
    let backup = observed.backup.as_mut().unwrap();
    let status = backup.status.as_mut().unwrap();
    status.volumes.retain(|volume| volume.volume == "data");
    observed.snapshots.truncate(1);
    let live = observed.live.as_mut().unwrap();
    live.spec.as_mut().unwrap().replicas = Some(replicas);
    observed.in_place = Some(Seen::default());
    observed
}

#[test]
fn in_place_is_refused_where_it_would_lose_something() {
    let spec = |observed: &mut Observed, value: Json| {
        let mut set = serde_json::to_value(observed.live.as_ref().unwrap()).unwrap();
        let merged = set.as_object_mut().unwrap();
        for (key, part) in value.as_object().unwrap() {
            let into = merged.entry(key.clone()).or_insert(json!({}));
            for (key, value) in part.as_object().unwrap() {
                into[key] = value.clone();
            }
        }
        observed.live = Some(serde_json::from_value(set).unwrap());
    };
    assert_eq!(refused(&begins(false, 3)), "StatefulSetRunning");
    assert!(matches!(
        plan(&begins(true, 3), &image()),
        Step::WriteDown(_)
    ));
    assert!(matches!(
        plan(&begins(false, 0), &image()),
        Step::WriteDown(_)
    ));

    let mut owned = begins(true, 3);
    let owner = json!([{"apiVersion": "v1", "kind": "Cluster", "name": "c", "uid": "u", "controller": true}]);
    spec(&mut owned, json!({"metadata": {"ownerReferences": owner}}));
    assert_eq!(refused(&owned), "OperatorOwned");

    let mut deletes = begins(true, 3);
    let policy = json!({"whenScaled": "Delete"});
    spec(
        &mut deletes,
        json!({"spec": {"persistentVolumeClaimRetentionPolicy": policy}}),
    );
    assert_eq!(refused(&deletes), "ClaimsNotRetained");

    let mut of_template = observed(in_place(true), planned());
    of_template.in_place = Some(Seen::default());
    assert_eq!(refused(&of_template), "VolumeNotOfTemplate");

    let mut forbidden = begins(true, 3);
    forbidden.in_place.as_mut().unwrap().forbidden = Some("no".into());
    assert_eq!(refused(&forbidden), "InPlaceNotAllowed");

    let mut gone = begins(true, 3);
    gone.live = None;
    assert_eq!(refused(&gone), "StatefulSetNotFound");
}

#[test]
fn a_claim_that_grew_stays_as_large() {
    let mut grown = begins(true, 3);
    let claim =
        json!({"metadata": {"name": "data-orders-0"}, "status": {"capacity": {"storage": "1Mi"}}});
    let seen = grown.in_place.as_mut().unwrap();
    seen.claims = vec![serde_json::from_value(claim).unwrap()];
    let Step::WriteDown(volumes) = plan(&grown, &image()) else {
        panic!("nothing is written down");
    };
    assert_eq!(volumes[0].size, 1 << 20);
    assert_eq!(volumes[0].claim, "r-data");
}

#[derive(Clone, Debug)]
struct Claim {
    uid: usize,
    volume: String,
    goes: bool,
}

#[derive(Clone, Debug)]
struct Volume {
    policy: String,
    claim: Option<(String, Option<usize>)>,
}

/// Volumes, claims, snapshots and pods, and what the cluster's own controllers do with them.
#[derive(Clone, Debug)]
struct World {
    claims: BTreeMap<String, Claim>,
    volumes: BTreeMap<String, Volume>,
    snapshots: BTreeSet<String>,
    pods: BTreeSet<i32>,
    replicas: i32,
    uids: usize,
    written: Option<InPlaceStatus>,
    scales: bool,
}

const OLD: [&str; 3] = ["old-0", "old-1", "old-2"];

impl World {
    /// Three members, and the volume that was recovered.
    fn new(scales: bool) -> Self {
        let mut world = Self {
            claims: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeSet::new(),
            pods: BTreeSet::new(),
            replicas: if scales { 3 } else { 0 },
            uids: 0,
            written: None,
            scales,
        };
        for (member, volume) in OLD.iter().enumerate() {
            world.bound(&format!("data-orders-{member}"), volume);
        }
        world.bound("r-data", "new");
        world.settle();
        world
    }

    fn bound(&mut self, claim: &str, volume: &str) {
        self.claim(claim, volume);
        let reference = Some((claim.to_owned(), Some(self.uids)));
        let policy = "Delete".to_owned();
        self.volumes.insert(
            volume.to_owned(),
            Volume {
                policy,
                claim: reference,
            },
        );
    }

    fn claim(&mut self, claim: &str, volume: &str) {
        self.uids += 1;
        let (uid, volume) = (self.uids, volume.to_owned());
        let goes = false;
        self.claims
            .insert(claim.to_owned(), Claim { uid, volume, goes });
    }

    fn is_bound(&self, name: &str, claim: &Claim) -> bool {
        let volume = self.volumes.get(&claim.volume);
        volume.and_then(|it| it.claim.as_ref()) == Some(&(name.to_owned(), Some(claim.uid)))
    }

    /// What the controllers of StatefulSets, claims and volumes do.
    fn settle(&mut self) {
        self.pods.retain(|pod| *pod < self.replicas);
        for pod in 0..self.replicas {
            let name = format!("data-orders-{pod}");
            if !self.claims.contains_key(&name) {
                let fresh = format!("fresh-{}", self.uids);
                self.bound(&name, &fresh);
            }
            self.pods.insert(pod);
        }
        let held: Vec<String> = self
            .pods
            .iter()
            .map(|it| format!("data-orders-{it}"))
            .collect();
        let gone = |(name, claim): (&String, &Claim)| {
            (claim.goes && !held.contains(name)).then(|| name.clone())
        };
        let gone: Vec<String> = self.claims.iter().filter_map(gone).collect();
        for name in gone {
            let claim = self.claims.remove(&name).unwrap();
            let had = (name, Some(claim.uid));
            // Deleted is what it was bound to, unless that is kept.
            let lost = self.volumes.get(&claim.volume);
            if lost.is_some_and(|it| it.policy == "Delete" && it.claim.as_ref() == Some(&had)) {
                self.volumes.remove(&claim.volume);
            }
        }
        for (name, claim) in &self.claims {
            let Some(volume) = self.volumes.get_mut(&claim.volume) else {
                continue;
            };
            if volume.claim == Some((name.clone(), None)) {
                volume.claim = Some((name.clone(), Some(claim.uid)));
            }
        }
    }

    fn act(&mut self, effect: &Effect) {
        match effect {
            Effect::Policy { volume, policy } => {
                self.volumes
                    .get_mut(volume)
                    .unwrap()
                    .policy
                    .clone_from(policy);
            }
            Effect::Reserve { volume, claim } => {
                self.volumes.get_mut(volume).unwrap().claim = Some((claim.clone(), None));
            }
            Effect::DeleteClaim { name, uid } => {
                let claim = self.claims.get_mut(name);
                if let Some(claim) = claim.filter(|it| it.uid.to_string() == *uid) {
                    claim.goes = true;
                }
            }
            Effect::Make(Kind::Claim, claim) => {
                let name = name_of(claim);
                if !self.claims.contains_key(name) {
                    self.claim(name, claim["spec"]["volumeName"].as_str().unwrap());
                }
            }
            Effect::Make(_, snapshot) => {
                let of = snapshot["spec"]["source"]["persistentVolumeClaimName"].as_str();
                assert!(
                    self.claims.contains_key(of.unwrap()),
                    "a snapshot of nothing"
                );
                self.snapshots.insert(name_of(snapshot).to_owned());
            }
            Effect::Scale { set: _, replicas } => self.replicas = *replicas,
        }
    }

    fn seen(&self) -> Seen {
        let parse = |value: Json| serde_json::from_value(value).unwrap();
        let claim = |(name, claim): (&String, &Claim)| {
            let phase = if self.is_bound(name, claim) {
                "Bound"
            } else {
                "Pending"
            };
            let deletion = claim.goes.then_some("2026-11-20T14:00:00Z");
            parse(json!({
                "metadata": {"name": name, "uid": claim.uid.to_string(), "deletionTimestamp": deletion},
                "spec": {"volumeName": claim.volume}, "status": {"phase": phase},
            }))
        };
        let volume = |(name, volume): (&String, &Volume)| {
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"persistentVolumeReclaimPolicy": volume.policy, "accessModes": ["ReadWriteOnce"],
                    "capacity": {"storage": "1Gi"}, "storageClassName": "fast"},
            }))
            .unwrap()
        };
        let snapshot = |name: &String| {
            super::claims::SnapshotSeen {
            snapshot: serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"source": {}},
                "status": {"boundVolumeSnapshotContentName": format!("snapcontent-{name}")},
            }))
            .unwrap(),
            content: serde_json::from_value(json!({
                "metadata": {"name": format!("snapcontent-{name}")},
                "spec": {"driver": "d", "deletionPolicy": "Delete", "source": {"volumeHandle": "v"},
                    "volumeSnapshotRef": {"name": name, "namespace": "shop", "uid": name}},
                "status": {"snapshotHandle": "h", "creationTime": 1},
            }))
            .unwrap(),
        }
        };
        Seen {
            forbidden: None,
            claims: self.claims.iter().map(claim).collect(),
            volumes: self.volumes.iter().map(volume).collect(),
            snapshots: self.snapshots.iter().map(snapshot).collect(),
            holders: self
                .pods
                .iter()
                .map(|pod| Holder {
                    pod: format!("orders-{pod}"),
                    claims: vec![format!("data-orders-{pod}")],
                })
                .collect(),
        }
    }

    fn observed(&self) -> Observed {
        let mut observed = begins(self.scales, self.replicas);
        let status = observed.restore.status.as_mut().unwrap();
        status.volumes = vec![
            serde_json::from_value(
                json!({"claim": "r-data", "volume": "data", "volumeSnapshot": "s", "size": 1}),
            )
            .unwrap(),
        ];
        status.in_place.clone_from(&self.written);
        condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
        observed.in_place = Some(self.seen());
        observed.clone_pod = self.pods.contains(&0).then(|| {
            serde_json::from_value(json!({
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap()
        });
        observed
    }

    /// One pass, that may die after so many changes. The message of a restore that is completed.
    fn pass(&mut self, survives: usize) -> Option<String> {
        match plan(&self.observed(), &image()) {
            Step::WriteDownExchange(written) => {
                if survives > 0 {
                    self.written = Some(written);
                }
                None
            }
            Step::Exchange(effects) => {
                effects.iter().take(survives).for_each(|it| self.act(it));
                None
            }
            Step::Wait(_) => None,
            Step::Complete(message) => Some(message),
            other => panic!("{other:?}"),
        }
    }

    /// Somebody who follows what the condition says.
    fn admin(&mut self) {
        if !self.scales || self.written.is_some() {
            self.replicas = 0;
            self.settle();
        }
        let expected = [
            ("data-orders-0", "new"),
            ("data-orders-0", "old-0"),
            ("data-orders-1", "old-1"),
            ("data-orders-2", "old-2"),
            ("r-data", "new"),
            ("data-orders-0-before-r", "old-0"),
            ("data-orders-1-before-r", "old-1"),
            ("data-orders-2-before-r", "old-2"),
        ];
        for (name, claim) in &mut self.claims {
            claim.goes |= !expected.contains(&(name.as_str(), claim.volume.as_str()));
        }
    }

    /// What must hold always.
    fn judge(&self) -> Result<(), String> {
        let kept = OLD.iter().chain(&["new"]);
        match kept.copied().find(|it| !self.volumes.contains_key(*it)) {
            Some(lost) => Err(format!("{lost} is lost")),
            None => Ok(()),
        }
    }
}

/// What may come between two passes.
fn happens(world: &mut World, what: u8) {
    match what % 8 {
        0 => world.replicas = 3,
        1 => world.replicas = 0,
        2 => world.admin(),
        _ => {}
    }
    world.settle();
}

/// Whether so many passes are enough; nothing is lost in any.
fn is_completed(world: &mut World) -> Result<bool, TestCaseError> {
    for _ in 0..20 {
        let completed = world.pass(usize::MAX).is_some();
        world.settle();
        prop_assert_eq!(world.judge(), Ok(()));
        if completed {
            return Ok(true);
        }
    }
    Ok(false)
}

fn completed(world: &mut World) -> String {
    for _ in 0..40 {
        let message = world.pass(usize::MAX);
        world.settle();
        if let Some(message) = message {
            return message;
        }
    }
    panic!("it never ends: {world:?}");
}

#[test]
fn three_members_are_exchanged_and_the_first_is_started() {
    for scales in [true, false] {
        let mut world = World::new(scales);
        let message = completed(&mut world);
        assert!(message.contains("data-orders-2-before-r"), "{message}");
        let on = |claim: &str| world.claims.get(claim).map(|it| it.volume.as_str());
        assert_eq!(on("data-orders-0"), Some("new"));
        for (member, old) in OLD.iter().enumerate() {
            assert_eq!(on(&format!("data-orders-{member}-before-r")), Some(*old));
            assert_eq!(world.volumes[*old].policy, "Retain");
        }
        // Members beyond the first begin anew.
        assert_eq!(on("data-orders-1"), None);
        assert_eq!(on("r-data"), None);
        assert_eq!(world.volumes["new"].policy, "Delete");
        assert_eq!(world.replicas, i32::from(scales));
        assert_eq!(world.snapshots.len(), 3);
    }
}

proptest! {
    /// traps.md 17: wherever it stops, whoever scales the StatefulSet up in the middle.
    #[test]
    fn an_exchange_loses_no_volume_wherever_it_stops(
        scales: bool,
        events in proptest::collection::vec((any::<u8>(), 0usize..6), 0..60),
    ) {
        let mut world = World::new(scales);
        for (what, survives) in events {
            if world.pass(survives).is_some() {
                break;
            }
            happens(&mut world, what);
            prop_assert_eq!(world.judge(), Ok(()));
        }
        let mut tries = 0;
        while !is_completed(&mut world)? {
            world.admin();
            world.settle();
            tries += 1;
            prop_assert!(tries < 5, "it never ends: {world:?}");
        }
        prop_assert_eq!(world.judge(), Ok(()));
        prop_assert_eq!(world.claims["data-orders-0"].volume.as_str(), "new");
    }
}

/// The oracle sees what the order of the parts is for.
#[test]
fn without_retain_a_volume_is_lost() {
    let mut world = World::new(true);
    let lost = (0..40).any(|_| {
        world.pass(usize::MAX);
        for volume in world.volumes.values_mut() {
            volume.policy = "Delete".into();
        }
        // As if the policy had been read before it was set back.
        let mut observed = world.observed();
        for volume in &mut observed.in_place.as_mut().unwrap().volumes {
            let spec = volume.spec.as_mut().unwrap();
            spec.persistent_volume_reclaim_policy = Some("Retain".into());
        }
        if let Step::Exchange(effects) = plan(&observed, &image()) {
            effects.iter().for_each(|it| world.act(it));
        }
        world.settle();
        world.judge().is_err()
    });
    assert!(lost, "{world:?}");
}

#[test]
fn what_was_begun_is_ended_though_the_restore_is_deleted() {
    let deleted = |world: &World| {
        let mut observed = world.observed();
        observed.restore.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-11-20T14:00:00Z")).unwrap();
        observed.made = vec![(Kind::Claim, "r-data".into())];
        observed
    };
    let mut world = World::new(true);
    // Nothing is exchanged yet: what was recovered goes, with its volume.
    assert!(matches!(plan(&deleted(&world), &image()), Step::Remove(_)));
    while world.volumes["new"].policy == "Delete" {
        world.pass(usize::MAX);
    }
    let Step::Exchange(effects) = plan(&deleted(&world), &image()) else {
        panic!("the recovered volume is set back");
    };
    let policy = Effect::Policy {
        volume: "new".into(),
        policy: "Delete".into(),
    };
    assert_eq!(effects, [policy]);
    while world.claims.values().all(|claim| !claim.goes) {
        world.pass(usize::MAX);
        if world.claims.values().all(|claim| !claim.goes) {
            world.settle();
        }
    }
    for _ in 0..20 {
        let step = plan(&deleted(&world), &image());
        let Step::Exchange(effects) = step else {
            assert!(
                matches!(step, Step::Wait(_) | Step::Complete(_)),
                "{step:?}"
            );
            world.settle();
            continue;
        };
        effects.iter().for_each(|it| world.act(it));
        world.settle();
    }
    assert_eq!(world.claims["data-orders-0"].volume, "new");
    assert!(matches!(
        plan(&deleted(&world), &image()),
        Step::Complete(_)
    ));
}
