//! WAL written here, for what the installed PostgreSQL does not write: other versions, and records cut in every way.
//! `tests/postgres` has the real thing.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::postgres::TimelineId;

const SIZE: u32 = 1 << 20;
const PAGE: usize = 8192;
const SYSTEM: u64 = 7_391_000_000_000_000_001;
/// 2026-11-20 14:03:12 UTC, as PostgreSQL counts: microseconds since 2000.
const TIME: i64 = 848_498_592_000_000;

fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

fn name(number: u64) -> SegmentName {
    SegmentName::containing(
        TimelineId::FIRST,
        Lsn::new(number * u64::from(SIZE)),
        size(),
    )
}

/// Writes a log from the beginning of segment 1.
pub(crate) struct Writer {
    magic: u16,
    pub bytes: Vec<u8>,
    previous: u64,
    timeline: u32,
}

impl Writer {
    pub fn new(magic: u16) -> Self {
        let (bytes, previous) = (Vec::new(), 0);
        Self {
            magic,
            bytes,
            previous,
            timeline: 1,
        }
    }

    pub fn position(&self) -> u64 {
        u64::from(SIZE) + self.bytes.len() as u64
    }

    fn page_header(&mut self, rest: u32) {
        let is_first = self.bytes.len().is_multiple_of(SIZE as usize);
        let flags = u16::from(rest > 0) | if is_first { 2 } else { 0 };
        let address = self.position();
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(u64::from(rest).to_le_bytes());
        if is_first {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend(SIZE.to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// Appends a record; returns where it begins.
    pub fn record(&mut self, manager: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0);
        }
        let start = self.position();
        let body = match u8::try_from(main.len()) {
            Ok(length) => [&[255, length], main].concat(),
            Err(_) => [&[254], &(main.len() as u32).to_le_bytes()[..], main].concat(),
        };
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(checksum.to_le_bytes());
        record.extend(body);
        self.put(&record);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
        Lsn::new(start)
    }

    fn put(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(record.len() as u32);
            }
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = record.split_at(room.min(record.len()));
            self.bytes.extend(now);
            record = later;
        }
    }

    fn scan_all(&self) -> Vec<SegmentScan> {
        let mut carry: Option<Carry> = None;
        let chunks = self.bytes.chunks(SIZE as usize);
        let scans = chunks.enumerate().map(|(index, bytes)| {
            let name = name(1 + index as u64);
            let identifier = Some(SystemIdentifier::new(SYSTEM));
            let found = scan(bytes, name, size(), identifier, carry.as_ref()).unwrap();
            carry.clone_from(&found.carry);
            found
        });
        scans.collect()
    }
}

pub(crate) fn commit(flags: u32, lists: &[&[u8]]) -> Vec<u8> {
    let mut main = TIME.to_le_bytes().to_vec();
    main.extend(flags.to_le_bytes());
    main.extend(lists.concat());
    main
}

fn list(count: u32, item: usize) -> Vec<u8> {
    let mut list = count.to_le_bytes().to_vec();
    list.resize(4 + count as usize * item, 0xEE);
    list
}

#[test]
fn all_versions_are_read() {
    for (magic, major, statistics) in [
        (0xD10D, 14, 12),
        (0xD110, 15, 12),
        (0xD113, 16, 12),
        (0xD116, 17, 12),
        (0xD118, 18, 16),
    ] {
        let mut writer = Writer::new(magic);
        writer.record(1, 0x00, 900, &TIME.to_le_bytes());
        let flags = 1 | 2 | 4 | 8 | 16 | 32 | 128 | 256;
        let everything = [
            vec![0xEE; 8],
            list(3, 4),
            list(2, 12),
            list(2, statistics),
            list(5, 16),
            777_u32.to_le_bytes().to_vec(),
            b"gid\0and an origin".to_vec(),
        ];
        let everything: Vec<&[u8]> = everything.iter().map(Vec::as_slice).collect();
        writer.record(1, 0xB0, 0, &commit(flags, &everything));
        writer.record(1, 0x20, 1000, &TIME.to_le_bytes());
        let mut point = (TIME + 5).to_le_bytes().to_vec();
        point.extend(b"before the release");
        point.resize(72, 0);
        writer.record(0, 0x70, 0, &point);
        let end = Lsn::new(writer.position());
        let [found] = &writer.scan_all()[..] else {
            panic!("one segment")
        };
        assert_eq!((found.major, found.valid_end), (major, end));
        assert_eq!((found.first_xid, found.last_xid), (Some(777), Some(1000)));
        let at: Timestamp = "2026-11-20T14:03:12Z".parse().unwrap();
        assert_eq!(
            (found.first_commit, found.last_commit),
            (Some(at), Some(at))
        );
        assert_eq!(found.restore_points[0].name, "before the release");
        assert_eq!(found.restore_points[0].lsn, end);
    }
    let mut unknown = Writer::new(0xD106);
    unknown.record(1, 0, 1, &[]);
    let refused = scan(&unknown.bytes, name(1), size(), None, None);
    assert!(matches!(
        refused,
        Err(ScanError::NotWal { magic: 0xD106, .. })
    ));
}

#[test]
fn transaction_ids_go_round() {
    let mut writer = Writer::new(0xD110);
    for xid in [u32::MAX - 1, 5, u32::MAX, 3] {
        writer.record(1, 0, xid, &TIME.to_le_bytes());
    }
    let found = &writer.scan_all()[0];
    assert_eq!(
        (found.first_xid, found.last_xid),
        (Some(u32::MAX - 1), Some(5))
    );
}

#[test]
fn without_the_segment_before_the_rest_of_its_record_is_skipped() {
    let mut writer = Writer::new(0xD110);
    writer.record(10, 0, 0, &vec![7; (SIZE + SIZE / 2) as usize]);
    let after = Lsn::new(writer.position());
    writer.record(1, 0, 42, &TIME.to_le_bytes());
    let second = &writer.bytes[SIZE as usize..];
    let found = scan(second, name(2), size(), None, None).unwrap();
    assert_eq!(found.unchecked_until, Some(after));
    assert_eq!(
        (found.first_xid, found.valid_end),
        (Some(42), Lsn::new(writer.position()))
    );
    let scans = writer.scan_all();
    assert_eq!(scans[1].unchecked_until, None);
    assert_eq!(
        scans[0].carry.as_ref().map(Carry::next),
        Some(name(2).start(size()))
    );
    // Nothing is known after a piece whose beginning was not at hand.
    let mut writer = Writer::new(0xD110);
    writer.record(10, 0, 0, &vec![7; (3 * SIZE) as usize]);
    let middle = &writer.bytes[SIZE as usize..2 * SIZE as usize];
    let found = scan(middle, name(2), size(), None, None).unwrap();
    assert!(found.complete && found.carry.is_none());
}

#[test]
fn the_segment_before_is_of_the_same_cluster() {
    let log = |filling| {
        let mut writer = Writer::new(0xD118);
        writer.record(10, 0, 0, &vec![filling; (SIZE + SIZE / 2) as usize]);
        writer.record(1, 0, 42, &TIME.to_le_bytes());
        writer.bytes
    };
    let mut before = log(1);
    before.truncate(SIZE as usize);
    let other = &log(2)[SIZE as usize..];
    let after = |before: &[u8]| {
        let carry = scan(before, name(1), size(), None, None).unwrap().carry;
        scan(other, name(2), size(), None, Some(&carry.unwrap())).unwrap()
    };
    let why = Invalid::Checksum;
    assert!(matches!(after(&before).end, ScanEnd::Invalid { why: found, .. } if found == why));
    // The system identifier.
    before[24] ^= 1;
    let alone = scan(other, name(2), size(), None, None).unwrap();
    assert_eq!(after(&before), alone);
}

#[test]
fn after_a_switch_only_zeros_count_as_the_segment() {
    let mut writer = Writer::new(0xD110);
    writer.record(1, 0, 42, &TIME.to_le_bytes());
    writer.record(0, 0x40, 0, &[]);
    let end = Lsn::new(writer.position());
    let scanned = |bytes: &[u8]| scan(bytes, name(1), size(), None, None).unwrap();
    let part = scanned(&writer.bytes);
    assert_eq!(
        (part.end, part.complete, part.valid_end),
        (ScanEnd::Switch, false, end)
    );
    writer.bytes.resize(SIZE as usize, 0);
    let whole = scanned(&writer.bytes);
    assert_eq!(
        (whole.complete, whole.valid_end),
        (true, name(1).end(size()))
    );
    writer.bytes[SIZE as usize - 1] = 1;
    let stale = scanned(&writer.bytes);
    assert_eq!((stale.complete, stale.valid_end), (true, end));
    assert!(stale.carry.is_some());
}

/// A log that ends `left` bytes before the first segment does.
fn with_room(left: u64) -> Writer {
    let mut writer = Writer::new(0xD118);
    let end = 2 * u64::from(SIZE) - left;
    while end - writer.position() > 4000 {
        writer.record(10, 0, 0, &[7; 1000]);
    }
    // Of 32 and of 40 bytes.
    let eights = (end - writer.position()) / 8;
    for _ in 0..eights % 4 {
        writer.record(10, 0, 0, &[7; 14]);
    }
    while writer.position() < end {
        writer.record(10, 0, 0, &[7; 6]);
    }
    assert_eq!(writer.position(), end);
    writer
}

/// Its segment is of the new timeline by its name, and all of its pages say the old one.
#[test]
fn a_timeline_that_begins_at_the_end_of_a_segment_is_followed() {
    let [own, next] = [1, 2].map(|number| {
        let timeline = TimelineId::new(2).unwrap();
        SegmentName::containing(timeline, Lsn::new(number * u64::from(SIZE)), size())
    });
    let end_of_recovery = [
        &TIME.to_le_bytes()[..],
        &2_u32.to_le_bytes(),
        &1_u32.to_le_bytes(),
    ];
    let scanned = |manager, info, left| {
        let mut writer = with_room(left);
        writer.timeline = 2;
        writer.record(manager, info, 0, &end_of_recovery.concat());
        writer.record(1, 0, 42, &TIME.to_le_bytes());
        let (first, second) = writer.bytes.split_at(SIZE as usize);
        let first = scan(first, own, size(), None, None)?;
        let second = scan(second, next, size(), None, first.carry.as_ref())?;
        assert_eq!(second.valid_end, Lsn::new(writer.position()));
        Ok::<_, ScanError>((first.complete, first.valid_end))
    };
    for left in [8, 16, 24, 32, 40] {
        let found = scanned(0, 0x90, left).unwrap();
        assert_eq!(found, (true, own.end(size())), "{left}");
    }
    // Any other record is the old timeline's, and nothing in the segment is the new one's.
    let of_another = |scanned| matches!(scanned, Err(ScanError::OtherTimeline { .. }));
    assert!(of_another(scanned(10, 0, 24)));
    assert!(of_another(scanned(0, 0x90, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Records of any lengths are found again, wherever page and segment boundaries cut them.
    #[test]
    fn every_record_is_found(lengths in proptest::collection::vec(0_usize..70_000, 1..60)) {
        let mut writer = Writer::new(0xD118);
        let mut last = Lsn::new(0);
        for length in &lengths {
            last = writer.record(10, 0, 0, &vec![0x5A; *length]);
        }
        let scans = writer.scan_all();
        let found = scans.last().unwrap();
        prop_assert_eq!(found.last_record_start, Some(last));
        prop_assert_eq!(found.valid_end, Lsn::new(writer.position()));
        prop_assert!(scans[..scans.len() - 1].iter().all(|found| found.end == ScanEnd::Full));
    }

    /// Piece by piece, as a segment fills, the scan finds what it finds at once.
    #[test]
    fn a_scan_that_goes_on_finds_the_same(
        lengths in proptest::collection::vec(0_usize..40_000, 1..40),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let mut writer = Writer::new(0xD118);
        for (number, length) in lengths.iter().enumerate() {
            let xid = u32::try_from(number).unwrap();
            writer.record(if length % 2 == 0 { 1 } else { 10 }, 0, xid, &vec![0x5A; *length]);
        }
        let bytes = &writer.bytes[..writer.bytes.len().min(SIZE as usize)];
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut resume: Option<Resume> = None;
        let mut found = None;
        for end in ends {
            let scanned = match resume.take() {
                Some(resume) => scan_on(&bytes[resume.offset()..end], resume),
                None => scan(&bytes[..end], name(1), size(), None, None),
            };
            let scanned = scanned.unwrap();
            prop_assert!(scanned.valid_end <= name(1).start(size()).advance(end as u64));
            resume.clone_from(&scanned.resume);
            found = Some(scanned);
        }
        prop_assert_eq!(found.unwrap(), scan(bytes, name(1), size(), None, None).unwrap());
    }

    /// No bytes make it panic.
    #[test]
    fn any_bytes_are_scanned(mut bytes in proptest::collection::vec(any::<u8>(), 0..20_000), sound: bool) {
        if sound {
            let mut writer = Writer::new(0xD110);
            writer.record(1, 0xB0, 0, &bytes);
            let start = writer.bytes.len().min(40);
            let noise = bytes.len().min(8192 - start);
            writer.bytes.truncate(start);
            writer.bytes.extend(bytes.drain(..noise));
            bytes = writer.bytes;
        }
        let _ = scan(&bytes, name(1), size(), None, None);
    }
}
