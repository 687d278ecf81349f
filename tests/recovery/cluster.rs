//! A real PostgreSQL with a base backup and its WAL in a directory archive.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use highwater::{
    api::PgArchiveSpec,
    archive::{
        Archive, BACKUP_LABEL, FORMAT, Identity, IndexEntry, Lineage, LineageId, Manifest,
        MountedSecrets, sha256, store,
    },
    postgres::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId},
};
use jiff::Timestamp;
use tokio_postgres::{Client, NoTls};

pub const BACKUP: &str = "base-0";
pub const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
    Ok(size) => size,
    Err(_) => panic!(),
};

/// Where a program of PostgreSQL `POSTGRES_MAJOR` is.
pub fn installed(program: &str) -> String {
    let major = std::env::var("POSTGRES_MAJOR").unwrap_or_else(|_| "15".to_owned());
    format!("/usr/lib/postgresql/{major}/bin/{program}")
}

/// Runs one of PostgreSQL's programs as the user that owns the clusters.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ]);
        command.arg(installed(program));
        command
    } else {
        Command::new(installed(program))
    };
    command.args(arguments).env("LC_ALL", "C").current_dir("/");
    command.stderr(std::process::Stdio::null());
    command.output().unwrap()
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Gives `path` to the user that PostgreSQL runs as, and lets it be reached.
pub fn hand_over(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    if is_root() {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with("postgres:"));
        let fields: Vec<&str> = line.expect("the user postgres").split(':').collect();
        let id = |at: usize| fields[at].parse().unwrap();
        chown(path, Some(id(2)), Some(id(3))).unwrap();
    }
}

/// A running cluster; stopped when it is dropped.
pub struct Running {
    pgdata: PathBuf,
    socket: PathBuf,
}

impl Running {
    pub fn start(pgdata: &Path, options: &str) -> Self {
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
        let log = fs::read_to_string(socket.join("log")).unwrap_or_default();
        assert!(started.status.success(), "{log}");
        Self {
            pgdata: pgdata.to_owned(),
            socket,
        }
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
    /// The end of the log.
    pub end: Lsn,
    pub start: Lsn,
    pub spec: PgArchiveSpec,
}

pub const LINEAGE: &str = "0123456789";

impl Fixture {
    pub fn snapshot(&self) -> PathBuf {
        self.root.join("snapshot")
    }

    pub fn archive(&self) -> PathBuf {
        self.root.join("archive")
    }

    pub async fn build() -> Self {
        // Sockets need a short path. One directory per checkout, so that nothing piles up.
        let checkout = sha256(env!("CARGO_MANIFEST_DIR").as_bytes());
        let root = PathBuf::from(format!("/tmp/highwater-recovery-{}", &checkout[..8]));
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
                "--locale=C",
            ],
        );
        assert!(made.status.success());
        poison(&pgdata);
        let source = Running::start(
            &pgdata,
            "-c wal_level=logical -c max_prepared_transactions=5",
        );
        let sql = source.connect().await;
        populate(&sql).await;

        let start = sql
            .query_one("SELECT pg_backup_start('base', true)::text", &[])
            .await
            .unwrap();
        let start: Lsn = start.get::<_, String>(0).parse().unwrap();
        insert(&sql, 1000..2000).await;
        copy(&pgdata, &root.join("snapshot"));
        insert(&sql, 2000..3000).await;
        let stopped = sql
            .query_one(
                "SELECT lsn::text, labelfile FROM pg_backup_stop(false)",
                &[],
            )
            .await
            .unwrap();
        let (stop, label): (String, String) = (stopped.get(0), stopped.get(1));

        insert(&sql, 3000..4000).await;
        let before_drop = now(&sql).await;
        sql.batch_execute("DELETE FROM ledger").await.unwrap();
        insert(&sql, 4000..9000).await;
        // A prepared transaction needs its setting for replay.
        sql.batch_execute("BEGIN; INSERT INTO ledger VALUES (-1, ''); PREPARE TRANSACTION 'open'")
            .await
            .unwrap();
        let (_, end) = now(&sql).await;

        let spec: PgArchiveSpec = serde_json::from_value(serde_json::json!({
            "directory": {"persistentVolumeClaim": "archive"},
        }))
        .unwrap();
        let fixture = Self {
            root,
            before_drop,
            end,
            start,
            spec,
        };
        fixture
            .archive_all(&sql, &pgdata, &label, stop.parse().unwrap())
            .await;
        drop(source);
        fs::remove_dir_all(&pgdata).unwrap();
        fixture
    }

    fn lineage(&self) -> Lineage {
        fs::create_dir_all(self.archive()).unwrap();
        hand_over(&self.archive());
        let mounted = MountedSecrets {
            credentials: None,
            ca_file: None,
            directory: self.archive(),
        };
        let store = store::open(&self.spec, &mounted).unwrap();
        let id: LineageId = LINEAGE.parse().unwrap();
        Archive::new(store, &self.spec, "shop-orders").lineage(id)
    }

    async fn archive_all(&self, sql: &Client, pgdata: &Path, label: &str, stop: Lsn) {
        let row = sql
            .query_one(
                "SELECT system_identifier::text FROM pg_control_system()",
                &[],
            )
            .await
            .unwrap();
        let identifier: SystemIdentifier = row.get::<_, String>(0).parse().unwrap();
        let lineage = self.lineage();
        let identity = Identity {
            format: FORMAT,
            lineage: LINEAGE.parse().unwrap(),
            system_identifier: identifier,
            major_version: 15,
            segment_size: SIZE,
            created_at: Timestamp::UNIX_EPOCH,
        };
        lineage.create_identity(&identity).await.unwrap();
        let mut name = SegmentName::containing(TimelineId::FIRST, self.start, SIZE);
        while name.start(SIZE) < self.end {
            let bytes = fs::read(pgdata.join("pg_wal").join(name.to_string())).unwrap();
            if name.end(SIZE) <= self.end {
                let entry = IndexEntry::of(name, SIZE, &bytes);
                lineage
                    .push_segment(name, bytes.into(), &entry)
                    .await
                    .unwrap();
            } else {
                let length = usize::try_from(SIZE.offset(self.end)).unwrap();
                lineage
                    .push_tail(name, 0, &bytes[..length], "e1")
                    .await
                    .unwrap();
            }
            name = name.next(SIZE);
        }
        let text = label.as_bytes().to_vec();
        lineage
            .put_backup_file(BACKUP, BACKUP_LABEL, text.clone().into())
            .await
            .unwrap();
        let manifest = self.manifest(identifier, stop, sha256(&text), pgdata);
        lineage.put_manifest(BACKUP, &manifest).await.unwrap();
    }

    fn manifest(
        &self,
        system_identifier: SystemIdentifier,
        stop_lsn: Lsn,
        backup_label_sha256: String,
        pgdata: &Path,
    ) -> Manifest {
        let mut manifest = serde_json::json!({
            "format": FORMAT, "name": "base", "uid": "0", "namespace": "shop", "statefulSetName": "orders",
            "lineage": LINEAGE, "systemIdentifier": system_identifier, "majorVersion": 15, "segmentSize": SIZE,
            "timeline": 1, "startLsn": self.start, "stopLsn": stop_lsn,
            "startedAt": Timestamp::UNIX_EPOCH, "stoppedAt": Timestamp::UNIX_EPOCH,
            "backupLabelSha256": backup_label_sha256, "dataDirectory": pgdata,
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

/// What a standby of an earlier recovery left, and what would make the copy act as the original.
fn poison(pgdata: &Path) {
    fs::write(
        pgdata.join("postgresql.auto.conf"),
        "recovery_target_time = '2020-01-01 00:00:00+00'\n\
         primary_conninfo = 'host=127.0.0.1 port=1 password=hunter2'\n\
         primary_slot_name = 'standby_1'\n\
         max_connections = 20\n\
         listen_addresses = '*'\n\
         synchronous_standby_names = ''\n",
    )
    .unwrap();
    hand_over(&pgdata.join("postgresql.auto.conf"));
}

async fn populate(sql: &Client) {
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
    .ok();
    sql.batch_execute(
        "CREATE SUBSCRIPTION feed CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
    )
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
    let row = sql
        .query_one(
            "SELECT clock_timestamp(), pg_current_wal_flush_lsn()::text",
            &[],
        )
        .await
        .unwrap();
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
