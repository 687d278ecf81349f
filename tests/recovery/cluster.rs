//! A real PostgreSQL with a base backup and its WAL in a directory archive.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use highwater::{
    api::PgArchiveSpec,
    archive::{
        Archive, BACKUP_LABEL, ClockPair, FORMAT, Identity, IndexEntry, Lineage, LineageId,
        Manifest, MountedSecrets, Records, sha256, store,
    },
    postgres::{
        Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId,
        wal::{self, Carry},
    },
};
use jiff::Timestamp;
use tokio_postgres::{Client, NoTls};

use crate::calls::Callee;

#[path = "../programs/mod.rs"]
mod programs;

pub use programs::{is_root, major};

pub const BACKUP: &str = "base-0";
pub const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
    Ok(size) => size,
    Err(_) => panic!(),
};

/// Runs one of PostgreSQL's programs as the user that owns the clusters.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = programs::as_postgres(programs::program(program));
    command.args(arguments).current_dir("/");
    command.env("PGCTLTIMEOUT", "600");
    command.stderr(std::process::Stdio::null());
    command.output().unwrap()
}

/// Gives `path` to the user that PostgreSQL runs as, and lets it be reached.
pub fn hand_over(path: &Path) {
    programs::hand_over(path, 0o755);
}

/// A running cluster; stopped when it is dropped.
pub struct Running {
    pgdata: PathBuf,
    socket: PathBuf,
}

impl Running {
    pub fn start(pgdata: &Path, options: &str) -> Self {
        let (running, started) = Self::begin(pgdata, options);
        assert!(started, "{}", running.log());
        running
    }

    /// One that may end by itself, and whether it got as far as being reached.
    pub fn begin(pgdata: &Path, options: &str) -> (Self, bool) {
        let socket = pgdata.parent().unwrap().to_owned();
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' {options}",
            socket.display()
        );
        let started = run(
            "pg_ctl",
            &[
                "start",
                "-w",
                "-D",
                &pgdata.to_string_lossy(),
                "-l",
                &socket.join("log").to_string_lossy(),
                "-o",
                &options,
            ],
        );
        let running = Self {
            pgdata: pgdata.to_owned(),
            socket,
        };
        (running, started.status.success())
    }

    pub fn has_ended(&self) -> bool {
        !self.pgdata.join("postmaster.pid").exists()
    }

    /// What it and those before it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.socket.join("log")).unwrap_or_default()
    }

    pub async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.socket)
            .user("postgres")
            .dbname("postgres")
            .connect(NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pgdata = self.pgdata.to_string_lossy().into_owned();
        run("pg_ctl", &["stop", "-w", "-m", "fast", "-D", &pgdata]);
    }
}

/// What all tests restore from: written once, only read afterwards.
pub struct Fixture {
    pub root: PathBuf,
    /// A point between two commits, in time and in the log.
    pub before_drop: (Timestamp, Lsn),
    /// Where the record begins with which the last hundred rows before that are committed.
    pub commit: Lsn,
    /// The transaction that it commits, with its epoch.
    pub xid: u64,
    /// After the last commit.
    pub quiet: Timestamp,
    /// The end of the log.
    pub end: Lsn,
    pub start: Lsn,
    pub spec: PgArchiveSpec,
    /// The same archive, encrypted to [`Self::identity`].
    pub encrypted: PgArchiveSpec,
    pub callee: Callee,
    /// The copy is consistent from here on.
    pub stop: Lsn,
    identifier: SystemIdentifier,
    label: String,
}

/// Made right after that commit.
pub const RESTORE_POINT: &str = "before drop";

pub const LINEAGE: &str = "0123456789";

impl Fixture {
    pub fn snapshot(&self) -> PathBuf {
        self.root.join("snapshot")
    }

    /// The source as it was stopped after all that, on timeline 1.
    pub fn stopped(&self) -> PathBuf {
        self.root.join("source-stopped")
    }

    /// Every segment from the backup on, as the source wrote it.
    pub fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    pub fn archive(&self) -> PathBuf {
        self.root.join("archive")
    }

    /// The same, encrypted.
    pub fn encrypted_archive(&self) -> PathBuf {
        self.root.join("encrypted")
    }

    /// The private key of the encrypted archive.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    pub async fn build() -> Self {
        // Sockets need a short path. One directory per checkout and version, so that nothing piles up.
        let checkout = sha256(env!("CARGO_MANIFEST_DIR").as_bytes());
        let (checkout, major) = (&checkout[..8], major());
        let root = PathBuf::from(format!("/tmp/highwater-recovery-{checkout}-{major}"));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        hand_over(&root);
        let pgdata = root.join("source");
        let path = pgdata.to_string_lossy().into_owned();
        let made = run(
            "initdb",
            &[
                "-D",
                &path,
                "-N",
                "-U",
                "postgres",
                "--wal-segsize=1",
                "--auth=trust",
                "--data-checksums",
                "--locale=C",
            ],
        );
        assert!(made.status.success());
        let callee = Callee::listen();
        poison(&pgdata, callee.port);
        let source = Running::start(
            &pgdata,
            "-c wal_level=logical -c max_prepared_transactions=5 -c archive_mode=off -c autovacuum=off \
             -c max_logical_replication_workers=0 -c wal_log_hints=on",
        );
        let sql = source.connect().await;
        populate(&sql, callee.port).await;

        let start = sql
            .query_one(&format!("SELECT {}::text", backup_mode().0), &[])
            .await
            .unwrap();
        let start: Lsn = start.get::<_, String>(0).parse().unwrap();
        insert(&sql, 1000..2000).await;
        copy(&pgdata, &root.join("snapshot"));
        insert(&sql, 2000..3000).await;
        let stopped = sql
            .query_one(
                &format!("SELECT lsn::text, labelfile FROM {}", backup_mode().1),
                &[],
            )
            .await
            .unwrap();
        let (stop, label): (String, String) = (stopped.get(0), stopped.get(1));

        insert(&sql, 3000..3900).await;
        sql.batch_execute("BEGIN").await.unwrap();
        insert(&sql, 3900..4000).await;
        let (_, commit) = position(&sql, "pg_current_wal_insert_lsn()").await;
        let xid = sql.query_one("SELECT pg_current_xact_id()::text", &[]);
        let xid = xid.await.unwrap().get::<_, String>(0).parse().unwrap();
        sql.batch_execute("COMMIT").await.unwrap();
        sql.query_one("SELECT pg_create_restore_point($1)", &[&RESTORE_POINT])
            .await
            .unwrap();
        let before_drop = now(&sql).await;
        sql.batch_execute("DELETE FROM ledger").await.unwrap();
        insert(&sql, 4000..9000).await;
        // A prepared transaction needs its setting for replay.
        sql.batch_execute("BEGIN; INSERT INTO ledger VALUES (-1, ''); PREPARE TRANSACTION 'open'")
            .await
            .unwrap();
        let (quiet, end) = now(&sql).await;

        let spec: PgArchiveSpec = serde_json::from_value(serde_json::json!({
            "directory": {"persistentVolumeClaim": "archive"},
        }))
        .unwrap();
        let identifier = sql
            .query_one(
                "SELECT system_identifier::text FROM pg_control_system()",
                &[],
            )
            .await
            .unwrap();
        let key = write_key(&root.join("identity"));
        let mut encrypted = spec.clone();
        let to = serde_json::json!({"recipients": [key]});
        encrypted.encryption = Some(serde_json::from_value(to).unwrap());
        let fixture = Self {
            root,
            before_drop,
            commit,
            xid,
            quiet,
            end,
            start,
            spec,
            encrypted,
            callee,
            stop: stop.parse().unwrap(),
            identifier: identifier.get::<_, String>(0).parse().unwrap(),
            label,
        };
        copy(&pgdata.join("pg_wal"), &fixture.wal());
        for lineage in [fixture.lineage(), fixture.encrypted_lineage()] {
            fixture.archive_all(&lineage).await;
        }
        drop(source);
        fs::rename(&pgdata, fixture.stopped()).unwrap();
        fixture
    }

    pub fn lineage(&self) -> Lineage {
        Self::lineage_in(self.archive(), &self.spec)
    }

    /// As the agent has it: without the private key.
    pub fn encrypted_lineage(&self) -> Lineage {
        Self::lineage_in(self.encrypted_archive(), &self.encrypted)
    }

    fn lineage_in(directory: PathBuf, spec: &PgArchiveSpec) -> Lineage {
        fs::create_dir_all(&directory).unwrap();
        hand_over(&directory);
        let mounted = MountedSecrets {
            credentials: None,
            ca_file: None,
            directory,
        };
        let store = store::open(spec, &mounted).unwrap();
        let id: LineageId = LINEAGE.parse().unwrap();
        Archive::new(store, spec, "shop-orders")
            .unwrap()
            .lineage(id)
    }

    /// Archives everything; what is there already stays.
    pub async fn archive_all(&self, lineage: &Lineage) {
        let identity = Identity {
            format: FORMAT,
            lineage: LINEAGE.parse().unwrap(),
            system_identifier: self.identifier,
            major_version: i32::try_from(major()).unwrap(),
            segment_size: SIZE,
            created_at: Timestamp::UNIX_EPOCH,
        };
        lineage.create_identity(&identity).await.unwrap();
        self.archive_wal(lineage).await;
        let text = self.label.as_bytes().to_vec();
        let manifest = self.manifest(sha256(&text));
        lineage
            .put_backup_file(BACKUP, BACKUP_LABEL, text.into())
            .await
            .unwrap();
        lineage.put_manifest(BACKUP, &manifest).await.unwrap();
    }

    async fn archive_wal(&self, lineage: &Lineage) {
        let mut name = SegmentName::containing(TimelineId::FIRST, self.start, SIZE);
        let mut carry = None;
        while name.start(SIZE) < self.end {
            let bytes = fs::read(self.wal().join(name.to_string())).unwrap();
            if name.end(SIZE) <= self.end {
                let (entry, next) = entry(name, self.identifier, &bytes, carry.as_ref());
                carry = next;
                lineage
                    .push_segment(name, bytes.into(), &entry)
                    .await
                    .unwrap();
            } else {
                let length = usize::try_from(SIZE.offset(self.end)).unwrap();
                let tail = &bytes[..length];
                let scan =
                    wal::scan(tail, name, SIZE, Some(self.identifier), carry.as_ref()).unwrap();
                let records = Some(Records {
                    last_record: scan.last_record_start,
                    last_commit: scan.last_commit,
                });
                lineage
                    .push_tail(name, 0, tail, "e1", records)
                    .await
                    .unwrap();
            }
            name = name.next(SIZE);
        }
        let covered = ClockPair {
            lsn: self.end,
            at: self.quiet,
            timeline: TimelineId::FIRST,
        };
        lineage.write_clock(covered).await.unwrap();
    }

    fn manifest(&self, backup_label_sha256: String) -> Manifest {
        let mut manifest = serde_json::json!({
            "format": FORMAT, "name": "base", "uid": "0", "namespace": "shop", "statefulSetName": "orders",
            "lineage": LINEAGE, "systemIdentifier": self.identifier, "majorVersion": major(), "segmentSize": SIZE,
            "timeline": 1, "startLsn": self.start, "stopLsn": self.stop,
            "startedAt": Timestamp::UNIX_EPOCH, "stoppedAt": Timestamp::UNIX_EPOCH,
            "backupLabelSha256": backup_label_sha256, "dataDirectory": self.root.join("source"),
            "user": "postgres", "database": "postgres", "volumes": [],
            "settings": {
                "max_connections": "100", "max_prepared_transactions": "5", "wal_level": "logical",
                "shared_preload_libraries": "pg_cron, no_such_library",
            },
        });
        manifest["attempt"] = serde_json::json!(1);
        serde_json::from_value(manifest).unwrap()
    }
}

/// The calls that begin and end backup mode.
pub fn backup_mode() -> (&'static str, &'static str) {
    match major() {
        ..15 => (
            "pg_start_backup('base', true, false)",
            "pg_stop_backup(false)",
        ),
        _ => ("pg_backup_start('base', true)", "pg_backup_stop(false)"),
    }
}

/// Writes a new private key, readable by whoever PostgreSQL runs as; returns the public one.
pub fn write_key(path: &Path) -> String {
    use age::secrecy::ExposeSecret as _;
    let key = age::x25519::Identity::generate();
    fs::write(path, key.to_string().expose_secret()).unwrap();
    key.to_public().to_string()
}

/// What the planner must know of a segment, and what cuts into the next.
fn entry(
    name: SegmentName,
    identifier: SystemIdentifier,
    bytes: &[u8],
    carry: Option<&Carry>,
) -> (IndexEntry, Option<Carry>) {
    let scan = wal::scan(bytes, name, SIZE, Some(identifier), carry).unwrap();
    assert!(scan.complete, "{scan:?}");
    let entry = IndexEntry::scanned(name, SIZE, bytes, &scan);
    (entry, scan.carry)
}

/// What a standby of an earlier recovery left, and what would make the copy act as the original. Commands run in PGDATA.
fn poison(pgdata: &Path, port: u16) {
    let mut settings = format!(
        "recovery_target_time = '2020-01-01 00:00:00+00'\n\
         recovery_min_apply_delay = '60s'\n\
         primary_conninfo = 'host=127.0.0.1 port={port} password=hunter2'\n\
         primary_slot_name = 'standby_1'\n\
         max_connections = 20\n\
         listen_addresses = '*'\n\
         synchronous_standby_names = ''\n\
         archive_mode = on\n"
    );
    for command in [
        "archive_command",
        "archive_cleanup_command",
        "recovery_end_command",
    ] {
        settings += &format!("{command} = 'touch {command}.called'\n");
    }
    fs::write(pgdata.join("postgresql.auto.conf"), settings).unwrap();
    hand_over(&pgdata.join("postgresql.auto.conf"));
}

async fn populate(sql: &Client, port: u16) {
    sql.batch_execute(
        "CREATE TABLE ledger (n int PRIMARY KEY, filler text);
         SELECT pg_create_physical_replication_slot('standby_1');",
    )
    .await
    .unwrap();
    // Not in one transaction with the rest.
    sql.execute(
        "SELECT pg_create_logical_replication_slot('audit', 'test_decoding')",
        &[],
    )
    .await
    .unwrap();
    sql.batch_execute(&format!(
        "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port={port}' PUBLICATION p WITH (connect = false)",
    ))
    .await
    .unwrap();
    sql.batch_execute("ALTER SUBSCRIPTION feed ENABLE")
        .await
        .unwrap();
    insert(sql, 0..1000).await;
}

pub async fn insert(sql: &Client, rows: std::ops::Range<i32>) {
    for from in rows.step_by(100) {
        sql.execute(
            "INSERT INTO ledger SELECT n, repeat(md5(n::text), 20) FROM generate_series($1::int, $1 + 99) n",
            &[&from],
        )
        .await
        .unwrap();
    }
}

async fn now(sql: &Client) -> (Timestamp, Lsn) {
    position(sql, "pg_current_wal_flush_lsn()").await
}

async fn position(sql: &Client, function: &str) -> (Timestamp, Lsn) {
    let query = format!("SELECT clock_timestamp(), {function}::text");
    let row = sql.query_one(&query, &[]).await.unwrap();
    (row.get(0), row.get::<_, String>(1).parse().unwrap())
}

/// A copy of a running cluster, as a snapshot of its volume is.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .args(["-a"])
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}
