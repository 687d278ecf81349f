//! A lineage as large as one gets: years of backups and segments, and a failover every few weeks.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use highwater::{
    archive::{
        ClockPair, Contents, FORMAT, Identity, Manifest, Records, RestorePoint, Segment,
        retention::Expired,
    },
    postgres::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// Between the commits of one segment and those of the next.
const SECONDS: i64 = 30;
/// Transactions that end in a segment.
const TRANSACTIONS: u64 = 100;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Each goes on from the one before.
    pub timelines: u32,
    /// New ones of each timeline.
    pub segments: u64,
    /// Of each timeline; the last one was taken when the timeline had been left already.
    pub backups: u64,
}

impl Scale {
    /// The number behind that of the last segment, of all timelines.
    pub const fn end(self) -> u64 {
        self.first(self.timelines + 1)
    }

    /// The number of the first new segment of a timeline.
    pub const fn first(self, timeline: u32) -> u64 {
        (timeline - 1) as u64 * self.segments
    }
}

/// Where a segment begins.
pub const fn start(number: u64) -> Lsn {
    Lsn::new((number + 1) * SIZE.get())
}

/// The middle of a segment.
pub const fn middle(number: u64) -> Lsn {
    start(number).advance(SIZE.get() / 2)
}

/// The only commit time of a segment.
pub fn at(number: u64) -> Timestamp {
    let seconds = i64::try_from(number).unwrap_or(i64::MAX);
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds.saturating_mul(SECONDS))
}

/// A transaction that ends in a segment.
pub const fn transaction(number: u64) -> u64 {
    number * TRANSACTIONS + 3
}

/// The UID of the backup of that number of a timeline.
pub fn uid(timeline: u32, number: u64) -> String {
    format!("2c5c8d54-0c9e-4a52-9f3a-{timeline:06}{number:06}")
}

/// The restore point of a timeline.
pub fn point(timeline: u32) -> String {
    format!("release {timeline}")
}

/// Everything of it, as reading the archive returns it.
pub fn contents(scale: Scale) -> Result<Contents> {
    let mut contents = empty()?;
    let (mut history, mut segments) = (String::new(), Vec::new());
    for number in 1..=scale.timelines {
        let timeline = TimelineId::new(number).context("no timeline")?;
        if number > 1 {
            let parsed = TimelineHistory::parse(timeline, &history)?;
            contents.histories.insert(timeline, parsed);
        }
        let (first, end) = (scale.first(number), scale.first(number + 1));
        // The segment in which it was promoted is there of both timelines.
        for number in first.saturating_sub(1)..end {
            segments.push((
                SegmentName::containing(timeline, start(number), SIZE),
                segment(number)?,
            ));
        }
        let last = end - 1;
        history.push_str(&format!(
            "{number}\t{}\tno recovery target specified\n",
            middle(last)
        ));
        backups(&mut contents, scale, number)?;
        let named = first + scale.segments / 2;
        let point = RestorePoint {
            name: point(number),
            lsn: middle(named),
            at: at(named),
        };
        contents.restore_points.push((timeline, point));
        contents.clocks.push(ClockPair {
            lsn: middle(last),
            at: at(last),
            timeline,
        });
    }
    contents.segments = segments.into_iter().collect();
    Ok(contents)
}

fn empty() -> Result<Contents> {
    Ok(Contents {
        identity: Identity {
            format: FORMAT,
            lineage: "0123456789".parse()?,
            system_identifier: SystemIdentifier::new(7_391_000_000_000_000_001),
            major_version: 15,
            segment_size: SIZE,
            created_at: at(0),
        },
        backups: Vec::new(),
        histories: BTreeMap::new(),
        segments: BTreeMap::new(),
        tails: BTreeMap::new(),
        restore_points: Vec::new(),
        clocks: Vec::new(),
        stored: BTreeMap::new(),
        on_their_way: BTreeMap::new(),
        expired: Expired::default(),
        orphans: None,
    })
}

/// The last record begins in the second half.
fn segment(number: u64) -> Result<Segment> {
    let records = Records {
        last_record: Some(Lsn::new(start(number + 1).get() - 100)),
        last_commit: Some(at(number)),
    };
    let first = u32::try_from(number * TRANSACTIONS)?;
    let last = u32::try_from(number * TRANSACTIONS + TRANSACTIONS - 1)?;
    Ok(Segment {
        valid_end: start(number + 1),
        records: Some(records),
        ended: Some((first, last)),
        encrypted: false,
    })
}

fn backups(contents: &mut Contents, scale: Scale, timeline: u32) -> Result<()> {
    let (first, end) = (scale.first(timeline), scale.first(timeline + 1));
    for number in 0..scale.backups {
        let begin = first + 1 + number * (scale.segments / scale.backups);
        let (from, to, stopped) = match number + 1 < scale.backups {
            true => (start(begin), middle(begin), begin),
            false => (
                middle(end - 1).advance(100),
                middle(end - 1).advance(200),
                end - 1,
            ),
        };
        let key = format!("{}-orders-{timeline}-{number}", at(begin));
        let manifest: Manifest = serde_json::from_value(json!({
            "format": FORMAT, "name": format!("orders-{timeline}-{number}"), "uid": uid(timeline, number),
            "namespace": "shop", "statefulSetName": "orders", "lineage": contents.identity.lineage,
            "systemIdentifier": contents.identity.system_identifier, "majorVersion": 15, "segmentSize": SIZE,
            "timeline": timeline, "startLsn": from, "stopLsn": to, "startedAt": at(begin), "stoppedAt": at(stopped),
            "backupLabelSha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "dataDirectory": "/var/lib/postgresql/data/pgdata", "user": "postgres", "database": "postgres",
            "settings": {"max_connections": "100", "max_worker_processes": "8", "max_wal_senders": "10"},
            "volumes": [{
                "claim": "data-orders-0", "volume": "data", "mounts": [], "driver": "csi.example.com",
                "handle": uid(timeline, number), "capacity": 1 << 30, "volumeMode": "Filesystem",
            }],
        }))?;
        contents.backups.push((key, manifest));
    }
    Ok(())
}
