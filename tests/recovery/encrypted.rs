//! An encrypted archive: planned without the key, recovered with it, and without it never promoted.

use std::path::{Path, PathBuf};

use highwater::{
    api::{RestorePlan, RestoreTarget},
    archive::{Contents, Refusal, Request, plan::plan},
    recovery::fetch::MountedPaths,
    recovery::job::JobError,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{Restore, cluster, files, fixture};

fn planned(
    contents: &Contents,
    target: serde_json::Value,
    can_decrypt: bool,
) -> Result<RestorePlan, Refusal> {
    let target: RestoreTarget = serde_json::from_value(target).unwrap();
    let request = Request {
        backup: None,
        target: Some(target),
        archive: "main".to_owned(),
        archive_name: "shop-orders".to_owned(),
        can_decrypt,
        ended: Vec::new(),
    };
    plan(&request, contents)
}

async fn to_latest(name: &str, decryption: Option<&Path>) -> Restore {
    to(name, json!({"latest": {}}), decryption).await
}

async fn to(name: &str, target: serde_json::Value, decryption: Option<&Path>) -> Restore {
    let fixture = fixture().await;
    let contents = fixture.encrypted_lineage().contents().await.unwrap();
    let plan = planned(&contents, target, true).unwrap();
    let (spec, archive) = (&fixture.encrypted, fixture.encrypted_archive());
    let directory = Restore::directory(name).await.join("archive");
    cluster::copy(&archive, &directory);
    let mounted = MountedPaths {
        credentials: None,
        ca: None,
        decryption: decryption.map(PathBuf::from),
        directory,
    };
    Restore::from_archive(name, plan, spec, mounted).await
}

/// The last commit in the unfinished segment.
fn in_the_tail(contents: &Contents) -> Timestamp {
    let tail = contents.tails.values().last().unwrap();
    tail.records.unwrap().last_commit.unwrap()
}

/// What the agent can say of the archive, who has no key, is what it says of one that it can read.
#[tokio::test]
async fn it_is_planned_without_the_key() {
    let fixture = fixture().await;
    let clear = fixture.lineage().contents().await.unwrap();
    let encrypted = fixture.encrypted_lineage().contents().await.unwrap();
    assert!(clear.segments.values().all(|segment| !segment.encrypted));
    assert!(encrypted.segments.values().all(|segment| segment.encrypted));
    let committed = in_the_tail(&clear);
    assert_eq!(in_the_tail(&encrypted), committed);
    let before = committed - SignedDuration::from_micros(1);
    let stop_at = planned(&encrypted, json!({"time": before}), true).unwrap();
    // The tail itself is what recovery must read to see the commit after the target.
    assert_eq!(stop_at.wal_to, fixture.end);
    assert!(stop_at.stop_at.is_some(), "{}", stop_at.summary);
    for target in [
        json!({"latest": {}}),
        json!({"time": before}),
        json!({"time": committed}),
        json!({"time": fixture.before_drop.0}),
        json!({"time": fixture.quiet}),
        json!({"time": fixture.quiet + SignedDuration::from_hours(1)}),
        json!({"lsn": fixture.before_drop.1}),
        json!({"lsn": fixture.end}),
    ] {
        let expected = planned(&clear, target.clone(), false);
        assert_eq!(
            planned(&encrypted, target.clone(), true),
            expected,
            "{target}"
        );
        if expected.is_err() {
            continue;
        }
        let refused = planned(&encrypted, target, false).unwrap_err();
        assert_eq!(refused.reason(), "DecryptionKeyMissing");
        assert!(refused.to_string().contains("spec.decryption"), "{refused}");
    }
}

#[tokio::test]
async fn with_the_key_everything_is_there() {
    let fixture = fixture().await;
    let mut restore = to_latest("with-key", Some(&fixture.identity())).await;
    // Whoever may write from now on does not matter.
    let recipients = &mut restore
        .job
        .fetch
        .archive
        .encryption
        .as_mut()
        .unwrap()
        .recipients;
    recipients.push("age1nobody".to_owned());
    let result = restore.run().await.unwrap();
    assert_eq!(result.end_lsn, Some(fixture.end));
    assert_eq!(restore.rows().await.0, 5000);
    // Nothing was read in the clear, and the key itself lies nowhere in what recovery wrote.
    let archive = &restore.job.fetch.mounted.directory;
    for folder in ["/wal/", "/tail/"] {
        let objects = files(archive, folder);
        assert!(!objects.is_empty());
        assert!(
            objects
                .iter()
                .all(|path| path.extension().is_some_and(|e| e == "age"))
        );
    }
    let key = std::fs::read_to_string(fixture.identity()).unwrap();
    for file in files(&restore.job.work, "")
        .iter()
        .filter(|path| path.is_file())
    {
        let content = std::fs::read(file).unwrap();
        let written = String::from_utf8_lossy(&content);
        assert!(!written.contains(key.trim()), "{}", file.display());
    }
}

#[tokio::test]
async fn without_the_key_recovery_ends_loudly_and_goes_on_with_it() {
    let fixture = fixture().await;
    let other = fixture.root.join("another-identity");
    cluster::write_key(&other);
    for (name, decryption, expected) in [
        ("no-key", None, "DecryptionKeyMissing"),
        ("wrong-key", Some(other), "DecryptionKeyWrong"),
    ] {
        let mut restore = to_latest(name, decryption.as_deref()).await;
        let error = restore.run().await.unwrap_err();
        assert!(matches!(error, JobError::Fetch(_)), "{error}");
        assert_eq!(error.reason(), expected, "{error}");
        assert!(
            error.to_string().contains("PgRestore.spec.decryption"),
            "{error}"
        );
        let control = restore.control();
        assert!(control.contains("TimeLineID:       1"), "{control}");
        assert!(restore.pgdata().join("backup_label").exists(), "{name}");
        restore.job.fetch.mounted.decryption = Some(fixture.identity());
        restore.run().await.unwrap();
        assert_eq!(restore.rows().await.0, 5000);
    }
}

#[tokio::test]
async fn a_key_file_that_is_none_is_said_at_once() {
    let fixture = fixture().await;
    let file = fixture.root.join("no-identity");
    std::fs::write(&file, "hunter2\n").unwrap();
    let contents = fixture.encrypted_lineage().contents().await.unwrap();
    let plan = planned(&contents, json!({"latest": {}}), true).unwrap();
    for (file, expected) in [
        (file, "InvalidDecryptionKey"),
        (fixture.root.join("missing"), "DecryptionKeyMissing"),
    ] {
        let mounted = highwater::recovery::fetch::MountedPaths {
            credentials: None,
            ca: None,
            decryption: Some(file),
            directory: fixture.encrypted_archive(),
        };
        let error = highwater::recovery::base(&fixture.encrypted, &mounted, &plan).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason(), expected, "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

/// The agent cannot read the WAL, so recovery looks the transaction up.
#[tokio::test]
async fn a_transaction_is_found_by_recovery() {
    let fixture = fixture().await;
    let key = fixture.identity();
    for (inclusive, rows) in [(true, 4000), (false, 3900)] {
        let target = json!({"xid": fixture.xid, "inclusive": inclusive});
        let restore = to(&format!("encrypted-xid-{inclusive}"), target, Some(&key)).await;
        let stop_at = restore.job.fetch.plan.stop_at.clone().unwrap();
        assert_eq!(stop_at.xid, u32::try_from(fixture.xid).ok());
        restore.run().await.unwrap();
        assert_eq!(restore.rows().await.0, rows, "{inclusive}");
    }
}
