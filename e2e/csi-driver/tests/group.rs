//! Group snapshots.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use common::Driver;
use highwater_test_csi_driver::proto::csi::group_controller_client::GroupControllerClient;
use highwater_test_csi_driver::proto::csi::{
    CreateVolumeGroupSnapshotRequest, DeleteSnapshotRequest, DeleteVolumeGroupSnapshotRequest,
    GetVolumeGroupSnapshotRequest,
};
use tonic::Code;

mod common;

#[tokio::test]
async fn a_group_is_whole_or_not_there() {
    let driver = Driver::start(&[]);
    let mut controller = driver.controller().await;
    let mut groups = GroupControllerClient::new(driver.channel().await);
    let first = controller.volume("first", None).await.unwrap().volume_id;
    let second = controller.volume("second", None).await.unwrap().volume_id;
    let request = CreateVolumeGroupSnapshotRequest {
        name: "g".to_owned(),
        source_volume_ids: vec![first, second],
        ..Default::default()
    };

    driver.faults(r#"[{"volume": "second", "errorAfterCut": {"code": "Unavailable"}}]"#);
    let error = groups
        .create_volume_group_snapshot(request.clone())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(driver.snapshots_on_disk(), 0);

    driver.faults("[]");
    let reply = groups
        .create_volume_group_snapshot(request.clone())
        .await
        .unwrap();
    let group = reply.into_inner().group_snapshot.unwrap();
    assert!(group.ready_to_use);
    assert_eq!(group.snapshots.len(), 2);
    assert!(
        group
            .snapshots
            .iter()
            .all(|m| m.group_snapshot_id == group.group_snapshot_id)
    );
    let again = groups.create_volume_group_snapshot(request).await.unwrap();
    assert_eq!(again.into_inner().group_snapshot.as_ref(), Some(&group));

    let member = group.snapshots[0].snapshot_id.clone();
    let request = DeleteSnapshotRequest {
        snapshot_id: member.clone(),
        ..Default::default()
    };
    let refused = controller.0.delete_snapshot(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let request = GetVolumeGroupSnapshotRequest {
        group_snapshot_id: group.group_snapshot_id.clone(),
        snapshot_ids: vec![member],
        ..Default::default()
    };
    let refused = groups
        .get_volume_group_snapshot(request.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let all = group
        .snapshots
        .iter()
        .map(|member| member.snapshot_id.clone())
        .collect();
    let request = GetVolumeGroupSnapshotRequest {
        snapshot_ids: all,
        ..request
    };
    let found = groups
        .get_volume_group_snapshot(request.clone())
        .await
        .unwrap();
    assert_eq!(found.into_inner().group_snapshot.as_ref(), Some(&group));

    let delete = DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: group.group_snapshot_id,
        snapshot_ids: request.snapshot_ids.clone(),
        ..Default::default()
    };
    for _ in 0..2 {
        groups
            .delete_volume_group_snapshot(delete.clone())
            .await
            .unwrap();
    }
    assert_eq!(driver.snapshots_on_disk(), 0);
    let gone = groups.get_volume_group_snapshot(request).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}
