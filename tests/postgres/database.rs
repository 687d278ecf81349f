//! A PostgreSQL server of a test's own, shaped like those that people run: scram-sha-256, no replication from other hosts.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use highwater::postgres::{
    SegmentName, SegmentSize,
    session::{APPLICATION, Client, ConnectOptions, Credentials, Source, connect},
};
use tempfile::TempDir;

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../programs/mod.rs"]
pub mod programs;

use programs::program;

/// The superuser's password.
pub const PASSWORD: &str = "correct horse battery";

const HBA: &str = "local all all trust\n\
    host all md5er 127.0.0.1/32 md5\n\
    host all cleartext 127.0.0.1/32 password\n\
    host all barred 127.0.0.1/32 reject\n\
    host all all 127.0.0.1/32 scram-sha-256\n";

/// A server. It is stopped, and its files are removed, when this is dropped.
pub struct Database {
    directory: TempDir,
    port: u16,
    pub segment_size: SegmentSize,
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made.
fn user() -> Option<(u32, u32)> {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    if !own.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<_> = line.expect("no user postgres").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// Runs one of PostgreSQL's programs to its end.
pub fn run(name: &str, arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(program(name));
    command
        .args(arguments)
        .current_dir(directory)
        .env("TZ", "UTC")
        .env("LC_ALL", "C");
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command.output().unwrap()
}

fn run_well(name: &str, arguments: &[&str], directory: &Path) {
    let output = run(name, arguments, directory);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
}

impl Database {
    /// A fresh cluster, running. `megabytes` is the size of its WAL segments.
    pub fn start(megabytes: u32, settings: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("highwater-postgres-")
            .tempdir()
            .unwrap();
        if let Some((uid, gid)) = user() {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let segment_size = SegmentSize::new(megabytes << 20).unwrap();
        let database = Self {
            directory,
            port: free_port(),
            segment_size,
        };
        let at = database.directory.path();
        fs::write(at.join("password"), PASSWORD).unwrap();
        let size = format!("--wal-segsize={megabytes}");
        let fixed = [
            "-D",
            "data",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-k",
            "--no-sync",
        ];
        let own = [
            "--auth=scram-sha-256",
            "--pwfile=password",
            "--waldir",
            &format!("{}/wal", at.display()),
            &size,
        ];
        run_well("initdb", &[&fixed[..], &own[..]].concat(), at);
        database.configure(settings);
        database.boot();
        database
    }

    fn configure(&self, settings: &str) {
        let (socket, port) = (self.directory.path().display(), self.port);
        let common = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{socket}'\n\
             fsync = off\nmax_prepared_transactions = 8\nautovacuum = off\ntimezone = 'UTC'\n"
        );
        self.append("postgresql.conf", &common);
        self.append("postgresql.conf", settings);
        fs::write(self.data().join("pg_hba.conf"), HBA).unwrap();
    }

    /// Adds to a file in PGDATA, making it if need be.
    pub fn append(&self, file: &str, text: &str) {
        let path = self.data().join(file);
        let old = fs::read_to_string(&path).unwrap_or_default();
        self.write(&path, format!("{old}{text}\n").as_bytes());
    }

    /// Writes a file that the server owns.
    pub fn write(&self, path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        if let Some((uid, gid)) = user() {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Starts the server and waits until it takes connections.
    pub fn boot(&self) {
        let at = self.directory.path();
        let output = run(
            "pg_ctl",
            &["-D", "data", "-w", "-t", "120", "-l", "log", "start"],
            at,
        );
        let log = fs::read_to_string(at.join("log")).unwrap_or_default();
        assert!(output.status.success(), "{log}");
    }

    /// Stops the server: `fast` or `immediate`.
    pub fn stop(&self, mode: &str) {
        run_well(
            "pg_ctl",
            &["-D", "data", "-w", "-m", mode, "stop"],
            self.directory.path(),
        );
    }

    /// A stopped copy of this stopped server, with more settings.
    pub fn copy(&self, settings: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("highwater-postgres-")
            .tempdir()
            .unwrap();
        let (from, to) = (self.directory.path(), directory.path());
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from.join("data"))
            .arg(from.join("wal"))
            .arg(to)
            .status();
        assert!(copied.unwrap().success());
        fs::remove_file(to.join("data/pg_wal")).unwrap();
        std::os::unix::fs::symlink(to.join("wal"), to.join("data/pg_wal")).unwrap();
        let copy = Self::at(directory, self.segment_size);
        copy.append("postgresql.conf", settings);
        copy
    }

    /// The stopped server whose data directory is `data` in this one; it gets a port of its own.
    pub fn at(directory: TempDir, segment_size: SegmentSize) -> Self {
        if let Some((uid, gid)) = user() {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let database = Self {
            directory,
            port: free_port(),
            segment_size,
        };
        database.configure("");
        database
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn wal(&self) -> PathBuf {
        self.directory.path().join("wal")
    }

    /// Lets who has the right replicate from this machine.
    pub async fn allow_replication(&self) {
        let line = "host replication postgres,outsider 127.0.0.1/32 scram-sha-256";
        self.append("pg_hba.conf", line);
        self.sql("SELECT pg_reload_conf()").await;
    }

    /// Makes a certificate that nobody signed; the server uses it from its next start on.
    pub fn serve_tls(&self) {
        let made = Command::new("openssl")
            .args(["req", "-new", "-x509", "-days", "2", "-nodes"])
            .args(["-subj", "/CN=elsewhere", "-newkey", "rsa:2048"])
            .args(["-keyout", "server.key", "-out", "server.crt"])
            .current_dir(self.directory())
            .output()
            .unwrap();
        assert!(made.status.success());
        for file in ["server.key", "server.crt"] {
            let bytes = fs::read(self.directory().join(file)).unwrap();
            let path = self.data().join(file);
            self.write(&path, &bytes);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&path, mode).unwrap();
        }
        self.append("postgresql.conf", "ssl = on");
    }

    /// A file in `pg_wal`.
    pub fn segment(&self, name: SegmentName) -> Vec<u8> {
        let file = fs::read(self.wal().join(name.to_string()));
        file.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// How to log in as `user`.
    pub fn login(&self, user: &str, password: Option<&str>) -> ConnectOptions {
        Self::options(self.port, user, password)
    }

    /// The same, for who knows the port only.
    pub fn options(port: u16, user: &str, password: Option<&str>) -> ConnectOptions {
        ConnectOptions {
            host: "127.0.0.1".into(),
            port,
            database: "postgres".into(),
            credentials: Credentials {
                user: Source::value(user),
                password: password.map(Source::value),
            },
            application: APPLICATION,
            timeout: Duration::from_secs(10),
        }
    }

    /// A session of the superuser.
    pub async fn client(&self) -> Client {
        connect(&self.login("postgres", Some(PASSWORD)))
            .await
            .unwrap()
    }

    /// Runs statements as the superuser, in a session of their own.
    pub async fn sql(&self, statements: &str) {
        let client = self.client().await;
        for statement in statements.split("; ") {
            client.batch_execute(statement).await.unwrap();
        }
    }

    /// Runs pgbench with these arguments.
    pub fn pgbench(&self, arguments: &[&str]) {
        let (host, port) = (
            self.directory.path().to_str().unwrap(),
            self.port.to_string(),
        );
        let common = ["-h", host, "-p", &port, "-U", "postgres", "-n"];
        run_well(
            "pgbench",
            &[&common[..], arguments, &["postgres"]].concat(),
            self.directory.path(),
        );
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        run(
            "pg_ctl",
            &["-D", "data", "-w", "-m", "immediate", "stop"],
            self.directory.path(),
        );
    }
}

/// It is given once: the server takes it seconds later, and clients are given others.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 12_000 + 64 * u16::try_from(std::process::id() % 125).unwrap();
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
