//! What has to be done to a data directory from a snapshot before PostgreSQL may start on it. Pure.

use std::path::{Path, PathBuf};

/// What was found in PGDATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What `pg_wal` is.
    pub wal: Wal,
    /// Whether `global/pg_control` has its own name, and not the one that hides it.
    pub control_in_place: bool,
}

/// What `pg_wal` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wal {
    /// A directory in PGDATA.
    Directory,
    /// A link to this directory.
    Link(PathBuf),
    /// Not there.
    Missing,
}

/// One step. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Take pg_control away: without it PostgreSQL refuses to start, so a half-made directory cannot.
    HideControl,
    /// Remove a file or a directory, if it is there.
    Remove(PathBuf),
    /// Remove all that is in a directory.
    Empty(PathBuf),
    /// Make a directory instead of a link that leads out of what was restored.
    MakeWalDirectory,
    /// Write a file, durable.
    Write(PathBuf, Vec<u8>),
    /// Bring pg_control back.
    RevealControl,
}

/// What the archive holds beside the snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// What `pg_backup_stop` returned as the backup label.
    pub backup_label: Vec<u8>,
    /// What it returned as the tablespace map: often empty.
    pub tablespace_map: Vec<u8>,
}

/// The file that tells PostgreSQL where to begin: without it an inconsistent copy would pass for a crashed server.
pub const BACKUP_LABEL: &str = "backup_label";
/// The file that tells PostgreSQL to ask `restore_command`.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";

/// What must not go with the copy: the running server's marks, and what would make it a standby or recover to some
/// other target.
const REMOVED: [&str; 13] = [
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
    "recovery.conf",
    "promote",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles",
];

/// Directories whose content belongs to the running server, as `pg_basebackup` leaves it out too. Slots would hold WAL
/// for consumers that belong to the source.
const EMPTIED: [&str; 7] = [
    "pg_replslot",
    "pg_stat_tmp",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
];

/// The steps in their order. `restored` are the directories that the restored volumes are mounted on.
pub fn steps(pgdata: &Path, found: &Found, texts: &Texts, restored: &[PathBuf]) -> Vec<Op> {
    let mut steps = Vec::new();
    if found.control_in_place {
        steps.push(Op::HideControl);
    }
    steps.extend(REMOVED.map(|name| Op::Remove(pgdata.join(name))));
    steps.extend(EMPTIED.map(|name| Op::Empty(pgdata.join(name))));
    steps.extend(wal(pgdata, &found.wal, restored));
    steps.push(Op::Write(
        pgdata.join(BACKUP_LABEL),
        texts.backup_label.clone(),
    ));
    if !texts.tablespace_map.is_empty() {
        steps.push(Op::Write(
            pgdata.join("tablespace_map"),
            texts.tablespace_map.clone(),
        ));
    }
    steps.push(Op::Write(pgdata.join(RECOVERY_SIGNAL), Vec::new()));
    steps.push(Op::RevealControl);
    steps
}

/// No WAL of the snapshot is read: it may go beyond the plan's end, and all that is needed is in the archive.
fn wal(pgdata: &Path, wal: &Wal, restored: &[PathBuf]) -> Vec<Op> {
    match wal {
        Wal::Directory => vec![Op::Empty(pgdata.join("pg_wal"))],
        Wal::Link(target) if restored.iter().any(|mount| target.starts_with(mount)) => {
            vec![Op::Empty(target.clone())]
        }
        Wal::Link(_) => vec![Op::Remove(pgdata.join("pg_wal")), Op::MakeWalDirectory],
        Wal::Missing => vec![Op::MakeWalDirectory],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts {
        Texts {
            backup_label: b"START WAL LOCATION".to_vec(),
            tablespace_map: Vec::new(),
        }
    }

    fn steps_for(wal: Wal, control_in_place: bool) -> Vec<Op> {
        let found = Found {
            wal,
            control_in_place,
        };
        steps(
            Path::new("/d"),
            &found,
            &texts(),
            &["/wal".into(), "/d".into()],
        )
    }

    #[test]
    fn the_directory_cannot_start_until_the_label_is_there() {
        let steps = steps_for(Wal::Directory, true);
        assert_eq!(steps.first(), Some(&Op::HideControl));
        assert_eq!(steps.last(), Some(&Op::RevealControl));
        let label = Op::Write("/d/backup_label".into(), b"START WAL LOCATION".to_vec());
        let signal = Op::Write("/d/recovery.signal".into(), Vec::new());
        assert!(steps.contains(&label) && steps.contains(&signal));
        let removed = steps
            .iter()
            .position(|op| *op == Op::Remove("/d/recovery.signal".into()));
        assert!(removed < steps.iter().position(|op| *op == signal));
    }

    #[test]
    fn hidden_once_it_stays_hidden() {
        assert!(!steps_for(Wal::Directory, false).contains(&Op::HideControl));
    }

    #[test]
    fn wal_is_emptied_where_it_was_restored_and_made_anew_where_not() {
        assert!(steps_for(Wal::Directory, true).contains(&Op::Empty("/d/pg_wal".into())));
        assert!(steps_for(Wal::Link("/wal/x".into()), true).contains(&Op::Empty("/wal/x".into())));
        let elsewhere = steps_for(Wal::Link("/waltz/x".into()), true);
        assert!(elsewhere.contains(&Op::Remove("/d/pg_wal".into())));
        assert!(elsewhere.contains(&Op::MakeWalDirectory));
        assert!(!elsewhere.contains(&Op::Empty("/waltz/x".into())));
    }

    #[test]
    fn the_map_is_written_only_if_there_are_tablespaces() {
        let mut texts = texts();
        texts.tablespace_map = b"16384 /ts/a\n".to_vec();
        let found = Found {
            wal: Wal::Directory,
            control_in_place: true,
        };
        let with = steps(Path::new("/d"), &found, &texts, &[]);
        assert!(with.contains(&Op::Write(
            "/d/tablespace_map".into(),
            b"16384 /ts/a\n".to_vec()
        )));
        let without = steps_for(Wal::Directory, true);
        assert!(
            !without
                .iter()
                .any(|op| matches!(op, Op::Write(path, _) if path.ends_with("tablespace_map")))
        );
    }
}
