//! What a pass reads from the API server: the PgBackup itself first, and around it as much as its plan must rest on.

use std::{collections::BTreeMap, fmt::Debug};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResourceExt, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta},
};
use serde::de::DeserializeOwned;

use super::{
    Error,
    at_once::Full,
    depth::Depth,
    group::{self, Groups},
    instance::{Instance, choose, is_accepted_pod, unmade_of_standby},
    sweep,
    told::Told,
    turn, volumes,
};
use crate::{
    api::{PgBackup, PgBackupPolicy, PgProtection, PgRestore, annotations, conditions},
    csi::{self, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    kubernetes::{RequestError, find, request},
};

/// How many reads of one pass run at once.
const PARALLEL: usize = 8;
/// How many contents are read at once where all of them are looked through.
const PAGE: u32 = 500;

/// All that one pass has read.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The PgBackup.
    pub backup: PgBackup,
    /// Its protection, unless the backup is finished, or goes with its namespace.
    pub protection: Option<PgProtection>,
    /// The protection's policy.
    pub policy: Option<PgBackupPolicy>,
    /// The backup of the same protection that comes first.
    pub ahead: Option<String>,
    /// Why backups of other databases keep it from beginning.
    pub full: Option<Full>,
    /// The database's pod and volumes, if an attempt may begin.
    pub source: Option<Source>,
    /// The pod of the running attempt, a standby, is not the one that was accepted. Read while a snapshot is to be made.
    pub replaced: bool,
    /// VolumeSnapshots that are, or may be, of this backup.
    pub snapshots: Vec<VolumeSnapshot>,
    /// Contents that are, or may be, of this backup.
    pub contents: Vec<VolumeSnapshotContent>,
    /// What there is of groups.
    pub groups: Groups,
    /// Namespace or CRD is going. Read only when the PgBackup goes.
    pub scope_goes: bool,
    /// A PgRestore that begins with it and is not over. Read only when the PgBackup goes.
    pub read_by: Option<String>,
}

/// What the cluster says of the database.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The StatefulSet, with fields that this program does not know.
    pub stateful_set: Option<DynamicObject>,
    /// The pod of the member that is to be backed up.
    pub pod: Option<Pod>,
    /// The pod's claims that are there, by name.
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    /// Their volumes that are there, by name.
    pub volumes: BTreeMap<String, PersistentVolume>,
    /// Every class of the cluster.
    pub classes: Vec<VolumeSnapshotClass>,
    /// The API server does not know snapshots.
    pub not_served: bool,
}

/// Reads what the PgBackup's stage and `depth` need. `None`: it is gone, or another one of that name.
pub async fn observe(
    client: &Client,
    told: &Told,
    cached: &PgBackup,
    depth: Depth,
) -> Result<Option<Observed>, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let backups = Api::<PgBackup>::namespaced(client.clone(), &namespace);
    let Some(backup) = get(&backups, &cached.name_any()).await? else {
        return Ok(None);
    };
    if backup.metadata.uid != cached.metadata.uid {
        return Ok(None);
    }
    let told_of = match depth {
        Depth::Backup => told.snapshots(&backup),
        Depth::Told | Depth::Snapshots | Depth::Everything => None,
    };
    let (mut observed, (snapshots, contents)) = tokio::try_join!(
        observe_surroundings((client, told), &namespace, backup.clone(), depth),
        async {
            match told_of {
                Some(told_of) => Ok(told_of),
                None => observe_snapshots(client, &namespace, &backup).await,
            }
        },
    )?;
    observed.snapshots = snapshots;
    observed.contents = contents;
    group::observe(client, &mut observed).await?;
    Ok(Some(observed))
}

/// What the backup is to be judged by, without its snapshots.
async fn observe_surroundings(
    (client, told): (&Client, &Told),
    namespace: &str,
    backup: PgBackup,
    depth: Depth,
) -> Result<Observed, Error> {
    let mut observed = Observed {
        backup,
        protection: None,
        policy: None,
        ahead: None,
        full: None,
        source: None,
        replaced: false,
        snapshots: Vec::new(),
        contents: Vec::new(),
        groups: Groups::default(),
        scope_goes: false,
        read_by: None,
    };
    if observed.backup.metadata.deletion_timestamp.is_some() {
        observed.scope_goes = scope_goes(client, namespace).await?;
        if !observed.scope_goes {
            let protections = Api::<PgProtection>::namespaced(client.clone(), namespace);
            let name = &observed.backup.spec.protection;
            observed.protection = get(&protections, name).await?;
            observed.read_by = read_by(client, namespace, &observed.backup.name_any()).await?;
        }
    } else if !is_finished(&observed.backup) {
        let known = match depth {
            Depth::Told | Depth::Backup | Depth::Snapshots => {
                told.surroundings(namespace, &observed.backup.spec.protection)
            }
            Depth::Everything => None,
        };
        match known {
            Some(known) => (observed.protection, observed.policy) = known,
            None => observe_policy(client, namespace, &mut observed).await?,
        }
        if !is_accepted(&observed.backup) {
            observed.ahead = turn::act::ahead(client, told, &observed).await?;
            observe_source(client, namespace, &mut observed).await?;
        } else if let Some(attempt) = unmade_of_standby(&observed.backup) {
            let pods = Api::<Pod>::namespaced(client.clone(), namespace);
            let pod = get(&pods, &attempt.pod).await?;
            observed.replaced = !is_accepted_pod(attempt, pod.as_ref());
        }
    }
    Ok(observed)
}

/// Whether `Completed` is decided.
pub fn is_finished(backup: &PgBackup) -> bool {
    backup.status.as_ref().is_some_and(|status| {
        conditions::is_true(&status.conditions, conditions::COMPLETED)
            || conditions::is_false(&status.conditions, conditions::COMPLETED)
    })
}

/// Whether an attempt runs.
pub fn is_accepted(backup: &PgBackup) -> bool {
    let status = backup.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, conditions::ACCEPTED))
}

/// A namespace or a CRD that goes deletes every PgBackup in it; nobody asked for the data to go.
async fn scope_goes(client: &Client, namespace: &str) -> Result<bool, Error> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let kinds = Api::<CustomResourceDefinition>::all(client.clone());
    let namespace = get_meta(&namespaces, namespace).await?;
    let kind = get_meta(&kinds, PgBackup::crd_name()).await?;
    let goes = |going: Option<bool>| going.unwrap_or(true);
    Ok(goes(namespace) || goes(kind))
}

/// Whether the object is being deleted; `None` if it is gone.
async fn get_meta<K>(api: &Api<K>, name: &str) -> Result<Option<bool>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let meta: Result<PartialObjectMeta<K>, _> = request(api.get_metadata(name)).await;
    match meta {
        Ok(meta) => Ok(Some(meta.metadata.deletion_timestamp.is_some())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(read_error::<K>(name, error)),
    }
}

/// A restore of the namespace that is under way and whose plan begins with the backup. As it lies there: one that cannot be
/// decoded must not keep a backup for ever.
async fn read_by(client: &Client, namespace: &str, backup: &str) -> Result<Option<String>, Error> {
    let kind = ApiResource::erase::<PgRestore>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let list = request(api.list(&ListParams::default())).await;
    let list = list.map_err(|error| read_error::<PgRestore>("", error))?;
    let reads = |it: &&DynamicObject| {
        let status = &it.data["status"];
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut completed = conditions.filter(|it| it["type"] == conditions::COMPLETED);
        let over = completed.any(|it| it["status"] != conditions::Status::Unknown.as_str());
        let made = status["volumes"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
        made && !over && status["plan"]["backup"] == backup
    };
    Ok(list.items.iter().find(reads).map(ResourceExt::name_any))
}

async fn observe_policy(
    client: &Client,
    namespace: &str,
    observed: &mut Observed,
) -> Result<(), Error> {
    let protections = Api::<PgProtection>::namespaced(client.clone(), namespace);
    observed.protection = get(&protections, &observed.backup.spec.protection).await?;
    if let Some(protection) = &observed.protection {
        let policies = Api::<PgBackupPolicy>::namespaced(client.clone(), namespace);
        observed.policy = get(&policies, &protection.spec.policy).await?;
    }
    Ok(())
}

/// The unfinished backup of the same protection that comes first, read from all.
pub async fn ahead(client: &Client, backup: &PgBackup) -> Result<Option<String>, Error> {
    let namespace = backup.namespace().unwrap_or_default();
    let backups = Api::<PgBackup>::namespaced(client.clone(), &namespace);
    let list = request(backups.list(&ListParams::default()))
        .await
        .map_err(|error| read_error::<PgBackup>("", error))?;
    Ok(first(list.items.iter(), backup).map(ResourceExt::name_any))
}

/// The unfinished backup of the same protection that comes first: the one that runs, or the oldest, then by name. Pure.
pub fn first<'a>(
    all: impl Iterator<Item = &'a PgBackup>,
    backup: &PgBackup,
) -> Option<&'a PgBackup> {
    let turn = |b: &PgBackup| {
        let created = b.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!is_accepted(b), created, b.name_any())
    };
    let mine = turn(backup);
    all.filter(|b| b.metadata.namespace == backup.metadata.namespace)
        .filter(|b| b.spec.protection == backup.spec.protection)
        .filter(|b| b.metadata.uid != backup.metadata.uid)
        .filter(|b| !is_finished(b) && b.metadata.deletion_timestamp.is_none())
        .min_by_key(|b| turn(b))
        .filter(|b| turn(b) < mine)
}

async fn observe_source(
    client: &Client,
    namespace: &str,
    observed: &mut Observed,
) -> Result<(), Error> {
    let Some(protection) = &observed.protection else {
        return Ok(());
    };
    let policy = observed.policy.as_ref();
    // Where there is none to be backed up, the door says why.
    let Ok(Instance { member, role: _ }) = choose(&observed.backup, protection, policy) else {
        return Ok(());
    };
    let kind = ApiResource::erase::<StatefulSet>(&());
    let owners = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let classes = Api::<VolumeSnapshotClass>::all(client.clone());
    let everything = ListParams::default();
    let (owner, pod, classes) = tokio::try_join!(
        get_dynamic(&owners, &protection.spec.stateful_set),
        get(&pods, &member.pod),
        async {
            match request(classes.list(&everything)).await {
                Ok(list) => Ok(Some(list.items)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(read_error::<VolumeSnapshotClass>("", error)),
            }
        },
    )?;
    let mut source = Source {
        stateful_set: owner,
        not_served: classes.is_none(),
        classes: classes.unwrap_or_default(),
        ..Source::default()
    };
    if let Some(pod) = pod {
        let claims = volumes::claims(&pod, &protection.spec.exclude_volumes);
        observe_claims(client, namespace, claims.into_values(), &mut source).await?;
        source.pod = Some(pod);
    }
    observed.source = Some(source);
    Ok(())
}

async fn observe_claims(
    client: &Client,
    namespace: &str,
    names: impl Iterator<Item = String>,
    source: &mut Source,
) -> Result<(), Error> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let claims = get_all(&claims, names.collect()).await?;
    let bound = claims
        .iter()
        .filter_map(|claim| claim.spec.as_ref()?.volume_name.clone());
    let volumes = get_all(&volumes, bound.collect()).await?;
    source.claims = claims
        .into_iter()
        .map(|claim| (claim.name_any(), claim))
        .collect();
    source.volumes = volumes
        .into_iter()
        .map(|volume| (volume.name_any(), volume))
        .collect();
    Ok(())
}

/// The snapshots by the names that are written down; by label too, where void attempts may have left some.
async fn observe_snapshots(
    client: &Client,
    namespace: &str,
    backup: &PgBackup,
) -> Result<(Vec<VolumeSnapshot>, Vec<VolumeSnapshotContent>), Error> {
    let status = backup.status.clone().unwrap_or_default();
    if status.attempt.is_none() {
        return Ok((Vec::new(), Vec::new()));
    }
    let snapshot_api = Api::<VolumeSnapshot>::namespaced(client.clone(), namespace);
    let content_api = Api::<VolumeSnapshotContent>::all(client.clone());
    let names = status.volumes.iter().map(|v| v.volume_snapshot.clone());
    // Members of a group that is not made yet have no name.
    let names = names.filter(|name| !name.is_empty());
    let mut snapshots = get_all(&snapshot_api, names.collect()).await?;
    let search = search(backup);
    let uid = backup.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{}={uid}", annotations::BACKUP_UID_LABEL));
    if search != Search::Names {
        merge(&mut snapshots, list(&snapshot_api, &ours).await?);
    }
    let mut names: Vec<String> = status
        .volumes
        .iter()
        .filter_map(|v| v.content.clone())
        .collect();
    names.extend(snapshots.iter().filter_map(content_of));
    names.sort();
    names.dedup();
    let mut contents = get_all(&content_api, names).await?;
    match search {
        Search::Names => {}
        Search::Labels => merge(&mut contents, list(&content_api, &ours).await?),
        Search::Everything => {
            let orphans = find_orphans(&content_api, backup).await?;
            // A snapshot of theirs that is there without our label is somebody's.
            let unknown = orphans.iter().filter_map(|content| {
                let name = content.spec.volume_snapshot_ref.name.clone()?;
                let known = snapshots.iter().any(|s| s.name_any() == name);
                (!known).then_some(name)
            });
            let unknown = get_all(&snapshot_api, unknown.collect()).await?;
            merge(&mut contents, orphans);
            merge(&mut snapshots, unknown);
        }
    }
    Ok((snapshots, contents))
}

/// Where a backup's snapshots are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// By what is written down: the first attempt runs, and passes are many.
    Names,
    /// Also by label: an attempt runs, beside what void ones left.
    Labels,
    /// Among all that there are: nothing runs, and nothing may be forgotten.
    Everything,
}

/// Where this backup's are. Pure.
pub fn search(backup: &PgBackup) -> Search {
    let goes = backup.metadata.deletion_timestamp.is_some();
    let status = backup.status.as_ref();
    let attempt = status.and_then(|status| status.attempt.as_ref());
    if goes || is_finished(backup) || !is_accepted(backup) {
        Search::Everything
    } else if attempt.is_some_and(|attempt| attempt.number > 1) {
        Search::Labels
    } else {
        Search::Names
    }
}

/// The contents of the whole cluster that may be this backup's. The label alone would not find those whose snapshot
/// went before we put it on; the API server can select by nothing else.
async fn find_orphans(
    api: &Api<VolumeSnapshotContent>,
    backup: &PgBackup,
) -> Result<Vec<VolumeSnapshotContent>, Error> {
    let mut page = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let list = match request(api.list(&page)).await {
            Ok(list) => list,
            Err(error) if error.is_not_found() => return Ok(found),
            Err(error) => return Err(read_error::<VolumeSnapshotContent>("", error)),
        };
        let ours = |content: &VolumeSnapshotContent| sweep::orphan_of(backup, content).is_some();
        found.extend(list.items.into_iter().filter(ours));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Where a snapshot's content is to be looked for.
pub fn content_of(snapshot: &VolumeSnapshot) -> Option<String> {
    let status = snapshot.status.as_ref();
    status
        .and_then(|status| status.bound_volume_snapshot_content_name.clone())
        .or_else(|| snapshot.metadata.uid.as_deref().map(csi::content_name))
}

/// Adds what is not known yet.
pub fn merge<K: ResourceExt>(known: &mut Vec<K>, more: Vec<K>) {
    for object in more {
        if known.iter().all(|k| k.uid() != object.uid()) {
            known.push(object);
        }
    }
}

/// Those of the names that are there.
pub async fn get_all<K>(api: &Api<K>, names: Vec<String>) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let reads: Vec<_> = names.iter().map(|name| get(api, name)).collect();
    let found: Vec<Option<K>> = stream::iter(reads).buffered(PARALLEL).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Everything of a kind by label; nothing, where the kind is not served.
pub async fn list<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match request(api.list(params)).await {
        Ok(list) => Ok(list.items),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(read_error::<K>("", error)),
    }
}

/// `None`: it is not there, or its kind is not served.
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    find(api, name)
        .await
        .map_err(|error| read_error::<K>(name, error))
}

async fn get_dynamic(api: &Api<DynamicObject>, name: &str) -> Result<Option<DynamicObject>, Error> {
    find(api, name)
        .await
        .map_err(|error| read_error::<StatefulSet>(name, error))
}

/// A read that failed.
pub fn read_error<K: Resource<DynamicType = ()>>(name: &str, source: RequestError) -> Error {
    Error::Read {
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_protection_is_waited_for() {
        let backup = |namespace: &str, name: &str, protection: &str| {
            let spec = serde_json::json!({"protection": protection});
            let mut backup = PgBackup::new(name, serde_json::from_value(spec).unwrap());
            backup.metadata.namespace = Some(namespace.to_owned());
            backup.metadata.uid = Some(format!("{namespace}-{name}"));
            backup
        };
        let mine = backup("shop", "b", "orders");
        let ahead = |other: PgBackup| first([&mine, &other].into_iter(), &mine).is_some();
        assert!(ahead(backup("shop", "a", "orders")));
        assert!(!ahead(backup("shop", "a", "billing")));
        assert!(
            !ahead(backup("other", "a", "orders")),
            "of another namespace"
        );
        assert!(!ahead(backup("shop", "c", "orders")), "it comes after");
    }
}
