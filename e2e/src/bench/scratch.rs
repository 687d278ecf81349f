//! Files that the benchmark makes and removes.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long anything that is started may take to be there.
const LIMIT: Duration = Duration::from_secs(60);

/// A folder that is empty.
///
/// # Errors
/// The file system's.
pub fn empty(path: &Path) -> Result<()> {
    remove(path)?;
    fs::create_dir_all(path).with_context(|| format!("failed to make {}", path.display()))
}

/// Removes a folder, if it is there.
///
/// # Errors
/// The file system's.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// # Errors
/// The file system's.
pub fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// # Errors
/// The file system's.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The names in a folder that `wanted` wants, sorted.
///
/// # Errors
/// The file system's.
pub fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if wanted(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A segment's name, no history file's.
pub fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Waits until `done` says so.
///
/// # Errors
/// It does not within a minute, or fails.
pub fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !done()? {
        ensure!(begin.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// It cannot be started, or fails: then with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let ran = command
        .output()
        .with_context(|| format!("failed to run {command:?}"))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        bail!("failed to run {command:?}: {}: {said}", ran.status);
    }
    Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
}

/// CPU milliseconds that this thread has used.
///
/// # Errors
/// The kernel does not tell.
pub fn thread_cpu() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().context("no schedstat")?;
    Ok(nanoseconds.parse::<f64>()? / 1e6)
}
