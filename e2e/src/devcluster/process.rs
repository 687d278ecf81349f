//! Long-running programs of the cluster: started detached, ended by the ids that were written down.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::names::Names;

/// Runs a command to its end; its output is part of the error.
pub fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program.as_ref());
    command.args(args);
    output(&mut command)
}

/// As [`run`], inside the cluster's network namespace.
pub fn run_inside(
    names: &Names,
    program: impl AsRef<std::ffi::OsStr>,
    args: &[&str],
) -> Result<String> {
    output(inside(names, program).args(args))
}

/// A command that will run inside the cluster's network namespace. The network alone: `ip netns exec` would also give it
/// mounts of its own, which nobody else would see.
pub fn inside(names: &Names, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", names.network_namespace().display()))
        .arg("--")
        .arg(program);
    command
}

/// Runs `command` and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "failed to run {command:?}: {}\n{stdout}{stderr}",
            output.status
        );
    }
    Ok(stdout)
}

/// A program of the cluster that runs until it is stopped.
pub struct Daemon<'a> {
    names: &'a Names,
    name: &'a str,
}

impl<'a> Daemon<'a> {
    /// The program that is called `name` here.
    pub fn new(names: &'a Names, name: &'a str) -> Self {
        Self { names, name }
    }

    /// Where it writes.
    pub fn log(&self) -> PathBuf {
        self.names.path("log").join(self.name)
    }

    fn record(&self) -> PathBuf {
        self.names.path("pids").join(self.name)
    }

    /// Starts it in the network namespace, with its output in its log, and writes down its id and start time.
    pub fn start(
        &self,
        program: &Path,
        args: &[String],
        environment: &[(&str, String)],
    ) -> Result<()> {
        fs::create_dir_all(self.names.path("log"))?;
        fs::create_dir_all(self.names.path("pids"))?;
        let log = fs::File::create(self.log())?;
        let mut command = inside(self.names, program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.env_clear().env(
            "PATH",
            format!(
                "{}:/usr/sbin:/usr/bin:/sbin:/bin",
                self.names.toolchain.join("bin").display()
            ),
        );
        command.envs(
            environment
                .iter()
                .map(|(key, value)| (*key, value.as_str())),
        );
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start {}", self.name))?;
        let started = start_time(child.id());
        let record = started.map(|started| format!("{} {started}", child.id()));
        // So that it is gone when it has ended, if whoever started it lives on.
        std::thread::spawn(move || child.wait());
        match record {
            Some(record) => Ok(fs::write(self.record(), record)?),
            None => bail!("{} ended; {}", self.name, self.last_words()),
        }
    }

    fn recorded(&self) -> Option<(u32, u64)> {
        let text = fs::read_to_string(self.record()).ok()?;
        let (pid, started) = text.split_once(' ')?;
        Some((pid.parse().ok()?, started.trim().parse().ok()?))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.recorded()
            .filter(|(pid, started)| start_time(*pid) == Some(*started))
            .map(|(pid, _)| pid)
    }

    /// Ends it, by force after ten seconds, and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            signal(pid, "TERM")?;
            if wait(Duration::from_secs(10), || self.pid().is_none()).is_err() {
                signal(pid, "KILL")?;
                wait(Duration::from_secs(10), || self.pid().is_none())
                    .with_context(|| format!("{} (process {pid}) does not end", self.name))?;
            }
        }
        let _ = fs::remove_file(self.record());
        Ok(())
    }

    /// Waits for `ready`. If it does not come in time, or a program of the cluster ends meanwhile, the error holds the end
    /// of the log that says why.
    pub fn wait_ready(&self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let mut ended = None;
        let result = wait(limit, || {
            ended = first_ended(self.names);
            ended.is_some() || ready()
        });
        match (ended, result) {
            (Some(name), _) => bail!(
                "{name} ended; {}",
                Daemon::new(self.names, &name).last_words()
            ),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => {
                bail!("{} is not ready: {error}; {}", self.name, self.last_words())
            }
        }
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("the end of {}:\n{tail}", self.log().display())
    }
}

/// A program that was started and no longer runs.
fn first_ended(names: &Names) -> Option<String> {
    let records = fs::read_dir(names.path("pids"))
        .into_iter()
        .flatten()
        .flatten();
    let mut started = records.filter_map(|entry| entry.file_name().into_string().ok());
    started.find(|name| Daemon::new(names, name).pid().is_none())
}

/// Sends a signal by name; a process that is gone already is no error.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let _ = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .stderr(Stdio::null())
        .status()?;
    Ok(())
}

/// Field 22 of `/proc/PID/stat`; with the id it names one process for ever. A zombie counts as gone.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    (fields.next()? != "Z").then(|| fields.nth(18)?.parse().ok())?
}

/// Asks until `done`, at most for `limit`.
pub fn wait(limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > limit {
            bail!("not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
