//! Recovery against a real PostgreSQL, without Kubernetes: a copy taken in backup mode, WAL in a directory archive.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod alone;
mod calls;
mod cluster;
mod drill;
mod encrypted;
mod exit_codes;
mod faults;
mod prefetch;
mod program;
mod progress;
mod proxy;
mod refusals;
mod speed;
mod standby;
mod store;
mod targets;
mod timelines;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cluster::{BACKUP, Fixture, LINEAGE, Running};
use highwater::{
    api::{PgArchiveSpec, RestorePlan, RestoreProgress},
    postgres::{Lsn, SegmentName, TimelineId},
    recovery::{
        base,
        beside::Exchange,
        fetch::{FetchConfig, MountedPaths},
        job::{self, Job, JobError},
    },
};
use serde_json::json;
use tokio::sync::{OnceCell, watch};

static FIXTURE: OnceCell<Fixture> = OnceCell::const_new();

/// Built once for all tests of this process.
async fn fixture() -> &'static Fixture {
    FIXTURE.get_or_init(Fixture::build).await
}

struct Restore {
    job: Job,
    progress: watch::Sender<RestoreProgress>,
    stop: watch::Sender<bool>,
}

/// What failed stays, to be looked at until the next run.
impl Drop for Restore {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(self.root()).unwrap();
        }
    }
}

impl Restore {
    /// Restores up to `wal_to`.
    async fn new(name: &str, wal_to: Lsn, stop_at: serde_json::Value) -> Self {
        Self::planned(name, Self::plan(wal_to, stop_at).await).await
    }

    async fn plan(wal_to: Lsn, stop_at: serde_json::Value) -> RestorePlan {
        let plan = json!({
            "summary": "", "backup": "base", "backupKey": BACKUP, "archive": "main", "archiveName": "shop-orders",
            "lineage": LINEAGE, "timeline": 1, "walFrom": fixture().await.start, "walTo": wal_to, "bytes": 1,
            "stopAt": stop_at,
        });
        serde_json::from_value(plan).unwrap()
    }

    /// Restores a fresh copy of the snapshot, from a copy of the archive.
    async fn planned(name: &str, plan: RestorePlan) -> Self {
        let fixture = fixture().await;
        let archive = Self::directory(name).await.join("archive");
        cluster::copy(&fixture.archive(), &archive);
        let mounted = MountedPaths {
            credentials: None,
            ca: None,
            decryption: None,
            directory: archive,
        };
        Self::from_archive(name, plan, &fixture.spec, mounted).await
    }

    /// Where the restore `name` has all that is its own.
    async fn directory(name: &str) -> PathBuf {
        let root = fixture().await.root.join(name);
        fs::create_dir(&root).unwrap();
        cluster::hand_over(&root);
        root
    }

    /// Restores a fresh copy of the snapshot, from this archive.
    async fn from_archive(
        name: &str,
        plan: RestorePlan,
        spec: &PgArchiveSpec,
        mounted: MountedPaths,
    ) -> Self {
        let fixture = fixture().await;
        let root = fixture.root.join(name);
        let pgdata = root.join("data");
        cluster::copy(&fixture.snapshot(), &pgdata);
        fs::write(pgdata.join("standby.signal"), "").unwrap();
        let mut base = base(spec, &mounted, &plan).await.unwrap();
        base.source.data_directory = pgdata;
        let work = root.join("run");
        let job = Job {
            restore: name.to_owned(),
            texts: base.texts,
            source: base.source,
            fetch: FetchConfig {
                archive: spec.clone(),
                mounted,
                plan,
                line: base.line,
                segment_size: base.segment_size,
                deadline_seconds: 2,
                progress: work.join("progress.json"),
                socket: Some(work.join("fetch.sock")),
            },
            work,
            verify: None,
            exchange: Exchange {
                request: root.join("check-request"),
                answer: root.join("check-answer"),
                address: [127, 0, 0, 1].into(),
            },
            program: PathBuf::from(env!("CARGO_BIN_EXE_highwater")),
        };
        let progress = serde_json::from_value(json!({"percent": "0%", "segments": 0})).unwrap();
        Self {
            job,
            progress: watch::channel(progress).0,
            stop: watch::channel(false).0,
        }
    }

    fn pgdata(&self) -> &Path {
        &self.job.source.data_directory
    }

    fn root(&self) -> &Path {
        self.pgdata().parent().unwrap()
    }

    /// Prepares the copy as people do: with a signal file, a `restore_command`, and no WAL but the archive's.
    fn by_hand(&self, signal: &str, restore_command: &str) {
        let pgdata = self.pgdata();
        for file in ["standby.signal", "postmaster.pid"] {
            fs::remove_file(pgdata.join(file)).unwrap();
        }
        for file in files(&pgdata.join("pg_wal"), "") {
            fs::remove_file(file).unwrap();
        }
        let settings = format!(
            "restore_command = '{restore_command}'\n\
             max_connections = 20\n\
             wal_retrieve_retry_interval = 100ms\n"
        );
        for (file, content) in [
            (signal, &[][..]),
            ("backup_label", &self.job.texts.backup_label),
            ("postgresql.auto.conf", settings.as_bytes()),
        ] {
            fs::write(pgdata.join(file), content).unwrap();
            cluster::hand_over(&pgdata.join(file));
        }
    }

    /// Removes the segment that holds `lsn` from the archive.
    fn lose_segment_of(&self, lsn: Lsn) -> SegmentName {
        let name = SegmentName::containing(TimelineId::FIRST, lsn, cluster::SIZE);
        let objects = files(&self.job.fetch.mounted.directory, &name.to_string());
        assert!(!objects.is_empty());
        for object in objects {
            fs::remove_file(object).unwrap();
        }
        name
    }

    /// A program for PostgreSQL to run.
    fn script(&self, name: &str, commands: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, format!("#!/bin/sh\n{commands}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn run(&self) -> Result<RestoreProgress, JobError> {
        job::run(&self.job, &self.progress, &mut self.stop.subscribe()).await
    }

    /// The rows, read by an ordinary start of the restored database, and what it says to `query`.
    async fn rows(&self) -> (i64, Option<i32>, Option<i32>) {
        let running = self.started();
        let row = running
            .connect()
            .await
            .query_one("SELECT count(*), min(n), max(n) FROM ledger", &[])
            .await
            .unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    fn started(&self) -> Running {
        Running::start(
            self.pgdata(),
            "-c max_prepared_transactions=5 -c wal_level=logical -c listen_addresses=''",
        )
    }

    fn is_not_promoted(&self) {
        let control = self.control();
        assert!(
            !control.contains("in production") && !control.contains("TimeLineID:       2"),
            "{control}"
        );
    }

    fn control(&self) -> String {
        let output = cluster::run("pg_controldata", &["-D", &self.pgdata().to_string_lossy()]);
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test]
async fn latest_brings_everything_and_acts_as_nobody() {
    let restore = Restore::new("latest", fixture().await.end, json!(null)).await;
    let result = restore.run().await.unwrap();
    assert_eq!(result.new_timeline.map(TimelineId::get), Some(2));
    assert_eq!(result.end_lsn, Some(fixture().await.end));
    assert_eq!(result.disabled_subscriptions, ["postgres/feed"]);
    assert_eq!(result.dropped_slots, ["audit", "standby_1"]);
    assert!(result.replay_seconds < Some(45.0), "{result:?}");
    assert!(
        restore.control().contains("shut down\n"),
        "{}",
        restore.control()
    );
    for gone in [
        "standby.signal",
        "recovery.signal",
        "backup_label",
        "backup_label.old",
        "postmaster.pid",
        "postmaster.opts",
        // What the user's commands would have made.
        "archive_command.called",
        "archive_cleanup_command.called",
        "recovery_end_command.called",
    ] {
        assert!(!restore.pgdata().join(gone).exists(), "{gone}");
    }
    let running = restore.started();
    let sql = running.connect().await;
    let one = async |query: &str| -> i64 { sql.query_one(query, &[]).await.unwrap().get(0) };
    assert_eq!(one("SELECT count(*) FROM ledger").await, 5000);
    assert_eq!(one("SELECT count(*) FROM pg_prepared_xacts").await, 1);
    assert_eq!(one("SELECT count(*) FROM pg_replication_slots").await, 0);
    assert_eq!(
        one("SELECT count(*) FROM pg_subscription WHERE subenabled").await,
        0
    );
    // The user's own command does run where nothing forbids it.
    sql.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    let called = restore.pgdata().join("archive_command.called");
    calls::wait_for("archived segment", || called.exists()).await;
    // A second run only says again what the first one said.
    drop(running);
    assert_eq!(restore.run().await.unwrap(), result);
}

#[tokio::test]
async fn a_time_stops_between_two_commits() {
    let (at, _) = fixture().await.before_drop;
    let end = fixture().await.end;
    let restore = Restore::new("time", end, json!({"time": at, "inclusive": true})).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await, (4000, Some(0), Some(3999)));
}

#[tokio::test]
async fn nothing_beyond_the_plans_end_is_replayed() {
    let (_, lsn) = fixture().await.before_drop;
    let restore = Restore::new("pinned", lsn, json!(null)).await;
    let result = restore.run().await.unwrap();
    assert_eq!(result.end_lsn, Some(lsn));
    assert_eq!(restore.rows().await, (4000, Some(0), Some(3999)));
}

#[tokio::test]
async fn a_gap_ends_recovery_loudly_and_nothing_is_promoted() {
    let end = fixture().await.end;
    let restore = Restore::new("gap", end, json!(null)).await;
    let (_, lsn) = fixture().await.before_drop;
    let missing = restore.lose_segment_of(lsn);
    let error = restore.run().await.unwrap_err();
    assert_eq!(error.reason(), "Gap", "{error}");
    assert!(error.to_string().contains(&missing.to_string()), "{error}");
    restore.is_not_promoted();
    // The archive is whole again: the same directory goes on.
    cluster::copy(
        &fixture().await.archive().join("shop-orders"),
        &restore.job.fetch.mounted.directory,
    );
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}

#[tokio::test]
async fn killed_while_postgresql_replays_it_goes_on() {
    let end = fixture().await.end;
    let restore = Restore::new("killed", end, json!(null)).await;
    for tries in 1..=2 {
        let seen = restore.progress.subscribe();
        let replays = async {
            // Some WAL of this try was handed out.
            let path = &restore.job.fetch.progress;
            while !fs::read_to_string(path).is_ok_and(|text| text.contains("\"reached\":\"")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(seen);
        };
        // Dropping it kills PostgreSQL with -9.
        tokio::select! {
            biased;
            () = replays => {}
            outcome = restore.run() => panic!("try {tries} ended first: {outcome:?}"),
        }
        wait_until_gone(restore.pgdata()).await;
    }
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}

#[tokio::test]
async fn told_to_stop_it_stops_postgresql_and_can_go_on() {
    let end = fixture().await.end;
    let restore = Restore::new("stopped", end, json!(null)).await;
    restore.stop.send_replace(true);
    let error = restore.run().await.unwrap_err();
    assert!(matches!(error, JobError::Terminated), "{error}");
    restore.stop.send_replace(false);
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}

/// Every file whose path holds `name`.
fn files(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path, name),
            false => vec![path],
        })
        .filter(|path| path.to_string_lossy().contains(name))
        .collect()
}

/// PostgreSQL's children notice that their parent is gone and end by themselves.
async fn wait_until_gone(pgdata: &Path) {
    let held = || {
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == pgdata))
    };
    for _ in 0..6000 {
        if !held() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("PostgreSQL still runs in {}", pgdata.display());
}
