//! An encrypted archive: with its key it is read, without it is compared, with another one that is said.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::{
    fixture::{NAME, copy_into, files, open, spec, write_key},
    said::{Said, verify},
    site::Site,
};

struct Encrypted {
    site: Site,
    key: PathBuf,
}

async fn encrypted(name: &str) -> Encrypted {
    let site = Site::new(&format!("verify-{name}"));
    let directory = site.path("archive");
    fs::create_dir(&directory).unwrap();
    let key = site.path("key");
    let mut spec = spec();
    let to = json!({"recipients": [write_key(&key)]});
    spec.encryption = Some(serde_json::from_value(to).unwrap());
    copy_into(&open(&directory, &spec)).await;
    crate::fixture::configure(&directory, &site.path("state"), &site.config());
    Encrypted { site, key }
}

impl Encrypted {
    fn verify(&self, key: Option<&PathBuf>) -> Said {
        let key = key.map(|key| key.to_str().unwrap());
        let arguments: Vec<&str> = key
            .into_iter()
            .flat_map(|key| ["--identity", key])
            .collect();
        verify(&self.site.config(), &arguments)
    }

    fn segment(&self) -> PathBuf {
        let all = files(&self.site.path("archive").join("prod").join(NAME));
        let mut segments = all
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("/wal/"));
        segments.nth(5).unwrap()
    }
}

#[tokio::test]
async fn a_key_decides_how_much_is_verified() {
    let archive = encrypted("encrypted").await;
    let said = archive.verify(Some(&archive.key));
    assert_eq!(said.expect_sound()["lineages"][0]["notDecrypted"], 0);
    let said = archive.verify(None);
    let lineage = &said.expect_sound()["lineages"][0];
    let segments = lineage["kinds"][0]["objects"].as_u64().unwrap();
    assert!(
        lineage["notDecrypted"].as_u64().unwrap() > segments,
        "{lineage}"
    );
    assert!(lineage["lastCommit"].is_string(), "{lineage}");
    let other = archive.site.path("other-key");
    write_key(&other);
    let said = archive.verify(Some(&other));
    assert_eq!(said.code, 1);
    let problems = said.problems();
    assert!(problems["KeyDoesNotFit"] as u64 > segments, "{problems:?}");
    // Without WAL that can be read no backup is usable.
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(problems["BackupWithoutWal"], 1);
    assert!(said.report["lineages"][0]["recoverable"]["from"].is_null());
}

#[tokio::test]
async fn what_can_be_seen_without_a_key_is_seen() {
    let archive = encrypted("locked").await;
    let segment = archive.segment();
    let bytes = fs::read(&segment).unwrap();
    // The hash that it says of itself.
    let at = bytes
        .windows(7)
        .position(|window| window == b"/sha256")
        .unwrap()
        + 8;
    let mut changed = bytes.clone();
    changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
    fs::write(&segment, &changed).unwrap();
    archive
        .verify(None)
        .expect("its hash", &[("EntryWrong", 1)]);
    archive
        .verify(Some(&archive.key))
        .expect("its hash", &[("SegmentDamaged", 1)]);
    fs::write(&segment, &bytes[..40]).unwrap();
    archive
        .verify(None)
        .expect("its header", &[("SegmentDamaged", 1)]);
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&segment, &changed).unwrap();
    archive
        .verify(Some(&archive.key))
        .expect("its end", &[("SegmentDamaged", 1)]);
    // Nobody without the key can see this, and it is said how much that is.
    assert!(archive.verify(None).expect_sound()["lineages"][0]["notDecrypted"].as_u64() > Some(0));
    fs::remove_file(&segment).unwrap();
    let said = archive.verify(None);
    // What was written a moment ago may be on its way.
    assert!(said.text.contains("is missing on the way"), "{}", said.text);
}
