//! The StatefulSet that is restored from: what of it a recovery pod and a clone need. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec},
    core::v1::{Container, EnvVar, PodSpec},
};

use super::Rejection;
use crate::api::{PgBackup, VolumeStatus, annotations};

/// The StatefulSet that is restored from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its spec: as it lives, or as the backup recorded it.
    pub spec: StatefulSetSpec,
    /// Its annotations, where it lives.
    pub annotations: BTreeMap<String, String>,
    /// What owns it, where it lives: an operator, that would not know the clone.
    pub owner: Option<String>,
    /// Whether it lives: the recorded spec has no literal values of environment variables.
    pub live: bool,
}

/// Variables that name a cluster in a store of shared state: a copy that has them joins the original.
const SHARED_NAMES: [&str; 1] = ["SCOPE"];

/// The same, by the program that reads them: whoever runs it shares state, whatever the variable says.
const SHARED_PREFIXES: [&str; 6] = [
    "PATRONI_",
    "PG_AUTOCTL_",
    "REPMGR_",
    "SPILO_",
    "STKEEPER_",
    "STOLON_",
];

impl Source {
    /// The live one, or what `backup` recorded.
    pub fn of(live: Option<&StatefulSet>, backup: &PgBackup) -> Option<Self> {
        if let Some(set) = live {
            let owners = set.metadata.owner_references.iter().flatten();
            return Some(Self {
                spec: set.spec.clone()?,
                annotations: set.metadata.annotations.clone().unwrap_or_default(),
                owner: owners
                    .filter(|owner| owner.controller == Some(true))
                    .map(|owner| format!("{} {}", owner.kind, owner.name))
                    .next(),
                live: true,
            });
        }
        let recorded = backup.status.as_ref()?.stateful_set.clone()?;
        Some(Self {
            spec: serde_json::from_value(recorded).ok()?,
            annotations: BTreeMap::new(),
            owner: None,
            live: false,
        })
    }

    /// The pod's spec.
    pub fn pod(&self) -> Option<&PodSpec> {
        self.spec.template.spec.as_ref()
    }

    /// The container that runs PostgreSQL: named, or the one that mounts the volumes as the backup says.
    pub fn container(&self, named: Option<&str>, volumes: &[VolumeStatus]) -> Option<&Container> {
        let containers = &self.pod()?.containers;
        let named = named.or_else(|| {
            let name = self.annotations.get(annotations::CONTAINER)?;
            Some(name.as_str())
        });
        if let Some(name) = named {
            return containers.iter().find(|container| container.name == name);
        }
        let mounts = |container: &Container| {
            let mounts = container.volume_mounts.as_deref().unwrap_or_default();
            volumes.iter().all(|volume| {
                volume.mounts.iter().all(|wanted| {
                    mounts
                        .iter()
                        .any(|m| m.name == volume.volume && m.mount_path == wanted.path)
                })
            })
        };
        containers
            .iter()
            .find(|container| mounts(container))
            .or_else(|| containers.first())
    }

    /// Why no clone can be made of it; claims can.
    pub fn refuse_clone(&self) -> Option<Rejection> {
        let instead = "restore into volumes instead, and hand those over yourself";
        if let Some(owner) = &self.owner {
            return Some(Rejection::new(
                "OperatorOwned",
                format!(
                    "the StatefulSet belongs to {owner}, which would not know a clone of it: {instead}"
                ),
            ));
        }
        if let Some(name) = self.shared_name() {
            return Some(Rejection::new(
                "SharedClusterName",
                format!(
                    "the pods have the variable {name}, by which a clone would join the original cluster: {instead}"
                ),
            ));
        }
        let missing = self.missing_literals();
        (!missing.is_empty()).then(|| {
            Rejection::new(
                "EnvironmentUnknown",
                format!(
                    "the StatefulSet is gone, and the backup does not hold literal values of environment variables ({}): create the StatefulSet again (replicas 0 is enough), or {instead}",
                    missing.join(", ")
                ),
            )
        })
    }

    /// Variables whose literal value the backup left out.
    fn missing_literals(&self) -> Vec<String> {
        if self.live {
            return Vec::new();
        }
        let mut names: Vec<String> = self
            .variables()
            .filter(|variable| variable.value.is_none() && variable.value_from.is_none())
            .map(|variable| variable.name.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Only names count, wherever the value comes from: values may lie in Secrets, which are never read. For the same
    /// reason the names that `envFrom` brings are unknown, but for their prefix.
    fn shared_name(&self) -> Option<&str> {
        let is_shared = |name: &&str| {
            SHARED_NAMES.contains(name)
                || SHARED_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        };
        let sources = self.containers().flat_map(|c| c.env_from.iter().flatten());
        let prefixes = sources.filter_map(|from| from.prefix.as_deref());
        let names = self.variables().map(|variable| variable.name.as_str());
        names.chain(prefixes).find(is_shared)
    }

    fn variables(&self) -> impl Iterator<Item = &EnvVar> {
        self.containers()
            .flat_map(|container| container.env.iter().flatten())
    }

    fn containers(&self) -> impl Iterator<Item = &Container> {
        let pod = self.pod();
        let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
        let init = pod
            .and_then(|pod| pod.init_containers.as_deref())
            .unwrap_or_default();
        containers.iter().chain(init)
    }
}
