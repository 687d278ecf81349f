//! `wal fetch` on its own, as people recover by hand: nothing reads ahead, nothing watches PostgreSQL. Whatever goes wrong in
//! the middle ends the server, promotes nothing, and keeps nobody from going on once it is mended.

use std::{fs, path::PathBuf, time::Duration};

use highwater::postgres::SegmentName;

use crate::{
    calls::wait_for,
    cluster::{self, Running},
    faults::{Volume, delete},
    fixture,
    proxy::Fault,
    store::{BUCKET, Stored, middle, segment_of},
};

const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");
/// A copy that runs here beside others: it must not call the publisher.
const OPTIONS: &str =
    "-c max_prepared_transactions=5 -c wal_level=logical -c max_logical_replication_workers=0";

/// A recovery by hand from the archive in an S3 server. PostgreSQL is told what `command` makes of a fetch.
async fn by_hand(name: &str, command: &str) -> Stored {
    let stored = Stored::new(name).await;
    let state = stored.restore.root().join("state");
    fs::create_dir(&state).unwrap();
    cluster::hand_over(&state);
    configure(&stored, 3);
    let config = config(&stored);
    let fetch = format!("{HIGHWATER} wal fetch --config {} %f %p", config.display());
    stored
        .restore
        .by_hand("recovery.signal", &format!("{fetch}{command}"));
    stored
}

fn config(stored: &Stored) -> PathBuf {
    stored.restore.root().join("wal.yaml")
}

fn configure(stored: &Stored, deadline: u64) {
    let (root, port) = (stored.restore.root().display(), stored.proxy.port);
    let text = format!(
        "archive:\n  prefix: prod/\n  s3: {{bucket: {BUCKET}, endpoint: 'http://127.0.0.1:{port}', allowHttp: true}}\n\
         archiveName: shop-orders\ncredentials: {root}/credentials\nstateDirectory: {root}/state\n\
         fetchDeadlineSeconds: {deadline}\n"
    );
    fs::write(config(stored), text).unwrap();
}

/// The server ends when it asks for `segment`, with this exit code, and is not promoted.
async fn ends(stored: &Stored, segment: SegmentName, code: u8) {
    let (server, _) = Running::begin(stored.restore.pgdata(), OPTIONS);
    let ended = || {
        let log = server.log();
        assert!(!log.contains("selected new timeline ID"), "{log}");
        server.has_ended()
    };
    wait_for("end of the server", ended).await;
    let said = format!(
        "FATAL:  could not restore file \"{segment}\" from archive: child process exited with exit code {code}"
    );
    let log = server.log();
    assert!(log.contains(&said), "{log}");
    let control = stored.restore.control();
    assert!(control.contains("TimeLineID:       1"), "{control}");
    stored.restore.is_not_promoted();
    let wal = stored.restore.pgdata().join("pg_wal");
    assert!(crate::files(&wal, ".history").is_empty());
    assert!(stored.restore.pgdata().join("recovery.signal").exists());
    stored.handed_out_nothing_wrong();
}

/// Recovers the same directory to the end of the log; returns its rows.
async fn promoted(stored: &Stored) -> (i64, Option<i32>, Option<i32>) {
    let server = Running::start(stored.restore.pgdata(), OPTIONS);
    let sql = server.connect().await;
    for tries in 0.. {
        let row = sql.query_one("SELECT pg_is_in_recovery()", &[]).await;
        if !row.unwrap().get::<_, bool>(0) {
            break;
        }
        assert!(tries < 3000, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let query = "SELECT count(*), min(n), max(n) FROM ledger";
    let row = sql.query_one(query, &[]).await.unwrap();
    drop((sql, server));
    let control = stored.restore.control();
    assert!(control.contains("TimeLineID:       2"), "{control}");
    (row.get(0), row.get(1), row.get(2))
}

async fn recovers(stored: &Stored) {
    // Nothing is wrong: it may take as long as a busy machine makes it.
    configure(stored, 60);
    assert_eq!(promoted(stored).await, (5000, Some(4000), Some(8999)));
}

/// From a segment in the middle on.
async fn broken(name: &str, everything: bool, fault: Fault, code: u8) {
    let stored = by_hand(name, "").await;
    let segment = middle().await;
    let needle = segment.to_string();
    stored.proxy.break_at(&needle, everything, fault, None);
    ends(&stored, segment, code).await;
    assert!(stored.proxy.broken() > 0);
    stored.proxy.mend();
    recovers(&stored).await;
}

/// The control of the others: it is the failure that keeps it from being promoted.
#[tokio::test]
async fn without_a_failure_it_is_promoted() {
    recovers(&by_hand("a-sound", "").await).await;
}

/// And the exit code: with 1 in its place PostgreSQL would be promoted in the middle.
#[tokio::test]
async fn exit_1_in_an_outage_would_promote() {
    let stored = by_hand("a-control", " || exit 1").await;
    let needle = middle().await.to_string();
    stored
        .proxy
        .break_at(&needle, true, Fault::ServerError, None);
    assert_ne!(promoted(&stored).await.0, 5000);
}

#[tokio::test]
async fn a_gap() {
    let stored = by_hand("a-gap", "").await;
    let segment = middle().await;
    delete(&stored, &segment.to_string()).await;
    ends(&stored, segment, 201).await;
    fixture().await.archive_all(&stored.lineage()).await;
    recovers(&stored).await;
}

#[tokio::test]
async fn not_found_though_it_is_listed() {
    broken("a-404", false, Fault::NotFound, 200).await;
}

#[tokio::test]
async fn not_found_and_the_identity_object_neither() {
    broken("a-404-all", true, Fault::NotFound, 200).await;
}

#[tokio::test]
async fn server_errors() {
    broken("a-500", true, Fault::ServerError, 200).await;
}

#[tokio::test]
async fn half_a_body() {
    broken("a-half", false, Fault::Truncated, 200).await;
}

#[tokio::test]
async fn connections_reset() {
    broken("a-reset", true, Fault::Reset, 200).await;
}

#[tokio::test]
async fn another_segments_content() {
    broken("a-hash", false, Fault::OtherContent, 202).await;
}

#[tokio::test]
async fn access_denied() {
    broken("a-403", true, Fault::Denied, 200).await;
}

#[tokio::test]
async fn no_answer() {
    broken("a-silence", true, Fault::Silence, 200).await;
}

#[tokio::test]
async fn an_unknown_key_id() {
    broken("a-key", true, Fault::OtherKeyId, 200).await;
}

#[tokio::test]
async fn no_such_bucket() {
    let stored = by_hand("a-bucket", "").await;
    let segment = middle().await;
    let bring_back = stored.lose_bucket_at(segment);
    ends(&stored, segment, 200).await;
    bring_back();
    recovers(&stored).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let stored = by_hand("a-dns", "").await;
    let segment = middle().await;
    let file = config(&stored);
    let here = format!("127.0.0.1:{}", stored.proxy.port);
    let change = Box::new(move || {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&here));
        fs::write(&file, text.replace(&here, "no-such-store.invalid:9000")).unwrap();
    });
    let needle = segment.to_string();
    stored
        .proxy
        .break_at(&needle, true, Fault::Reset, Some(change));
    ends(&stored, segment, 200).await;
    stored.proxy.mend();
    recovers(&stored).await;
}

#[tokio::test]
async fn a_full_disk() {
    let mut stored = by_hand("a-disk", "").await;
    // Smaller than what is replayed.
    let volume = Volume::for_wal(&mut stored.restore, "4m");
    configure(&stored, 60);
    // Four of a megabyte fit, and each waits there for its checkpoint.
    let mut full = segment_of(fixture().await.start);
    for _ in 0..4 {
        full = full.next(cluster::SIZE);
    }
    ends(&stored, full, 204).await;
    volume.with_size("remount,size=64m");
    recovers(&stored).await;
}
