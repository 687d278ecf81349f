//! The one effect of a pass, and beside it the janitor's.

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::Value;

use super::{
    Error,
    attempt::{Content, Recorded, SnapshotSet, is_of},
    build, group,
    observe::Observed,
    plan::{Plan, Step},
    sweep::Removal,
};
use crate::{
    api::{PgBackup, VolumeStatus},
    csi::{DeletionPolicy, VolumeSnapshot, VolumeSnapshotContent, group::VolumeGroupSnapshot},
    kubernetes::{RequestError, request},
};

/// How many writes of one pass run at once.
pub const PARALLEL: usize = 8;

/// What came of a pass's effect.
#[derive(Clone, Debug, Default)]
pub struct Acted {
    /// VolumeSnapshots that this pass made, or found made.
    pub snapshots: Vec<VolumeSnapshot>,
    /// The claims have the label of the attempt's group.
    pub labelled: bool,
    /// The VolumeGroupSnapshot that this pass made, or found made.
    pub group: Option<VolumeGroupSnapshot>,
    /// Contents as the API server has them since this pass set their policy to Retain.
    pub retained: Vec<VolumeSnapshotContent>,
    /// The backup, with our finalizer.
    pub backup: Option<PgBackup>,
}

/// Carries out the step. Steps that only write the status have no effect here.
pub async fn act(client: &Client, observed: &Observed, plan: &Plan) -> Result<Acted, Error> {
    let backup = &observed.backup;
    let mut acted = Acted::default();
    match &plan.step {
        Step::AddFinalizer => acted.backup = set_finalizer(client, backup, true).await?,
        Step::Release => drop(set_finalizer(client, backup, false).await?),
        Step::CreateSnapshots(set) => acted.snapshots = create(client, backup, set).await?,
        Step::LabelClaims(set) => {
            if let Some(of) = set.group() {
                group::act::label(client, backup, set, of).await?;
                acted.labelled = true;
            }
        }
        Step::CreateGroup(set) => {
            if let Some(of) = set.group() {
                acted.group = Some(group::act::create(client, backup, of).await?);
            }
        }
        Step::RetainGroup(content) => {
            group::act::retain(client, backup, attempt_of(backup), content).await?;
        }
        Step::Retain(contents) => {
            acted.retained = set_policies(client, backup, contents, DeletionPolicy::Retain).await?;
        }
        Step::Hold(_)
        | Step::Accept(_)
        | Step::Await { .. }
        | Step::Complete(_)
        | Step::Abandon(_)
        | Step::Fail(_)
        | Step::Discard
        | Step::Done => {}
    }
    Ok(acted)
}

/// What keeps snapshots from outliving their attempt. It never holds up the backup: its errors come after the report.
pub async fn tidy(client: &Client, observed: &Observed, plan: &Plan) -> Result<(), Error> {
    let backup = &observed.backup;
    let deletable = &plan.make_deletable;
    set_policies(client, backup, deletable, DeletionPolicy::Delete).await?;
    let removals = plan
        .sweep
        .iter()
        .map(|removal| remove(client, backup, removal));
    let removals: Vec<_> = removals.collect();
    stream::iter(removals)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// `None`: the backup is gone, and with it its finalizer.
async fn set_finalizer(
    client: &Client,
    backup: &PgBackup,
    present: bool,
) -> Result<Option<PgBackup>, Error> {
    let api = api::<PgBackup>(client, backup);
    let patch = build::build_finalizer_patch(backup, present);
    match merge(&api, &backup.name_any(), &patch).await {
        Err(error) if !present && error.is_not_found() => Ok(None),
        other => other
            .map(Some)
            .map_err(|error| write::<PgBackup>("set the finalizer of", &backup.name_any(), error)),
    }
}

/// The objects of a kind in the backup's namespace.
pub fn api<K>(client: &Client, backup: &PgBackup) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &backup.namespace().unwrap_or_default())
}

/// Makes the members that are not there yet and are due, all at once: the sooner the cuts, the shorter backup mode.
async fn create(
    client: &Client,
    backup: &PgBackup,
    set: &SnapshotSet<Recorded>,
) -> Result<Vec<VolumeSnapshot>, Error> {
    let api = api::<VolumeSnapshot>(client, backup);
    let number = set.attempt().number;
    let missing = set
        .members()
        .iter()
        .filter(|member| member.volume_snapshot_uid.is_none() && set.is_due(member));
    let creations: Vec<_> = missing
        .map(|member| create_one(&api, backup, number, member))
        .collect();
    stream::iter(creations)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// One of that name that is there counts only if it was made for this attempt of this backup.
async fn create_one(
    api: &Api<VolumeSnapshot>,
    backup: &PgBackup,
    number: u32,
    member: &VolumeStatus,
) -> Result<VolumeSnapshot, Error> {
    let name = &member.volume_snapshot;
    let snapshot = build::build_volume_snapshot(backup, number, member);
    create_ours(api, backup, name, &snapshot, |there| {
        is_of(there, backup, number)
    })
    .await
}

/// Makes `wanted`, or finds it made; another one of that name does not count.
pub async fn create_ours<K>(
    api: &Api<K>,
    backup: &PgBackup,
    name: &str,
    wanted: &K,
    is_ours: impl Fn(&K) -> bool,
) -> Result<K, Error>
where
    K: Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let failed = |error| write::<K>("create", name, error);
    match request(api.create(&PostParams::default(), wanted)).await {
        Err(error) if error.is_conflict() => {
            let there = request(api.get(name)).await.map_err(failed)?;
            if is_ours(&there) {
                Ok(there)
            } else {
                Err(Error::NameTaken {
                    name: name.to_owned(),
                    uid: there.uid().unwrap_or_default(),
                    backup: backup.name_any(),
                })
            }
        }
        other => other.map_err(failed),
    }
}

/// Sets the policy of all; returns those that are there, as they are then.
async fn set_policies(
    client: &Client,
    backup: &PgBackup,
    contents: &[Content],
    policy: DeletionPolicy,
) -> Result<Vec<VolumeSnapshotContent>, Error> {
    let number = attempt_of(backup);
    let patches: Vec<_> = contents
        .iter()
        .map(|content| set_policy(client, backup, number, content, policy))
        .collect();
    let patched: Vec<_> = stream::iter(patches)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    Ok(patched.into_iter().flatten().collect())
}

/// The number of the attempt that is written down.
fn attempt_of(backup: &PgBackup) -> u32 {
    let attempt = backup.status.as_ref().and_then(|it| it.attempt.as_ref());
    attempt.map_or(0, |attempt| attempt.number)
}

/// A content that is gone needs no policy.
async fn set_policy(
    client: &Client,
    backup: &PgBackup,
    number: u32,
    content: &Content,
    policy: DeletionPolicy,
) -> Result<Option<VolumeSnapshotContent>, Error> {
    let api = Api::<VolumeSnapshotContent>::all(client.clone());
    let patch = build::build_content_patch(backup, number, content, policy);
    merge_and_return(&api, "set the deletion policy of", &content.name, &patch).await
}

async fn remove(client: &Client, backup: &PgBackup, removal: &Removal) -> Result<(), Error> {
    match removal {
        Removal::MakeDeletable { content, attempt } => {
            let patched = set_policy(client, backup, *attempt, content, DeletionPolicy::Delete);
            patched.await.map(drop)
        }
        Removal::DeleteSnapshot { name, uid } => {
            delete(&api::<VolumeSnapshot>(client, backup), name, uid).await
        }
        Removal::DeleteContent(content) => {
            let api = Api::<VolumeSnapshotContent>::all(client.clone());
            delete(&api, &content.name, &content.uid).await
        }
        Removal::Group(removal) => group::act::remove(client, backup, removal).await,
        Removal::Going => Ok(()),
    }
}

/// Deletes this object and no other of that name. One that is gone is deleted.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match request(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(write::<K>("delete", name, error)),
    }
}

/// Merges `patch` into an object. One that is gone needs no change.
pub async fn merge_if_there<K>(
    api: &Api<K>,
    verb: &'static str,
    name: &str,
    patch: &Value,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    merge_and_return(api, verb, name, patch).await.map(drop)
}

/// As [`merge_if_there`], and returns the object as it is then.
async fn merge_and_return<K>(
    api: &Api<K>,
    verb: &'static str,
    name: &str,
    patch: &Value,
) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match merge(api, name, patch).await {
        Err(error) if error.is_not_found() => Ok(None),
        other => other
            .map(Some)
            .map_err(|error| write::<K>(verb, name, error)),
    }
}

/// Merges `patch` into an object.
pub async fn merge<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::Merge(patch);
    request(api.patch(name, &PatchParams::default(), &patch)).await
}

/// A write that failed.
pub fn write<K: Resource<DynamicType = ()>>(
    verb: &'static str,
    name: &str,
    source: RequestError,
) -> Error {
    Error::Write {
        verb,
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        source,
    }
}
