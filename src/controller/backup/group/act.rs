//! The effects on groups.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client};

use super::{GroupContent, GroupRemoval, build, seen::is_ours};
use crate::{
    api::{GroupStatus, PgBackup},
    controller::backup::{
        Error,
        act::{PARALLEL, api, create_ours, delete, merge, merge_if_there, write},
        attempt::{Recorded, SnapshotSet},
    },
    csi::{
        DeletionPolicy,
        group::{VolumeGroupSnapshot, VolumeGroupSnapshotContent},
    },
};

/// Puts the group's label on the claims that were written down, and on no others.
pub async fn label(
    client: &Client,
    backup: &PgBackup,
    set: &SnapshotSet<Recorded>,
    group: &GroupStatus,
) -> Result<(), Error> {
    let api = api::<PersistentVolumeClaim>(client, backup);
    let patch = build::build_label_patch(backup, group);
    let (api, patch) = (&api, &patch);
    let patches = set.members().iter().map(|member| async move {
        let patched = merge(api, &member.claim, patch).await.map(drop);
        patched.map_err(|error| write::<PersistentVolumeClaim>("label", &member.claim, error))
    });
    let patches: Vec<_> = patches.collect();
    stream::iter(patches)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

/// One of that name that is there counts only if it was made for this attempt of this backup.
pub async fn create(
    client: &Client,
    backup: &PgBackup,
    group: &GroupStatus,
) -> Result<VolumeGroupSnapshot, Error> {
    let api = api::<VolumeGroupSnapshot>(client, backup);
    let name = &group.volume_group_snapshot;
    let wanted = build::build_group(backup, group);
    create_ours(&api, backup, name, &wanted, |there| {
        is_ours(there, backup, group.attempt)
    })
    .await
}

/// The group's snapshots no longer go with the namespace.
pub async fn retain(
    client: &Client,
    backup: &PgBackup,
    attempt: u32,
    content: &GroupContent,
) -> Result<(), Error> {
    set_policy(
        client,
        backup,
        attempt,
        content,
        DeletionPolicy::Retain,
        false,
    )
    .await
}

/// A content that is gone needs no policy.
async fn set_policy(
    client: &Client,
    backup: &PgBackup,
    attempt: u32,
    content: &GroupContent,
    policy: DeletionPolicy,
    orphan: bool,
) -> Result<(), Error> {
    let api = Api::<VolumeGroupSnapshotContent>::all(client.clone());
    let patch = build::build_group_content_patch(backup, attempt, content, policy, orphan);
    merge_if_there(&api, "set the deletion policy of", &content.name, &patch).await
}

/// The janitor's part.
pub async fn remove(
    client: &Client,
    backup: &PgBackup,
    removal: &GroupRemoval,
) -> Result<(), Error> {
    match removal {
        GroupRemoval::Unlabel(claim) => {
            let api = api::<PersistentVolumeClaim>(client, backup);
            let patch = build::build_unlabel_patch(claim);
            merge_if_there(&api, "take the label off", &claim.claim, &patch).await
        }
        GroupRemoval::MakeDeletable {
            content,
            attempt,
            orphan,
        } => {
            set_policy(
                client,
                backup,
                *attempt,
                content,
                DeletionPolicy::Delete,
                *orphan,
            )
            .await
        }
        GroupRemoval::DeleteSnapshot { name, uid } => {
            delete(&api::<VolumeGroupSnapshot>(client, backup), name, uid).await
        }
        GroupRemoval::DeleteContent(content) => {
            let api = Api::<VolumeGroupSnapshotContent>::all(client.clone());
            delete(&api, &content.name, &content.uid).await
        }
    }
}
