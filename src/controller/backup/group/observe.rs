//! What a pass reads of groups: nothing, where the policy does not ask for them and the backup never had one.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::{Labelled, build::build_group_label, choose, recorded};
use crate::{
    api::{GroupStatus, annotations},
    controller::backup::{
        Error,
        observe::{Observed, Search, get, get_all, list, merge, read_error, search},
    },
    csi::{
        VolumeSnapshot, VolumeSnapshotContent,
        group::{
            VolumeGroupSnapshot, VolumeGroupSnapshotClass, VolumeGroupSnapshotContent,
            group_content_name, member_content_name, member_name,
        },
    },
    kubernetes::request,
};

/// Adds it to what was read before. Members that the status does not name are looked for too, where an attempt may be void.
pub async fn observe(client: &Client, observed: &mut Observed) -> Result<(), Error> {
    let Some(group) = recorded(&observed.backup).cloned() else {
        if may_be_asked_for(observed) {
            observed.groups.classes = classes(client).await?;
        }
        return Ok(());
    };
    let namespace = observed.backup.namespace().unwrap_or_default();
    let api = Api::<VolumeGroupSnapshot>::namespaced(client.clone(), &namespace);
    let snapshot = get(&api, &group.volume_group_snapshot).await?;
    observed.groups.snapshots = snapshot.into_iter().collect();
    observed.groups.labelled = labelled(client, observed, &group).await?;
    let how = search(&observed.backup);
    observed.groups.contents = contents(client, observed, &group, how).await?;
    if how != Search::Names {
        observe_members(client, observed, &group).await?;
    }
    Ok(())
}

/// Whether the next attempt may be by a group.
fn may_be_asked_for(observed: &Observed) -> bool {
    let policy = observed.policy.as_ref();
    let several = observed
        .source
        .as_ref()
        .is_some_and(|it| it.claims.len() > 1);
    several && choose::wanted(policy.and_then(|policy| policy.spec.snapshot.as_ref()))
}

/// `None`: the API server does not know the kind.
async fn classes(client: &Client) -> Result<Option<Vec<VolumeGroupSnapshotClass>>, Error> {
    let api = Api::<VolumeGroupSnapshotClass>::all(client.clone());
    match request(api.list(&ListParams::default())).await {
        Ok(list) => Ok(Some(list.items)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(read_error::<VolumeGroupSnapshotClass>("", error)),
    }
}

async fn labelled(
    client: &Client,
    observed: &Observed,
    group: &GroupStatus,
) -> Result<Vec<Labelled>, Error> {
    let backup = &observed.backup;
    let namespace = backup.namespace().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
    let label = build_group_label(backup, group);
    let selector = format!("{}={label}", annotations::GROUP_LABEL);
    let claims = list(&api, &ListParams::default().labels(&selector)).await?;
    Ok(claims.iter().map(Labelled::of).collect())
}

/// The contents that were made for the group: by name, and among all that there are where nothing may be forgotten.
async fn contents(
    client: &Client,
    observed: &Observed,
    group: &GroupStatus,
    how: Search,
) -> Result<Vec<VolumeGroupSnapshotContent>, Error> {
    let api = Api::<VolumeGroupSnapshotContent>::all(client.clone());
    let mut found = match how {
        Search::Names | Search::Labels => {
            let uids = uids(observed, group).into_iter();
            get_all(&api, uids.map(|uid| group_content_name(&uid)).collect()).await?
        }
        Search::Everything => list(&api, &ListParams::default()).await?,
    };
    let namespace = observed.backup.namespace();
    found.retain(|content| {
        let of = &content.spec.volume_group_snapshot_ref;
        // A content that a person made, to import a group, has another name.
        let made = of.uid.as_deref().map(group_content_name);
        of.name.as_ref() == Some(&group.volume_group_snapshot)
            && of.namespace == namespace
            && made == content.metadata.name
    });
    Ok(found)
}

/// The UIDs that the group has, or had.
fn uids(observed: &Observed, group: &GroupStatus) -> BTreeSet<String> {
    let there = observed
        .groups
        .snapshots
        .iter()
        .filter_map(ResourceExt::uid);
    let contents = observed.groups.contents.iter();
    let pointed = contents.filter_map(|it| it.spec.volume_group_snapshot_ref.uid.clone());
    let recorded = group.volume_group_snapshot_uid.iter().cloned();
    there.chain(pointed).chain(recorded).collect()
}

/// Whether it is the content of a member of this group: by its name, and by the one of its snapshot. Anybody who may write
/// the status of a snapshot can point at another's.
pub fn is_content_of_member(
    observed: &Observed,
    group: &GroupStatus,
    content: &VolumeSnapshotContent,
) -> bool {
    let of = &content.spec.volume_snapshot_ref;
    let named = |uid: &String, handle: &String| {
        member_content_name(uid, handle) == content.name_any()
            && of.name.as_deref() == Some(member_name(uid, handle).as_str())
    };
    let (uids, handles) = (uids(observed, group), handles(observed, group));
    of.namespace == observed.backup.namespace()
        && uids
            .iter()
            .any(|uid| handles.iter().any(|handle| named(uid, handle)))
}

/// Members by the names that they must have.
async fn observe_members(
    client: &Client,
    observed: &mut Observed,
    group: &GroupStatus,
) -> Result<(), Error> {
    let namespace = observed.backup.namespace().unwrap_or_default();
    let snapshot_api = Api::<VolumeSnapshot>::namespaced(client.clone(), &namespace);
    let content_api = Api::<VolumeSnapshotContent>::all(client.clone());
    let (mut snapshots, mut contents) = (Vec::new(), Vec::new());
    for uid in uids(observed, group) {
        for handle in handles(observed, group) {
            snapshots.push(member_name(&uid, &handle));
            contents.push(member_content_name(&uid, &handle));
        }
    }
    snapshots.retain(|name| observed.snapshots.iter().all(|it| it.name_any() != *name));
    contents.retain(|name| observed.contents.iter().all(|it| it.name_any() != *name));
    merge(
        &mut observed.snapshots,
        get_all(&snapshot_api, snapshots).await?,
    );
    merge(
        &mut observed.contents,
        get_all(&content_api, contents).await?,
    );
    Ok(())
}

/// The volumes that the group was to have, and those that it has.
fn handles(observed: &Observed, group: &GroupStatus) -> BTreeSet<String> {
    let contents = observed.groups.contents.iter();
    let asked = contents.flat_map(|it| it.spec.source.volume_handles.iter().cloned());
    group.volume_handles.iter().cloned().chain(asked).collect()
}
