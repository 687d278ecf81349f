//! A writer that cannot read what it wrote: everything that it decides, it decides without a private key.

use std::{path::Path, sync::Arc};

use age::secrecy::ExposeSecret as _;
use bytes::Bytes;
use highwater::{
    api::PgArchiveSpec,
    archive::{
        Archive, Identities, IndexEntry, Lineage, MOST_TAILS, MountedSecrets, PushOutcome,
        ReadError, Records, sha256, store,
    },
    postgres::Lsn,
};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path as Key};
use serde_json::{Value, json};

use crate::{
    faulty::Faulty,
    rest::{self, NUMBER, VALID},
    server::Server,
    suite::{self, Kind, MIB, content, fetch, identity, is_conflict, lineage_id, push, segment},
};

/// A private key in a file, and the public one.
pub struct KeyPair {
    pub file: tempfile::NamedTempFile,
    pub public: String,
}

impl KeyPair {
    pub fn new() -> Self {
        let key = age::x25519::Identity::generate();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), key.to_string().expose_secret()).unwrap();
        let public = key.to_public().to_string();
        Self { file, public }
    }

    pub fn identities(&self) -> Identities {
        Identities::read(self.file.path()).unwrap()
    }
}

/// A directory archive; `compression` and recipients as in the PgArchive.
pub fn spec(compression: &Value, recipients: &[&str]) -> PgArchiveSpec {
    let mut spec = json!({
        "prefix": "prod/",
        "directory": {"persistentVolumeClaim": "archive"},
        "compression": compression,
    });
    if !recipients.is_empty() {
        spec["encryption"] = json!({ "recipients": recipients });
    }
    serde_json::from_value(spec).unwrap()
}

pub fn directory(place: &Path) -> Arc<dyn ObjectStore> {
    let mounted = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: place.to_owned(),
    };
    store::open(&spec(&Value::Null, &[]), &mounted).unwrap()
}

pub fn open(store: &Arc<dyn ObjectStore>, compression: &Value, recipients: &[&str]) -> Archive {
    let spec = spec(compression, recipients);
    Archive::new(store.clone(), &spec, "shop-orders").unwrap()
}

const LINEAGE: &str = "0123456789";

async fn begun(archive: &Archive) -> Lineage {
    let lineage = archive.lineage(lineage_id(LINEAGE));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    lineage
}

fn reader(store: &Arc<dyn ObjectStore>, identities: Identities) -> Lineage {
    // With settings that nothing was written with.
    let archive = open(store, &json!({"algorithm": "none"}), &[]);
    archive
        .with_identities(identities)
        .lineage(lineage_id(LINEAGE))
}

/// One store that keeps metadata and one that does not.
fn stores(place: &Path) -> [Arc<dyn ObjectStore>; 2] {
    [Arc::new(InMemory::new()), directory(place)]
}

/// All that holds of any archive holds of an encrypted one, for who has the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_with_the_key() {
    let key = KeyPair::new();
    let place = tempfile::tempdir().unwrap();
    let server = Server::start();
    let [memory, directory] = stores(place.path());
    for (store, metadata) in [(memory, true), (directory, false), (server.store(), true)] {
        let archive = open(&store, &json!({"algorithm": "lz4"}), &[&key.public]);
        let kind = Kind {
            create_only: true,
            metadata,
        };
        suite::all(&archive.with_identities(key.identities()), &*store, kind).await;
    }
}

#[tokio::test]
async fn a_push_is_compared_without_the_key() {
    let (old, new) = (KeyPair::new(), KeyPair::new());
    let place = tempfile::tempdir().unwrap();
    for store in stores(place.path()) {
        let lineage = begun(&open(&store, &Value::Null, &[&old.public])).await;
        assert_eq!(push(&lineage, 2, 0).await.unwrap(), PushOutcome::Created);
        // After a rotation, too, by another process.
        let rotated = open(&store, &Value::Null, &[&new.public]).lineage(lineage_id(LINEAGE));
        for lineage in [&lineage, &rotated] {
            let again = push(lineage, 2, 0).await.unwrap();
            assert_eq!(again, PushOutcome::AlreadyThere);
            is_conflict(push(lineage, 2, 1).await, &content(2, 1), &content(2, 0));
        }
        push(&rotated, 3, 0).await.unwrap();
        assert_eq!(lineage.contents().await.unwrap().segments.len(), 2);

        let [old, new] = [&old, &new].map(|key| reader(&store, key.identities()));
        assert_eq!(fetch(&old, 2, MIB).await.unwrap(), content(2, 0));
        assert_eq!(fetch(&new, 3, MIB).await.unwrap(), content(3, 0));
        for (lineage, number, reason) in [
            (&old, 3, "DecryptionKeyWrong"),
            (&new, 2, "DecryptionKeyWrong"),
            (&rotated, 2, "DecryptionKeyMissing"),
            (&rotated, 3, "DecryptionKeyMissing"),
        ] {
            let error = fetch(lineage, number, MIB).await.unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert!(error.to_string().contains("PgRestore.spec.decryption"));
        }
        let absent = fetch(&rotated, 4, MIB).await.unwrap_err();
        assert!(matches!(absent, ReadError::NotFound { .. }), "{absent}");
    }
}

/// A file with the keys of two generations reads both.
#[tokio::test]
async fn two_generations_are_read_with_both_keys() {
    let (old, new) = (KeyPair::new(), KeyPair::new());
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let lineage = begun(&open(&store, &Value::Null, &[&old.public])).await;
    push(&lineage, 2, 0).await.unwrap();
    let lz4 = json!({"algorithm": "lz4"});
    let rotated = open(&store, &lz4, &[&new.public]).lineage(lineage_id(LINEAGE));
    push(&rotated, 3, 0).await.unwrap();
    let both = [&old, &new].map(|key| std::fs::read_to_string(key.file.path()).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!("# old\n{}\n# new\n{}\n", both[0], both[1]),
    )
    .unwrap();
    let reader = reader(&store, Identities::read(file.path()).unwrap());
    for number in [2, 3] {
        assert_eq!(
            fetch(&reader, number, MIB).await.unwrap(),
            content(number, 0)
        );
    }
}

#[tokio::test]
async fn what_differs_behind_valid_wal_is_decided_by_hashes() {
    let key = KeyPair::new();
    let place = tempfile::tempdir().unwrap();
    for store in stores(place.path()) {
        let lineage = begun(&open(&store, &Value::Null, &[&key.public])).await;
        let first = content(NUMBER, 0);
        let push = async |plain: &Bytes, entry: IndexEntry| {
            let (name, plain) = (segment(NUMBER), plain.clone());
            lineage.push_segment(name, plain, &entry).await
        };
        push(&first, rest::read(&first)).await.unwrap();
        for place in [VALID, MIB - 1] {
            let (plain, entry) = rest::changed(place);
            let pushed = push(&plain, entry).await.unwrap();
            assert_eq!(pushed, PushOutcome::AlreadyThere, "{place}");
        }
        for place in [0, VALID - 1] {
            let (plain, entry) = rest::changed(place);
            is_conflict(push(&plain, entry).await, &plain, &first);
        }
        let until = |end: usize, plain: &[u8]| IndexEntry {
            valid_end: Lsn::new(NUMBER * MIB as u64 + end as u64),
            sha256_valid: Some(sha256(&plain[..end])),
            ..rest::read(plain)
        };
        // Ours ends before theirs, and agrees up to where theirs ends.
        let (plain, _) = rest::changed(VALID);
        let pushed = push(&plain, until(VALID - 100, &plain)).await.unwrap();
        assert_eq!(pushed, PushOutcome::AlreadyThere);
        // It differs between the two ends: only who can read theirs knows whether it agrees up to ours.
        let (plain, _) = rest::changed(VALID - 50);
        is_conflict(
            push(&plain, until(VALID - 100, &plain)).await,
            &plain,
            &first,
        );
        // Ours reaches further.
        let (plain, _) = rest::changed(VALID);
        is_conflict(
            push(&plain, until(VALID + 100, &plain)).await,
            &plain,
            &first,
        );
    }
}

fn records(end: usize) -> Option<Records> {
    Some(Records {
        last_record: Some(Lsn::new(4 * MIB as u64 + end as u64 - 8)),
        last_commit: Some("2026-11-20T12:00:00.5Z".parse().unwrap()),
    })
}

#[tokio::test]
async fn tails_are_merged_and_known_without_the_key() {
    let key = KeyPair::new();
    let place = tempfile::tempdir().unwrap();
    for store in stores(place.path()) {
        let archive = open(&store, &Value::Null, &[&key.public]);
        let mut lineage = begun(&archive).await;
        let (plain, step) = (content(4, 0), MIB / 50);
        for end in 1..=40 {
            if end == 20 {
                // Another process, which knows nothing of what the first one wrote.
                let fresh = open(&store, &Value::Null, &[&key.public]);
                lineage = fresh.lineage(lineage_id(LINEAGE));
            }
            let (from, to) = ((end - 1) * step, end * step);
            lineage
                .push_tail(segment(4), from as u64, &plain[..to], "run", records(to))
                .await
                .unwrap();
            let contents = lineage.contents().await.unwrap();
            let tail = contents.tails[&segment(4)];
            assert_eq!(tail.end, Lsn::new((4 * MIB + to) as u64));
            assert_eq!((tail.records, tail.encrypted), (records(to), true));
        }
        let keys = tail_keys(&store).await;
        assert!(keys.len() <= MOST_TAILS, "{}", keys.len());
        let end = 40 * step;
        let reader = reader(&store, key.identities());
        assert_eq!(fetch(&reader, 4, end).await.unwrap()[..end], plain[..end]);
        let refused = fetch(&lineage, 4, end).await.unwrap_err();
        assert_eq!(refused.reason(), "DecryptionKeyMissing");

        // A hole: what lies behind it does not count, and nothing is said of what does.
        let last = keys.iter().max().unwrap();
        store.delete(last).await.unwrap();
        let contents = lineage.contents().await.unwrap();
        let to = end - step;
        let tail = contents.tails[&segment(4)];
        assert_eq!(tail.end, Lsn::new((4 * MIB + to) as u64));
        assert_eq!(tail.records, records(to));

        let fresh = archive.lineage(lineage_id(LINEAGE));
        let refused = push(&fresh, 4, 9).await.unwrap_err();
        assert_eq!(refused.reason(), "ContentConflict");
        assert_eq!(push(&fresh, 4, 0).await.unwrap(), PushOutcome::Created);
        assert!(tail_keys(&store).await.is_empty());
    }
}

async fn tail_keys(store: &Arc<dyn ObjectStore>) -> Vec<Key> {
    use futures::TryStreamExt as _;
    let folder = Key::from(format!("prod/shop-orders/{LINEAGE}/tail"));
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.location).collect()
}

/// Where encryption is begun or given up in the middle, each part is read as what it is.
#[tokio::test]
async fn a_tail_half_in_the_clear_is_not_guessed_at() {
    let key = KeyPair::new();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clear = begun(&open(&store, &Value::Null, &[])).await;
    let plain = content(4, 0);
    let encrypted = open(&store, &Value::Null, &[&key.public]).lineage(lineage_id(LINEAGE));
    clear
        .push_tail(segment(4), 0, &plain[..1000], "one", records(1000))
        .await
        .unwrap();
    for (lineage, end, expected) in [(&encrypted, 2000, records(2000)), (&clear, 3000, None)] {
        lineage
            .push_tail(
                segment(4),
                end as u64 - 1000,
                &plain[..end],
                "two",
                records(end),
            )
            .await
            .unwrap();
        let fresh = open(&store, &Value::Null, &[]).lineage(lineage_id(LINEAGE));
        let tail = fresh.contents().await.unwrap().tails[&segment(4)];
        assert_eq!(tail.end, Lsn::new((4 * MIB + end) as u64));
        assert_eq!((tail.records, tail.encrypted), (expected, true), "{end}");
    }
    let reader = reader(&store, key.identities());
    assert_eq!(
        fetch(&reader, 4, 3000).await.unwrap()[..3000],
        plain[..3000]
    );
    // A copy that anybody can read beside one that nobody can.
    push(&encrypted, 5, 0).await.unwrap();
    push(&clear, 5, 0).await.unwrap();
    assert_eq!(fetch(&encrypted, 5, MIB).await.unwrap(), content(5, 0));
    assert!(!clear.contents().await.unwrap().segments[&segment(5)].encrypted);
}

/// A restore asks once for each segment, whatever the settings are by now.
#[tokio::test]
async fn the_ending_that_was_found_is_asked_for_first() {
    let key = KeyPair::new();
    let faulty = Faulty::new();
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let lineage = begun(&open(&store, &Value::Null, &[&key.public])).await;
    for number in 2..6 {
        push(&lineage, number, 0).await.unwrap();
    }
    let reader = reader(&store, key.identities());
    faulty.count();
    for (number, expected) in [(2, 6), (3, 1), (4, 1), (5, 1)] {
        assert_eq!(
            fetch(&reader, number, MIB).await.unwrap(),
            content(number, 0)
        );
        assert_eq!(faulty.count(), (0, expected, 0), "{number}");
    }
}

#[test]
fn what_is_no_recipient_opens_no_archive() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let key = KeyPair::new();
    let spec = spec(&Value::Null, &[&key.public, "age1nobody"]);
    let error = Archive::new(store, &spec, "shop-orders").unwrap_err();
    assert_eq!(error.reason(), "InvalidRecipient");
    assert!(error.to_string().contains("recipients[1]"), "{error}");
}
