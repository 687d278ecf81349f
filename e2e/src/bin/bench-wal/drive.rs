//! PostgreSQL's archiver, and its recovery without the replay: a process of its own, so that all that a tool starts is in
//! the tool's control group. What the driver itself uses is told, to be taken off.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::scratch;

/// As many names as the archiver keeps of one scan.
const NAMES: usize = 64;
/// What PostgreSQL calls the file that it lets a segment be fetched to.
const FETCHED: &str = "pg_wal/RECOVERYXLOG";

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The data directory.
    pub pgdata: PathBuf,
    /// With `%p`, `%f`.
    pub command: String,
    /// What for.
    pub what: Job,
    /// Where to write the [`Outcome`].
    pub outcome: PathBuf,
}

/// What the driver is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// The archiver.
    Push,
    /// Recovery: these names in order, each then moved to `kept`.
    Fetch {
        /// Segments.
        names: Vec<String>,
        /// A folder on the same file system.
        kept: PathBuf,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// From the first call to the end of the last.
    pub seconds: f64,
    /// Of each call.
    pub call_milliseconds: Vec<f64>,
    /// CPU that the driver used, not the tool.
    pub own_cpu_milliseconds: f64,
}

/// Does what the file `order` says.
///
/// # Errors
/// A call failed: its log says why.
pub fn run(order: &Path) -> Result<()> {
    let order: Order = serde_json::from_slice(&scratch::read(order)?)?;
    let mut calls = Vec::new();
    // It has one thread.
    let begin = Instant::now();
    match &order.what {
        Job::Push => push(&order, &mut calls)?,
        Job::Fetch { names, kept } => fetch(&order, names, kept, &mut calls)?,
    }
    let outcome = Outcome {
        seconds: begin.elapsed().as_secs_f64(),
        call_milliseconds: calls,
        own_cpu_milliseconds: scratch::thread_cpu()?,
    };
    scratch::write(&order.outcome, serde_json::to_vec(&outcome)?)
}

/// As pgarch.c: of one scan the lowest names, each looked for again before its turn, as a tool may have done it meanwhile.
fn push(order: &Order, calls: &mut Vec<f64>) -> Result<()> {
    let status = order.pgdata.join("pg_wal/archive_status");
    loop {
        let mut ready = scratch::names(&status, |name| name.ends_with(".ready"))?;
        ready.truncate(NAMES);
        if ready.is_empty() {
            return Ok(());
        }
        for file in ready {
            let from = status.join(&file);
            if !from.exists() {
                continue;
            }
            let name = file.trim_end_matches(".ready");
            call(order, &format!("pg_wal/{name}"), name, calls)?;
            done(&from, &status.join(format!("{name}.done")))?;
        }
    }
}

/// Some tools rename the file of the segment that they were asked for, too: PostgreSQL then only warns.
fn done(ready: &Path, done: &Path) -> Result<()> {
    match fs::rename(ready, done) {
        Err(_) if done.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("failed to rename {}", ready.display())),
    }
}

fn fetch(order: &Order, names: &[String], kept: &Path, calls: &mut Vec<f64>) -> Result<()> {
    let fetched = order.pgdata.join(FETCHED);
    for name in names {
        call(order, FETCHED, name, calls)?;
        let renamed = fs::rename(&fetched, kept.join(name));
        renamed.with_context(|| format!("nothing was fetched for {name}"))?;
    }
    Ok(())
}

fn call(order: &Order, path: &str, name: &str, calls: &mut Vec<f64>) -> Result<()> {
    let line = order.command.replace("%p", path).replace("%f", name);
    let begin = Instant::now();
    let status = Command::new("sh")
        .args(["-c", &line])
        .current_dir(&order.pgdata)
        .status()?;
    ensure!(status.success(), "failed to run {line}: {status}");
    calls.push(begin.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;

    use super::{Job, Order, push};

    /// A data directory with these `.ready` files, and how `command` archives them.
    fn pushed(command: &str) -> (tempfile::TempDir, anyhow::Result<()>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let status = folder.path().join("pg_wal/archive_status");
        fs::create_dir_all(&status).unwrap();
        for name in ["C", "A", "B"] {
            fs::write(status.join(format!("{name}.ready")), "").unwrap();
        }
        let order = Order {
            pgdata: folder.path().to_owned(),
            command: command.to_owned(),
            what: Job::Push,
            outcome: folder.path().join("outcome"),
        };
        let mut calls = Vec::new();
        let ran = push(&order, &mut calls);
        (folder, ran, calls.len())
    }

    #[test]
    fn the_lowest_comes_first_and_each_is_done() {
        let (folder, ran, calls) = pushed("echo %f %p >> said");
        ran.unwrap();
        let said = fs::read_to_string(folder.path().join("said")).unwrap();
        assert_eq!(said, "A pg_wal/A\nB pg_wal/B\nC pg_wal/C\n");
        assert_eq!(calls, 3);
        let status = folder.path().join("pg_wal/archive_status");
        assert!(status.join("C.done").exists() && !status.join("C.ready").exists());
    }

    #[test]
    fn what_a_tool_did_ahead_is_not_asked_for() {
        let rename =
            "cd pg_wal/archive_status && for f in *.ready; do mv $f ${f%.ready}.done; done";
        let (_folder, ran, calls) = pushed(rename);
        ran.unwrap();
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_call_that_fails_ends_it() {
        let (_folder, ran, calls) = pushed("exit 1");
        assert!(ran.is_err());
        assert_eq!(calls, 0);
    }
}
