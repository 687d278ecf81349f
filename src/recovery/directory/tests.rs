use std::os::unix::fs::symlink;

use super::*;

fn texts() -> Texts {
    Texts {
        backup_label: b"START WAL LOCATION: 0/28".to_vec(),
        tablespace_map: Vec::new(),
    }
}

/// What a snapshot of a running standby holds.
fn snapshot(pgdata: &Path) {
    for directory in [
        "global",
        "pg_wal/archive_status",
        "pg_replslot/standby_1",
        "pg_replslot/audit",
        "pg_stat_tmp",
        "pg_dynshmem",
    ] {
        fs::create_dir_all(pgdata.join(directory)).unwrap();
    }
    for (file, content) in [
        ("PG_VERSION", "15\n"),
        (CONTROL, "control"),
        ("postmaster.pid", "1"),
        ("standby.signal", ""),
        ("postgresql.auto.conf", "recovery_target_time = 'x'"),
        ("pg_wal/000000010000000000000001", "wal"),
        ("pg_stat_tmp/global.stat", "x"),
        ("pg_replslot/audit/state", "x"),
        ("backup_label", "somebody else's"),
    ] {
        fs::write(pgdata.join(file), content).unwrap();
    }
}

fn open(pgdata: &Path) -> DataDirectory {
    DataDirectory::open(pgdata, 15).unwrap()
}

fn is_right(pgdata: &Path) {
    let there = |name: &str| pgdata.join(name).exists();
    assert_eq!(
        fs::read(pgdata.join("backup_label")).unwrap(),
        texts().backup_label
    );
    assert_eq!(fs::read(pgdata.join(CONTROL)).unwrap(), b"control");
    assert!(there("recovery.signal") && there("postgresql.auto.conf"));
    for gone in [
        "postmaster.pid",
        "standby.signal",
        HIDDEN_CONTROL,
        "pg_replslot/audit",
        "pg_stat_tmp/global.stat",
    ] {
        assert!(!there(gone), "{gone}");
    }
    assert_eq!(fs::read_dir(pgdata.join("pg_wal")).unwrap().count(), 0);
    let mode = fs::metadata(pgdata).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_snapshot_is_made_right() {
    let root = tempfile::tempdir().unwrap();
    let pgdata = root.path().join("data");
    snapshot(&pgdata);
    let mut marker = Marker::new("uid");
    open(&pgdata).prepare(&texts(), &[], &mut marker).unwrap();
    is_right(&pgdata);
    assert_eq!(marker.dropped_slots, ["audit", "standby_1"]);
    assert_eq!(Marker::read(&pgdata, "uid").unwrap(), Some(marker));
    assert_eq!(Marker::read(&pgdata, "other").unwrap(), None);
}

#[test]
fn killed_after_any_step_it_converges_and_cannot_start_in_between() {
    let found = Found {
        wal: Wal::Directory,
        control_in_place: true,
    };
    let count = steps(Path::new("/"), &found, &texts(), &[]).len();
    for killed_after in 0..=count {
        let root = tempfile::tempdir().unwrap();
        let pgdata = root.path().join("data");
        snapshot(&pgdata);
        let directory = open(&pgdata);
        let mut marker = Marker::new("uid");
        marker.dropped_slots = directory.slots().unwrap();
        directory.write(&marker).unwrap();
        for op in steps(&pgdata, &found, &texts(), &[])
            .iter()
            .take(killed_after)
        {
            directory.apply(op).unwrap();
        }
        let startable = pgdata.join(CONTROL).exists();
        assert_eq!(
            startable,
            killed_after == 0 || killed_after == count,
            "{killed_after}"
        );
        let mut marker = Marker::read(&pgdata, "uid").unwrap().unwrap();
        directory.prepare(&texts(), &[], &mut marker).unwrap();
        is_right(&pgdata);
        assert_eq!(
            marker.dropped_slots,
            ["audit", "standby_1"],
            "{killed_after}"
        );
    }
}

#[test]
fn a_wal_link_is_followed_into_restored_volumes_only() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    for (restored, dangling) in [(true, false), (false, false), (false, true)] {
        let pgdata = root.join(format!("data-{restored}-{dangling}"));
        let wal = root.join(format!("wal-{restored}-{dangling}"));
        snapshot(&pgdata);
        fs::remove_dir_all(pgdata.join("pg_wal")).unwrap();
        if !dangling {
            fs::create_dir(&wal).unwrap();
            fs::write(wal.join("000000010000000000000001"), "wal").unwrap();
        }
        symlink(&wal, pgdata.join("pg_wal")).unwrap();
        let mounts: Vec<PathBuf> = restored.then(|| wal.clone()).into_iter().collect();
        let mut marker = Marker::new("uid");
        open(&pgdata)
            .prepare(&texts(), &mounts, &mut marker)
            .unwrap();
        is_right(&pgdata);
        let link = fs::symlink_metadata(pgdata.join("pg_wal")).unwrap();
        assert_eq!(link.is_symlink(), restored);
        if !restored && !dangling {
            assert_eq!(fs::read_dir(&wal).unwrap().count(), 1, "not ours to empty");
        }
    }
}

#[test]
fn what_is_not_the_backups_database_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let reason = |result: Result<DataDirectory, DirectoryError>| result.unwrap_err().reason();
    let empty = DataDirectory::open(root.path(), 15);
    assert_eq!(reason(empty), "DataDirectoryNotFound");
    snapshot(root.path());
    assert_eq!(reason(DataDirectory::open(root.path(), 16)), "OtherVersion");
    let mut texts = texts();
    texts.tablespace_map = b"16384 /does/not/exist\n".to_vec();
    let mut marker = Marker::new("uid");
    let refused = open(root.path()).prepare(&texts, &[], &mut marker);
    assert_eq!(refused.unwrap_err().reason(), "TablespaceNotFound");
    assert_eq!(Marker::read(root.path(), "uid").unwrap(), None);
}

#[test]
fn another_owner_is_refused_unless_we_are_root() {
    let theirs = Owner { uid: 999, gid: 998 };
    assert_eq!(run_as(0, theirs).unwrap(), Some(theirs));
    assert_eq!(run_as(999, theirs).unwrap(), None);
    let refused = run_as(1000, theirs).unwrap_err();
    assert_eq!(refused.reason(), "OtherOwner");
    let text = refused.to_string();
    assert!(text.contains("999") && text.contains("1000"), "{text}");
    // Of a real directory.
    let root = tempfile::tempdir().unwrap();
    snapshot(root.path());
    let metadata = fs::metadata(root.path()).unwrap();
    let owner = (metadata.uid() == 0).then_some(Owner {
        uid: 0,
        gid: metadata.gid(),
    });
    assert_eq!(open(root.path()).owner, owner);
}
