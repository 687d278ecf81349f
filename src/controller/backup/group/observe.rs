//! What a pass reads of groups: nothing, where the policy does not ask for them and the backup never had one.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::{Labelled, build::build_group_label, choose, recorded};
use crate::{
    api::{GroupStatus, PgBackup, annotations},
    controller::backup::{
        Error,
        observe::{Observed, Search, get, get_all, list, merge, read_error, search},
        sweep::labelled as labelled_for,
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
        Search::Names | Search::Labels => get_all(&api, content_names(observed, group)).await?,
        Search::Everything => list(&api, &ListParams::default()).await?,
    };
    found.retain(|content| is_made_for(observed, group, content));
    Ok(found)
}

/// The names that the group's content may have.
pub fn content_names(observed: &Observed, group: &GroupStatus) -> Vec<String> {
    let uids = uids(observed, group).into_iter();
    uids.map(|uid| group_content_name(&uid)).collect()
}

/// Whether the snapshot controller made the content for the group.
pub fn is_made_for(
    observed: &Observed,
    group: &GroupStatus,
    content: &VolumeGroupSnapshotContent,
) -> bool {
    let of = &content.spec.volume_group_snapshot_ref;
    // A content that a person made, to import a group, has another name.
    let made = of.uid.as_deref().map(group_content_name);
    of.name.as_ref() == Some(&group.volume_group_snapshot)
        && of.namespace == observed.backup.namespace()
        && made == content.metadata.name
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

/// Whether it is the content of a member of this group. Anybody who may write the status of a snapshot can point at
/// another's.
pub fn is_content_of_member(
    observed: &Observed,
    group: &GroupStatus,
    content: &VolumeSnapshotContent,
) -> bool {
    let of = &content.spec.volume_snapshot_ref;
    let uids = uids(observed, group);
    let named = || uids.iter().any(|uid| is_named(uid, content));
    // Of a group whose UID nobody came to write down.
    let labelled = || labelled_for(&observed.backup, content) == Some(group.attempt);
    of.namespace == observed.backup.namespace() && (named() || labelled())
}

/// The attempt of the group that is written down, if it is the content of a member; of whichever volume, as the group may
/// have held one too many.
pub fn attempt_of_member(backup: &PgBackup, content: &VolumeSnapshotContent) -> Option<u32> {
    let group = recorded(backup)?;
    let uid = group.volume_group_snapshot_uid.as_deref()?;
    is_named(uid, content).then_some(group.attempt)
}

/// Whether it has the name, and refers to the one, that only this group's UID and the content's own volume give.
fn is_named(uid: &str, content: &VolumeSnapshotContent) -> bool {
    let of = &content.spec.volume_snapshot_ref;
    content
        .spec
        .source
        .volume_handle
        .as_ref()
        .is_some_and(|volume| {
            member_content_name(uid, volume) == content.name_any()
                && of.name.as_deref() == Some(member_name(uid, volume).as_str())
        })
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
    let (snapshots, contents) = member_names(observed, group);
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

/// The names that its members, and their contents, must have, of those that were not read yet.
pub fn member_names(observed: &Observed, group: &GroupStatus) -> (Vec<String>, Vec<String>) {
    let (mut snapshots, mut contents) = (Vec::new(), Vec::new());
    for uid in uids(observed, group) {
        for handle in handles(observed, group) {
            snapshots.push(member_name(&uid, &handle));
            contents.push(member_content_name(&uid, &handle));
        }
    }
    snapshots.retain(|name| observed.snapshots.iter().all(|it| it.name_any() != *name));
    contents.retain(|name| observed.contents.iter().all(|it| it.name_any() != *name));
    (snapshots, contents)
}

/// The volumes that the group was to have, those that were asked for, and those that the driver answered with.
fn handles(observed: &Observed, group: &GroupStatus) -> BTreeSet<String> {
    let contents = || observed.groups.contents.iter();
    let asked = contents().flat_map(|it| it.spec.source.volume_handles.iter());
    let answers = contents().filter_map(|it| it.status.as_ref());
    let answered = answers.flat_map(|it| &it.volume_snapshot_info_list);
    let answered = answered.map(|info| &info.volume_handle);
    let all = group.volume_handles.iter().chain(asked).chain(answered);
    all.cloned().collect()
}
