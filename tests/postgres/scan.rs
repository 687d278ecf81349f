//! The scan of WAL segments, judged by `pg_waldump`.

use highwater::postgres::{
    Lsn, SegmentName, SystemIdentifier, TimelineId, server,
    wal::{Carry, ScanEnd, ScanError, SegmentScan, scan},
    wal_reader,
};
use proptest::prelude::*;

use crate::{
    database::Database,
    waldump::{DumpedRecord, dump},
};

/// Segments of a server under load, from the first on, with what they hold.
struct Load {
    database: Database,
    system_identifier: SystemIdentifier,
    names: Vec<SegmentName>,
    records: Vec<DumpedRecord>,
    flushed: Lsn,
}

async fn load() -> Load {
    let database = Database::start(1, "wal_keep_size = '200MB'\nwal_level = logical");
    let client = database.client().await;
    let facts = server::facts(&client).await.unwrap();
    let from = wal_reader::flush_position(&client).await.unwrap().lsn;
    database.pgbench(&["-i", "-s", "2", "-q"]);
    database.pgbench(&["-c", "4", "-t", "300"]);
    client
        .batch_execute("SET search_path = public; SELECT pg_create_restore_point('before'); CREATE TABLE t (a int, b text); CREATE TABLE u (a int)")
        .await
        .unwrap();
    for statement in [
        "BEGIN",
        "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 100) n",
        "SAVEPOINT s",
        "INSERT INTO t VALUES (0)",
        "PREPARE TRANSACTION 'committed'",
        "BEGIN",
        "DROP TABLE u",
        "INSERT INTO t VALUES (1)",
        "PREPARE TRANSACTION 'with a list of everything'",
        "BEGIN",
        "INSERT INTO t VALUES (2)",
        "PREPARE TRANSACTION 'rolled back'",
        "SELECT pg_switch_wal()",
        "COMMIT PREPARED 'committed'",
        "ROLLBACK PREPARED 'rolled back'",
        "COMMIT PREPARED 'with a list of everything'",
        "BEGIN",
        "INSERT INTO t VALUES (3)",
        "ROLLBACK",
        // A record longer than three segments, then one that ends with a segment or nearly so.
        "SELECT pg_logical_emit_message(true, 'long', repeat('x', 3500000))",
        "SELECT pg_create_restore_point('after the long one')",
        "SELECT pg_switch_wal()",
        "SELECT pg_switch_wal()",
        "INSERT INTO t VALUES (4)",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    database.pgbench(&["-c", "4", "-t", "300"]);
    let flushed = wal_reader::flush_position(&client).await.unwrap().lsn;
    // From here on nothing is written.
    database.stop("immediate");
    let size = database.segment_size;
    let mut names = vec![SegmentName::containing(TimelineId::FIRST, from, size)];
    while let Some(last) = names.last().filter(|last| last.end(size) <= flushed) {
        names.push(last.next(size));
    }
    let records = dump(&database, names[0], names[0].start(size));
    Load {
        database,
        system_identifier: facts.system_identifier,
        names,
        records,
        flushed,
    }
}

impl Load {
    fn scan(
        &self,
        bytes: &[u8],
        name: SegmentName,
        carry: Option<&Carry>,
    ) -> Result<SegmentScan, ScanError> {
        scan(
            bytes,
            name,
            self.database.segment_size,
            Some(self.system_identifier),
            carry,
        )
    }

    /// The end of the last record that ends at `lsn` or before.
    fn last_end(&self, lsn: Lsn) -> Option<Lsn> {
        self.records
            .iter()
            .map(|record| record.end)
            .take_while(|end| *end <= lsn)
            .last()
    }

    /// The records that end within the segment.
    fn ending_in(&self, name: SegmentName) -> impl Iterator<Item = &DumpedRecord> {
        let size = self.database.segment_size;
        self.records
            .iter()
            .filter(move |r| r.end > name.start(size) && r.end <= name.end(size))
    }

    fn check(&self, name: SegmentName, found: &SegmentScan) {
        let commits: Vec<_> = self
            .ending_in(name)
            .filter_map(DumpedRecord::commit)
            .collect();
        let mut xids: Vec<_> = commits.iter().map(|(_, xid)| *xid).collect();
        xids.extend(self.ending_in(name).filter_map(DumpedRecord::abort));
        let times = || commits.iter().map(|(at, _)| *at);
        assert_eq!(
            (found.first_commit, found.last_commit),
            (times().min(), times().max()),
            "{name}"
        );
        assert_eq!(
            (found.first_xid, found.last_xid),
            (xids.iter().min().copied(), xids.iter().max().copied()),
            "{name}"
        );
        if let Some(last) = self.ending_in(name).last() {
            assert_eq!(found.last_record_start, Some(last.start), "{name}");
        }
        let points: Vec<_> = found
            .restore_points
            .iter()
            .map(|p| (p.name.as_str(), p.lsn))
            .collect();
        let dumped = self
            .ending_in(name)
            .filter_map(|r| Some((r.description.strip_prefix("RESTORE_POINT ")?.trim(), r.end)));
        assert_eq!(points, dumped.collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn the_scan_agrees_with_pg_waldump() {
    let load = load().await;
    let carries = whole_segments(&load);
    cut_segments(&load, &carries);
    foreign_segments(&load);
    every_flip_is_detected(&load, &carries);
}

/// Returns the carry that each segment begins with.
fn whole_segments(load: &Load) -> Vec<Option<Carry>> {
    let size = load.database.segment_size;
    let (mut carries, mut switches, mut points, mut prepared) = (vec![None], 0, 0, 0);
    for name in &load.names {
        let bytes = load.database.segment(*name);
        let carry = carries.last().unwrap().clone();
        let found = load.scan(&bytes, *name, carry.as_ref()).unwrap();
        load.check(*name, &found);
        assert_eq!(found.major, crate::database::programs::major());
        switches += usize::from(found.end == ScanEnd::Switch);
        points += found.restore_points.len();
        prepared += load
            .ending_in(*name)
            .filter(|r| r.description.contains("_PREPARED"))
            .count();
        match found.complete {
            true => assert_eq!(found.valid_end, name.end(size), "{name}"),
            false => {
                assert_eq!(name, load.names.last().unwrap(), "{found:?}");
                assert_eq!(
                    Some(found.valid_end),
                    load.records.last().map(|record| record.end)
                );
                assert!(found.valid_end >= load.flushed);
            }
        }
        carries.push(found.carry);
    }
    assert!(
        load.names.len() > 20 && (2..=3).contains(&switches) && points == 2 && prepared == 3,
        "{switches} {points} {prepared}"
    );
    carries
}

fn cut_segments(load: &Load, carries: &[Option<Carry>]) {
    let mut inside = 0;
    for (index, (name, carry)) in load.names.iter().zip(carries).enumerate().skip(1) {
        let Some(carry) = carry else { continue };
        let bytes = load.database.segment(*name);
        // Every position of the first pages of some, and a few of the rest.
        let dense = if index % 5 == 0 { 20_000 } else { 100 };
        for length in (0..dense)
            .step_by(8)
            .chain((dense..bytes.len()).step_by(40_008))
        {
            inside += usize::from(cut(load, *name, carry, &bytes, length));
        }
    }
    assert!(inside > 1000, "{inside}");
}

/// Checks the scan of the first `length` bytes; says whether they end within a record.
fn cut(load: &Load, name: SegmentName, carry: &Carry, bytes: &[u8], length: usize) -> bool {
    let start = name.start(load.database.segment_size);
    let cut = &bytes[..length];
    let found = load.scan(cut, name, Some(carry)).unwrap();
    let at = start.advance(length as u64);
    let want = load
        .last_end(at)
        .filter(|end| *end > start)
        .unwrap_or(start);
    if found.end == ScanEnd::Switch {
        return false;
    }
    assert_eq!(found.valid_end, want, "{name} cut at {at}");
    // What follows may be zero, or what the file held before it was recycled: that adds nothing which was not written.
    for rest in [0, 0xA5] {
        if length > 40 {
            let mut padded = cut.to_vec();
            padded.resize(length + 20_000, rest);
            padded.truncate(bytes.len());
            let valid = load.scan(&padded, name, Some(carry)).unwrap().valid_end;
            let valid_length = valid.bytes_since(start) as usize;
            assert!(
                valid >= want && padded[..valid_length] == bytes[..valid_length],
                "{name} padded at {at}"
            );
        }
    }
    found.valid_end < at
}

fn foreign_segments(load: &Load) {
    let size = load.database.segment_size;
    let (first, second) = (load.names[1], load.names[2]);
    let bytes = load.database.segment(first);
    let other = SystemIdentifier::new(load.system_identifier.get() ^ 1);
    assert!(matches!(
        scan(&bytes, first, size, Some(other), None),
        Err(ScanError::OtherCluster { .. })
    ));
    assert!(scan(&bytes, first, size, None, None).is_ok());
    assert!(matches!(
        load.scan(&bytes, second, None),
        Err(ScanError::OtherSegment { .. })
    ));
    let timeline = TimelineId::new(2).unwrap();
    let named = SegmentName::containing(timeline, first.start(size), size);
    assert!(matches!(
        load.scan(&bytes, named, None),
        Err(ScanError::OtherTimeline { .. })
    ));
    let sixteen = highwater::postgres::SegmentSize::DEFAULT;
    let named = SegmentName::containing(TimelineId::FIRST, Lsn::new(0x0100_0000), sixteen);
    let refused = scan(
        &load.database.segment(load.names[0]),
        named,
        sixteen,
        None,
        None,
    );
    assert!(matches!(
        refused,
        Err(ScanError::OtherSize { .. } | ScanError::OtherSegment { .. })
    ));
    assert!(matches!(
        load.scan(&[0; 8192], first, None),
        Err(ScanError::NotWal { .. })
    ));
    assert!(matches!(
        load.scan(&vec![0; (1 << 20) + 1], first, None),
        Err(ScanError::TooLong { .. })
    ));
    let found = load.scan(&bytes, first, None).unwrap();
    let carry = found.carry.unwrap();
    assert!(matches!(
        load.scan(&bytes, first, Some(&carry)),
        Err(ScanError::OtherCarry { .. })
    ));
}

/// `XLP_BKP_REMOVABLE` means nothing to replay.
fn is_free(at: usize, mask: u8) -> bool {
    at % 8192 == 2 && mask == 4
}

fn every_flip_is_detected(load: &Load, carries: &[Option<Carry>]) {
    let known = |index: &usize| carries[*index].is_some() && carries[*index + 1].is_some();
    let whole: Vec<usize> = (1..load.names.len()).filter(known).collect();
    assert!(whole.len() > 10);
    let mut flips = Flips {
        load,
        carries,
        segments: load
            .names
            .iter()
            .map(|name| load.database.segment(*name))
            .collect(),
    };
    // Every byte of the first two pages, then some of all segments.
    for index in [whole[0], whole[whole.len() / 2], *whole.last().unwrap()] {
        for at in 0..2 * 8192 {
            let mask = 1 << (at % 8);
            assert!(
                flips.is_detected(index, 3 * 8192, at, mask),
                "{} at {at:#x}, {mask:#x}",
                load.names[index]
            );
        }
    }
    let case = (0..whole.len(), 0..1_usize << 20, 1..=255_u8);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    };
    let flips = std::cell::RefCell::new(flips);
    let detects = |(index, at, mask)| {
        let index = whole[index];
        let detected = flips.borrow_mut().is_detected(index, 1 << 20, at, mask);
        prop_assert!(detected, "{} at {at:#x}, {mask:#x}", load.names[index]);
        Ok(())
    };
    proptest::test_runner::TestRunner::new(config)
        .run(&case, detects)
        .unwrap();
}

struct Flips<'a> {
    load: &'a Load,
    carries: &'a [Option<Carry>],
    segments: Vec<Vec<u8>>,
}

impl Flips<'_> {
    /// Whether a change at `at` in the first `length` bytes of a segment is seen, there or, if it is in a record that goes on
    /// in later segments, where that record ends. What lies behind the valid end of the good bytes does not count.
    fn is_detected(&mut self, index: usize, length: usize, at: usize, mask: u8) -> bool {
        let name = self.load.names[index];
        let start = name.start(self.load.database.segment_size);
        let carry = self.carries[index].as_ref();
        let good = self
            .load
            .scan(&self.segments[index][..length], name, carry)
            .unwrap();
        if at as u64 >= good.valid_end.bytes_since(start) || is_free(at, mask) {
            return true;
        }
        self.segments[index][at] ^= mask;
        let bad = self.load.scan(&self.segments[index][..length], name, carry);
        self.segments[index][at] ^= mask;
        match bad {
            Ok(bad) if bad.valid_end == good.valid_end => {
                self.is_detected_later(index + 1, bad.carry)
            }
            Ok(bad) => bad.valid_end < good.valid_end,
            Err(_) => true,
        }
    }

    fn is_detected_later(&self, index: usize, carry: Option<Carry>) -> bool {
        let Some(carry) = carry.filter(|carry| Some(carry) != self.carries[index].as_ref()) else {
            return false;
        };
        let found = self
            .load
            .scan(&self.segments[index], self.load.names[index], Some(&carry))
            .unwrap();
        !found.complete || self.is_detected_later(index + 1, found.carry)
    }
}
