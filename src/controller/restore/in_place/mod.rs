//! A restore in place: recovered into new volumes, like every other, while the database may still run; then the claims of its
//! StatefulSet are exchanged. The old volumes are kept.

pub mod act;
mod door;
mod exchange;
mod observe;
mod written;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim},
};
use kube::ResourceExt;

pub use self::{
    door::{at_least_as_large, refuse},
    exchange::{abandoned, exchange, must_go_on},
    observe::observe,
};
use super::{claims::SnapshotSeen, observe::Observed};
use crate::api::{IntoInPlace, PgRestore, PgRestoreStatus};

/// What there is of the source's volumes.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What the API server says against it; looked for until something is made.
    pub forbidden: Option<String>,
    /// The StatefulSet's claims, those that were recovered into, and those that keep what was.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Their volumes.
    pub volumes: Vec<PersistentVolume>,
    /// What was taken of the old volumes before anything else.
    pub snapshots: Vec<SnapshotSeen>,
    /// Pods that are there, and the claims that each mounts.
    pub holders: Vec<Holder>,
}

/// A pod that has claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub pod: String,
    /// Its claims.
    pub claims: Vec<String>,
}

impl Seen {
    fn claim(&self, name: &str) -> Option<&PersistentVolumeClaim> {
        let mut claims = self.claims.iter();
        claims.find(|claim| claim.metadata.name.as_deref() == Some(name))
    }

    fn volume(&self, name: &str) -> Option<&PersistentVolume> {
        let mut volumes = self.volumes.iter();
        volumes.find(|volume| volume.metadata.name.as_deref() == Some(name))
    }
}

/// What `restore` asks for, if it is one in place.
pub fn asked(restore: &PgRestore) -> Option<&IntoInPlace> {
    restore.spec.into.in_place.as_ref()
}

/// Whether the StatefulSet is stopped and started here.
pub fn scales(observed: &Observed) -> bool {
    asked(&observed.restore).is_some_and(|asked| asked.scale == Some(true))
}

/// The StatefulSet: as it was written down, or else the protection's.
pub fn set_name<'a>(observed: &'a Observed, status: &'a PgRestoreStatus) -> Option<&'a str> {
    asked(&observed.restore)?;
    let written = status.in_place.as_ref().map(|it| it.stateful_set.as_str());
    let protection = observed.protection.as_ref();
    written.or_else(|| protection.map(|it| it.spec.stateful_set.as_str()))
}

/// The pod that begins with what was recovered.
pub fn first_pod(set: &StatefulSet) -> String {
    format!("{}-{}", set.name_any(), first_ordinal(set))
}

fn first_ordinal(set: &StatefulSet) -> i32 {
    let ordinals = set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref());
    ordinals
        .and_then(|ordinals| ordinals.start)
        .unwrap_or_default()
}

/// The claim of `volume` that the first pod has.
fn first_claim(set: &StatefulSet, volume: &str) -> String {
    format!("{volume}-{}", first_pod(set))
}

/// Whether `claim` is `volume`'s of any pod of the StatefulSet called `set`.
fn is_of_set(claim: &str, set: &str, volume: &str) -> bool {
    let ordinal = claim
        .strip_prefix(volume)
        .and_then(|rest| rest.strip_prefix('-')?.strip_prefix(set)?.strip_prefix('-'));
    ordinal.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}

fn replicas(set: &StatefulSet) -> i32 {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.replicas).unwrap_or(1)
}

const RETAIN: &str = "Retain";

/// What becomes of the volume when its claim goes.
fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|it| it.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or(RETAIN)
}

fn name_of(volume: &PersistentVolume) -> String {
    volume.metadata.name.clone().unwrap_or_default()
}

/// The volume that a claim has, or will have.
fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref()
}
