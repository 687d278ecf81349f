//! `backup_label` and `tablespace_map`: what `pg_backup_stop` returns and a restore starts from.

use super::{Lsn, TimelineId};

/// Where a base backup comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupFrom {
    /// A primary.
    Primary,
    /// A standby.
    Standby,
}

/// What `backup_label` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Replay begins here (REDO).
    pub start_lsn: Lsn,
    /// On this timeline.
    pub start_timeline: TimelineId,
    /// The checkpoint record that backup mode began with.
    pub checkpoint_lsn: Lsn,
    /// Primary or standby.
    pub from: BackupFrom,
    /// What `pg_backup_start` was given.
    pub label: String,
}

/// A file that is no backup label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse backup_label: no valid line {0:?}")]
pub struct BackupLabelError(&'static str);

impl BackupLabel {
    /// Parses the content of `backup_label`.
    ///
    /// # Errors
    /// A line is missing, or has another form.
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let line = |key: &'static str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .ok_or(BackupLabelError(key))
        };
        let start = line("START WAL LOCATION")?;
        let (start_lsn, file) = start
            .split_once(" (file ")
            .ok_or(BackupLabelError("START WAL LOCATION"))?;
        let start_lsn = start_lsn
            .parse()
            .map_err(|_| BackupLabelError("START WAL LOCATION"))?;
        let start_timeline: TimelineId = line("START TIMELINE")?
            .trim()
            .parse::<u32>()
            .ok()
            .and_then(TimelineId::new)
            .ok_or(BackupLabelError("START TIMELINE"))?;
        if !file.starts_with(&format!("{start_timeline:08X}")) {
            return Err(BackupLabelError("START WAL LOCATION"));
        }
        Ok(Self {
            start_lsn,
            start_timeline,
            checkpoint_lsn: line("CHECKPOINT LOCATION")?
                .parse()
                .map_err(|_| BackupLabelError("CHECKPOINT LOCATION"))?,
            from: match line("BACKUP FROM")? {
                "primary" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                _ => return Err(BackupLabelError("BACKUP FROM")),
            },
            label: line("LABEL")?.to_owned(),
        })
    }
}

/// One tablespace of a `tablespace_map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedTablespace {
    /// The name of its link in `pg_tblspc`.
    pub oid: u32,
    /// What the link leads to.
    pub location: String,
}

/// What `tablespace_map` says: PostgreSQL makes these links when it starts from a base backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    /// In the order of the file.
    pub tablespaces: Vec<MappedTablespace>,
}

/// A file that is no tablespace map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse tablespace_map: line {0:?} is not an OID and a path")]
pub struct TablespaceMapError(String);

impl TablespaceMap {
    /// Parses the content of `tablespace_map`. A backslash takes the next character, also a line end, as it is.
    ///
    /// # Errors
    /// A line has another form.
    pub fn parse(text: &str) -> Result<Self, TablespaceMapError> {
        let mut tablespaces = Vec::new();
        let (mut line, mut escaped) = (String::new(), false);
        for character in text.chars().chain(std::iter::once('\n')) {
            match character {
                _ if std::mem::take(&mut escaped) => line.push(character),
                '\\' => escaped = true,
                '\n' | '\r' if line.is_empty() => {}
                '\n' | '\r' => tablespaces.push(parse_tablespace(&std::mem::take(&mut line))?),
                _ => line.push(character),
            }
        }
        match line.is_empty() && !escaped {
            true => Ok(Self { tablespaces }),
            false => Err(TablespaceMapError(line)),
        }
    }
}

fn parse_tablespace(line: &str) -> Result<MappedTablespace, TablespaceMapError> {
    let parse = || {
        let (oid, location) = line.split_once(' ')?;
        let oid = oid.parse().ok().filter(|oid| *oid != 0)?;
        let location = (!location.is_empty()).then(|| location.to_owned())?;
        Some(MappedTablespace { oid, location })
    };
    parse().ok_or_else(|| TablespaceMapError(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 1/C0000028 (file 0000000A00000001000000C0)\n\
        CHECKPOINT LOCATION: 1/C0000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-20 14:03:12 UTC\nLABEL: orders: nightly\nSTART TIMELINE: 10\n";

    #[test]
    fn parses_a_label() {
        let want = BackupLabel {
            start_lsn: Lsn::new(0x1_C000_0028),
            start_timeline: TimelineId::new(10).unwrap(),
            checkpoint_lsn: Lsn::new(0x1_C000_0060),
            from: BackupFrom::Primary,
            label: "orders: nightly".into(),
        };
        assert_eq!(BackupLabel::parse(LABEL), Ok(want));
    }

    #[test]
    fn refuses_what_is_no_label() {
        for (name, old, new) in [
            ("no start", "START WAL", "START"),
            ("no timeline", "START TIMELINE: 10\n", ""),
            ("timeline 0", "TIMELINE: 10", "TIMELINE: 0"),
            ("other timeline", "TIMELINE: 10", "TIMELINE: 11"),
            ("neither", "FROM: primary", "FROM: elsewhere"),
            ("no LSN", "1/C0000060", "here"),
        ] {
            let text = LABEL.replace(old, new);
            assert_ne!(text, LABEL, "{name}");
            assert!(BackupLabel::parse(&text).is_err(), "{name}");
        }
    }

    #[test]
    fn parses_a_map_with_escapes() {
        let map = TablespaceMap::parse("16400 /mnt/a b\n16401 /mnt/x\\\ny\\\\z\n").unwrap();
        let want = [(16400, "/mnt/a b"), (16401, "/mnt/x\ny\\z")].map(|(oid, location)| {
            let location = location.to_owned();
            MappedTablespace { oid, location }
        });
        assert_eq!(map.tablespaces, want);
        assert_eq!(TablespaceMap::parse(""), Ok(TablespaceMap::default()));
        for text in ["x /a\n", "1\n", "0 /a\n", "1 \n", "1 /a\\"] {
            assert!(TablespaceMap::parse(text).is_err(), "{text:?}");
        }
    }
}
