//! PostgreSQL under supervision: started, watched until it accepts connections, stopped.

use std::{collections::VecDeque, fs, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Child,
    sync::watch,
    task::JoinHandle,
};

use super::program::{ProgramError, Programs};

/// How often postmaster.pid is read.
const POLL: Duration = Duration::from_millis(50);
/// Lines of PostgreSQL's log that a failed recovery reports.
const LAST_LINES: usize = 12;
/// Bytes of them.
const LAST_BYTES: usize = 3000;

/// A running PostgreSQL.
pub struct Server {
    child: Child,
    log: JoinHandle<VecDeque<String>>,
}

/// How waiting for PostgreSQL ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was promoted and accepts connections.
    Ready,
    /// It ended by itself.
    Exited {
        /// How.
        status: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// We were told to stop.
    Terminated,
}

/// What PostgreSQL says of itself in postmaster.pid, line 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PostmasterStatus {
    Ready,
    Other,
}

fn postmaster_status(text: &str) -> PostmasterStatus {
    match text.lines().nth(7).map(str::trim) {
        Some("ready") => PostmasterStatus::Ready,
        _ => PostmasterStatus::Other,
    }
}

impl Server {
    /// Starts PostgreSQL.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start(programs: &Programs, arguments: &[String]) -> Result<Self, ProgramError> {
        let program = "postgres";
        let mut command = programs.command(program);
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|cause| ProgramError::Run { program, cause })?;
        let stderr = child.stderr.take();
        let log = tokio::spawn(async move {
            match stderr {
                Some(stderr) => follow(stderr).await,
                None => VecDeque::new(),
            }
        });
        Ok(Self { child, log })
    }

    /// Waits until PostgreSQL accepts connections: as hot standby is off, that is after promotion.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub async fn ready(
        &mut self,
        pgdata: &Path,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Outcome, ProgramError> {
        let file = pgdata.join("postmaster.pid");
        let pid = self.child.id().map(|pid| pid.to_string());
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(Outcome::Terminated),
                status = self.child.wait() => {
                    let status = status.map_err(|cause| ProgramError::Run { program: "postgres", cause })?;
                    let log = self.last_lines().await;
                    return Ok(Outcome::Exited { status: status.to_string(), log });
                }
                () = tokio::time::sleep(POLL) => {}
            }
            let text = fs::read_to_string(&file).unwrap_or_default();
            let ours = text.lines().next().map(str::to_owned) == pid;
            if ours && postmaster_status(&text) == PostmasterStatus::Ready {
                return Ok(Outcome::Ready);
            }
        }
    }

    /// Stops PostgreSQL in order, and waits for it however long its last checkpoint takes.
    ///
    /// # Errors
    /// It did not end in order.
    pub async fn stop(mut self, programs: &Programs, pgdata: &Path) -> Result<(), ProgramError> {
        let program = "pg_ctl";
        let mut command = programs.command(program);
        let command = command.args(["stop", "-W", "-m", "fast", "-D"]).arg(pgdata);
        let output = command
            .output()
            .await
            .map_err(|cause| ProgramError::Run { program, cause })?;
        if !output.status.success() && self.child.try_wait().ok().flatten().is_none() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ProgramError::Failed { program, output });
        }
        let status = self.child.wait().await.map_err(|cause| ProgramError::Run {
            program: "postgres",
            cause,
        })?;
        if status.success() {
            return Ok(());
        }
        let output = format!("{status}: {}", self.last_lines().await.join("; "));
        Err(ProgramError::Failed {
            program: "postgres",
            output,
        })
    }

    async fn last_lines(&mut self) -> Vec<String> {
        let lines = (&mut self.log).await.unwrap_or_default();
        let mut bytes = 0;
        let mut kept: Vec<String> = lines
            .into_iter()
            .rev()
            .take_while(|line| {
                bytes += line.len();
                bytes <= LAST_BYTES
            })
            .collect();
        kept.reverse();
        kept
    }
}

/// Passes the log on to ours, and keeps its end.
async fn follow(log: impl AsyncRead + Unpin) -> VecDeque<String> {
    let mut lines = BufReader::new(log).split(b'\n');
    let mut last = VecDeque::with_capacity(LAST_LINES);
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        tracing::info!(target: "postgres", "{line}");
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_read_from_the_eighth_line() {
        let file = |status: &str| format!("7\n/d\n1\n5432\n/s\n\n  1  2\n{status}\n");
        assert_eq!(
            postmaster_status(&file("ready   ")),
            PostmasterStatus::Ready
        );
        for other in ["starting", "standby ", "stopping", ""] {
            assert_eq!(postmaster_status(&file(other)), PostmasterStatus::Other);
        }
        assert_eq!(postmaster_status("7\n"), PostmasterStatus::Other);
    }
}
