//! Where each object lies. `docs/archive-format.md` says the same for readers of other programs.

use object_store::path::Path;

use super::{BACKUP_LABEL, Encoding, LineageId, MANIFEST, TABLESPACE_MAP, TOMBSTONE};
use crate::postgres::{SegmentName, TimelineId};

/// The version of everything below a lineage: layout, index, manifest. Written into the identity object.
pub const FORMAT: u32 = 1;

/// The keys of one lineage: everything below `<prefix><archiveName>/<lineage>/`.
#[derive(Clone, Debug)]
pub struct Layout {
    root: String,
}

impl Layout {
    /// The layout of `lineage` of the database `archive_name`. `prefix` is empty or ends in a slash.
    pub fn new(prefix: &str, archive_name: &str, lineage: &LineageId) -> Self {
        Self {
            root: format!("{prefix}{archive_name}/{lineage}"),
        }
    }

    /// The folder of the lineage.
    pub fn root(&self) -> Path {
        Path::from(self.root.as_str())
    }

    fn key(&self, below: &str) -> Path {
        Path::from(format!("{}/{below}", self.root))
    }

    /// Whose archive this is.
    pub fn identity(&self) -> Path {
        self.key("identity.json")
    }

    /// A timeline history file, as PostgreSQL wrote it.
    pub fn history(&self, timeline: TimelineId) -> Path {
        self.key(&format!("history/{timeline:08X}.history"))
    }

    /// A backup history file (`<segment>.<offset>.backup`), as PostgreSQL wrote it.
    pub fn backup_history(&self, file: &str) -> Path {
        self.key(&format!("backup-history/{file}"))
    }

    /// A whole segment.
    pub fn segment(&self, name: SegmentName, encoding: Encoding) -> Path {
        self.key(&format!(
            "wal/{:08X}/{name}.{}",
            name.timeline(),
            encoding.extension()
        ))
    }

    /// What is known of a whole segment.
    pub fn index_entry(&self, name: SegmentName) -> Path {
        self.key(&format!("index/{:08X}/{name}.json", name.timeline()))
    }

    /// The folder of a timeline's index entries.
    pub fn index_of(&self, timeline: TimelineId) -> Path {
        self.key(&format!("index/{timeline:08X}"))
    }

    /// Many index entries in one object: all segments from `first` to `last`.
    pub fn rollup(&self, first: SegmentName, last: SegmentName) -> Path {
        self.key(&format!(
            "rollup/{:08X}/{first}-{last}.json",
            first.timeline()
        ))
    }

    /// The folder of rolled-up index entries.
    pub fn rollups(&self) -> Path {
        self.key("rollup")
    }

    /// The folder of the parts of an unfinished segment.
    pub fn tails(&self, name: SegmentName) -> Path {
        self.key(&format!("tail/{:08X}/{name}", name.timeline()))
    }

    /// The folder of the parts of all unfinished segments.
    pub fn all_tails(&self) -> Path {
        self.key("tail")
    }

    /// A part of an unfinished segment: bytes `from` to `to`, counted from its start, by the writer `epoch`.
    pub fn tail(&self, part: &TailName, encoding: Encoding) -> Path {
        let TailName {
            segment,
            from,
            to,
            epoch,
        } = part;
        self.key(&format!(
            "tail/{:08X}/{segment}/{from:08X}-{to:08X}.{epoch}.{}",
            segment.timeline(),
            encoding.extension()
        ))
    }

    /// Up to which time a timeline is covered: overwritten.
    pub fn clock(&self, timeline: TimelineId) -> Path {
        self.key(&format!("clock/{timeline:08X}.json"))
    }

    /// Which WAL nothing needs any more; overwritten, too.
    pub fn expired(&self) -> Path {
        self.key("retention/expired.json")
    }

    /// A file of a backup.
    pub fn backup_file(&self, backup: &str, name: &str) -> Path {
        self.key(&format!("backups/{backup}/{name}"))
    }

    /// The folder of whole segments.
    pub(super) fn wal(&self) -> Path {
        self.key("wal")
    }

    /// The folder of a timeline's whole segments.
    pub(super) fn wal_of(&self, timeline: TimelineId) -> Path {
        self.key(&format!("wal/{timeline:08X}"))
    }

    /// The folders of segments, parts of segments, and what is known of them. Tails first: a segment that becomes whole is there
    /// before its tails go.
    pub(super) fn of_wal(&self) -> [Path; 4] {
        ["tail", "wal", "index", "rollup"].map(|folder| self.key(folder))
    }

    /// The folders whose objects are few, those of tails apart.
    pub(super) fn small(&self) -> [Path; 5] {
        ["history", "rollup", "clock", "retention", "backups"].map(|folder| self.key(folder))
    }

    /// The folder of the clocks.
    pub(super) fn clocks(&self) -> Path {
        self.key("clock")
    }

    /// Where what `key` names lies: the only place where readers look for it.
    fn place(&self, key: &Key) -> Path {
        match key {
            Key::Identity => self.identity(),
            Key::History(timeline) => self.history(*timeline),
            Key::BackupHistory(file) => self.backup_history(file),
            Key::Segment(name, encoding) => self.segment(*name, *encoding),
            Key::Entry(name) => self.index_entry(*name),
            Key::Rollup(first, last) => self.rollup(*first, *last),
            Key::Tail(name, encoding) => self.tail(name, *encoding),
            Key::Clock(timeline) => self.clock(*timeline),
            Key::Expired => self.expired(),
            Key::BackupFile(backup, file) => self.backup_file(backup, file),
        }
    }

    /// What lies at `key`; `None` for what no reader looks for there.
    pub(super) fn names(&self, key: &Path) -> Option<Key> {
        let parsed = self.parse(key)?;
        let known = match &parsed {
            Key::BackupFile(_, file) => {
                [BACKUP_LABEL, MANIFEST, TABLESPACE_MAP, TOMBSTONE].contains(&file.as_str())
            }
            Key::Identity
            | Key::History(_)
            | Key::BackupHistory(_)
            | Key::Segment(..)
            | Key::Entry(_)
            | Key::Rollup(..)
            | Key::Tail(..)
            | Key::Clock(_)
            | Key::Expired => true,
        };
        (known && self.place(&parsed) == *key).then_some(parsed)
    }

    /// What the key `key` says, wherever it lies; `None` for what is not of this format.
    fn parse(&self, key: &Path) -> Option<Key> {
        let below = key.as_ref().strip_prefix(&self.root)?.strip_prefix('/')?;
        let mut parts = below.split('/');
        let kind = parts.next()?;
        let ending = |ending: &str| stem(key).filter(|_| key.extension() == Some(ending));
        Some(match kind {
            "identity.json" => Key::Identity,
            "backup-history" => {
                Key::BackupHistory(ending("backup").and(key.filename())?.to_owned())
            }
            "history" => Key::History(ending("history")?.parse().ok()?),
            "wal" => {
                let (name, ending) = key.filename()?.split_once('.')?;
                Key::Segment(name.parse().ok()?, Encoding::from_extension(ending)?)
            }
            "index" => Key::Entry(ending("json")?.parse().ok()?),
            "rollup" => {
                let (first, last) = rollup_range(key)?;
                Key::Rollup(first, last)
            }
            "tail" => {
                let (name, encoding) = TailName::parse(key)?;
                Key::Tail(name, encoding)
            }
            "clock" => Key::Clock(ending("json")?.parse().ok()?),
            "retention" => Key::Expired,
            "backups" => Key::BackupFile(parts.next()?.to_owned(), parts.next()?.to_owned()),
            _ => return None,
        })
    }
}

/// What a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Identity,
    History(TimelineId),
    /// The file's name.
    BackupHistory(String),
    Segment(SegmentName, Encoding),
    Entry(SegmentName),
    Rollup(SegmentName, SegmentName),
    Tail(TailName, Encoding),
    Clock(TimelineId),
    Expired,
    /// The backup's folder and the file's name.
    BackupFile(String, String),
}

/// The name of a part of an unfinished segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailName {
    /// The segment.
    pub segment: SegmentName,
    /// The first byte, from the segment's start.
    pub from: u64,
    /// The byte after the last.
    pub to: u64,
    /// Who wrote it: one run of one agent.
    pub epoch: String,
}

impl TailName {
    /// From a key, with the encoding that its ending names. `None` for what is no part.
    pub fn parse(key: &Path) -> Option<(Self, Encoding)> {
        let mut parts = key.as_ref().rsplit('/');
        let (file, segment) = (parts.next()?, parts.next()?);
        let mut pieces = file.splitn(3, '.');
        let (range, epoch, extension) = (pieces.next()?, pieces.next()?, pieces.next()?);
        let (from, to) = range.split_once('-')?;
        let name = Self {
            segment: segment.parse().ok()?,
            from: u64::from_str_radix(from, 16).ok()?,
            to: u64::from_str_radix(to, 16).ok()?,
            epoch: epoch.to_owned(),
        };
        Some((name, Encoding::from_extension(extension)?))
    }
}

/// The folder name of one attempt at a backup: the backup's name, cut where it is long, the first 8 characters of its
/// UID, as names are used again, and the attempt, as each has a label of its own.
pub fn backup_key(name: &str, uid: &str, attempt: u32) -> String {
    // A folder's name may have 255 bytes where the store is a directory.
    let name = name.get(..LONGEST_NAME).unwrap_or(name);
    format!("{name}-{}-{attempt}", uid.get(..8).unwrap_or(uid))
}

const LONGEST_NAME: usize = 200;

/// The first and the last segment of a roll-up, from its key.
pub(super) fn rollup_range(key: &Path) -> Option<(SegmentName, SegmentName)> {
    let (first, last) = stem(key)?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The last part of a key, without its ending.
pub(super) fn stem(key: &Path) -> Option<&str> {
    key.filename()?.split('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back_from_its_key() {
        let layout = Layout::new("prod/", "orders", &"0123456789".parse().unwrap());
        let name = TailName {
            segment: "00000001000000000000000A".parse().unwrap(),
            from: 0x10,
            to: 0xFF00,
            epoch: "k3".into(),
        };
        for (encoding, ending) in Encoding::ALL
            .into_iter()
            .zip(["zst", "zst.age", "lz4", "lz4.age", "raw", "raw.age"])
        {
            let key = layout.tail(&name, encoding);
            let begin = "prod/orders/0123456789/tail/00000001/00000001000000000000000A/00000010-0000FF00.k3";
            assert_eq!(key.as_ref(), format!("{begin}.{ending}"));
            assert_eq!(TailName::parse(&key), Some((name.clone(), encoding)));
            assert_eq!(Encoding::of(&key), Some(encoding));
            let key = layout.segment(name.segment, encoding);
            assert_eq!(
                layout.parse(&key),
                Some(Key::Segment(name.segment, encoding))
            );
        }
        assert_eq!(TailName::parse(&layout.identity()), None);
        assert_eq!(Encoding::of(&layout.identity()), None);
        for other in ["zst.gpg", "age", "zst.age.age", "zst.age.sha256"] {
            let key = Path::from(format!(
                "prod/orders/0123456789/wal/00000001/{}.{other}",
                name.segment
            ));
            assert_eq!(layout.parse(&key), None, "{other}");
            assert_eq!(Encoding::of(&key), None, "{other}");
        }
    }

    #[test]
    fn every_kind_of_object_has_one_place() {
        let layout = Layout::new("prod/", "orders", &"0123456789".parse().unwrap());
        for below in [
            "identity.json",
            "history/00000002.history",
            "backup-history/000000010000000000000042.00000028.backup",
            "wal/00000001/000000010000000000000042.zst.age",
            "index/00000001/000000010000000000000042.json",
            "rollup/00000001/000000010000000000000001-0000000100000000000000FF.json",
            "tail/00000001/000000010000000000000042/00000000-00002000.e1.zst",
            "clock/0000000A.json",
            "retention/expired.json",
            "backups/nightly-0badcafe-1/manifest.json",
        ] {
            let key = layout.key(below);
            assert!(layout.names(&key).is_some(), "{below}");
        }
        for below in [
            "wal/00000002/000000010000000000000042.zst",
            "wal/00000001/more/000000010000000000000042.zst",
            "index/00000001/000000010000000000000042.old.json",
            "clock/0000000a.json",
            "identity.json/more",
            "retention/other.json",
            "notes.txt",
            "backups/nightly-0badcafe-1/notes.txt",
        ] {
            assert_eq!(layout.names(&layout.key(below)), None, "{below}");
        }
    }
}
