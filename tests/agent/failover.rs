//! A failover: shipping goes on from the new primary where that of the old one ended, over the switch of timelines, and
//! takes from the old one what nobody else has.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use highwater::{
    agent::{
        goes_on,
        wal::{GapCause, Notice, Path, Source, ancestors},
    },
    archive::Lineage,
    postgres::{Lsn, SegmentName, TimelineId, server, slot, wal_reader},
};

use crate::{
    database::{Database, PASSWORD},
    running::{
        Bucket, LIMIT, Running, SLOT, archive_in, flushed, lineage_id, members, server_of,
        verified, write,
    },
};

const NEVER: Duration = Duration::from_secs(3600);
/// So many segments the old primary writes that nobody ships.
const UNSHIPPED: u32 = 6;

fn second() -> TimelineId {
    TimelineId::new(2).unwrap()
}

/// An old primary that still runs, and a new one.
struct Failover {
    old: Database,
    new: Database,
    /// Where the new one's timeline begins.
    fork: Lsn,
    /// Where the new one's log ends.
    end: Lsn,
    /// Where the whole segments end that the old one has shipped, on the way to the new one.
    archived: Lsn,
    /// What the old one has shipped.
    bucket: Bucket,
}

impl Failover {
    /// The new primary has all that the old one wrote; the archive has not.
    async fn with_unshipped_wal() -> Self {
        let (old, bucket) = shipped().await;
        write(&old, UNSHIPPED).await;
        old.stop("fast");
        let new = standby(&old);
        old.boot();
        Self::promote(old, new, bucket).await
    }

    /// The archive has all that the old primary wrote; the new one has not.
    async fn of_a_standby_that_lags() -> Self {
        let (old, bucket) = shipped().await;
        old.stop("fast");
        let new = standby(&old);
        old.boot();
        write(&old, 3).await;
        ship_old(&old, &bucket).await;
        Self::promote(old, new, bucket).await
    }

    async fn promote(old: Database, new: Database, bucket: Bucket) -> Self {
        new.boot();
        new.allow_replication().await;
        new.sql("SELECT pg_promote()").await;
        // Nothing of what the old one writes now belongs to the new one's history.
        write(&old, 2).await;
        write(&new, 2).await;
        let client = new.client().await;
        let facts = server::facts(&client).await.unwrap();
        let text = wal_reader::history_file(&client, second()).await.unwrap();
        let path = Path {
            timeline: facts.timeline,
            ancestors: ancestors(second(), &text.unwrap()).unwrap(),
        };
        let lineage = bucket.archive.lineage(lineage_id());
        // It goes on with the lineage.
        let decided = goes_on(&client, &facts, &path, &lineage).await.unwrap();
        Self {
            end: flushed(&new).await,
            old,
            new,
            fork: path.ancestors[0].1,
            archived: decided.unwrap().unwrap(),
            bucket,
        }
    }

    /// A bucket with what the old primary has shipped, and its lineage.
    fn bucket(&self) -> (Bucket, Lineage) {
        let directory = tempfile::tempdir().unwrap();
        let from = self.bucket.directory.path().join(".");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&from, directory.path()])
            .status();
        assert!(copied.unwrap().success());
        let archive = archive_in(directory.path(), &[]);
        let lineage = archive.lineage(lineage_id());
        (Bucket { directory, archive }, lineage)
    }

    /// A shipper of the new primary, which has no slot yet.
    async fn start(&self, source: Source, others: &[&Database], lineage: &Lineage) -> Running {
        let client = self.new.client().await;
        slot::drop(&client, SLOT).await.unwrap();
        let facts = server::facts(&client).await.unwrap();
        let options = self.new.login("postgres", Some(PASSWORD));
        Running::start_all(source, facts, members(others), &options, lineage, NEVER).await
    }

    /// Ships all of the new primary's log, and returns what was told.
    async fn ship(
        &self,
        source: Source,
        others: &[&Database],
        lineage: &Lineage,
    ) -> Option<Notice> {
        let mut shipper = self.start(source, others, lineage).await;
        shipper.ship(self.end).await;
        let told = shipper.notices.try_recv().ok();
        shipper.end().await.unwrap();
        told
    }

    /// Every byte is there: up to the fork the old primary's, behind it the new one's; and nobody doubts it.
    async fn is_archived(&self, bucket: &Bucket, lineage: &Lineage) {
        let size = self.new.segment_size;
        let contents = lineage.contents().await.unwrap();
        let ranges = contents.ranges(second());
        assert_eq!(ranges.len(), 1, "holes: {ranges:?}");
        assert!(
            ranges.range(0)[0].from < self.archived
                && ranges.range(0).last().unwrap().to >= self.end
        );
        for piece in ranges.range(0) {
            let name = SegmentName::containing(piece.timeline, piece.from, size);
            let wrote = match piece.timeline == second() {
                true => &self.new,
                false => &self.old,
            };
            let (ours, theirs) = (
                lineage.fetch_segment(name, size, piece.to).await.unwrap(),
                wrote.segment(name),
            );
            let valid = usize::try_from(piece.to.bytes_since(piece.from)).unwrap();
            assert!(ours[..valid] == theirs[..valid], "{name} differs");
        }
        // The segment that holds the fork begins as the old one's does.
        let [old, new] =
            [TimelineId::FIRST, second()].map(|id| SegmentName::containing(id, self.fork, size));
        let begins = usize::try_from(size.offset(self.fork)).unwrap();
        let archived = lineage.fetch_segment(new, size, new.end(size)).await;
        assert!(archived.unwrap()[..begins] == self.old.segment(old)[..begins]);
        verified(lineage).await;
        history_came_first(bucket);
    }

    /// Nothing of the first timeline is left on the new primary that the old one has not shipped.
    fn remove_unshipped(&self) {
        let size = self.new.segment_size;
        let mut removed = 0;
        for entry in fs::read_dir(self.new.wal()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().parse::<SegmentName>();
            let is_unshipped = |name: &SegmentName| {
                name.timeline() == TimelineId::FIRST && name.start(size) >= self.archived
            };
            if name.is_ok_and(|name| is_unshipped(&name)) {
                fs::remove_file(entry.path()).unwrap();
                removed += 1;
            }
        }
        assert!(removed >= UNSHIPPED, "{removed}");
    }

    /// Where the segment begins that holds the fork.
    fn fork_segment(&self) -> Lsn {
        Lsn::new(self.fork.get() - self.new.segment_size.offset(self.fork))
    }

    /// The history goes first: where another lies under its name, nothing else goes.
    async fn is_refused_beside_another_history(&self, source: Source) {
        let (_bucket, lineage) = self.bucket();
        let other = format!("1\t{}\tno recovery target specified\n", self.archived);
        lineage.push_history(second(), other.into()).await.unwrap();
        let before = lineage.contents().await.unwrap();
        let shipper = self.start(source, &[&self.old], &lineage).await;
        let ended = tokio::time::timeout(LIMIT, shipper.task).await.unwrap();
        let error = ended.unwrap().unwrap_err();
        assert!(error.is_conflict(), "{error}");
        let after = lineage.contents().await.unwrap();
        assert_eq!(before.segments, after.segments);
        assert_eq!(before.tails, after.tails);
    }
}

/// A primary that has shipped what it wrote so far.
async fn shipped() -> (Database, Bucket) {
    let (old, bucket) = (Database::start(1, "wal_keep_size = '1GB'"), Bucket::new());
    let facts = server::facts(&old.client().await).await.unwrap();
    bucket.lineage(&facts).await;
    slot::create(&old.client().await, SLOT).await.unwrap();
    write(&old, 3).await;
    ship_old(&old, &bucket).await;
    (old, bucket)
}

async fn ship_old(old: &Database, bucket: &Bucket) {
    let lineage = bucket.archive.lineage(lineage_id());
    let mut shipper = Running::start(old, &lineage, NEVER).await;
    shipper.ship(flushed(old).await).await;
    shipper.end().await.unwrap();
}

/// A standby that has replayed all that the stopped `primary` wrote.
fn standby(primary: &Database) -> Database {
    let standby = primary.copy("restore_command = 'false'");
    // A base backup leaves slots out.
    fs::remove_dir_all(standby.data().join("pg_replslot").join(SLOT)).unwrap();
    standby.append("standby.signal", "");
    standby
}

/// Of the second timeline's objects the history was put first.
fn history_came_first(bucket: &Bucket) {
    let put: Vec<(PathBuf, SystemTime)> = files(bucket.directory.path())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/00000002"))
        .map(|path| {
            (
                path.clone(),
                fs::metadata(path).unwrap().modified().unwrap(),
            )
        })
        .collect();
    let is_history = |path: &PathBuf| path.ends_with("history/00000002.history");
    let history = put.iter().find(|(path, _)| is_history(path)).unwrap().1;
    let others = put.iter().filter(|(path, _)| !is_history(path));
    let first = others.min_by_key(|(_, at)| *at).unwrap();
    assert!(
        history <= first.1,
        "{} was put before it",
        first.0.display()
    );
}

fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let below = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    };
    entries.flat_map(|entry| below(entry.path())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sql_shipping_goes_on_over_a_failover() {
    goes_on_over_a_failover(async |_| Source::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_over_a_failover() {
    goes_on_over_a_failover(async |new| Source::streaming(server_of(new).await, false)).await;
}

async fn goes_on_over_a_failover(source: impl AsyncFn(&Database) -> Source) {
    let failover = Failover::with_unshipped_wal().await;
    let Failover { old, new, .. } = &failover;
    let (bucket, lineage) = failover.bucket();
    let told = failover.ship(source(new).await, &[], &lineage).await;
    assert_eq!(told, None, "the new primary has all of it");
    failover.is_archived(&bucket, &lineage).await;

    failover.remove_unshipped();
    let (bucket, lineage) = failover.bucket();
    let told = failover.ship(source(new).await, &[old], &lineage).await;
    assert_eq!(told, None, "the old primary still has it");
    failover.is_archived(&bucket, &lineage).await;
    let contents = lineage.contents().await.unwrap();
    let size = new.segment_size;
    let mut of_first = contents.segments.keys();
    assert!(
        of_first.all(|name| name.timeline() == second() || name.end(size) <= failover.fork),
        "what the old primary wrote behind the fork was taken from it: {contents:?}"
    );

    let (_bucket, lineage) = failover.bucket();
    let told = failover.ship(source(new).await, &[], &lineage).await;
    let gap = Notice::Gap {
        from: failover.archived,
        to: failover.fork_segment(),
        cause: GapCause::Removed,
    };
    assert_eq!(told, Some(gap), "nobody has it");
    let contents = lineage.contents().await.unwrap();
    let missing = contents.first_missing(second(), failover.archived, failover.end);
    // The old primary's last tail is of the first segment that is missing.
    let first = failover.archived.advance(size.get());
    assert!(
        missing >= Some(failover.archived) && missing < Some(first),
        "{missing:?}"
    );

    failover
        .is_refused_beside_another_history(source(new).await)
        .await;
}

/// What the old primary had shipped and the new one never got stays, as a branch that ends.
#[tokio::test(flavor = "multi_thread")]
async fn shipping_goes_on_from_a_standby_that_lagged_behind_the_archive() {
    let failover = Failover::of_a_standby_that_lags().await;
    let of_first = async |lineage: &Lineage| {
        let mut segments = lineage.contents().await.unwrap().segments;
        segments.retain(|name, _| name.timeline() == TimelineId::FIRST);
        segments
    };
    for by_stream in [false, true] {
        let source = match by_stream {
            true => Source::streaming(server_of(&failover.new).await, false),
            false => Source::Sql,
        };
        let (bucket, lineage) = failover.bucket();
        let before = of_first(&lineage).await;
        let size = failover.new.segment_size;
        let behind = before
            .keys()
            .filter(|name| name.start(size) > failover.fork);
        assert!(behind.count() >= 2, "{before:?}");
        let told = failover.ship(source, &[], &lineage).await;
        assert_eq!(told, None);
        failover.is_archived(&bucket, &lineage).await;
        assert_eq!(of_first(&lineage).await, before);
    }
}
