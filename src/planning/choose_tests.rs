use std::sync::Arc;

use object_store::memory::InMemory;
use serde_json::json;

use super::*;
use crate::{
    api::PgArchiveSpec,
    archive::examples::{self, empty, with_backup},
};

fn of_lineage(id: &str, contents: Contents) -> Contents {
    let mut contents = contents;
    contents.identity.lineage = id.parse().unwrap();
    contents
}

fn backed_up(id: &str) -> Contents {
    of_lineage(id, with_backup(empty(), "old", 1, 2.1, 2.5))
}

fn source(lineage: Option<&str>) -> ArchiveSource {
    ArchiveSource {
        archive: "main".into(),
        name: "shop-orders".into(),
        lineage: lineage.map(|id| id.parse().unwrap()),
        granted_by: None,
    }
}

const A: &str = "aaaaaaaaaa";
const B: &str = "bbbbbbbbbb";

#[test]
fn which_of_several_histories_is_meant_is_not_guessed() {
    let none = || of_lineage(B, empty());
    for (found, named, expected) in [
        (vec![], None, Err("NothingArchived")),
        (vec![none()], None, Err("NothingArchived")),
        (vec![backed_up(A)], None, Ok(A)),
        // What never had a backup is nothing to restore from.
        (vec![none(), backed_up(A)], None, Ok(A)),
        (
            vec![backed_up(A), backed_up(B)],
            None,
            Err("LineageAmbiguous"),
        ),
        (vec![backed_up(A), backed_up(B)], Some(B), Ok(B)),
        (vec![none(), backed_up(A)], Some(B), Err("LineageNotFound")),
    ] {
        let chosen = history(&found, &source(named));
        let chosen = chosen
            .map(|contents| contents.identity.lineage.to_string())
            .map_err(|refused| refused.reason);
        assert_eq!(chosen, expected.map(str::to_owned), "{named:?}");
    }
}

#[test]
fn a_refusal_names_what_there_is() {
    let found = [backed_up(A), backed_up(B)];
    let refused = history(&found, &source(None)).unwrap_err();
    for said in [A, B, "2026-11-20T12:00:00Z", "spec.source.archive.lineage"] {
        assert!(refused.message.contains(said), "{said}: {refused:?}");
    }
}

#[test]
fn the_base_is_what_the_manifest_says() {
    let mut manifest = examples::manifest("old", 1, 2.1, 2.5);
    manifest.stateful_set = Some(json!({"replicas": 3}));
    manifest.volumes = vec![ManifestVolume {
        claim: "data-orders-0".into(),
        volume: "data".into(),
        mounts: Vec::new(),
        driver: "d".into(),
        handle: "snapshot-1".into(),
        capacity: 1000,
        restore_size: Some(2000),
        storage_class_name: Some("fast".into()),
        volume_mode: "Filesystem".into(),
        cut_at: None,
    }];
    let base = base(manifest);
    assert_eq!(
        serde_json::to_value(&base).unwrap(),
        json!({
            "name": "old", "uid": "old-uid", "namespace": "shop", "statefulSetName": "orders",
            "statefulSet": {"replicas": 3},
            "volumes": [{
                "claim": "data-orders-0", "volume": "data", "driver": "d", "handle": "snapshot-1",
                "capacity": 1000, "restoreSize": 2000, "storageClassName": "fast", "volumeMode": "Filesystem",
            }],
        })
    );
}

#[tokio::test]
async fn an_empty_archive_is_refused() {
    let spec: PgArchiveSpec = serde_json::from_value(json!({"s3": {"bucket": "b"}})).unwrap();
    let archive = Archive::new(Arc::new(InMemory::new()), &spec, "shop-orders").unwrap();
    let restore: PgRestoreSpec = serde_json::from_value(json!({
        "source": {"archive": {"archive": "main", "name": "shop-orders"}}, "planOnly": true,
    }))
    .unwrap();
    let chosen = choose(&archive, &restore, &source(None)).await.unwrap();
    assert_eq!(chosen.unwrap_err().reason, "NothingArchived");
}
