//! Reads what there is of a restore's source.

use std::collections::BTreeMap;

use futures::future::{try_join_all, try_join4};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::Api;

use super::{
    super::{
        claims::SnapshotSeen,
        granted::{self, Granting},
    },
    Observed, Reader, volumes,
};
use crate::{
    api::{
        ArchiveSource, Grant, PgArchive, PgBackup, PgProtection, RestoreBase, annotations, names,
    },
    csi::VolumeSnapshotContent,
    kubernetes::{RequestError, find, request},
};

#[derive(Default)]
pub(super) struct SourceSeen {
    pub(super) protection: Option<PgProtection>,
    pub(super) import_from: Option<String>,
    pub(super) granting: Option<Granting>,
    pub(super) backup: Option<PgBackup>,
    pub(super) archive: Option<PgArchive>,
    pub(super) live: Option<StatefulSet>,
    pub(super) snapshots: Vec<SnapshotSeen>,
    pub(super) topology: Vec<NodeSelectorTerm>,
    pub(super) classes: BTreeMap<String, Option<String>>,
    pub(super) planning_pod: Option<Pod>,
}

pub(super) async fn source(
    reader: &Reader<'_>,
    observed: &Observed,
    decided: bool,
) -> Result<SourceSeen, RequestError> {
    if decided {
        return Ok(SourceSeen::default());
    }
    let spec = &observed.restore.spec;
    if let Some(archive) = &spec.source.archive {
        return archived(reader, observed, archive).await;
    }
    let plan = observed.status().plan;
    let backup_name = spec
        .source
        .backup
        .clone()
        .or_else(|| plan.as_ref().map(|plan| plan.backup.clone()));
    let backup: Option<PgBackup> = reader.get(backup_name.as_deref()).await?;
    let protection = spec
        .source
        .protection
        .clone()
        .or_else(|| backup.as_ref().map(|backup| backup.spec.protection.clone()));
    let (protection, archive): (Option<PgProtection>, Option<PgArchive>) = futures::try_join!(
        reader.get(protection.as_deref()),
        reader.get(plan.as_ref().map(|plan| plan.archive.as_str())),
    )?;
    let set = protection.as_ref().map(|p| p.spec.stateful_set.as_str());
    let (live, snapshots, topology, classes) = try_join4(
        reader.get(set),
        snapshots(reader, backup.as_ref()),
        topology(reader, backup.as_ref()),
        classes(reader, observed, backup.as_ref()),
    )
    .await?;
    Ok(SourceSeen {
        protection,
        backup,
        archive,
        live,
        snapshots,
        topology,
        classes,
        ..SourceSeen::default()
    })
}

/// Nothing of the source's is looked for, but a StatefulSet of its name that was made again.
async fn archived(
    reader: &Reader<'_>,
    observed: &Observed,
    source: &ArchiveSource,
) -> Result<SourceSeen, RequestError> {
    let base = observed.status().base;
    let granting = match &source.granted_by {
        Some(grant) => Some(granting(reader, grant, base.as_ref()).await?),
        None => None,
    };
    let (backup, set) = granted::source(granting.as_ref(), base.as_ref());
    let topology = granting.as_ref().map(|it| it.topology.clone());
    let planning = names::planning(&observed.identity.name);
    let (archive, live, planning_pod, classes, import_from) = futures::try_join!(
        reader.get(Some(&source.archive)),
        reader.get(set.as_deref()),
        reader.get(Some(&planning)),
        classes(reader, observed, backup.as_ref()),
        import_from(reader, source),
    )?;
    Ok(SourceSeen {
        import_from,
        granting,
        backup,
        archive,
        live,
        topology: topology.unwrap_or_default(),
        classes,
        planning_pod,
        ..SourceSeen::default()
    })
}

/// A controller of one namespace may look into no other: what it cannot see is not there.
async fn granting(
    reader: &Reader<'_>,
    grant: &Grant,
    base: Option<&RestoreBase>,
) -> Result<Granting, RequestError> {
    let there = Reader {
        client: reader.client,
        namespace: &grant.namespace,
    };
    let protection: Option<PgProtection> = match there.get(Some(&grant.protection)).await {
        Err(error) if error.code() == Some(403) => None,
        found => found?,
    };
    let base = base.filter(|_| protection.is_some());
    let backup: Option<PgBackup> = there.get(base.map(|base| base.name.as_str())).await?;
    let is_it = |backup: &PgBackup| {
        base.is_some_and(|base| backup.metadata.uid.as_ref() == Some(&base.uid))
    };
    let backup = backup.filter(is_it);
    let (seen, topology) = futures::try_join!(
        snapshots(&there, backup.as_ref()),
        topology(&there, backup.as_ref()),
    )?;
    Ok(Granting {
        protection,
        backup,
        contents: seen.into_iter().map(|seen| seen.content).collect(),
        topology,
    })
}

/// Nobody asks for a cluster admin's word where a protection is named that grants the restore.
async fn import_from(
    reader: &Reader<'_>,
    source: &ArchiveSource,
) -> Result<Option<String>, RequestError> {
    if source.granted_by.is_some() {
        return Ok(None);
    }
    let namespaces: Api<Namespace> = Api::all(reader.client.clone());
    let namespace = request(namespaces.get_opt(reader.namespace)).await?;
    let annotations = namespace.and_then(|namespace| namespace.metadata.annotations);
    Ok(annotations.and_then(|mut all| all.remove(annotations::IMPORT_FROM)))
}

/// The source's volumes may be gone; then nothing is known.
async fn topology(
    reader: &Reader<'_>,
    backup: Option<&PgBackup>,
) -> Result<Vec<NodeSelectorTerm>, RequestError> {
    let volumes_api: Api<PersistentVolume> = Api::all(reader.client.clone());
    let terms = volumes(backup).iter().map(async |volume| {
        let claim: Option<PersistentVolumeClaim> = reader.get(Some(&volume.claim)).await?;
        let Some(name) = claim.and_then(|claim| claim.spec?.volume_name) else {
            return Ok(Vec::new());
        };
        let found = find(&volumes_api, &name).await?;
        let required = found.and_then(|volume| volume.spec?.node_affinity?.required);
        Ok::<_, RequestError>(required.map(|r| r.node_selector_terms).unwrap_or_default())
    });
    let mut all: Vec<NodeSelectorTerm> = try_join_all(terms).await?.into_iter().flatten().collect();
    all.dedup();
    Ok(all)
}

async fn snapshots(
    reader: &Reader<'_>,
    backup: Option<&PgBackup>,
) -> Result<Vec<SnapshotSeen>, RequestError> {
    let contents: Api<VolumeSnapshotContent> = Api::all(reader.client.clone());
    let seen = volumes(backup).iter().map(async |volume| {
        let snapshot = reader.get(Some(&volume.volume_snapshot)).await?;
        let content = match &volume.content {
            Some(content) => find(&contents, content).await?,
            None => None,
        };
        Ok::<_, RequestError>(SnapshotSeen { snapshot, content })
    });
    try_join_all(seen).await
}

async fn classes(
    reader: &Reader<'_>,
    observed: &Observed,
    backup: Option<&PgBackup>,
) -> Result<BTreeMap<String, Option<String>>, RequestError> {
    let mut names: Vec<String> = observed
        .into
        .storage_class_name
        .clone()
        .into_iter()
        .collect();
    if names.is_empty() {
        let used = volumes(backup).iter();
        names.extend(used.filter_map(|volume| volume.storage_class_name.clone()));
    }
    let api: Api<StorageClass> = Api::all(reader.client.clone());
    let mut classes = BTreeMap::new();
    names.sort();
    names.dedup();
    for name in names {
        let class = find(&api, &name).await?;
        classes.insert(name, class.map(|class| class.provisioner));
    }
    Ok(classes)
}
