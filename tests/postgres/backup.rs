//! Facts, slots, reading WAL, backup mode.

use std::{
    fs,
    time::{Duration, Instant},
};

use highwater::postgres::{
    BackupFrom, BackupLabel, ClusterState, ControlFile, Lsn, SegmentName, TablespaceMap,
    TimelineId, backup_mode,
    server::{self, RECORDED_SETTINGS},
    session::{Client, connect},
    slot::{self, WalStatus},
    wal_reader::{self, WalReadError},
};

use crate::database::{Database, PASSWORD, programs::major, run};

#[tokio::test]
async fn facts_are_those_of_the_control_file() {
    let database = Database::start(16, "max_connections = 37");
    let (tablespace, own) = (database.directory().join("space"), database.client().await);
    let make = run(
        "pg_ctl",
        &["initdb", "-D", tablespace.to_str().unwrap()],
        database.directory(),
    );
    assert!(make.status.success());
    for entry in fs::read_dir(&tablespace).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        }
        .unwrap();
    }
    let create = format!(
        "CREATE TABLESPACE \"My space\" LOCATION '{}'",
        tablespace.display()
    );
    own.batch_execute(&create).await.unwrap();
    let facts = server::facts(&own).await.unwrap();
    let read = || {
        ControlFile::parse(&fs::read(database.data().join("global/pg_control")).unwrap()).unwrap()
    };
    let control = read();
    assert_eq!(facts.system_identifier, control.system_identifier);
    assert_eq!((facts.major, control.major), (major(), major()));
    assert_eq!(
        (facts.timeline, control.checkpoint_timeline),
        (TimelineId::FIRST, TimelineId::FIRST)
    );
    assert_eq!(
        (facts.segment_size, control.segment_size),
        (database.segment_size, database.segment_size)
    );
    assert!(facts.data_checksums && control.data_checksums && !facts.in_recovery);
    assert_eq!(facts.data_directory, database.data());
    assert_eq!(facts.tablespaces.len(), 1);
    assert_eq!(
        (
            facts.tablespaces[0].name.as_str(),
            &facts.tablespaces[0].location
        ),
        ("My space", &tablespace)
    );
    assert_eq!(facts.settings["max_connections"], "37");
    let later = ["idle_replication_slot_timeout"].map(|name| (name, 18));
    for name in RECORDED_SETTINGS {
        let is_there = later
            .iter()
            .all(|(known, since)| *known != name || facts.major >= *since);
        assert_eq!(facts.settings.contains_key(name), is_there, "{name}");
    }
    backup_mode_gives_label_and_map(&own, facts.tablespaces[0].oid).await;

    assert_eq!(control.state, ClusterState::InProduction);
    database.stop("fast");
    let stopped = read();
    assert_eq!(stopped.state, ClusterState::ShutDown);
    let said = run("pg_controldata", &["data"], database.directory());
    let said = String::from_utf8(said.stdout).unwrap();
    let line = |key: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        line("Latest checkpoint location:"),
        stopped.checkpoint.to_string()
    );
    assert_eq!(
        line("Latest checkpoint's REDO location:"),
        stopped.redo.to_string()
    );
    assert_eq!(
        line("Database system identifier:"),
        stopped.system_identifier.to_string()
    );
    // Nothing in the log after the shutdown checkpoint, which an older pg_wal would link to.
    database.boot();
}

async fn backup_mode_gives_label_and_map(client: &Client, oid: u32) {
    let started = backup_mode::start(client, "orders: first", true)
        .await
        .unwrap();
    let again = backup_mode::start(client, "second", true)
        .await
        .unwrap_err();
    assert_eq!(again.reason(), "QueryFailed");
    let stopped = backup_mode::stop(client).await.unwrap();
    let label = BackupLabel::parse(&stopped.label).unwrap();
    assert_eq!(
        (label.start_lsn, label.start_timeline),
        (started.start_lsn, started.timeline)
    );
    assert_eq!(
        (label.from, label.label.as_str()),
        (BackupFrom::Primary, "orders: first")
    );
    assert!(stopped.stop_lsn > started.start_lsn && stopped.at >= started.at);
    let map = TablespaceMap::parse(&stopped.tablespace_map).unwrap();
    assert_eq!(
        map.tablespaces
            .iter()
            .map(|space| space.oid)
            .collect::<Vec<_>>(),
        [oid]
    );
    assert_eq!(
        backup_mode::stop(client).await.unwrap_err().reason(),
        "QueryFailed"
    );
}

#[tokio::test]
async fn timeouts_do_not_end_backup_mode_but_a_lost_session_does() {
    let database = Database::start(16, "");
    let (name, timeouts) = ("impatient", "idle_session_timeout = '200ms'");
    database
        .sql(&format!(
            "CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'p'; ALTER ROLE {name} SET {timeouts}; \
             ALTER ROLE {name} SET statement_timeout = '200ms'; ALTER ROLE {name} SET lock_timeout = '1ms'"
        ))
        .await;
    let session = connect(&database.login(name, Some("p"))).await.unwrap();
    // The negative control: the same role, with its own timeouts set again.
    let control = connect(&database.login(name, Some("p"))).await.unwrap();
    control
        .batch_execute(&format!("SET {timeouts}"))
        .await
        .unwrap();
    backup_mode::start(&session, "patient", false)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), control.ended())
        .await
        .unwrap();
    assert!(control.ping().await.unwrap_err().is_session_lost());
    session.batch_execute("SELECT pg_sleep(0.3)").await.unwrap();
    backup_mode::stop(&session).await.unwrap();

    backup_mode::start(&session, "killed", true).await.unwrap();
    database
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'impatient'")
        .await;
    tokio::time::timeout(Duration::from_secs(10), session.ended())
        .await
        .unwrap();
    assert!(
        backup_mode::stop(&session)
            .await
            .unwrap_err()
            .is_session_lost()
    );

    let session = connect(&database.login(name, Some("p"))).await.unwrap();
    backup_mode::start(&session, "crashed", true).await.unwrap();
    database.stop("immediate");
    assert!(
        backup_mode::stop(&session)
            .await
            .unwrap_err()
            .is_session_lost()
    );
    database.boot();
}

/// With the kernel's own patience a session whose client's node is lost would stay in backup mode for hours, and one that
/// waits for a checkpoint for as long as that takes.
#[tokio::test]
async fn the_server_sees_that_its_client_is_gone() {
    let database = Database::start(16, "");
    let client = database.client().await;
    for (setting, expected) in [
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "25000"),
        ("client_connection_check_interval", "5s"),
    ] {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).await;
        assert_eq!(row.unwrap().get::<_, &str>(0), expected, "{setting}");
    }
    let calls = ["ours", "control"].map(|name| {
        let mut options = database.login("postgres", Some(PASSWORD));
        options.application = name;
        tokio::spawn(async move {
            let session = connect(&options).await.unwrap();
            if name == "control" {
                let unset = "SET client_connection_check_interval = 0";
                session.batch_execute(unset).await.unwrap();
            }
            session.batch_execute("SELECT pg_sleep(600)").await.unwrap();
        })
    });
    let count = async |name: &str| -> i64 {
        let ask = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE '%pg_sleep%'";
        client.query_one(ask, &[&name]).await.unwrap().get(0)
    };
    let until = async |name: &str, wanted: i64| {
        let begin = Instant::now();
        while count(name).await != wanted {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{name}: not {wanted}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for name in ["ours", "control"] {
        until(name, 1).await;
    }
    for call in calls {
        call.abort();
    }
    until("ours", 0).await;
    assert_eq!(count("control").await, 1);
}

#[tokio::test]
async fn a_slot_keeps_wal_until_it_is_moved() {
    let database = Database::start(
        1,
        "min_wal_size = '5MB'\nmax_wal_size = '5MB'\nwal_recycle = on",
    );
    let client = database.client().await;
    assert_eq!(slot::find(&client, "ours").await.unwrap(), None);
    let made = slot::create(&client, "ours").await.unwrap();
    assert_eq!(slot::create(&client, "ours").await.unwrap(), made);
    assert_eq!((made.wal_status, made.active), (WalStatus::Reserved, false));
    let from = made.restart_lsn.expect("reserved at once");

    let size = database.segment_size;
    let first = SegmentName::containing(TimelineId::FIRST, from, size);
    let start = first.start(size);
    fill(&client, 6).await;
    let position = wal_reader::flush_position(&client).await.unwrap();
    assert_eq!(position.timeline, TimelineId::FIRST);
    assert!(position.lsn >= start.advance(5 << 20), "{}", position.lsn);

    let whole = wal_reader::read(&client, first, size, 0, 1 << 20)
        .await
        .unwrap();
    assert_eq!(whole, database.segment(first));
    for (offset, length) in [
        (0, 100),
        (100, 20_000),
        (8192, 8192),
        (16_383, 2),
        ((1 << 20) - 3, 10),
    ] {
        let part = wal_reader::read(&client, first, size, offset, length)
            .await
            .unwrap();
        let end = (offset + length).min(1 << 20) as usize;
        assert_eq!(part, whole[offset as usize..end], "{offset}");
    }
    let at = slot::advance(&client, "ours", position.lsn).await.unwrap();
    assert_eq!(at, position.lsn);
    assert_eq!(
        slot::advance(&client, "ours", from).await.unwrap(),
        at,
        "it never moves back"
    );
    fill(&client, 3).await;
    let gone = wal_reader::read(&client, first, size, 0, 100)
        .await
        .unwrap_err();
    assert!(
        matches!(gone, WalReadError::Removed(name) if name == first),
        "{gone}"
    );
    a_recycled_file_is_not_taken_for_wal(&client, &database).await;
    assert_eq!(
        wal_reader::history_file(&client, TimelineId::FIRST)
            .await
            .unwrap(),
        None
    );
    assert!(slot::drop(&client, "ours").await.unwrap());
    assert!(!slot::drop(&client, "ours").await.unwrap());
    assert!(
        slot::advance(&client, "ours", at)
            .await
            .unwrap_err()
            .to_string()
            .contains("does not exist")
    );
}

async fn a_recycled_file_is_not_taken_for_wal(client: &Client, database: &Database) {
    let size = database.segment_size;
    let lsn = wal_reader::flush_position(client).await.unwrap().lsn;
    let current = SegmentName::containing(TimelineId::FIRST, lsn, size);
    let names = fs::read_dir(database.wal()).unwrap();
    let future = names
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .find(|name: &SegmentName| *name > current)
        .expect("a recycled segment");
    let error = wal_reader::read(client, future, size, 0, 100)
        .await
        .unwrap_err();
    assert!(
        matches!(error, WalReadError::Recycled(name, at) if name == future && at < future.start(size)),
        "{error}"
    );
}

/// Writes and switches segments, then takes a checkpoint, which removes what nobody needs.
async fn fill(client: &Client, segments: u32) {
    for _ in 0..segments {
        let write = "SELECT pg_logical_emit_message(true, 'fill', 'x'), pg_switch_wal()";
        client.batch_execute(write).await.unwrap();
    }
    client.batch_execute("CHECKPOINT").await.unwrap();
}

#[tokio::test]
async fn the_clock_is_read_before_the_position() {
    let database = Database::start(16, "");
    let client = database.client().await;
    let mut last = Lsn::new(0);
    for round in 0..50 {
        let acknowledged = client
            .query_one(
                "SELECT clock_timestamp() FROM pg_logical_emit_message(true, 'x', $1)",
                &[&round.to_string()],
            )
            .await
            .unwrap()
            .get::<_, jiff::Timestamp>(0);
        let position = wal_reader::flush_position(&client).await.unwrap();
        assert!(position.at >= acknowledged && position.lsn > last);
        last = position.lsn;
    }
}
