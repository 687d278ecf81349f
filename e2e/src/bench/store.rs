//! The store: versitygw on loopback, its buckets folders.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::scratch;

/// The one user.
pub const KEY_ID: &str = "bench-key-id";
/// Of loopback only, and of this run.
pub const SECRET: &str = "bench-secret-key";
/// Of each request's signature.
pub const REGION: &str = "us-east-1";
/// The kernel's unit of CPU time in `/proc`.
const TICK_MILLISECONDS: f64 = 10.0;

/// A server until it is dropped.
pub struct Store {
    child: Child,
    folder: PathBuf,
    /// Where it listens, on loopback.
    pub port: u16,
}

impl Store {
    /// Starts `program` with its data below `folder`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        for sub in ["data", "metadata"] {
            scratch::empty(&folder.join(sub))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = fs::File::create(folder.join("log"))?;
        let child = Command::new(program)
            .env("ROOT_ACCESS_KEY", KEY_ID)
            .env("ROOT_SECRET_KEY", SECRET)
            .args(["--port", &format!("127.0.0.1:{port}"), "--region", REGION])
            // As S3 does: without it each request has a connection of its own.
            .args(["--keep-alive", "--quiet", "posix", "--sidecar"])
            .args([folder.join("metadata"), folder.join("data")])
            .stdout(log.try_clone()?)
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let mut store = Self {
            child,
            folder: folder.to_owned(),
            port,
        };
        scratch::until("the store", || {
            let ended = store.child.try_wait()?;
            ensure!(
                ended.is_none(),
                "the store ended: see {}",
                folder.join("log").display()
            );
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(store)
    }

    /// The server's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// A bucket with nothing in it.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(&self, bucket: &str) -> Result<()> {
        scratch::empty(&self.folder.join("data").join(bucket))
    }

    /// Bytes that lie in a bucket.
    ///
    /// # Errors
    /// The file system's.
    pub fn bytes(&self, bucket: &str) -> Result<u64> {
        let mut bytes = 0;
        let mut folders = vec![self.folder.join("data").join(bucket)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let found = entry.metadata()?;
                match found.is_dir() {
                    true => folders.push(entry.path()),
                    false => bytes += found.len(),
                }
            }
        }
        Ok(bytes)
    }

    /// Removes a bucket with all that is in it.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, bucket: &str) -> Result<()> {
        for sub in ["data", "metadata"] {
            scratch::remove(&self.folder.join(sub).join(bucket))?;
        }
        Ok(())
    }

    /// CPU milliseconds that it has used.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no stat")?;
        // After the name: user time is field 14 of all, system time 15.
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: Vec<f64> = times.map(str::parse).collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() * TICK_MILLISECONDS)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
