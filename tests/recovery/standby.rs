//! `wal fetch` under a standby: more than 125 would kill it, so a failure is exit 1, and it asks again.

use std::fs;

use highwater::{postgres::Lsn, recovery::fetch::FetchConfig};

use crate::{
    calls::wait_for,
    cluster::{self, Running},
    fixture,
    proxy::Fault,
    store::{Stored, middle},
};

const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

/// A standby on the snapshot whose only source of WAL is the archive.
fn start(stored: &Stored) -> Running {
    let (restore, pgdata) = (&stored.restore, stored.restore.pgdata());
    let config = restore.root().join("fetch.json");
    let fetch = FetchConfig {
        deadline_seconds: 1,
        progress: pgdata.parent().unwrap().join("progress.json"),
        socket: None,
        ..restore.job.fetch.clone()
    };
    fs::write(&config, serde_json::to_vec(&fetch).unwrap()).unwrap();
    cluster::hand_over(&config);
    fs::remove_file(pgdata.join("postmaster.pid")).unwrap();
    let label = pgdata.join("backup_label");
    fs::write(&label, &restore.job.texts.backup_label).unwrap();
    cluster::hand_over(&label);
    let settings = format!(
        "restore_command = '{HIGHWATER} wal fetch --config {} %f %p'\n\
         max_connections = 20\n\
         wal_retrieve_retry_interval = 100ms\n",
        config.display()
    );
    fs::write(pgdata.join("postgresql.auto.conf"), settings).unwrap();
    Running::start(
        pgdata,
        "-c max_prepared_transactions=5 -c wal_level=logical",
    )
}

async fn replayed(running: &Running) -> (bool, Lsn) {
    let query = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text";
    let row = running.connect().await.query_one(query, &[]).await.unwrap();
    (row.get(0), row.get::<_, String>(1).parse().unwrap())
}

async fn survives(name: &str, everything: bool, fault: Fault) {
    let stored = Stored::new(name).await;
    let segment = middle().await;
    let needle = segment.to_string();
    stored.proxy.break_at(&needle, everything, fault, None);
    let running = start(&stored);
    // It is refused, and asks again and again.
    let once = stored.proxy.broken();
    let often = || stored.proxy.broken() > once + 20;
    wait_for("further question of the standby", often).await;
    let (in_recovery, lsn) = replayed(&running).await;
    assert!(in_recovery && lsn <= segment.start(cluster::SIZE), "{lsn}");
    stored.proxy.mend();
    let end = fixture().await.end;
    for tries in 0.. {
        let (in_recovery, lsn) = replayed(&running).await;
        assert!(in_recovery && tries < 1000, "{lsn}");
        if lsn >= end {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let sql = running.connect().await;
    let row = sql.query_one("SELECT count(*) FROM ledger", &[]).await;
    assert_eq!(row.unwrap().get::<_, i64>(0), 5000);
}

#[tokio::test]
async fn a_standby_survives_server_errors() {
    survives("s-500", true, Fault::ServerError).await;
}

#[tokio::test]
async fn a_standby_survives_resets() {
    survives("s-reset", true, Fault::Reset).await;
}

#[tokio::test]
async fn a_standby_survives_a_gap() {
    survives("s-gap", false, Fault::NotFound).await;
}

#[tokio::test]
async fn a_standby_survives_another_segments_content() {
    survives("s-hash", false, Fault::OtherContent).await;
}
