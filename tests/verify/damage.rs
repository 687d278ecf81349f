//! Each kind of damage by itself: it is found, it is called what it is, and nothing else is found.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    fixture::{BACKUP, Copy, age},
    said::verify,
    site::{Cluster, wait_for},
};

/// A kind of damage, and how many findings of which kind it makes.
type Case = (&'static str, fn(&Copy), &'static [(&'static str, usize)]);

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    let before = bytes.clone();
    change(&mut bytes);
    assert!(bytes != before, "{} is not changed", path.display());
    fs::write(path, bytes).unwrap();
    age(path);
}

fn flip_middle(path: &Path) {
    edit(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    });
}

fn truncate(path: &Path) {
    edit(path, |bytes| bytes.truncate(bytes.len() * 2 / 3));
}

/// Changes one byte: the first digit after `after`, or that many bytes behind it.
fn flip_digit(path: &Path, after: &str, skip: usize) {
    edit(path, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let at = text.find(after).unwrap() + after.len() + skip;
        bytes[at] = match bytes[at] {
            b'0'..=b'8' | b'a'..=b'e' | b'A'..=b'E' => bytes[at] + 1,
            b'9' | b'f' | b'F' => bytes[at] - 1,
            other => panic!("{:?} in {text}", char::from(other)),
        };
    });
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    edit(path, |bytes| {
        let mut value: Value = serde_json::from_slice(bytes).unwrap();
        change(&mut value);
        *bytes = serde_json::to_vec_pretty(&value).unwrap();
    });
}

/// An index entry of a segment with a commit, whose predecessor is there.
fn entry_with_commit(copy: &Copy) -> PathBuf {
    let mut all = copy.objects("index/00000002").into_iter().skip(1);
    all.find(|path| fs::read_to_string(path).unwrap().contains("lastCommit"))
        .unwrap()
}

/// A segment behind the backup and before the fork.
fn segment(copy: &Copy) -> PathBuf {
    let all = copy.objects("wal/00000001");
    all[all.len() - 2].clone()
}

fn swap(one: &Path, other: &Path) {
    let away = one.with_extension("away");
    fs::rename(one, &away).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(away, other).unwrap();
}

fn manifest(copy: &Copy) -> PathBuf {
    copy.root().join(format!("backups/{BACKUP}/manifest.json"))
}

fn label(copy: &Copy) -> PathBuf {
    copy.root().join(format!("backups/{BACKUP}/backup_label"))
}

fn expired(copy: &Copy) -> PathBuf {
    copy.root().join("retention/expired.json")
}

fn history(copy: &Copy) -> PathBuf {
    copy.root().join("history/00000002.history")
}

const WAL: &[Case] = &[
    (
        "segment flipped",
        |copy| flip_middle(&segment(copy)),
        &[("SegmentDamaged", 1)],
    ),
    (
        "segment truncated",
        |copy| truncate(&segment(copy)),
        &[("SegmentDamaged", 1)],
    ),
    (
        "segment emptied",
        |copy| edit(&segment(copy), Vec::clear),
        &[("SegmentDamaged", 1)],
    ),
    (
        "segment removed",
        |copy| fs::remove_file(segment(copy)).unwrap(),
        &[("Gap", 1)],
    ),
    (
        "segment in a backup removed",
        |copy| {
            let manifest: Value =
                serde_json::from_slice(&fs::read(manifest(copy)).unwrap()).unwrap();
            let start = manifest["startLsn"].as_str().unwrap().to_owned();
            let low = u64::from_str_radix(start.split_once('/').unwrap().1, 16).unwrap();
            let name = format!("00000001{:08X}{:08X}.zst", 0, low >> 20);
            fs::remove_file(copy.root().join("wal/00000001").join(name)).unwrap();
        },
        &[("Gap", 1), ("BackupWithoutWal", 1)],
    ),
    (
        "first segment removed",
        |copy| fs::remove_file(&copy.objects("wal/00000001")[0]).unwrap(),
        &[("SegmentMissing", 1)],
    ),
    (
        "segments swapped",
        |copy| {
            let all = copy.objects("wal/00000002");
            swap(&all[1], &all[2]);
        },
        &[("SegmentDamaged", 2)],
    ),
    (
        "segments and entries swapped",
        |copy| {
            for folder in ["wal/00000002", "index/00000002"] {
                let all = copy.objects(folder);
                swap(&all[1], &all[2]);
            }
        },
        // The names within the entries tell.
        &[("EntryWrong", 2), ("WalInvalid", 2)],
    ),
    (
        "another content under another ending",
        |copy| {
            let path = segment(copy).with_extension("raw");
            fs::write(path, vec![0; 1 << 20]).unwrap();
        },
        &[("SegmentContradicted", 1)],
    ),
    (
        "the last part of the tail flipped",
        |copy| flip_middle(copy.objects("tail").last().unwrap()),
        &[("TailDamaged", 1)],
    ),
    (
        "the first part of the tail removed",
        |copy| fs::remove_file(&copy.objects("tail/00000002")[0]).unwrap(),
        &[("TailDamaged", 1), ("ClockWrong", 1)],
    ),
    (
        "the tail removed",
        |copy| {
            for part in copy.objects("tail/00000002") {
                fs::remove_file(part).unwrap();
            }
        },
        &[("ClockWrong", 1)],
    ),
];

const CATALOG: &[Case] = &[
    (
        "entry removed",
        |copy| fs::remove_file(&copy.objects("index/00000002")[1]).unwrap(),
        &[("EntryMissing", 1)],
    ),
    (
        "entry: a time flipped",
        |copy| flip_digit(&entry_with_commit(copy), "\"lastCommit\": \"20", 1),
        &[("EntryWrong", 1)],
    ),
    (
        "entry: the hash flipped",
        |copy| flip_digit(&copy.objects("index/00000002")[1], "\"sha256\": \"", 5),
        &[("EntryWrong", 1)],
    ),
    (
        "entry: the form flipped",
        |copy| edit(&copy.objects("index/00000002")[1], |bytes| bytes[0] ^= 1),
        &[("EntryDamaged", 1)],
    ),
    (
        "roll-up: the form flipped",
        |copy| edit(&copy.objects("rollup")[0], |bytes| bytes[0] ^= 1),
        &[("EntryDamaged", 1)],
    ),
    (
        "roll-up: a hash flipped",
        |copy| flip_digit(&copy.objects("rollup")[0], "\"sha256\": \"", 5),
        &[("EntryWrong", 1)],
    ),
    (
        "roll-up: an entry taken out",
        |copy| {
            edit_json(&copy.objects("rollup")[0], |all| {
                drop(all.as_array_mut().unwrap().remove(1))
            })
        },
        &[("EntryMissing", 1)],
    ),
    (
        "roll-up truncated",
        |copy| truncate(&copy.objects("rollup")[0]),
        &[("EntryDamaged", 1)],
    ),
    (
        "history: the place flipped",
        |copy| {
            let text = fs::read_to_string(history(copy)).unwrap();
            let lsn = text.split_whitespace().nth(1).unwrap().to_owned();
            flip_digit(&history(copy), &lsn[..lsn.len() - 2], 0);
        },
        &[("ForkWrong", 1)],
    ),
    (
        "history: the form flipped",
        |copy| edit(&history(copy), |bytes| bytes[0] ^= 0x40),
        &[("HistoryDamaged", 1)],
    ),
    (
        "history removed",
        |copy| fs::remove_file(history(copy)).unwrap(),
        &[("HistoryMissing", 1)],
    ),
    (
        "manifest: the start flipped",
        |copy| flip_digit(&manifest(copy), "\"startLsn\": \"0/", 0),
        &[("BackupDamaged", 1)],
    ),
    (
        "manifest truncated",
        |copy| truncate(&manifest(copy)),
        &[("BackupDamaged", 1)],
    ),
    (
        "manifest of a backup that goes too far",
        |copy| {
            edit_json(&manifest(copy), |manifest| {
                manifest["stopLsn"] = "0/FF000000".into()
            });
        },
        &[("BackupWithoutWal", 1)],
    ),
    (
        "label flipped",
        |copy| flip_middle(&label(copy)),
        &[("BackupDamaged", 1)],
    ),
    (
        "label removed",
        |copy| fs::remove_file(label(copy)).unwrap(),
        &[("BackupDamaged", 1)],
    ),
    (
        "clock ahead of the archive",
        |copy| {
            let clock = copy.root().join("clock/00000002.json");
            edit_json(&clock, |pair| pair["lsn"] = "0/FF000000".into());
        },
        &[("ClockWrong", 1)],
    ),
    (
        "clock in the future",
        |copy| flip_digit(&copy.root().join("clock/00000002.json"), "\"at\": \"20", 0),
        &[("ClockWrong", 1)],
    ),
    (
        "what retention deleted, broken",
        |copy| truncate(&expired(copy)),
        &[("ExpiredWrong", 1)],
    ),
    (
        "identity removed",
        |copy| fs::remove_file(copy.root().join("identity.json")).unwrap(),
        &[("IdentityDamaged", 1)],
    ),
    (
        "identity truncated",
        |copy| truncate(&copy.root().join("identity.json")),
        &[("IdentityDamaged", 1)],
    ),
    (
        "an object that no rule names",
        |copy| fs::write(copy.root().join("wal/00000001/notes.txt"), "mine").unwrap(),
        &[("Orphan", 1)],
    ),
    (
        "a segment in another timeline's folder",
        |copy| {
            let from = &copy.objects("wal/00000001")[1];
            let to = copy
                .root()
                .join("wal/00000002")
                .join(from.file_name().unwrap());
            fs::copy(from, to).unwrap();
        },
        &[("Orphan", 1)],
    ),
    (
        "a folder that is no lineage",
        |copy| {
            let folder = copy.root().parent().unwrap().join("old");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), "").unwrap();
        },
        &[("Orphan", 1)],
    ),
];

fn all(name: &str, cases: &[Case]) {
    for (number, (what, damage, problems)) in cases.iter().enumerate() {
        let copy = Copy::new(&format!("{name}-{number}"));
        damage(&copy);
        verify(&copy.site.config(), &[]).expect(what, problems);
    }
}

#[test]
fn damaged_wal_is_found() {
    all("wal", WAL);
}

#[test]
fn a_damaged_catalog_is_found() {
    all("catalog", CATALOG);
}

/// The same without that record is a gap: see "segment removed".
#[test]
fn what_retention_deleted_is_not_missing() {
    let copy = Copy::new("expired");
    let object = segment(&copy);
    let name = object.file_stem().unwrap().to_str().unwrap();
    let number = u64::from_str_radix(&name[16..], 16).unwrap();
    let lsn = |number: u64| format!("0/{:X}", number << 20);
    edit_json(&expired(&copy), |record| {
        record["ranges"] = serde_json::json!([{
            "timeline": 1, "from": lsn(number), "to": lsn(number + 1), "since": "2026-11-20T00:00:00Z",
        }]);
    });
    fs::remove_file(&object).unwrap();
    let said = verify(&copy.site.config(), &[]);
    let report = said.expect_sound();
    let lineage = &report["lineages"][0];
    assert_eq!(
        lineage["recoverable"]["from"],
        Value::Null,
        "no backup leads over it"
    );
}

/// Sound in itself and archived so, hash and all; only its pages tell.
#[test]
fn another_clusters_segment_is_found() {
    let copy = Copy::new("foreign");
    let other = Cluster::init(copy.site.path("other"), 1);
    other.start();
    let object = segment(&copy);
    let name = object.file_stem().unwrap().to_str().unwrap().to_owned();
    let of_other = other.pgdata.join("pg_wal").join(&name);
    other.sql("CREATE TABLE t (n int)");
    let write =
        || other.sql("INSERT INTO t SELECT generate_series(1, 20000); SELECT pg_switch_wal()");
    wait_for("that much WAL", || {
        write();
        of_other.exists()
    });
    // A segment may be there before anything is written to it.
    write();
    other.stop("fast");
    let plain = fs::read(&of_other).unwrap();
    fs::remove_file(&object).unwrap();
    fs::write(object.with_extension("raw"), &plain).unwrap();
    edit_json(&copy.objects("rollup")[0], |entries| {
        let entries = entries.as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["segment"] == *name);
        let hash = highwater::archive::sha256(&plain);
        entry.unwrap()["sha256"] = hash.into();
    });
    let said = verify(&copy.site.config(), &[]);
    said.expect("foreign", &[("WalInvalid", 1)]);
    assert!(said.text.contains("it is of cluster"), "{}", said.text);
}
