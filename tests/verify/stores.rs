//! A bucket: metadata that go with what they speak of, outages, an end in the middle.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use crate::{
    fixture::copy_into,
    proxy::Proxy,
    said::{command, said as said_by, verify},
    server::free_port,
    site::{Site, server, wait_for},
};

/// Every object below the database's folder, with what would change if somebody wrote.
async fn objects(site: &Site) -> Vec<(Path, u64, String)> {
    let store = server().store();
    let folder = Path::from(format!("prod/{}", site.archive_name()));
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    let of = |object: object_store::ObjectMeta| {
        (
            object.location,
            object.size,
            object.last_modified.to_rfc3339(),
        )
    };
    let mut all: Vec<_> = listed.into_iter().map(of).collect();
    all.sort();
    all
}

async fn bucket(name: &str) -> Site {
    let site = Site::new(&format!("verify-{name}"));
    copy_into(&site.archive()).await;
    site
}

#[tokio::test]
async fn content_under_another_name_is_found_although_its_metadata_came_along() {
    let site = bucket("swapped").await;
    let before = objects(&site).await;
    verify(&site.config(), &[]).expect_sound();
    assert_eq!(objects(&site).await, before);
    let store = server().store();
    let segments: Vec<Path> = before
        .into_iter()
        .map(|(path, _, _)| path)
        .filter(|path| path.as_ref().contains("/wal/00000002/"))
        .collect();
    let [_, one, other, ..] = segments.as_slice() else {
        panic!("{segments:?}");
    };
    let away = Path::from("away");
    for (from, to) in [(one, &away), (other, one), (&away, other)] {
        store.copy(from, to).await.unwrap();
    }
    verify(&site.config(), &[]).expect("swapped", &[("SegmentDamaged", 2)]);
}

#[tokio::test]
async fn metadata_tell_of_a_byte_that_nothing_else_knows() {
    let site = bucket("metadata").await;
    let all = objects(&site).await;
    // The end of a backup, the reason in a history: the files themselves are as good as before.
    for (ending, from, to) in [
        (
            "manifest.json",
            "\"user\": \"postgres\"",
            "\"user\": \"postgrez\"",
        ),
        ("00000002.history", "no recovery", "no recoverz"),
    ] {
        let (path, _, _) = all
            .iter()
            .find(|(path, _, _)| path.as_ref().ends_with(ending))
            .unwrap();
        let file = server()
            .data()
            .join(crate::server::BUCKET)
            .join(path.as_ref());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
    }
    let said = verify(&site.config(), &[]);
    let problems = said.problems();
    assert_eq!(problems["BackupDamaged"], 1, "{}", said.text);
    assert_eq!(problems["HistoryDamaged"], 1, "{}", said.text);
}

/// A verification that has made more than so many requests.
fn under_way(site: &Site, arguments: &[&str], proxy: &Proxy, requests: usize) -> Child {
    let mut child = command(&site.config(), arguments);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut seen = 0;
    wait_for("requests", || {
        seen += proxy.requests();
        seen > requests
    });
    child.unwrap()
}

#[tokio::test]
async fn an_outage_is_no_verdict() {
    let site = bucket("outage").await;
    site.configure_store(free_port(), "");
    let said = verify(&site.config(), &[]);
    assert_eq!(said.code, 200, "{} {}", said.text, said.errors);
    assert_eq!(said.report["verdict"], "Incomplete");
    let proxy = Proxy::start(server().port(), Duration::from_millis(20));
    site.configure_store(proxy.port(), "");
    let child = under_way(&site, &["--output", "json", "--parallel", "1"], &proxy, 12);
    proxy.cut();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await;
    let said = said_by(&output.unwrap().unwrap());
    assert_eq!(said.code, 200, "{} {}", said.text, said.errors);
    assert_eq!(said.report["verdict"], "Incomplete");
    assert!(said.report["objectsRead"].as_u64().unwrap() > 0);
    let why = said.report["stopped"].as_str().unwrap();
    assert!(why.contains("failed to read"), "{why}");
}

#[tokio::test]
async fn a_missing_bucket_is_no_verdict() {
    let site = Site::new("verify-no-bucket");
    let config = std::fs::read_to_string(site.config()).unwrap();
    let other = config.replace("bucket: contract", "bucket: nowhere");
    assert_ne!(other, config);
    std::fs::write(site.config(), other).unwrap();
    let said = verify(&site.config(), &[]);
    assert_eq!(said.code, 200, "{} {}", said.text, said.errors);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let site = bucket("interrupted").await;
    let before = objects(&site).await;
    let proxy = Proxy::start(server().port(), Duration::from_millis(300));
    site.configure_store(proxy.port(), "");
    let child = under_way(&site, &["--output", "json"], &proxy, 4);
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let begin = Instant::now();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await;
    let said = said_by(&output.unwrap().unwrap());
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_eq!(said.code, 130, "{} {}", said.text, said.errors);
    assert_eq!(said.report["verdict"], "Incomplete");
    assert_eq!(objects(&site).await, before);
}
