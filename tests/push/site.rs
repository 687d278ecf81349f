//! A place for one test: a bucket's folder, a configuration, PostgreSQL servers, and our program run as PostgreSQL does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use highwater::{
    archive::{Archive, Contents, Identity, Lineage, MountedSecrets, sha256, store},
    postgres::{SegmentName, SegmentSize, TimelineId},
};

use crate::{
    process::Process,
    programs,
    server::{BUCKET, KEY_ID, SECRET, Server, spec},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_highwater");

/// One S3 server for all tests of this process.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// A command that runs as the user that PostgreSQL runs as, and remembers nothing of other tests.
pub fn as_postgres(program: impl AsRef<Path>) -> Command {
    let mut command = programs::as_postgres(program);
    command.env_remove("XDG_RUNTIME_DIR");
    command
}

/// Gives `path` to the user that PostgreSQL runs as.
pub fn hand_over(path: &Path) {
    programs::hand_over(path, 0o700);
}

/// What one test owns. Removed when it is dropped, unless the test failed.
pub struct Site {
    pub root: PathBuf,
    port: u16,
}

impl Site {
    pub fn new(name: &str) -> Self {
        Self::at(name, server().port())
    }

    /// With the store behind `port`.
    pub fn at(name: &str, port: u16) -> Self {
        // Sockets need a short path. One directory per checkout, so that nothing piles up.
        let checkout = sha256(env!("CARGO_MANIFEST_DIR").as_bytes());
        let all = PathBuf::from(format!("/tmp/hw-push-{}", &checkout[..8]));
        let _ = fs::create_dir(&all);
        let root = all.join(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        hand_over(&root);
        let site = Self { root, port };
        let credentials = site.path("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("AWS_ACCESS_KEY_ID"), KEY_ID).unwrap();
        fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), SECRET).unwrap();
        fs::create_dir(site.path("state")).unwrap();
        hand_over(&site.path("state"));
        site.configure("");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The database's name in the archive.
    pub fn archive_name(&self) -> String {
        self.root
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }

    /// Writes the configuration, with lines more than are needed.
    pub fn configure(&self, more: &str) {
        self.configure_store(self.port, more);
    }

    pub fn configure_store(&self, port: u16, more: &str) {
        let text = format!(
            "archive:\n  prefix: prod/\n  s3: {{bucket: {BUCKET}, endpoint: 'http://127.0.0.1:{port}', allowHttp: true}}\n\
             archiveName: {}\ncredentials: {}\nstateDirectory: {}\n{more}\n",
            self.archive_name(),
            self.path("credentials").display(),
            self.path("state").display(),
        );
        fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.yaml")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("push.sock")
    }

    pub fn archive(&self) -> Archive {
        let spec = spec(self.port, BUCKET);
        let mounted = MountedSecrets {
            credentials: Some(self.path("credentials")),
            ca_file: None,
            directory: "/nowhere".into(),
        };
        let store = store::open(&spec, &mounted).unwrap();
        Archive::new(store, &spec, &self.archive_name()).unwrap()
    }

    pub async fn identities(&self) -> Vec<Identity> {
        self.archive().lineages().await.unwrap()
    }

    /// The only lineage.
    pub async fn lineage(&self) -> Lineage {
        let all = self.identities().await;
        assert_eq!(all.len(), 1, "{all:?}");
        self.archive().lineage(all[0].lineage.clone())
    }

    /// A command line for `archive_command`.
    pub fn push_command(&self) -> String {
        format!("{PROGRAM} wal push --config {} %p", self.config().display())
    }

    pub fn client_command(&self) -> String {
        format!("{PROGRAM} wal push --socket {} %p", self.socket().display())
    }

    pub fn restore_command(&self) -> String {
        format!(
            "{PROGRAM} wal fetch --config {} %f %p",
            self.config().display()
        )
    }

    /// One push, as PostgreSQL calls it: in PGDATA, with a path from there.
    pub fn push(&self, pgdata: &Path, file: &str) -> crate::process::Said {
        self.push_process(pgdata, file).wait()
    }

    pub fn push_process(&self, pgdata: &Path, file: &str) -> Process {
        let mut command = as_postgres(PROGRAM);
        command.args(["wal", "push", "--config"]).arg(self.config());
        command.arg(format!("pg_wal/{file}")).current_dir(pgdata);
        Process::start(command)
    }

    /// One push through the daemon.
    pub fn client(&self, pgdata: &Path, file: &str, config: bool) -> crate::process::Said {
        let mut command = as_postgres(PROGRAM);
        command.args(["wal", "push", "--socket"]).arg(self.socket());
        if config {
            command.arg("--config").arg(self.config());
        }
        command.arg(format!("pg_wal/{file}")).current_dir(pgdata);
        Process::start(command).wait()
    }

    pub fn fetch(&self, pgdata: &Path, file: &str) -> crate::process::Said {
        self.fetch_process(pgdata, file).wait()
    }

    pub fn fetch_process(&self, pgdata: &Path, file: &str) -> Process {
        let mut command = as_postgres(PROGRAM);
        command
            .args(["wal", "fetch", "--config"])
            .arg(self.config());
        command
            .args([file, "pg_wal/RECOVERYXLOG"])
            .current_dir(pgdata);
        Process::start(command)
    }

    /// A daemon that listens.
    pub fn daemon(&self) -> Process {
        let mut daemon = self.daemon_process();
        wait_for("the daemon", || {
            assert!(daemon.runs(), "the daemon ended");
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
        daemon
    }

    pub fn daemon_process(&self) -> Process {
        let mut command = as_postgres(PROGRAM);
        command
            .args(["wal", "daemon", "--config"])
            .arg(self.config());
        command.arg("--socket").arg(self.socket());
        Process::start(command)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.root).unwrap();
        }
    }
}

#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A cluster of a test's own. Its log stays whole, so that all of it can be compared.
pub struct Cluster {
    pub pgdata: PathBuf,
    pub size: SegmentSize,
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = as_postgres(programs::program(program));
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null());
    command.output().unwrap()
}

#[track_caller]
fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const SETTINGS: &str = "listen_addresses = ''\nfsync = off\nshared_buffers = 8MB\nautovacuum = off\n\
     wal_keep_size = 4GB\nmax_wal_size = 8GB\ncheckpoint_timeout = 1h\nlog_checkpoints = off\n";

impl Cluster {
    pub fn init(pgdata: PathBuf, megabytes: u32) -> Self {
        let path = pgdata.to_string_lossy().into_owned();
        let size = format!("--wal-segsize={megabytes}");
        let fixed = ["-N", "-U", "postgres", "--auth=trust", "--locale=C", "-D"];
        succeed("initdb", &[&fixed[..], &[&path, &size]].concat());
        let cluster = Self {
            pgdata,
            size: SegmentSize::new(megabytes << 20).unwrap(),
        };
        let small = format!("{SETTINGS}min_wal_size = {}MB\n", 2 * megabytes);
        cluster.set(&format!("{small}{}", cluster.sockets()));
        cluster
    }

    fn sockets(&self) -> String {
        let directory = self.pgdata.parent().unwrap().display();
        format!("unix_socket_directories = '{directory}'\n")
    }

    /// Writes settings that are read at the next start.
    pub fn set(&self, settings: &str) {
        use std::io::Write;
        let path = self.pgdata.join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
    }

    pub fn archive_with(&self, command: &str) {
        self.set(&format!(
            "archive_mode = on\narchive_command = '{command}'\n"
        ));
    }

    pub fn start(&self) {
        let log = self.log_path();
        let arguments = ["start", "-w", "-t", "60", "-l", &log, "-D", &self.data()];
        let mut command = as_postgres(programs::program("pg_ctl"));
        command.args(arguments).current_dir("/");
        // The server would keep a pipe open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{}", self.log());
    }

    pub fn stop(&self, mode: &str) {
        succeed("pg_ctl", &["stop", "-w", "-m", mode, "-D", &self.data()]);
    }

    pub fn sql(&self, query: &str) -> String {
        let host = self.pgdata.parent().unwrap().to_string_lossy();
        let fixed = ["-U", "postgres", "-d", "postgres", "-XqAt"];
        let connect = ["-v", "ON_ERROR_STOP=1", "-h", &host, "-c", query];
        succeed("psql", &[&fixed[..], &connect].concat())
    }

    /// Work that writes WAL: returns when it is done.
    pub fn pgbench(&self, arguments: &[&str]) {
        let host = self.pgdata.parent().unwrap().to_string_lossy();
        let fixed = ["-U", "postgres", "-h", &host, "-q"];
        run("pgbench", &[&fixed[..], arguments, &["postgres"]].concat());
    }

    pub fn base_backup(&self, to: &Path) {
        let host = self.pgdata.parent().unwrap().to_string_lossy();
        let to = to.to_string_lossy();
        let fixed = ["-U", "postgres", "-h", &host, "-c", "fast"];
        succeed(
            "pg_basebackup",
            &[&fixed[..], &["-X", "none", "-D", &to]].concat(),
        );
    }

    fn data(&self) -> String {
        self.pgdata.to_string_lossy().into_owned()
    }

    fn log_path(&self) -> String {
        format!("{}.log", self.data())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn names(&self) -> BTreeSet<String> {
        names(&self.pgdata.join("pg_wal"))
    }

    /// The files that PostgreSQL wants to have archived.
    pub fn ready(&self) -> BTreeSet<String> {
        ready(&self.pgdata)
    }

    /// Ends the segment, and waits until everything is archived.
    pub fn archive_all(&self) {
        // Nothing is switched where nothing was written.
        self.sql("SELECT pg_logical_emit_message(false, 'test', 'end'); SELECT pg_switch_wal()");
        wait_for("end of archiving", || self.ready().is_empty());
    }

    pub fn timeline(&self) -> TimelineId {
        let said = self.sql("SELECT timeline_id FROM pg_control_checkpoint()");
        TimelineId::new(said.parse().unwrap()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.pgdata.join("postmaster.pid").exists() {
            run(
                "pg_ctl",
                &["stop", "-w", "-m", "immediate", "-D", &self.data()],
            );
        }
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

pub fn status(pgdata: &Path, ending: &str) -> BTreeSet<String> {
    let all = names(&pgdata.join("pg_wal/archive_status"));
    let ended = all.iter().filter_map(|name| name.strip_suffix(ending));
    ended.map(str::to_owned).collect()
}

pub fn ready(pgdata: &Path) -> BTreeSet<String> {
    status(pgdata, ".ready")
}

/// Every segment that PostgreSQL believes archived is in the archive as it lies in `pg_wal`, and none is missing between.
pub async fn compare(cluster: &Cluster, lineage: &Lineage) -> Contents {
    let done = status(&cluster.pgdata, ".done");
    let segments: Vec<SegmentName> = done.iter().filter_map(|name| name.parse().ok()).collect();
    assert!(!segments.is_empty());
    for name in &segments {
        let path = cluster.pgdata.join("pg_wal").join(name.to_string());
        let ours = fs::read(&path).unwrap();
        let end = name.end(cluster.size);
        let theirs = lineage
            .fetch_segment(*name, cluster.size, end)
            .await
            .unwrap();
        assert!(ours == theirs, "{name} differs");
    }
    let contents = lineage.contents().await.unwrap();
    let mut by_timeline: BTreeMap<TimelineId, Vec<SegmentName>> = BTreeMap::new();
    for name in contents.segments.keys() {
        by_timeline.entry(name.timeline()).or_default().push(*name);
    }
    for names in by_timeline.values() {
        for pair in names.windows(2) {
            assert_eq!(pair[0].next(cluster.size), pair[1], "a hole");
        }
    }
    // Its records were read, so that a planner knows its times.
    let unread = contents
        .segments
        .iter()
        .find(|(_, segment)| segment.records.is_none());
    assert!(unread.is_none(), "{unread:?}");
    contents
}
