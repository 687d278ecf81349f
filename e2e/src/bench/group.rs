//! Control groups: the CPU time and the memory of a tool with all its processes.
//!
//! CPU is accounted by every group of version 2, whether its controller is on or not. The memory controller may be
//! version 1's.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::scratch;

/// Of the group.
pub const NAME: &str = "highwater-bench";
const SAMPLE: Duration = Duration::from_millis(20);
/// Nothing is done for so long: longer than the delay of any request.
const REST: Duration = Duration::from_millis(300);

/// A program to start.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// It and its arguments.
    pub line: Vec<String>,
    /// Its environment, beside ours.
    pub environment: BTreeMap<String, String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A group for one run. Whatever is left in it is killed when it is dropped.
pub struct Group {
    unified: PathBuf,
    memory: Memory,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

#[derive(Clone)]
enum Memory {
    V1(PathBuf),
    V2(PathBuf),
}

impl Memory {
    fn folder(&self) -> &Path {
        match self {
            Self::V1(folder) | Self::V2(folder) => folder,
        }
    }

    /// Without the page cache: that of the files a tool reads and writes is none of its needs.
    fn anonymous(&self) -> Option<u64> {
        let field = match self {
            Self::V1(_) => "total_rss ",
            Self::V2(_) => "anon ",
        };
        let text = fs::read_to_string(self.folder().join("memory.stat")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line?.parse().ok()
    }
}

impl Group {
    /// A new one.
    ///
    /// # Errors
    /// There are no groups, or we are not root.
    pub fn new() -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let (unified, memory) = match root.join("cgroup.controllers").exists() {
            true => {
                // It may be on already, or its group's manager may not let us.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
                (root.join(NAME), Memory::V2(root.join(NAME)))
            }
            false => (
                root.join("unified").join(NAME),
                Memory::V1(root.join("memory").join(NAME)),
            ),
        };
        for folder in [unified.as_path(), memory.folder()] {
            if folder.exists() {
                kill(&unified)?;
                fs::remove_dir(folder)
                    .with_context(|| format!("failed to remove {}", folder.display()))?;
            }
        }
        for folder in [unified.as_path(), memory.folder()] {
            let made = fs::create_dir_all(folder);
            made.with_context(|| format!("failed to make the group {}", folder.display()))?;
        }
        let (peak, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let sampler = std::thread::spawn({
            let (memory, peak, stop) = (memory.clone(), peak.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(memory.anonymous().unwrap_or_default(), Ordering::Relaxed);
                    std::thread::sleep(SAMPLE);
                }
            }
        });
        Ok(Self {
            unified,
            memory,
            peak,
            stop,
            sampler: Some(sampler),
        })
    }

    /// Starts a program that is in the group before its first instruction.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, program: &Program) -> Result<Child> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&program.log)
            .with_context(|| format!("failed to open {}", program.log.display()))?;
        let mut child = Command::new("sh")
            .args(["-c", "read -r go && exec \"$@\" < /dev/null", "sh"])
            .args(&program.line)
            .envs(&program.environment)
            .current_dir(&program.directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {:?}", program.line))?;
        for folder in [self.unified.as_path(), self.memory.folder()] {
            fs::write(folder.join("cgroup.procs"), child.id().to_string())
                .with_context(|| format!("failed to use the group {}", folder.display()))?;
        }
        let mut gate = child.stdin.take().context("a program without input")?;
        gate.write_all(b"go\n")?;
        Ok(child)
    }

    /// CPU milliseconds used so far.
    ///
    /// # Errors
    /// The file system's.
    pub fn cpu(&self) -> Result<f64> {
        let text = fs::read_to_string(self.unified.join("cpu.stat"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let microseconds: f64 = line.context("no usage in cpu.stat")?.parse()?;
        Ok(microseconds / 1000.0)
    }

    /// The most memory, page cache apart, in MB.
    pub fn peak(&self) -> f64 {
        megabytes(self.peak.load(Ordering::Relaxed))
    }

    /// The most memory with the page cache that the tool filled, in MB.
    pub fn peak_with_cache(&self) -> f64 {
        let file = match self.memory {
            Memory::V1(_) => "memory.max_usage_in_bytes",
            Memory::V2(_) => "memory.peak",
        };
        let text = fs::read_to_string(self.memory.folder().join(file));
        megabytes(text.unwrap_or_default().trim().parse().unwrap_or_default())
    }

    /// Waits until its processes have nothing to do, as a daemon that listens may still be starting.
    ///
    /// # Errors
    /// They have no rest.
    pub fn rests(&self) -> Result<()> {
        let (mut known, mut since) = (self.cpu()?, Instant::now());
        scratch::until("a rest of the tool's daemon", || {
            let now = self.cpu()?;
            if now - known > 1.0 {
                (known, since) = (now, Instant::now());
            }
            Ok(since.elapsed() >= REST)
        })
    }

    /// Waits until only `others` processes are left, as some tools work on in the background.
    ///
    /// # Errors
    /// They do not end.
    pub fn settle(&self, others: usize) -> Result<()> {
        scratch::until("a tool's processes in the background", || {
            Ok(processes(&self.unified)?.len() <= others)
        })
    }
}

/// No memory here has more digits than that.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn processes(group: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn kill(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    fs::write(group.join("cgroup.kill"), "1")?;
    scratch::until("killed processes", || Ok(processes(group)?.is_empty()))
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
        if let Err(error) = kill(&self.unified) {
            eprintln!("failed to end a tool's processes: {error:#}");
        }
        for folder in [self.unified.as_path(), self.memory.folder()] {
            // Its last process may not be reaped yet. The next one removes what is left.
            let _ = scratch::until("an empty group", || {
                Ok(fs::remove_dir(folder).is_ok() || !folder.exists())
            });
        }
    }
}
