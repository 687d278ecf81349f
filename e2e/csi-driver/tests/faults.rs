//! The fault switches, from the outside.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Controller, Driver, eventually};
use highwater_test_csi_driver::proto::csi::volume_content_source::{SnapshotSource, Type};
use highwater_test_csi_driver::proto::csi::{
    DeleteSnapshotRequest, ListSnapshotsRequest, VolumeContentSource,
};
use tonic::Code;

mod common;

async fn with_a_volume() -> (Driver, Controller, String) {
    let driver = Driver::start(&[]);
    let mut controller = driver.controller().await;
    let volume = controller.volume("v", None).await.unwrap().volume_id;
    fs::write(driver.volume(&volume).join("file"), "old").unwrap();
    (driver, controller, volume)
}

async fn delete(controller: &mut Controller, id: &str) {
    let request = DeleteSnapshotRequest {
        snapshot_id: id.to_owned(),
        ..Default::default()
    };
    controller.0.delete_snapshot(request).await.unwrap();
}

async fn restore(controller: &mut Controller, id: &str) -> Result<String, Code> {
    let kind = Type::Snapshot(SnapshotSource {
        snapshot_id: id.to_owned(),
    });
    let source = VolumeContentSource { r#type: Some(kind) };
    let restored = controller.volume(&format!("from-{id}"), Some(source)).await;
    restored
        .map(|volume| volume.volume_id)
        .map_err(|error| error.code())
}

#[tokio::test]
async fn a_delayed_cut_goes_on_when_the_caller_gives_up() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(r#"[{"delayBeforeCut": 5000}]"#);
    let first = controller.snapshot("s", &volume);
    let gave_up = tokio::time::timeout(std::time::Duration::from_millis(100), first).await;
    assert!(gave_up.is_err());
    assert_eq!(
        controller.snapshot("s", &volume).await.unwrap_err().code(),
        Code::Aborted
    );
    fs::write(driver.volume(&volume).join("file"), "new").unwrap();
    eventually("the cut", || driver.snapshots_on_disk() == 1).await;
    // Until the record is written too, the answer is still Aborted.
    let snapshot = loop {
        match controller.snapshot("s", &volume).await {
            Err(error) => assert_eq!(error.code(), Code::Aborted),
            Ok(snapshot) => break snapshot.snapshot_id,
        }
    };
    assert_eq!(
        fs::read(driver.snapshot(&snapshot).join("file")).unwrap(),
        b"new"
    );
    assert_eq!(driver.snapshots_on_disk(), 1);
}

#[tokio::test]
async fn errors_come_before_or_after_the_cut_and_switch_off() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(
        r#"[{"snapshot": "a", "errorBeforeCut": {"code": "Aborted", "times": 2}},
                      {"snapshot": "b", "errorAfterCut": {"code": "Internal"}}]"#,
    );
    for _ in 0..2 {
        assert_eq!(
            controller.snapshot("a", &volume).await.unwrap_err().code(),
            Code::Aborted
        );
        assert_eq!(driver.snapshots_on_disk(), 0);
    }
    controller.snapshot("a", &volume).await.unwrap();
    assert_eq!(driver.snapshots_on_disk(), 1);

    for _ in 0..2 {
        assert_eq!(
            controller.snapshot("b", &volume).await.unwrap_err().code(),
            Code::Internal
        );
        assert_eq!(driver.snapshots_on_disk(), 2);
    }
    driver.faults("[]");
    controller.snapshot("b", &volume).await.unwrap();
    assert_eq!(driver.snapshots_on_disk(), 2);
}

#[tokio::test]
async fn an_errored_snapshot_is_cut_later() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(r#"[{"errorBeforeCut": {"code": "Internal"}, "cutAfterError": 5000}]"#);
    assert_eq!(
        controller.snapshot("s", &volume).await.unwrap_err().code(),
        Code::Internal
    );
    assert_eq!(driver.snapshots_on_disk(), 0);
    eventually("the cut", || driver.snapshots_on_disk() == 1).await;
}

#[tokio::test]
async fn rogues_cut_after_their_answer() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(
        r#"[{"snapshot": "early", "okBeforeCut": true, "delayBeforeCut": 5000},
                      {"snapshot": "late", "cutAfterDelete": true}]"#,
    );
    let early = controller.snapshot("early", &volume).await.unwrap();
    assert!(early.ready_to_use && early.creation_time.is_some());
    assert_eq!(driver.snapshots_on_disk(), 0);
    fs::write(driver.volume(&volume).join("file"), "new").unwrap();
    eventually("the cut", || driver.snapshots_on_disk() == 1).await;
    let file = driver.snapshot(&early.snapshot_id).join("file");
    assert_eq!(fs::read(file).unwrap(), b"new");

    let late = controller
        .snapshot("late", &volume)
        .await
        .unwrap()
        .snapshot_id;
    assert!(!driver.snapshot(&late).exists());
    delete(&mut controller, &late).await;
    assert!(driver.snapshot(&late).exists());
}

#[tokio::test]
async fn handles_and_cuts_are_lost() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver
        .faults(r#"[{"snapshot": "leak", "lostCuts": 1}, {"snapshot": "h", "handleLost": true}]"#);
    assert_eq!(
        controller
            .snapshot("leak", &volume)
            .await
            .unwrap_err()
            .code(),
        Code::Unavailable
    );
    controller.snapshot("leak", &volume).await.unwrap();
    assert_eq!(driver.snapshots_on_disk(), 2);

    let lost = controller.snapshot("h", &volume).await.unwrap().snapshot_id;
    assert_eq!(restore(&mut controller, &lost).await, Err(Code::NotFound));
    let request = ListSnapshotsRequest {
        snapshot_id: lost,
        ..Default::default()
    };
    assert!(
        controller
            .0
            .list_snapshots(request)
            .await
            .unwrap()
            .into_inner()
            .entries
            .is_empty()
    );
}

#[tokio::test]
async fn what_is_told_can_be_wrong() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(r#"[{"neverReady": true, "creationTime": "zero", "restoreSize": 1}]"#);
    let told = controller.snapshot("s", &volume).await.unwrap();
    assert!(!told.ready_to_use);
    assert_eq!(told.creation_time.unwrap().seconds, 0);
    assert_eq!(told.size_bytes, 1);
    let id = told.snapshot_id;
    assert_eq!(
        restore(&mut controller, &id).await,
        Err(Code::FailedPrecondition)
    );
    driver.faults("[]");
    let told = controller.snapshot("s", &volume).await.unwrap();
    assert!(told.ready_to_use && told.creation_time.unwrap().seconds > 0);
    restore(&mut controller, &id).await.unwrap();
}

/// Two files that are written in turn: at any one moment their numbers differ by one at most.
#[tokio::test]
async fn a_non_atomic_cut_tears_files_apart() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(r#"[{"nonAtomicCut": {"delayPerFile": 200}}]"#);
    let (folder, stop) = (driver.volume(&volume), Arc::new(AtomicBool::new(false)));
    // Of one length and written over, so that no cut meets a file that is just empty.
    let number = |at: u32| format!("{at:010}").into_bytes();
    let files = ["a", "b"].map(|name| {
        fs::write(folder.join(name), number(0)).unwrap();
        let options = fs::OpenOptions::new().write(true).open(folder.join(name));
        options.unwrap()
    });
    let stopped = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        for at in (1_u32..).take_while(|_| !stopped.load(Ordering::Relaxed)) {
            files[0].write_all_at(&number(at), 0).unwrap();
            files[1].write_all_at(&number(at), 0).unwrap();
        }
    });
    let taken = controller.snapshot("s", &volume).await;
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let snapshot = taken.unwrap().snapshot_id;
    let read = |name: &str| -> u32 {
        let text = fs::read_to_string(driver.snapshot(&snapshot).join(name)).unwrap();
        text.parse().unwrap()
    };
    assert!(
        read("a").abs_diff(read("b")) > 1,
        "{} {}",
        read("a"),
        read("b")
    );
    assert!(
        fs::write(driver.snapshot(&snapshot).join("a"), "x").is_err(),
        "it is writable"
    );
}

#[tokio::test]
async fn a_broken_control_file_is_an_error() {
    let (driver, mut controller, volume) = with_a_volume().await;
    driver.faults(r#"[{"delay": 1}]"#);
    let error = controller.snapshot("s", &volume).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().contains("unknown field"), "{error}");
}
