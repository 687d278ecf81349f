//! What it means how PostgreSQL's own archiver is set, and how it goes. Pure.

use crate::{
    api::conditions,
    archive::LineageId,
    postgres::{
        SegmentName,
        archiver::{Archiver, Failing},
    },
};

/// PostgreSQL archives nothing by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiverOff {
    /// `archive_mode` is off.
    #[error(
        "archive_mode is off, and the policy leaves WAL to archive_command: set archive_mode = on and archive_command \
         (docs/archive-command.md) and restart PostgreSQL, or choose another transport"
    )]
    Mode,
    /// There is no command.
    #[error(
        "archive_command is empty, and the policy leaves WAL to it: set it to highwater wal push (docs/archive-command.md) \
         and reload PostgreSQL's configuration"
    )]
    Command,
}

impl ArchiverOff {
    /// For conditions, events and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Mode => "ArchiveModeOff",
            Self::Command => "ArchiveCommandNotSet",
        }
    }
}

/// Whether PostgreSQL archives at all.
///
/// # Errors
/// It does not.
pub const fn judge(archiver: &Archiver) -> Result<(), ArchiverOff> {
    if !archiver.mode {
        return Err(ArchiverOff::Mode);
    }
    match archiver.has_command {
        true => Ok(()),
        false => Err(ArchiverOff::Command),
    }
}

/// What one look at PostgreSQL and the archive said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Why WAL does not come into this lineage.
    pub trouble: Option<ArchiverTrouble>,
    /// `archive_timeout`.
    pub timeout: String,
    /// The slot of another transport still holds WAL.
    pub holds_slot: bool,
}

/// Why WAL does not come into a lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiverTrouble {
    /// The command fails.
    Fails(Failing),
    /// PostgreSQL calls this segment archived, and the lineage has neither it nor a later one.
    Elsewhere(SegmentName),
    /// This segment has waited for the archiver for long, and no call is counted as failed.
    Stalled(SegmentName),
    /// The archiver does not know of this segment, and is told by a checkpoint.
    Unnoticed(SegmentName),
}

impl ArchiverTrouble {
    /// For conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Fails(_) => "ArchiveCommandFails",
            Self::Elsewhere(_) => "ArchivedElsewhere",
            Self::Stalled(_) => "ArchiverStalled",
            Self::Unnoticed(_) => conditions::WAITS_FOR_CHECKPOINT,
        }
    }

    /// What happened and what to do. It holds nothing that moves while it goes on.
    pub fn message(&self, lineage: &LineageId) -> String {
        match self {
            Self::Fails(Failing { file, count: _ }) => format!(
                "archive_command fails for {file}, and WAL waits in pg_wal without a bound: PostgreSQL's log says why. \
                 After exit code 13 set `lineage: {lineage}` in the configuration of highwater wal push, and after exit code 10, \
                 which says that another database writes there, too"
            ),
            Self::Elsewhere(name) => format!(
                "PostgreSQL calls {name} archived, and lineage {lineage} does not have it: archive_command must be highwater wal push, \
                 with the archive and archiveName of this protection and `lineage: {lineage}` in its configuration"
            ),
            Self::Stalled(name) => format!(
                "{name} waits for archive_command, which neither succeeds nor is counted as failed: PostgreSQL does not count exit codes \
                 above 125 (the program is not there or was killed) nor a command that hangs. PostgreSQL's log and its list of processes \
                 say why; WAL waits in pg_wal without a bound"
            ),
            Self::Unnoticed(name) => format!(
                "{name} is from before PostgreSQL archived, and waits for the checkpoint that would remove it: that has it archived, but \
                 comes only when no replication slot and no wal_keep_size keeps it. To have it archived now, make the empty file \
                 pg_wal/archive_status/{name}.ready as PostgreSQL's user"
            ),
        }
    }
}

impl Watched {
    /// What to say where WAL comes.
    pub fn message(&self) -> String {
        let bound = match self.timeout.as_str() {
            "0" => {
                "archive_timeout is 0: set it, or WAL of a segment that is not full waits for as long as that takes"
                    .to_owned()
            }
            timeout => format!("archive_timeout is {timeout}"),
        };
        format!("PostgreSQL's archive_command brings whole segments; {bound}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archiver(mode: bool, has_command: bool) -> Archiver {
        Archiver {
            mode,
            has_command,
            timeout: "1min".to_owned(),
            failing: None,
        }
    }

    #[test]
    fn without_mode_or_command_nothing_is_archived() {
        let off = |mode, command| {
            let judged = judge(&archiver(mode, command));
            judged.map_err(ArchiverOff::reason).err()
        };
        assert_eq!(off(false, false), Some("ArchiveModeOff"));
        assert_eq!(off(false, true), Some("ArchiveModeOff"));
        assert_eq!(off(true, false), Some("ArchiveCommandNotSet"));
        assert_eq!(off(true, true), None);
    }

    /// A condition whose message moves is written again and again.
    #[test]
    fn what_is_said_of_trouble_does_not_move_and_names_the_lineage() {
        let lineage = "0123456789".parse().unwrap();
        let fails = |count| {
            let file = "000000010000000000000007".to_owned();
            ArchiverTrouble::Fails(Failing { file, count }).message(&lineage)
        };
        assert_eq!(fails(1), fails(900));
        let name = "000000010000000000000007".parse().unwrap();
        let elsewhere = ArchiverTrouble::Elsewhere(name).message(&lineage);
        for said in [fails(1), elsewhere.clone()] {
            assert!(said.contains("`lineage: 0123456789`"), "{said}");
        }
        let stalled = ArchiverTrouble::Stalled(name).message(&lineage);
        let unnoticed = ArchiverTrouble::Unnoticed(name).message(&lineage);
        for said in [fails(1), elsewhere, stalled, unnoticed] {
            assert!(said.contains("000000010000000000000007"), "{said}");
        }
    }
}
