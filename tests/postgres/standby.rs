//! Backup mode on a standby that streams from a primary.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use highwater::postgres::{
    BackupFrom, BackupLabel, ClusterState, ControlFile, Lsn, TimelineId,
    backup_mode::{self, Stopped},
    session::Client,
    standby, wal_reader,
};

use crate::database::{Database, PASSWORD};

const LIMIT: Duration = Duration::from_secs(30);

/// A primary and a standby that streams from it.
struct Pair {
    primary: Database,
    standby: Database,
}

impl Pair {
    async fn start() -> Self {
        let primary = Database::start(1, "wal_keep_size = '256MB'");
        primary.allow_replication().await;
        primary
            .sql("CREATE TABLE public.ledger (id int PRIMARY KEY, filler text)")
            .await;
        primary.stop("fast");
        let port = primary.login("postgres", None).port;
        let from = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres password=''{PASSWORD}'''"
        );
        let standby = primary.copy(&from);
        standby.append("standby.signal", "");
        primary.boot();
        standby.boot();
        let pair = Self { primary, standby };
        let client = pair.standby.client().await;
        let follows = async || standby::streams(&client).await.unwrap() == Some(TimelineId::FIRST);
        until("the standby streams", follows).await;
        pair
    }

    /// Until the standby has replayed what the primary has flushed.
    async fn replayed(&self, primary: &Client, standby: &Client) {
        let flushed = wal_reader::flush_position(primary).await.unwrap().lsn;
        let there = async || wal_reader::end(standby).await.unwrap().lsn >= flushed;
        until("the standby replays", there).await;
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn insert(client: &Client, from: i32, to: i32) {
    let rows = format!(
        "INSERT INTO public.ledger SELECT n, repeat('x', 500) FROM generate_series({from}, {to}) AS n"
    );
    client.batch_execute(&rows).await.unwrap();
}

fn control(data: &Path) -> ControlFile {
    ControlFile::parse(&fs::read(data.join("global/pg_control")).unwrap()).unwrap()
}

/// As a tool does it: a file that goes meanwhile is none of the backup.
fn copy(from: &Path, to: &Path) {
    Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .output()
        .unwrap();
}

/// Everything but pg_control, and that last, with changes between.
async fn snapshot(pair: &Pair, primary: &Client, standby: &Client) -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("highwater-postgres-")
        .tempdir()
        .unwrap();
    let (from, to) = (pair.standby.data(), directory.path().join("data"));
    copy(&from, directory.path());
    insert(primary, 2001, 3000).await;
    pair.replayed(primary, standby).await;
    let control = "global/pg_control";
    fs::remove_file(to.join(control)).unwrap();
    copy(&from.join(control), &to.join(control));
    directory
}

/// What the copy holds when PostgreSQL has recovered it up to the backup's end.
async fn recovered(pair: &Pair, directory: tempfile::TempDir, stopped: &Stopped) -> i64 {
    let data = directory.path().join("data");
    for gone in ["standby.signal", "postmaster.pid", "pg_wal"] {
        fs::remove_file(data.join(gone)).unwrap();
    }
    let owner = fs::metadata(&data).unwrap();
    fs::create_dir(data.join("pg_wal")).unwrap();
    chown(data.join("pg_wal"), Some(owner.uid()), Some(owner.gid())).unwrap();
    let copied = Database::at(directory, pair.primary.segment_size);
    copied.write(&data.join("backup_label"), stopped.label.as_bytes());
    copied.append("recovery.signal", "");
    let settings = format!(
        "primary_conninfo = ''\nrestore_command = 'cp {}/%f %p'\nrecovery_target_lsn = '{}'\n\
         recovery_target_action = 'promote'",
        pair.primary.wal().display(),
        stopped.stop_lsn
    );
    copied.append("postgresql.conf", &settings);
    copied.boot();
    let client = copied.client().await;
    let writes = async || !wal_reader::end(&client).await.unwrap().in_recovery;
    until("the copy is promoted", writes).await;
    let count = client
        .query_one("SELECT count(*) FROM public.ledger", &[])
        .await;
    count.unwrap().get(0)
}

#[tokio::test]
async fn a_backup_of_a_standby_lies_within_one_of_its_primary() {
    let pair = Pair::start().await;
    let (primary, own) = (pair.primary.client().await, pair.standby.client().await);
    assert_eq!(standby::streams(&primary).await.unwrap(), None);
    assert_eq!(standby::minimum_timeline(&primary).await.unwrap(), None);
    insert(&primary, 1, 1000).await;

    let around = backup_mode::start(&primary, "around", true).await.unwrap();
    pair.replayed(&primary, &own).await;
    let began = backup_mode::start(&own, "of the standby", true)
        .await
        .unwrap();
    assert!(began.start_lsn >= around.start_lsn, "{began:?} {around:?}");
    assert_eq!(
        (began.timeline, around.timeline),
        (TimelineId::FIRST, TimelineId::FIRST)
    );
    insert(&primary, 1001, 2000).await;
    pair.replayed(&primary, &own).await;
    // Pages are written, and pg_control says how much must be replayed for them.
    own.batch_execute("CHECKPOINT").await.unwrap();
    let directory = snapshot(&pair, &primary, &own).await;
    let found = control(&directory.path().join("data"));
    insert(&primary, 3001, 4000).await;
    pair.replayed(&primary, &own).await;

    let stopped = backup_mode::stop(&own).await.unwrap();
    let minimum = standby::minimum_timeline(&own).await.unwrap();
    assert_eq!(minimum, Some(TimelineId::FIRST));
    let ended = backup_mode::stop(&primary).await.unwrap();
    assert!(stopped.stop_lsn < ended.stop_lsn, "{stopped:?} {ended:?}");
    let label = BackupLabel::parse(&stopped.label).unwrap();
    assert_eq!(label.from, BackupFrom::Standby);
    assert_eq!(
        (label.start_lsn, label.start_timeline),
        (began.start_lsn, began.timeline)
    );
    assert_eq!(found.state, ClusterState::InArchiveRecovery);
    assert!(found.checkpoint >= label.checkpoint_lsn && found.checkpoint < stopped.stop_lsn);
    assert!(found.min_recovery_point <= stopped.stop_lsn, "{found:?}");
    // The segment that the standby's end lies in is complete: the primary's end has switched it.
    let end = wal_reader::flush_position(&primary).await.unwrap().lsn;
    let segment = |lsn: Lsn| lsn.get() / pair.primary.segment_size.get();
    assert!(
        segment(end) > segment(stopped.stop_lsn),
        "{end} {}",
        stopped.stop_lsn
    );

    let rows = recovered(&pair, directory, &stopped).await;
    assert!((2000..=4000).contains(&rows), "{rows} rows");
}

#[tokio::test]
async fn a_standby_that_is_promoted_does_not_end_its_backup() {
    let pair = Pair::start().await;
    let own = pair.standby.client().await;
    let old = backup_mode::start(&own, "of the standby", true)
        .await
        .unwrap();
    assert_eq!(old.timeline, TimelineId::FIRST);
    assert!(wal_reader::end(&own).await.unwrap().in_recovery);
    own.batch_execute("SELECT pg_promote()").await.unwrap();
    let error = backup_mode::stop(&own).await.unwrap_err();
    assert!(!error.is_session_lost(), "{error}");
    assert!(
        error.to_string().contains("promoted during online backup"),
        "{error}"
    );
    assert!(!wal_reader::end(&own).await.unwrap().in_recovery);
    // As a primary it begins one like any other.
    let again = backup_mode::start(&own, "of the primary", true)
        .await
        .unwrap();
    assert_eq!(again.timeline.get(), 2);
    backup_mode::stop(&own).await.unwrap();
}
