//! Everything that a pass over one protection needs, read once.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, ResourceExt, api::ListParams, runtime::reflector::Store};
use serde_json::Value as Json;

use super::{agent, drills::DrillSeen, mounts, mounts::ClaimVolume};
use crate::{
    api::{
        Member, PgArchive, PgBackup, PgBackupPolicy, PgProtection, PgRestore, annotations,
        conditions, names,
    },
    archive::LineageId,
    controller::{Context, trouble},
    csi::VolumeSnapshotClass,
    kubernetes::{RequestError, find, request},
    postgres::{Lsn, TimelineId},
};

/// What was read.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The protection itself, first.
    pub protection: PgProtection,
    /// Its StatefulSet.
    pub stateful_set: Option<StatefulSet>,
    /// Its policy.
    pub policy: Option<PgBackupPolicy>,
    /// The policy's archive.
    pub archive: Option<PgArchive>,
    /// The StatefulSet's pods that run and have an address.
    pub members: Vec<Member>,
    /// Pods of the StatefulSet, those included that do not run yet.
    pub pods: usize,
    /// The volumes with claims, and what drives them; one entry for each claim that is bound.
    pub volumes: Vec<Volume>,
    /// The cluster's snapshot classes. `None`: the API server does not know snapshots.
    pub classes: Option<Vec<VolumeSnapshotClass>>,
    /// The agent.
    pub agent: AgentSeen,
    /// The protection's backups.
    pub backups: Vec<BackupSeen>,
    /// Its drills, where the policy asks for them.
    pub drills: Vec<DrillSeen>,
}

/// A claim's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The claim.
    pub claim: String,
    /// The CSI driver; none: the volume is not CSI's.
    pub driver: Option<String>,
}

/// What is there of the agent.
#[derive(Clone, Debug, Default)]
pub struct AgentSeen {
    /// The Deployment, as the API server has it.
    pub deployment: Option<Json>,
    /// Whether its ServiceAccount and RoleBinding are there.
    pub bound: bool,
    /// Whether an up-to-date pod runs.
    pub running: bool,
    /// Why no pod runs, where something says so.
    pub trouble: Option<String>,
}

/// A backup of the protection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: Option<String>,
    /// Whether a label keeps it whatever the policy's retention says.
    pub held: bool,
    /// Whether the last drill found it wanting.
    pub unsound: bool,
    /// The lineage that its session saw.
    pub lineage: Option<LineageId>,
    /// The timeline that it was taken on, and where it ended there.
    pub stopped: Option<(TimelineId, Lsn)>,
    /// When its backup mode ended, if it is completed.
    pub completed: Option<Timestamp>,
    /// When it failed for good.
    pub failed: Option<Timestamp>,
    /// Whether it is being deleted.
    pub goes: bool,
}

/// Reads it. `None`: the protection is gone. `told`: what a watch told of its backups, if it did; an old answer costs a pass
/// and not a backup, as names are fixed.
pub async fn observe(
    namespace: &str,
    name: &str,
    told: Option<Vec<BackupSeen>>,
    ctx: &Context,
) -> Result<Option<Observed>, RequestError> {
    let protections: Api<PgProtection> = Api::namespaced(ctx.client.clone(), namespace);
    let Some(protection) = request(protections.get_opt(name)).await? else {
        return Ok(None);
    };
    let stateful_set = get::<StatefulSet>(ctx, namespace, &protection.spec.stateful_set).await?;
    let policy = get::<PgBackupPolicy>(ctx, namespace, &protection.spec.policy).await?;
    let archive = match &policy {
        Some(policy) => get::<PgArchive>(ctx, namespace, &policy.spec.archive).await?,
        None => None,
    };
    let pods = match &stateful_set {
        Some(set) => pods_of(ctx, namespace, set).await?,
        None => Vec::new(),
    };
    let volumes = match &stateful_set {
        Some(set) => volumes(ctx, namespace, set, &pods, &protection.spec.exclude_volumes).await?,
        None => Vec::new(),
    };
    let classes = if volumes.is_empty() {
        Some(Vec::new())
    } else {
        snapshot_classes(ctx).await?
    };
    Ok(Some(Observed {
        agent: agent_seen(ctx, namespace, name).await?,
        drills: match policy
            .as_ref()
            .and_then(|policy| policy.spec.verify.as_ref())
        {
            Some(_) => drills(ctx, namespace, name).await?,
            None => Vec::new(),
        },
        backups: match told {
            Some(backups) => backups,
            None => backups(ctx, namespace, name).await?,
        },
        members: pods.iter().filter_map(member).collect(),
        pods: pods.len(),
        protection,
        stateful_set,
        policy,
        archive,
        volumes,
        classes,
    }))
}

async fn get<K>(ctx: &Context, namespace: &str, name: &str) -> Result<Option<K>, RequestError>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    find(&Api::namespaced(ctx.client.clone(), namespace), name).await
}

/// The pods that the StatefulSet controls, by name.
async fn pods_of(
    ctx: &Context,
    namespace: &str,
    set: &StatefulSet,
) -> Result<Vec<Pod>, RequestError> {
    let Some(spec) = &set.spec else {
        return Ok(Vec::new());
    };
    let params = ListParams::default().labels(&selector_text(&spec.selector));
    let list = request(Api::<Pod>::namespaced(ctx.client.clone(), namespace).list(&params)).await?;
    let uid = set.metadata.uid.as_deref();
    let mut pods: Vec<Pod> = list
        .items
        .into_iter()
        .filter(|pod| {
            pod.owner_references()
                .iter()
                .any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
        })
        .collect();
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

/// A selector as a query has it.
fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().filter_map(|e| {
        let values = e.values.clone().unwrap_or_default().join(",");
        match e.operator.as_str() {
            "In" => Some(format!("{} in ({values})", e.key)),
            "NotIn" => Some(format!("{} notin ({values})", e.key)),
            "Exists" => Some(e.key.clone()),
            "DoesNotExist" => Some(format!("!{}", e.key)),
            _ => None,
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

fn member(pod: &Pod) -> Option<Member> {
    let status = pod.status.as_ref()?;
    (status.phase.as_deref() == Some("Running")).then_some(())?;
    Some(Member {
        pod: pod.name_any(),
        uid: pod.uid()?,
        address: status.pod_ip.clone().filter(|ip| !ip.is_empty())?,
    })
}

/// What drives each bound claim of the pods.
async fn volumes(
    ctx: &Context,
    namespace: &str,
    set: &StatefulSet,
    pods: &[Pod],
    excluded: &[String],
) -> Result<Vec<Volume>, RequestError> {
    let Some((spec, template)) = set
        .spec
        .as_ref()
        .and_then(|spec| Some((spec, spec.template.spec.as_ref()?)))
    else {
        return Ok(Vec::new());
    };
    let included = mounts::included(spec, template, excluded);
    let mut names: Vec<String> = pods
        .iter()
        .flat_map(|pod| {
            let pod = pod.name_any();
            included
                .iter()
                .map(move |volume: &ClaimVolume| volume.claim_of(&pod))
        })
        .collect();
    names.sort();
    names.dedup();
    let mut volumes = Vec::new();
    for claim in names {
        let bound = get::<PersistentVolumeClaim>(ctx, namespace, &claim)
            .await?
            .and_then(|claim| claim.spec?.volume_name);
        let Some(bound) = bound else { continue };
        let api = Api::<PersistentVolume>::all(ctx.client.clone());
        let volume = find(&api, &bound).await?;
        let driver = volume
            .and_then(|volume| volume.spec?.csi)
            .map(|csi| csi.driver);
        volumes.push(Volume { claim, driver });
    }
    Ok(volumes)
}

async fn snapshot_classes(ctx: &Context) -> Result<Option<Vec<VolumeSnapshotClass>>, RequestError> {
    let api: Api<VolumeSnapshotClass> = Api::all(ctx.client.clone());
    match request(api.list(&ListParams::default())).await {
        Ok(list) => Ok(Some(list.items)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn agent_seen(
    ctx: &Context,
    namespace: &str,
    protection: &str,
) -> Result<AgentSeen, RequestError> {
    let name = names::agent(protection);
    let Some(deployment) = get::<Deployment>(ctx, namespace, &name).await? else {
        return Ok(AgentSeen::default());
    };
    let running = is_running(&deployment);
    let trouble = if running {
        None
    } else {
        trouble(ctx, namespace, protection, &deployment).await?
    };
    Ok(AgentSeen {
        deployment: serde_json::to_value(&deployment).ok(),
        bound: get::<ServiceAccount>(ctx, namespace, &names::agent_account(protection))
            .await?
            .is_some()
            && get::<RoleBinding>(ctx, namespace, &name).await?.is_some(),
        running,
        trouble,
    })
}

fn is_running(deployment: &Deployment) -> bool {
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.available_replicas.unwrap_or_default() >= 1
            && status.updated_replicas.unwrap_or_default() >= 1
    })
}

/// Why the agent's pod does not run: asked only while it does not.
async fn trouble(
    ctx: &Context,
    namespace: &str,
    protection: &str,
    deployment: &Deployment,
) -> Result<Option<String>, RequestError> {
    let refused = deployment
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
        .and_then(|condition| condition.message.clone());
    if refused.is_some() {
        return Ok(refused);
    }
    let params = ListParams::default().labels(&agent::pod_selector(protection));
    let pods = request(Api::<Pod>::namespaced(ctx.client.clone(), namespace).list(&params)).await?;
    for pod in pods {
        if let Some(text) = trouble::of_pod(&pod) {
            return Ok(Some(text));
        }
        if trouble::may_wait_for_a_mount(&pod) {
            let told = trouble::failed_mounts(&ctx.client, namespace, &pod.name_any()).await?;
            if let Some(message) = told.last() {
                return Ok(Some(format!(
                    "{message}; create what is missing, or correct what names it"
                )));
            }
        }
    }
    Ok(None)
}

/// From the API server's own cache.
async fn backups(
    ctx: &Context,
    namespace: &str,
    protection: &str,
) -> Result<Vec<BackupSeen>, RequestError> {
    let api: Api<PgBackup> = Api::namespaced(ctx.client.clone(), namespace);
    let params = ListParams::default().match_any();
    let list = request(api.list(&params)).await?;
    Ok(list
        .items
        .iter()
        .filter(|backup| backup.spec.protection == protection)
        .map(backup_seen)
        .collect())
}

async fn drills(
    ctx: &Context,
    namespace: &str,
    protection: &str,
) -> Result<Vec<DrillSeen>, RequestError> {
    let api: Api<PgRestore> = Api::namespaced(ctx.client.clone(), namespace);
    let of = format!("{}={}", annotations::DRILL_LABEL, names::label(protection));
    let list = request(api.list(&ListParams::default().labels(&of))).await?;
    let its = |it: &&PgRestore| it.spec.source.protection.as_deref() == Some(protection);
    Ok(list.items.iter().filter(its).map(DrillSeen::of).collect())
}

/// The backups of a protection among those that were told of.
pub fn backups_among(
    store: &Store<PgBackup>,
    namespace: &str,
    protection: &str,
) -> Vec<BackupSeen> {
    let all = store.state();
    let its = |backup: &&Arc<PgBackup>| {
        backup.namespace().as_deref() == Some(namespace) && backup.spec.protection == protection
    };
    all.iter().filter(its).map(|it| backup_seen(it)).collect()
}

/// What [`backup_seen`] needs: history must cost no memory.
pub fn slim(backup: &mut PgBackup) {
    backup.metadata.managed_fields = None;
    if let Some(status) = &mut backup.status {
        status.volumes.clear();
        status.stateful_set = None;
        status.catalog = None;
    }
}

fn backup_seen(backup: &PgBackup) -> BackupSeen {
    let status = backup.status.as_ref();
    let session = status.and_then(|status| status.session.as_ref());
    BackupSeen {
        name: backup.name_any(),
        uid: backup.uid().unwrap_or_default(),
        version: backup.resource_version(),
        held: backup.labels().contains_key(annotations::KEEP_LABEL),
        unsound: status
            .is_some_and(|it| conditions::is_false(&it.conditions, conditions::VERIFIED)),
        goes: backup.metadata.deletion_timestamp.is_some(),
        lineage: session.and_then(|session| session.lineage.clone()),
        stopped: session.and_then(|session| session.timeline.zip(session.stop_lsn)),
        failed: status
            .and_then(|status| conditions::find(&status.conditions, conditions::COMPLETED))
            .filter(|completed| completed.status == conditions::Status::False.as_str())
            .map(|completed| completed.last_transition_time.0),
        completed: status
            .filter(|status| conditions::is_true(&status.conditions, conditions::COMPLETED))
            .and(session)
            .and_then(|session| session.stopped_at.as_ref().map(|at| at.0)),
    }
}

impl Observed {
    /// The StatefulSet's annotations.
    pub fn marks(&self) -> BTreeMap<String, String> {
        self.stateful_set
            .as_ref()
            .map(|set| set.annotations().clone())
            .unwrap_or_default()
    }

    /// Whether the protection was made for an annotation that is gone. A StatefulSet that is gone says nothing: the
    /// disaster must not take the way back with it.
    pub fn unprotected(&self) -> bool {
        self.protection
            .labels()
            .contains_key(annotations::FROM_ANNOTATION_LABEL)
            && self.stateful_set.is_some()
            && !self.marks().contains_key(annotations::POLICY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_queries() {
        let selector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"app": "orders", "tier": "db"},
            "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        assert_eq!(
            selector_text(&selector),
            "app=orders,tier=db,zone in (a,b),!old"
        );
    }

    #[test]
    fn a_member_runs_and_has_an_address() {
        let pod = |status: Json| -> Pod {
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": "orders-0", "uid": "u"}, "status": status}),
            )
            .unwrap()
        };
        assert!(
            member(&pod(
                serde_json::json!({"phase": "Running", "podIP": "10.0.0.1"})
            ))
            .is_some()
        );
        assert!(
            member(&pod(
                serde_json::json!({"phase": "Pending", "podIP": "10.0.0.1"})
            ))
            .is_none()
        );
        assert!(member(&pod(serde_json::json!({"phase": "Running"}))).is_none());
    }
}
