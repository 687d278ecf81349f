//! Each way in which a store, a name server or a disk can fail, in the middle of a recovery: PostgreSQL ends loudly, is
//! not promoted, was given no wrong byte, and goes on to the end once the failure is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use crate::{
    Restore, cluster, fixture,
    proxy::Fault,
    store::{Stored, middle, segment_of},
};

/// From a segment in the middle on.
async fn broken(name: &str, everything: bool, fault: Fault, reason: &str) {
    let stored = Stored::new(name).await;
    let segment = middle().await;
    let needle = segment.to_string();
    stored.proxy.break_at(&needle, everything, fault, None);
    let error = stored.fails(reason, segment).await;
    assert!(stored.proxy.broken() > 0, "{error}");
    if !everything {
        assert_eq!(stored.reached(), Some(segment.start(cluster::SIZE)));
    }
    stored.proxy.mend();
    stored.recovers().await;
}

#[tokio::test]
async fn not_found_though_the_plan_needs_it() {
    broken("f-404", false, Fault::NotFound, "Gap").await;
}

#[tokio::test]
async fn not_found_and_the_identity_object_neither() {
    broken("f-404-all", true, Fault::NotFound, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn access_denied() {
    broken("f-403", true, Fault::Denied, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn server_errors() {
    broken("f-500", true, Fault::ServerError, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn no_answer() {
    broken("f-silence", true, Fault::Silence, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn connections_reset() {
    broken("f-reset", true, Fault::Reset, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn half_a_body() {
    broken("f-half", false, Fault::Truncated, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn another_segments_content() {
    broken("f-hash", false, Fault::OtherContent, "ArchiveCorrupt").await;
}

#[tokio::test]
async fn an_unknown_key_id() {
    broken("f-key", true, Fault::OtherKeyId, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn a_wrong_secret() {
    broken("f-secret", true, Fault::OtherSecret, "ArchiveUnavailable").await;
}

#[tokio::test]
async fn a_hole_with_wal_behind_it() {
    let stored = Stored::new("f-gap").await;
    let segment = middle().await;
    delete(&stored, &segment.to_string()).await;
    let error = stored.fails("Gap", segment).await;
    assert!(error.to_string().contains(&segment.to_string()), "{error}");
    fixture().await.archive_all(&stored.lineage()).await;
    stored.recovers().await;
}

#[tokio::test]
async fn the_tail_is_gone() {
    let stored = Stored::new("f-tail").await;
    let segment = segment_of(fixture().await.end);
    delete(&stored, &segment.to_string()).await;
    stored.fails("Gap", segment).await;
    assert_eq!(stored.reached(), Some(segment.start(cluster::SIZE)));
    fixture().await.archive_all(&stored.lineage()).await;
    stored.recovers().await;
}

pub async fn delete(stored: &Stored, needle: &str) {
    let store = stored.server.store();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let found = listed.iter().map(|object| &object.location);
    let found: Vec<_> = found.filter(|key| key.as_ref().contains(needle)).collect();
    assert!(!found.is_empty());
    for key in found {
        store.delete(key).await.unwrap();
    }
}

#[tokio::test]
async fn no_such_bucket() {
    let stored = Stored::new("f-bucket").await;
    let segment = middle().await;
    let bring_back = stored.lose_bucket_at(segment);
    stored.fails("ArchiveUnavailable", segment).await;
    bring_back();
    stored.recovers().await;
}

/// The name stops resolving. Connections that are open stay, so they are cut.
#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let stored = Stored::new("f-dns").await;
    let segment = middle().await;
    let config = stored.restore.job.work.join("fetch.json");
    let endpoint = format!("http://127.0.0.1:{}", stored.proxy.port);
    let change = Box::new(move || {
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(&endpoint));
        let text = text.replace(&endpoint, "http://no-such-store.invalid:9000");
        let other = config.with_extension("other");
        fs::write(&other, text).unwrap();
        cluster::hand_over(&other);
        fs::rename(other, config).unwrap();
    });
    let needle = segment.to_string();
    stored
        .proxy
        .break_at(&needle, true, Fault::Reset, Some(change));
    stored.fails("ArchiveUnavailable", segment).await;
    stored.proxy.mend();
    stored.recovers().await;
}

/// A volume for WAL.
pub struct Volume(PathBuf);

impl Volume {
    /// Of this size, instead of the directory that a restore has.
    pub fn for_wal(restore: &mut Restore, size: &str) -> Self {
        let path = restore.root().join("volume");
        fs::create_dir(&path).unwrap();
        let volume = Self(path);
        volume.with_size(&format!("size={size},mode=0755"));
        cluster::hand_over(&volume.0);
        let wal = restore.pgdata().join("pg_wal");
        fs::remove_dir_all(&wal).unwrap();
        for directory in ["wal", "wal/archive_status"] {
            fs::create_dir(volume.0.join(directory)).unwrap();
            cluster::hand_over(&volume.0.join(directory));
        }
        std::os::unix::fs::symlink(volume.0.join("wal"), &wal).unwrap();
        restore.job.source.mounts.push(volume.0.clone());
        volume
    }

    pub fn with_size(&self, options: &str) {
        as_root("mount", &["-t", "tmpfs", "-o", options, "tmpfs"], &self.0);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        as_root("umount", &["-l"], &self.0);
    }
}

fn as_root(program: &str, arguments: &[&str], path: &Path) {
    let mut command = match cluster::is_root() {
        true => Command::new(program),
        false => {
            let mut command = Command::new("sudo");
            command.args(["-n", program]);
            command
        }
    };
    let status = command.args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} needs root");
}

#[tokio::test]
async fn a_full_disk() {
    let mut stored = Stored::new("f-disk").await;
    // Smaller than what is replayed.
    let volume = Volume::for_wal(&mut stored.restore, "4m");
    let last = segment_of(fixture().await.end);
    let error = stored.fails("DiskFailed", last).await;
    assert!(error.to_string().contains("RECOVERYXLOG"), "{error}");
    volume.with_size("remount,size=64m");
    stored.recovers().await;
}

/// The control of all of these: with exit code 1 in place of ours PostgreSQL is promoted in the middle, and seen to be.
#[tokio::test]
async fn exit_1_in_an_outage_would_promote() {
    let mut stored = Stored::new("f-control").await;
    let segment = middle().await;
    stored
        .proxy
        .break_at(&segment.to_string(), true, Fault::ServerError, None);
    stored.restore.job.program = stored.restore.script(
        "exit-1",
        &format!("'{}' \"$@\" || exit 1", env!("CARGO_BIN_EXE_highwater")),
    );
    let error = stored.restore.run().await.unwrap_err();
    assert_eq!(error.reason(), "EndedEarly", "{error}");
    let control = stored.restore.control();
    assert!(control.contains("TimeLineID:       2"), "{control}");
    assert_ne!(stored.restore.rows().await.0, 5000);
}
