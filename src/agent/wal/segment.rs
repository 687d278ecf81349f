//! Gives WAL to the archive, with what its records say.

use std::sync::Arc;

use bytes::Bytes;

use super::{buffer::Buffer, error::Error, route::Route};
use crate::{
    archive::{IndexEntry, Records, SegmentEncoded},
    postgres::{
        Lsn, SegmentName,
        wal::{self, Carry, Invalid, Resume, ScanEnd, ScanError, SegmentScan},
    },
};

/// Scans and pushes; knows the record that the end of the last segment cut.
pub struct Sender {
    /// The record cut by the end of the segment before `Lsn`; `None` in it if that segment cannot be read.
    carry: Option<(Lsn, Option<Arc<Carry>>)>,
    /// How far the unfinished segment was scanned.
    resume: Option<Resume>,
    /// Tells the tails of this run from those of another.
    epoch: String,
}

/// A whole segment, and what is known of it.
struct Known {
    bytes: Bytes,
    entry: IndexEntry,
    damage: Option<Damage>,
    /// What its end leaves to the next.
    carry: Option<Arc<Carry>>,
}

/// A segment, or its beginning, and what its records say.
struct Scanned {
    bytes: Bytes,
    scan: SegmentScan,
}

impl Sender {
    /// `epoch` names this run: letters and digits.
    pub const fn new(epoch: String) -> Self {
        Self {
            carry: None,
            resume: None,
            epoch,
        }
    }

    /// WAL is missing before the next segment.
    pub fn forget(&mut self) {
        self.carry = None;
        self.resume = None;
    }

    /// Archives a whole segment. One whose chain of records breaks is refused or, if `on_damage` says so, archived as
    /// it is: its entry says how far it can be replayed, and what follows counts as missing. Returns the damage that was
    /// archived.
    ///
    /// # Errors
    /// It is not the segment that it should be, or damaged, or the archive does not take it.
    pub async fn segment(
        &mut self,
        route: &Route,
        name: SegmentName,
        bytes: Bytes,
        on_damage: OnDamage,
    ) -> Result<Option<Damage>, Error> {
        let known = self.known(route, name, bytes).await?;
        if let Some(damage) = known.damage {
            match on_damage {
                OnDamage::Refuse => return Err(Error::Damaged(damage)),
                OnDamage::Archive => tracing::error!(segment = %name, "{damage}"),
            }
        }
        let lineage = &route.lineage;
        lineage
            .push_segment(name, known.bytes, &known.entry)
            .await?;
        self.carry = Some((name.end(route.size), known.carry));
        Ok(known.damage)
    }

    /// What is known of a whole segment, and what is wrong with it.
    ///
    /// # Errors
    /// It is not the segment that it should be.
    pub async fn entry(
        &mut self,
        route: &Route,
        name: SegmentName,
        bytes: Bytes,
    ) -> Result<(IndexEntry, Option<Damage>), Error> {
        let known = self.known(route, name, bytes).await?;
        Ok((known.entry, known.damage))
    }

    async fn known(
        &mut self,
        route: &Route,
        name: SegmentName,
        bytes: Bytes,
    ) -> Result<Known, Error> {
        let Scanned { bytes, scan } = self.scan(route, name, bytes).await?;
        let size = route.size;
        let known = move || Known {
            entry: IndexEntry::scanned(name, size, &bytes, &scan),
            damage: damage(name, &scan),
            carry: scan.carry.map(Arc::new),
            bytes,
        };
        Ok(blocking(known).await)
    }

    /// A whole and sound segment as it goes to the store, and what is known of it.
    ///
    /// # Errors
    /// It is not the segment that it should be, or damaged, or a tail of it in the archive is not its beginning.
    pub async fn encode(
        &mut self,
        route: &Route,
        name: SegmentName,
        bytes: Bytes,
    ) -> Result<(SegmentEncoded, IndexEntry), Error> {
        let known = self.known(route, name, bytes).await?;
        if let Some(damage) = known.damage {
            return Err(Error::Damaged(damage));
        }
        self.carry = Some((name.end(route.size), known.carry));
        let (lineage, entry) = (&route.lineage, known.entry);
        let encoded = lineage.encode_segment(name, known.bytes, &entry).await?;
        Ok((encoded, entry))
    }

    /// Archives what `buffer` holds from `offset` on, up to the end of its last whole record: what follows may be written
    /// anew after a crash. Returns that end, and why there is no more before the end of `buffer` if it is damage; nothing is
    /// sent if it is not past `offset`.
    ///
    /// # Errors
    /// The archive does not take it.
    pub async fn tail(
        &mut self,
        route: &Route,
        buffer: &Buffer,
        offset: u64,
    ) -> Result<(Lsn, Option<Damage>), Error> {
        let name = buffer.name();
        let start = name.start(route.size);
        let scan = match self.scan_on(route, buffer).await {
            // A new timeline's first segment begins with a copy: nothing of its own is there yet.
            Err(Error::Foreign(ScanError::OtherTimeline { .. })) => return Ok((start, None)),
            scanned => scanned?,
        };
        let damage = damage(name, &scan).filter(|damage| damage.why != Invalid::Unused);
        let end = scan
            .valid_end
            .min(start.advance(buffer.bytes().len() as u64));
        let records = Records {
            last_record: scan.last_record_start,
            last_commit: scan.last_commit,
        };
        self.resume = scan.resume;
        let to = end.bytes_since(start);
        if to > offset {
            let range = ..usize::try_from(to).unwrap_or_default();
            let valid = buffer.bytes().get(range).unwrap_or_default();
            route
                .lineage
                .push_tail(name, offset, valid, &self.epoch, Some(records))
                .await?;
        }
        Ok((end.max(start), damage))
    }

    async fn scan(
        &mut self,
        route: &Route,
        name: SegmentName,
        bytes: Bytes,
    ) -> Result<Scanned, Error> {
        let carry = self.carry_into(route, name).await;
        let (size, identifier) = (route.size, Some(route.system_identifier));
        blocking(move || {
            let scan = wal::scan(&bytes, name, size, identifier, carry.as_deref())?;
            Ok(Scanned { bytes, scan })
        })
        .await
    }

    /// Scans what `buffer` has more than at the last time.
    async fn scan_on(&mut self, route: &Route, buffer: &Buffer) -> Result<SegmentScan, Error> {
        let (name, bytes) = (buffer.name(), buffer.bytes());
        let known = self.resume.take().filter(|resume| resume.name() == name);
        let Some(resume) = known else {
            let whole = self.scan(route, name, Bytes::copy_from_slice(bytes));
            return Ok(whole.await?.scan);
        };
        let more = Bytes::copy_from_slice(bytes.get(resume.offset()..).unwrap_or_default());
        let scanned = blocking(move || wal::scan_on(&more, resume)).await;
        Ok(scanned?)
    }

    /// The record that the end of the segment before `name` cut: known from before, or read from the server once.
    async fn carry_into(&mut self, route: &Route, name: SegmentName) -> Option<Arc<Carry>> {
        let start = name.start(route.size);
        if let Some((at, carry)) = &self.carry
            && *at == start
        {
            return carry.clone();
        }
        let carry = self.read_carry(route, start).await.map(Arc::new);
        self.carry = Some((start, carry.clone()));
        carry
    }

    async fn read_carry(&self, route: &Route, start: Lsn) -> Option<Carry> {
        let before = Lsn::new(start.get().checked_sub(route.size.get())?);
        let mut buffer = Buffer::new(route.path.segment(before, route.size));
        // It may be gone; then commit times of one record are not in the index.
        buffer.fill(&route.client, route.size, start).await.ok()?;
        let (name, size, identifier) = (buffer.name(), route.size, route.system_identifier);
        let bytes = buffer.into_bytes();
        let scanned = blocking(move || wal::scan(&bytes, name, size, Some(identifier), None)).await;
        scanned.ok()?.carry
    }
}

/// What to do with a segment whose chain of records breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Reading it again may help.
    Refuse,
    /// The server has nothing better.
    Archive,
}

/// Where and why the chain of records breaks in a segment that the server has left behind.
fn damage(name: SegmentName, scan: &SegmentScan) -> Option<Damage> {
    match scan.end {
        ScanEnd::Invalid { at, why } => Some(Damage { name, at, why }),
        ScanEnd::Full | ScanEnd::Switch | ScanEnd::Data => None,
    }
}

/// A segment that cannot be replayed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "WAL segment {name} is damaged at {at}: {why}. PostgreSQL itself could not replay it: check the disk, and take a new backup"
)]
pub struct Damage {
    /// The segment.
    pub name: SegmentName,
    /// Where its chain of records breaks.
    pub at: Lsn,
    /// Why.
    pub why: Invalid,
}

/// Work that would keep the other tasks waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        archive::sha256,
        postgres::{SegmentSize, TimelineId},
    };

    const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
        Ok(size) => size,
        Err(_) => panic!(),
    };

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn scan(valid_end: Lsn) -> SegmentScan {
        SegmentScan {
            major: 15,
            valid_end,
            end: wal::ScanEnd::Data,
            complete: false,
            last_record_start: Some(Lsn::new(0x20_0100)),
            first_commit: Some(at(1)),
            last_commit: Some(at(2)),
            first_xid: Some(700),
            last_xid: Some(800),
            restore_points: vec![wal::RestorePoint {
                name: "before the upgrade".to_owned(),
                lsn: Lsn::new(0x20_0080),
                at: at(3),
            }],
            unchecked_until: None,
            carry: None,
            resume: None,
        }
    }

    /// Once it is encrypted, nobody but a reader with the key can find any of this out.
    #[test]
    fn an_entry_says_all_that_the_scan_found() {
        let name = SegmentName::containing(TimelineId::FIRST, Lsn::new(0x20_0000), SIZE);
        let mut plain = vec![7; 1 << 20];
        plain[0x200..].fill(9);
        let entry_of =
            |plain: &[u8], scan| serde_json::to_value(IndexEntry::scanned(name, SIZE, plain, scan));
        let found = scan(Lsn::new(0x20_0200));
        let said = entry_of(&plain, &found).unwrap();
        let whole = serde_json::json!({
            "segment": name,
            "validEnd": "0/200200",
            "sha256": sha256(&plain),
            "sha256Valid": sha256(&[7; 0x200]),
            "lastRecord": "0/200100",
            "firstCommit": at(1),
            "lastCommit": at(2),
            "firstXid": 700,
            "lastXid": 800,
            "restorePoints": [{"name": "before the upgrade", "lsn": "0/200080", "at": at(3)}],
        });
        assert_eq!(said, whole);
        // What lies behind the valid end is not in the hash of what lies before it.
        plain[0x200] = 0;
        let other = entry_of(&plain, &found).unwrap();
        assert_eq!(other["sha256Valid"], said["sha256Valid"]);
        assert_ne!(other["sha256"], said["sha256"]);
        let full = scan(name.end(SIZE));
        let full = entry_of(&plain, &full).unwrap();
        assert_eq!(full["sha256Valid"], full["sha256"]);
    }
}
