//! A real S3 server: versitygw, on a port of its own, on a directory of its own.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use highwater::{
    api::PgArchiveSpec,
    archive::{MountedSecrets, store},
};
use object_store::ObjectStore;
use std::sync::Arc;

pub const KEY_ID: &str = "contract-key-id";
pub const SECRET: &str = "contract-secret";
pub const BUCKET: &str = "contract";

const START: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    port: u16,
    scheme: &'static str,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts it, or panics with its log: no test is skipped because a server does not start.
    pub fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// As [`Self::start`], with a scheme and the options that it takes.
    pub fn start_with(scheme: &'static str, options: &[&str]) -> Self {
        let program = program();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("data").join(BUCKET)).unwrap();
        fs::create_dir_all(directory.path().join("metadata")).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(&program)
            .env("ROOT_ACCESS_KEY", KEY_ID)
            .env("ROOT_SECRET_KEY", SECRET)
            .args(["--port", &format!("127.0.0.1:{port}"), "--quiet"])
            .args(options)
            .arg("posix")
            // Not every file system under /tmp has extended attributes.
            .arg("--sidecar")
            .arg(directory.path().join("metadata"))
            .arg(directory.path().join("data"))
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {}: {error}", program.display()));
        let mut server = Self {
            child,
            port,
            scheme,
            directory,
        };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begin.elapsed() > START {
                let log = fs::read_to_string(self.directory.path().join("log"));
                panic!("the S3 server does not answer ({ended:?}): {log:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    #[allow(dead_code, reason = "for other tests that share this file")]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the objects of the bucket lie, a file each.
    #[allow(dead_code, reason = "for other tests that share this file")]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data").join(BUCKET)
    }

    /// Buckets are directories in it.
    #[allow(dead_code, reason = "for tests that take a bucket away")]
    pub fn buckets(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn spec(&self, bucket: &str) -> PgArchiveSpec {
        spec_of(&self.endpoint(), bucket)
    }

    pub fn store(&self) -> Arc<dyn ObjectStore> {
        open(&self.spec(BUCKET), KEY_ID, SECRET)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn spec(port: u16, bucket: &str) -> PgArchiveSpec {
    spec_of(&format!("http://127.0.0.1:{port}"), bucket)
}

fn spec_of(endpoint: &str, bucket: &str) -> PgArchiveSpec {
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

/// With credentials as a pod has them mounted.
pub fn open(spec: &PgArchiveSpec, key_id: &str, secret: &str) -> Arc<dyn ObjectStore> {
    let credentials = tempfile::tempdir().unwrap();
    fs::write(credentials.path().join("AWS_ACCESS_KEY_ID"), key_id).unwrap();
    // People make Secrets from files that end in a newline.
    fs::write(
        credentials.path().join("AWS_SECRET_ACCESS_KEY"),
        format!("{secret}\n"),
    )
    .unwrap();
    let mounted = MountedSecrets {
        credentials: Some(credentials.path().to_owned()),
        ca_file: None,
        directory: "/nowhere".into(),
    };
    store::open(spec, &mounted).unwrap()
}

/// From `VERSITYGW`, or built by `e2e/devcluster/build.sh` into the cache.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("VERSITYGW") {
        return path.into();
    }
    component("versitygw").join("bin/versitygw")
}

/// Where scripts/tools has built `wanted`.
pub fn component(wanted: &str) -> PathBuf {
    let cache = std::env::var_os("HIGHWATER_CACHE").map_or_else(default_cache, PathBuf::from);
    let components = cache.join("components");
    let built = fs::read_dir(&components).into_iter().flatten().flatten();
    let named = |path: &PathBuf| name(path).starts_with(&format!("{wanted}-"));
    let built = built
        .map(|entry| entry.path())
        .filter(|path| named(path) && path.join(".finished").exists());
    built.last().unwrap_or_else(|| {
        panic!(
            "found no {wanted} in {}: run scripts/tools",
            components.display()
        )
    })
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn default_cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    base.join("highwater")
}
