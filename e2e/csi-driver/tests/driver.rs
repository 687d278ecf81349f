//! The driver from the outside: copy-on-write, restore, clone, restart, mounts, registration.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Driver, connect, run, writer};
use highwater_test_csi_driver::proto::csi::controller_service_capability::{Type, rpc};
use highwater_test_csi_driver::proto::csi::node_client::NodeClient;
use highwater_test_csi_driver::proto::csi::volume_content_source::{
    self, SnapshotSource, VolumeSource,
};
use highwater_test_csi_driver::proto::csi::{
    ControllerGetCapabilitiesRequest, DeleteSnapshotRequest, DeleteVolumeRequest,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeContentSource,
};
use highwater_test_csi_driver::proto::registration::InfoRequest;
use highwater_test_csi_driver::proto::registration::registration_client::RegistrationClient;
use tonic::Code;

mod common;

const SIZE: usize = 32 << 20;

fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    let snapshot_id = id.to_owned();
    let kind = volume_content_source::Type::Snapshot(SnapshotSource { snapshot_id });
    Some(VolumeContentSource { r#type: Some(kind) })
}

fn from_volume(id: &str) -> Option<VolumeContentSource> {
    let volume_id = id.to_owned();
    let kind = volume_content_source::Type::Volume(VolumeSource { volume_id });
    Some(VolumeContentSource { r#type: Some(kind) })
}

/// The bytes under `path` that nothing else shares.
fn exclusive(path: &Path) -> u64 {
    run(Command::new("sync").arg("-f").arg(path));
    let table = run(Command::new("btrfs")
        .args(["filesystem", "du", "--raw", "-s"])
        .arg(path));
    table
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_snapshot_is_copy_on_write_and_restores() {
    let driver = Driver::start(&[]);
    let mut controller = driver.controller().await;
    let source = controller.volume("source", None).await.unwrap().volume_id;
    let file = |folder: std::path::PathBuf| folder.join("file");
    fs::write(file(driver.volume(&source)), vec![1; SIZE]).unwrap();

    let snapshot = controller.snapshot("first", &source).await.unwrap();
    assert!(snapshot.ready_to_use);
    assert!(snapshot.creation_time.unwrap().seconds > 1_700_000_000);
    let snapshot = snapshot.snapshot_id;
    assert_eq!(
        exclusive(&driver.snapshot(&snapshot)),
        0,
        "the data is copied"
    );
    assert!(
        fs::write(file(driver.snapshot(&snapshot)), "x").is_err(),
        "a snapshot is writable"
    );

    fs::write(file(driver.volume(&source)), "changed").unwrap();
    assert_eq!(
        fs::read(file(driver.snapshot(&snapshot))).unwrap(),
        vec![1; SIZE]
    );

    let restored = controller
        .volume("restored", from_snapshot(&snapshot))
        .await
        .unwrap();
    assert_eq!(restored.content_source, from_snapshot(&snapshot));
    let restored = driver.volume(&restored.volume_id);
    assert_eq!(exclusive(&restored), 0, "the data is copied");
    assert_eq!(fs::read(file(restored.clone())).unwrap(), vec![1; SIZE]);
    fs::write(file(restored), "mine").unwrap();
    assert_eq!(
        fs::read(file(driver.snapshot(&snapshot))).unwrap(),
        vec![1; SIZE]
    );

    let clone = controller
        .volume("clone", from_volume(&source))
        .await
        .unwrap();
    assert_eq!(
        fs::read(file(driver.volume(&clone.volume_id))).unwrap(),
        b"changed"
    );

    // A snapshot outlives its volume.
    controller
        .0
        .delete_volume(DeleteVolumeRequest {
            volume_id: source,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(
        fs::read(file(driver.snapshot(&snapshot))).unwrap(),
        vec![1; SIZE]
    );
    let gone = driver.snapshot(&snapshot);
    let request = DeleteSnapshotRequest {
        snapshot_id: snapshot,
        ..Default::default()
    };
    controller.0.delete_snapshot(request).await.unwrap();
    assert!(!gone.exists());
}

#[tokio::test]
async fn a_restart_loses_nothing_and_sweeps_what_was_half_made() {
    let mut driver = Driver::start(&[]);
    let mut controller = driver.controller().await;
    let volume = controller.volume("v", None).await.unwrap();
    let snapshot = controller.snapshot("s", &volume.volume_id).await.unwrap();
    let half = driver.snapshot("snap-half");
    run(Command::new("btrfs")
        .args(["subvolume", "create"])
        .arg(&half));

    // The open connection is a sidecar's, which never closes it.
    assert!(driver.stop().success());
    assert!(!driver.socket().exists() && !driver.registration().exists());
    driver.launch();

    let mut controller = driver.controller().await;
    assert_eq!(controller.volume("v", None).await.unwrap(), volume);
    assert_eq!(
        controller.snapshot("s", &volume.volume_id).await.unwrap(),
        snapshot
    );
    assert!(!half.exists());
}

#[tokio::test]
async fn a_volume_is_mounted_once_and_not_deleted_while_mounted() {
    let driver = Driver::start(&[]);
    let mut controller = driver.controller().await;
    let mut node = NodeClient::new(driver.channel().await);
    let volume = controller.volume("v", None).await.unwrap().volume_id;
    let path = |name: &str| driver.path(name).to_string_lossy().into_owned();
    let publish = NodePublishVolumeRequest {
        volume_id: volume.clone(),
        staging_target_path: path("staging"),
        target_path: path("target"),
        volume_capability: Some(writer()),
        ..Default::default()
    };
    let refused = node.node_publish_volume(publish.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let stage = NodeStageVolumeRequest {
        volume_id: volume.clone(),
        staging_target_path: path("staging"),
        volume_capability: Some(writer()),
        ..Default::default()
    };
    for _ in 0..2 {
        node.node_stage_volume(stage.clone()).await.unwrap();
        node.node_publish_volume(publish.clone()).await.unwrap();
    }
    fs::write(driver.path("target").join("file"), "x").unwrap();
    assert!(driver.volume(&volume).join("file").exists());
    let delete = DeleteVolumeRequest {
        volume_id: volume.clone(),
        ..Default::default()
    };
    let refused = controller
        .0
        .delete_volume(delete.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let unpublish = NodeUnpublishVolumeRequest {
        volume_id: volume.clone(),
        target_path: path("target"),
    };
    let unstage = NodeUnstageVolumeRequest {
        volume_id: volume,
        staging_target_path: path("staging"),
    };
    for _ in 0..2 {
        node.node_unpublish_volume(unpublish.clone()).await.unwrap();
        node.node_unstage_volume(unstage.clone()).await.unwrap();
    }
    assert!(!driver.path("target").exists() && !driver.path("staging").exists());
    controller.0.delete_volume(delete).await.unwrap();
}

#[tokio::test]
async fn kubelet_is_told_where_the_driver_listens() {
    let driver = Driver::start(&["--driver-name", "other.example.com"]);
    let mut kubelet = RegistrationClient::new(connect(&driver.registration()).await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.r#type, "CSIPlugin");
    assert_eq!(info.name, "other.example.com");
    assert_eq!(Path::new(&info.endpoint), driver.socket());
    assert_eq!(info.supported_versions, ["1.0.0"]);
}

#[tokio::test]
async fn without_snapshots_none_are_offered() {
    let driver = Driver::start(&["--no-snapshots"]);
    let mut controller = driver.controller().await;
    let request = ControllerGetCapabilitiesRequest {};
    let reply = controller
        .0
        .controller_get_capabilities(request)
        .await
        .unwrap()
        .into_inner();
    let offered = reply
        .capabilities
        .iter()
        .filter_map(|one| one.r#type.as_ref().map(|Type::Rpc(rpc)| rpc.r#type()));
    let offered: Vec<_> = offered.collect();
    assert!(offered.contains(&rpc::Type::CreateDeleteVolume));
    assert!(!offered.contains(&rpc::Type::CreateDeleteSnapshot));
    assert!(!offered.contains(&rpc::Type::ListSnapshots));
    let volume = controller.volume("v", None).await.unwrap().volume_id;
    let refused = controller.snapshot("s", &volume).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
