//! Real servers, each on a port of its own, on a directory of its own.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use highwater::{
    api::PgArchiveSpec,
    archive::{MountedSecrets, store},
};
use object_store::ObjectStore;

pub const KEY_ID: &str = "contract-key-id";
pub const SECRET: &str = "contract-secret";
pub const BUCKET: &str = "contract";

const START: Duration = Duration::from_secs(60);

/// A server's process, and the directory that goes with it.
pub struct Process {
    child: Child,
    pub port: u16,
    pub directory: tempfile::TempDir,
}

impl Process {
    /// Starts what `command` makes of a port and an empty directory, or panics with its log: no test is skipped because a
    /// server does not start.
    pub fn start(command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let port = free_port();
        let mut command = guarded(&command(port, directory.path()));
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        let mut process = Self {
            child,
            port,
            directory,
        };
        process.wait();
        process
    }

    fn wait(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begin.elapsed() > START {
                let log = fs::read_to_string(self.directory.path().join("log"));
                panic!("the server does not answer ({ended:?}): {log:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It closes the standard input.
        let _ = self.child.wait();
    }
}

/// `command`, killed once its standard input is closed: at the latest when this process ends, as nobody drops what is static.
fn guarded(command: &Command) -> Command {
    let script = r#"exec 3<&0; (read -r _ <&3; kill -9 $$) & exec "$@" 3<&- </dev/null"#;
    let mut guarded = Command::new("sh");
    guarded
        .args(["-c", script, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        guarded.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    guarded
}

/// At which nobody answers. It is given once: a server may take it a second later, and clients are given others.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 20_000 + 64 * u16::try_from(std::process::id() % 125).unwrap();
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The S3 server that the project is tested with most: versitygw.
pub struct Server {
    process: Process,
    scheme: &'static str,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with("http", |_| Vec::new())
    }

    /// As [`Self::start`], with a scheme and the options that it takes, made from the port.
    pub fn start_with(scheme: &'static str, options: impl FnOnce(u16) -> Vec<String>) -> Self {
        let program = match std::env::var_os("VERSITYGW") {
            Some(path) => path.into(),
            None => component("versitygw", "bin/versitygw"),
        };
        let process = Process::start(|port, directory| {
            fs::create_dir_all(directory.join("data").join(BUCKET)).unwrap();
            fs::create_dir_all(directory.join("metadata")).unwrap();
            let mut command = Command::new(program);
            command
                .env("ROOT_ACCESS_KEY", KEY_ID)
                .env("ROOT_SECRET_KEY", SECRET)
                .args(["--port", &format!("127.0.0.1:{port}"), "--quiet"])
                .args(options(port))
                .arg("posix")
                // Not every file system under /tmp has extended attributes.
                .arg("--sidecar")
                .arg(directory.join("metadata"))
                .arg(directory.join("data"));
            command
        });
        Self { process, scheme }
    }

    pub const fn port(&self) -> u16 {
        self.process.port
    }

    /// Where its buckets are.
    pub fn data(&self) -> PathBuf {
        self.process.directory.path().join("data")
    }

    pub fn spec(&self, bucket: &str) -> PgArchiveSpec {
        s3_spec(
            &format!("{}://127.0.0.1:{}", self.scheme, self.port()),
            bucket,
        )
    }

    pub fn store(&self) -> Arc<dyn ObjectStore> {
        open(&self.spec(BUCKET), KEY_ID, SECRET)
    }
}

pub fn spec(port: u16, bucket: &str) -> PgArchiveSpec {
    s3_spec(&format!("http://127.0.0.1:{port}"), bucket)
}

fn s3_spec(endpoint: &str, bucket: &str) -> PgArchiveSpec {
    serde_json::from_value(serde_json::json!({
        "prefix": "prod/",
        "s3": {
            "bucket": bucket,
            "endpoint": endpoint,
            "allowHttp": true,
        },
    }))
    .unwrap()
}

pub fn open(spec: &PgArchiveSpec, key_id: &str, secret: &str) -> Arc<dyn ObjectStore> {
    // People make Secrets from files that end in a newline.
    let secret = format!("{secret}\n");
    let keys = [
        ("AWS_ACCESS_KEY_ID", key_id),
        ("AWS_SECRET_ACCESS_KEY", secret.as_str()),
    ];
    open_with(spec, &keys)
}

/// With a Secret as a pod has it mounted.
pub fn open_with(spec: &PgArchiveSpec, keys: &[(&str, &str)]) -> Arc<dyn ObjectStore> {
    let credentials = tempfile::tempdir().unwrap();
    for (key, value) in keys {
        fs::write(credentials.path().join(key), value).unwrap();
    }
    let mounted = MountedSecrets {
        credentials: Some(credentials.path().to_owned()),
        ca_file: None,
        directory: "/nowhere".into(),
    };
    store::open(spec, &mounted).unwrap()
}

/// A program below one of the cache's components, as `scripts/tools` leaves them there.
pub fn component(name: &str, program: &str) -> PathBuf {
    let cache = std::env::var_os("HIGHWATER_CACHE").map_or_else(default_cache, PathBuf::from);
    let components = cache.join("components");
    let built = fs::read_dir(&components).into_iter().flatten().flatten();
    let prefix = format!("{name}-");
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&prefix) && path.join(".finished").exists()
    };
    let built = built.map(|entry| entry.path()).filter(named);
    let built = built.map(|path| path.join(program)).last();
    built.unwrap_or_else(|| {
        panic!(
            "found no {name} in {}: run scripts/tools",
            components.display()
        )
    })
}

fn default_cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    base.join("highwater")
}
