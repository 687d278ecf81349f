//! Which file PostgreSQL archives or asks for. Pure.

use crate::postgres::{SegmentName, TimelineId};

/// A file of `pg_wal` that PostgreSQL archives, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalFile {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that was left, as far as the server that left it has it.
    Partial(SegmentName),
    /// A timeline history file.
    History(TimelineId),
    /// What `pg_backup_stop` wrote about a base backup: its name, `<segment>.<offset>.backup`.
    BackupHistory(String),
}

impl WalFile {
    /// From a file's name. `None` for what PostgreSQL never archives.
    pub fn parse(name: &str) -> Option<Self> {
        let Some((stem, ending)) = name.split_once('.') else {
            return segment(name).map(Self::Segment);
        };
        match ending {
            "partial" => segment(stem).map(Self::Partial),
            "history" if is_upper(stem) => stem.parse().ok().map(Self::History),
            other => {
                let offset = other.strip_suffix(".backup")?;
                let valid = segment(stem).is_some() && offset.len() == 8 && is_upper(offset);
                valid.then(|| Self::BackupHistory(name.to_owned()))
            }
        }
    }
}

fn segment(text: &str) -> Option<SegmentName> {
    text.parse().ok().filter(|_| is_upper(text))
}

/// PostgreSQL writes upper case only: two names must never be one object.
fn is_upper(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_postgresql_archives_is_known_and_no_other() {
        let name: SegmentName = "00000002000000000000000A".parse().unwrap();
        for (text, expected) in [
            ("00000002000000000000000A", Some(WalFile::Segment(name))),
            (
                "00000002000000000000000A.partial",
                Some(WalFile::Partial(name)),
            ),
            (
                "0000000A.history",
                Some(WalFile::History(TimelineId::new(10).unwrap())),
            ),
            (
                "00000002000000000000000A.00000028.backup",
                Some(WalFile::BackupHistory(
                    "00000002000000000000000A.00000028.backup".into(),
                )),
            ),
            ("00000002000000000000000a", None),
            ("0000000a.history", None),
            ("00000000.history", None),
            ("00000002000000000000000A.00000028.backup.old", None),
            ("00000002000000000000000A.0000002.backup", None),
            ("00000002000000000000000A.", None),
            ("00000002000000000000000A.zst", None),
            ("RECOVERYXLOG", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(WalFile::parse(text), expected, "{text}");
        }
    }
}
