//! Reads what a pass decides by.

mod source;
mod target;

use std::collections::BTreeMap;

use futures::future::try_join;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    Metadata,
    api::{
        apps::v1::StatefulSet,
        core::v1::{NodeSelectorTerm, PersistentVolumeClaim, Pod, Service, ServiceAccount},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta},
};
use serde::de::DeserializeOwned;

use self::{
    source::{SourceSeen, source},
    target::{TargetSeen, target},
};
use super::{
    Identity,
    act::Kind,
    claims::{SnapshotSeen, claim_name},
    clone::Selecting,
    drill,
    granted::Granting,
    in_place,
};
use crate::{
    api::{
        PgArchive, PgBackup, PgProtection, PgRestore, PgRestoreStatus, RestoreInto, VolumeStatus,
        annotations,
        conditions::{self, COMPLETED, PLANNED},
    },
    controller::{Context, trouble},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
    kubernetes::{RequestError, find, request},
};

/// Longer than volumes take to be mounted on most pods; until then nobody asks what holds them up.
const USUAL_MOUNT: SignedDuration = SignedDuration::from_secs(5);

/// What a pass decides by.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The restore.
    pub restore: PgRestore,
    /// Which it is.
    pub identity: Identity,
    /// The protection of the source.
    pub protection: Option<PgProtection>,
    /// The PgArchive that the Namespace's annotation allows to import from, where the source is one.
    pub import_from: Option<String>,
    /// What the namespace has that grants the restore, if the spec names one.
    pub granting: Option<Granting>,
    /// The backup that the spec names, or else the plan; where the source is an archive, as its catalog has it.
    pub backup: Option<PgBackup>,
    /// The archive that the spec names, or else the plan.
    pub archive: Option<PgArchive>,
    /// The StatefulSet of the source.
    pub live: Option<StatefulSet>,
    /// The backup's snapshots, in its order.
    pub snapshots: Vec<SnapshotSeen>,
    /// Where the source's volumes can be reached from.
    pub topology: Vec<NodeSelectorTerm>,
    /// StorageClasses of the new claims, and their drivers.
    pub classes: BTreeMap<String, Option<String>>,
    /// Claims of the new names.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The policy that is to protect the clone is there.
    pub policy_exists: bool,
    /// What the kubelet says of the volumes of the pod that waits for them.
    pub failed_mounts: Vec<String>,
    /// A StatefulSet of the new name.
    pub set: Option<StatefulSet>,
    /// A Service of the new name.
    pub service: Option<PartialObjectMeta<Service>>,
    /// The recovery pod.
    pub pod: Option<Pod>,
    /// The planning pod, where the source is an archive.
    pub planning_pod: Option<Pod>,
    /// The clone's pod; in place, the first of the StatefulSet's.
    pub clone_pod: Option<Pod>,
    /// What selects pods in the namespace.
    pub selecting: Vec<Selecting>,
    /// Everything that carries this restore's UID.
    pub made: Vec<(Kind, String)>,
    /// Where to, also where the spec leaves it out.
    pub into: RestoreInto,
    /// Other drills that run, as `namespace/name`; empty where this one is none that could begin.
    pub drills: Vec<String>,
    /// How many drills may run at once.
    pub drills_at_once: usize,
    /// The source's volumes, where the restore goes in their place.
    pub in_place: Option<in_place::Seen>,
    /// When the pass began.
    pub now: Timestamp,
}

impl Observed {
    /// Nothing but the restore itself.
    pub fn new(restore: PgRestore) -> Self {
        let identity = Identity::of(&restore);
        Self {
            into: drill::destination(&restore.spec, &identity.name),
            drills: Vec::new(),
            drills_at_once: 1,
            in_place: None,
            now: Timestamp::UNIX_EPOCH,
            identity,
            restore,
            protection: None,
            import_from: None,
            granting: None,
            backup: None,
            archive: None,
            live: None,
            snapshots: Vec::new(),
            topology: Vec::new(),
            classes: BTreeMap::new(),
            claims: Vec::new(),
            policy_exists: false,
            failed_mounts: Vec::new(),
            set: None,
            service: None,
            pod: None,
            planning_pod: None,
            clone_pod: None,
            selecting: Vec::new(),
            made: Vec::new(),
        }
    }

    /// The status, empty if there is none yet.
    pub fn status(&self) -> PgRestoreStatus {
        self.restore.status.clone().unwrap_or_default()
    }

    /// Which of the claims that were written down are not bound; `None`: none were.
    pub fn unbound(&self) -> Option<Vec<String>> {
        let bound = |name: &str| {
            self.claims.iter().any(|claim| {
                claim.metadata.name.as_deref() == Some(name)
                    && claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
            })
        };
        let claims = self.status().volumes.into_iter().map(|it| it.claim);
        let mut claims: Vec<String> = claims.collect();
        let written_down = !claims.is_empty();
        claims.retain(|name| !bound(name));
        written_down.then_some(claims)
    }

    /// Whether `metadata` carries this restore's UID.
    pub fn is_ours(&self, metadata: &ObjectMeta) -> bool {
        let labels = metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(annotations::RESTORE_UID_LABEL))
            == Some(&self.identity.uid)
    }

    /// Whether something of this restore is there.
    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.made.iter().any(|(k, n)| *k == kind && n == name)
    }
}

struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Reader<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    async fn get<K>(&self, name: Option<&str>) -> Result<Option<K>, RequestError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        match name {
            Some(name) => find(&self.api::<K>(), name).await,
            None => Ok(None),
        }
    }

    async fn made<K>(&self, kind: Kind, uid: &str) -> Result<Vec<(Kind, String)>, RequestError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Metadata<Ty = ObjectMeta>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        list(api, kind, uid).await
    }
}

async fn list<K>(api: Api<K>, kind: Kind, uid: &str) -> Result<Vec<(Kind, String)>, RequestError>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let label = format!("{}={uid}", annotations::RESTORE_UID_LABEL);
    let list = request(api.list_metadata(&ListParams::default().labels(&label))).await?;
    Ok(list
        .items
        .iter()
        .map(|object| (kind, object.name_any()))
        .collect())
}

/// Reads it; `None` if the restore is gone, or is another one of the same name.
pub async fn observe(
    cached: &PgRestore,
    now: Timestamp,
    ctx: &Context,
) -> Result<Option<Observed>, RequestError> {
    let identity = Identity::of(cached);
    let reader = Reader {
        client: &ctx.client,
        namespace: &identity.namespace,
    };
    let restore: Option<PgRestore> = reader.get(Some(&identity.name)).await?;
    let Some(restore) = restore.filter(|r| r.metadata.uid.as_ref() == Some(&identity.uid)) else {
        return Ok(None);
    };
    let mut observed = Observed::new(restore);
    let decided = conditions::find(&observed.status().conditions, COMPLETED)
        .is_some_and(|c| c.status != conditions::Status::Unknown.as_str());
    let source = source(&reader, &observed, decided).await?;
    let claims = claim_names(&observed, source.backup.as_ref());
    let first_pod = observed.first_pod(&source);
    let (target, made) = try_join(
        target(&reader, &observed, &claims, first_pod),
        made(&reader, &identity.uid),
    )
    .await?;
    observed.apply(source, target, made);
    observed.drills_at_once = ctx.drills_at_once;
    observed.now = now;
    observed.drills = drills(&observed, ctx).await?;
    if !decided {
        observed.in_place = in_place::observe(&observed, &ctx.client).await?;
    }
    observed.failed_mounts = failed_mounts(&observed, ctx).await?;
    Ok(Some(observed))
}

/// Of the one pod that is waited for, once it has waited for longer than a mount takes.
async fn failed_mounts(observed: &Observed, ctx: &Context) -> Result<Vec<String>, RequestError> {
    let waits = |pod: &&Pod| {
        let made = pod.metadata.creation_timestamp.as_ref();
        let long = made.is_some_and(|made| observed.now.duration_since(made.0) > USUAL_MOUNT);
        long && trouble::may_wait_for_a_mount(pod)
    };
    let pods = [&observed.clone_pod, &observed.pod, &observed.planning_pod];
    match pods.into_iter().flatten().find(waits) {
        Some(pod) => {
            let namespace = &observed.identity.namespace;
            trouble::failed_mounts(&ctx.client, namespace, &pod.name_any()).await
        }
        None => Ok(Vec::new()),
    }
}

/// Asked only by one that could begin.
async fn drills(observed: &Observed, ctx: &Context) -> Result<Vec<String>, RequestError> {
    let status = observed.status();
    let could_begin = drill::is_one(&observed.restore)
        && status.volumes.is_empty()
        && conditions::is_true(&status.conditions, PLANNED);
    if !could_begin {
        return Ok(Vec::new());
    }
    let api = ctx.watched::<DeserializeGuard<PgRestore>>();
    let all = request(api.list(&ListParams::default())).await?;
    // One that cannot be decoded was not begun.
    let all = all.iter().filter_map(|restore| restore.0.as_ref().ok());
    Ok(drill::running(all, &observed.identity.uid))
}

/// The claims to be: as written down, or as they would be.
fn claim_names(observed: &Observed, backup: Option<&PgBackup>) -> Vec<String> {
    let written = observed.status().volumes;
    if !written.is_empty() {
        return written.into_iter().map(|volume| volume.claim).collect();
    }
    let into = &observed.into;
    // A plan alone takes no names; a volume that is not named is refused.
    let volumes = match into.is_empty() {
        true => &[],
        false => volumes(backup),
    };
    volumes
        .iter()
        .filter_map(|volume| claim_name(into, &volume.volume))
        .collect()
}

fn volumes(backup: Option<&PgBackup>) -> &[VolumeStatus] {
    let status = backup.and_then(|backup| backup.status.as_ref());
    status
        .map(|status| status.volumes.as_slice())
        .unwrap_or_default()
}

impl Observed {
    /// The pod that is to answer.
    fn first_pod(&self, source: &SourceSeen) -> Option<String> {
        match (&self.into.stateful_set, &self.into.in_place) {
            (Some(clone), _) => Some(format!("{clone}-0")),
            (None, Some(_)) => source.live.as_ref().map(in_place::first_pod),
            (None, None) => None,
        }
    }

    fn apply(&mut self, source: SourceSeen, target: TargetSeen, made: Vec<(Kind, String)>) {
        self.protection = source.protection;
        self.import_from = source.import_from;
        self.granting = source.granting;
        self.planning_pod = source.planning_pod;
        self.backup = source.backup;
        self.archive = source.archive;
        self.live = source.live;
        self.snapshots = source.snapshots;
        self.topology = source.topology;
        self.classes = source.classes;
        self.claims = target.claims;
        self.set = target.set;
        self.service = target.service;
        self.pod = target.pod;
        self.clone_pod = target.clone_pod;
        self.selecting = target.selecting;
        self.policy_exists = target.policy_exists;
        self.made = made;
    }
}

async fn made(reader: &Reader<'_>, uid: &str) -> Result<Vec<(Kind, String)>, RequestError> {
    let snapshots: Api<VolumeSnapshot> = reader.api();
    let contents: Api<VolumeSnapshotContent> = Api::all(reader.client.clone());
    let (a, b, c, d, e, f, g, h) = futures::try_join!(
        reader.made::<StatefulSet>(Kind::StatefulSet, uid),
        reader.made::<Service>(Kind::Service, uid),
        reader.made::<Pod>(Kind::Pod, uid),
        reader.made::<PersistentVolumeClaim>(Kind::Claim, uid),
        reader.made::<RoleBinding>(Kind::RoleBinding, uid),
        reader.made::<ServiceAccount>(Kind::ServiceAccount, uid),
        list(snapshots, Kind::VolumeSnapshot, uid),
        list(contents, Kind::VolumeSnapshotContent, uid),
    )?;
    Ok([a, b, c, d, e, f, g, h].into_iter().flatten().collect())
}
