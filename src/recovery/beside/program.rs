//! The program's side: `highwater check-program` in its container.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    ANSWER, Answer, BEGUN, Begun, Ended, Exchange, POLL, Request,
    output::{Tail, without},
    write,
};
use crate::recovery::on_sigterm;

/// Bytes of one line that are looked at together.
const LONGEST_LINE: u64 = 16 << 10;
/// How long output is waited for when the program has ended: what it started may still hold it.
const DRAIN: Duration = Duration::from_secs(2);

/// Arguments of `highwater check-program`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where recovery asks.
    #[command(flatten)]
    pub exchange: Exchange,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// What ends `highwater check-program` with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The signal handler could not be set.
    #[error("failed to listen for SIGTERM: {0}")]
    Signal(#[source] io::Error),
    /// The answer could not be written.
    #[error("failed to write the answer: {0}")]
    Answer(#[source] io::Error),
}

/// Runs the program whenever recovery asks for it, until SIGTERM: the kubelet sends it when recovery has ended.
///
/// # Errors
/// See [`Error`].
pub async fn run(args: Args) -> Result<(), Error> {
    let mut stop = on_sigterm().map_err(Error::Signal)?;
    let exchange = &args.exchange;
    let mut answered = interrupted(exchange)?;
    loop {
        let request = exchange.request();
        let new = request.filter(|request| answered.as_ref() != Some(&request.id));
        if let Some(request) = new {
            let begun = Begun {
                id: request.id.clone(),
            };
            write(&exchange.answer.join(BEGUN), &begun).map_err(Error::Answer)?;
            let answer = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                () = taken_back(exchange, &request.id) => None,
                answer = carry_out(&args.command, &request) => Some(answer),
            };
            if let Some(answer) = answer {
                write(&exchange.answer.join(ANSWER), &answer).map_err(Error::Answer)?;
            }
            answered = Some(request.id);
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            () = sleep(POLL) => {}
        }
    }
}

/// Which request needs nothing any more. One that was begun and has no answer was cut off with the container.
fn interrupted(exchange: &Exchange) -> Result<Option<String>, Error> {
    let Some(Begun { id }) = exchange.begun() else {
        return Ok(None);
    };
    if exchange.answer().is_none_or(|answer| answer.id != id) {
        let answer = Answer {
            id: id.clone(),
            ended: Ended::Interrupted,
            output: String::new(),
        };
        write(&exchange.answer.join(ANSWER), &answer).map_err(Error::Answer)?;
    }
    Ok(Some(id))
}

/// Whoever asked has given up, or asks anew.
async fn taken_back(exchange: &Exchange, id: &str) {
    while exchange.request().is_some_and(|request| request.id == id) {
        sleep(POLL).await;
    }
}

async fn carry_out(command: &[OsString], request: &Request) -> Answer {
    let tail = Arc::new(Mutex::new(Tail::default()));
    let ended = match start(command, request) {
        Err(cause) => {
            let program = command.first().map(|it| it.to_string_lossy().into_owned());
            let program = program.unwrap_or_default();
            Ended::NotStarted {
                cause: format!("failed to run {program} of its image: {cause}"),
            }
        }
        Ok(mut running) => {
            let output = follow(&mut running.child, &request.password, &tail);
            let deadline = Duration::from_secs(request.deadline_seconds);
            let status = timeout(deadline, running.child.wait()).await;
            // What it started must not outlive it, nor hold its output.
            drop(running);
            let _ = timeout(DRAIN, output.join_all()).await;
            match status {
                Err(_) => Ended::Deadline,
                Ok(Err(cause)) => Ended::NotStarted {
                    cause: format!("failed to wait for it: {cause}"),
                },
                Ok(Ok(status)) => ended(status),
            }
        }
    };
    let output = tail.lock().unwrap_or_else(PoisonError::into_inner).last();
    Answer {
        id: request.id.clone(),
        ended,
        output,
    }
}

fn ended(status: ExitStatus) -> Ended {
    match status.signal() {
        Some(signal) => Ended::Signal { signal },
        None => Ended::Exit {
            code: status.code().unwrap_or_default(),
        },
    }
}

/// A program with all that it started in its process group: dropped, none of it runs on.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Nobody is left in it: nothing to end.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The login is given by variables: arguments are seen in a list of processes.
fn start(command: &[OsString], request: &Request) -> io::Result<Running> {
    let (program, arguments) = command
        .split_first()
        .ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
    let child = Command::new(program)
        .args(arguments)
        .env("PGHOST", &request.host)
        .env("PGPORT", "5432")
        .env("PGUSER", &request.user)
        .env("PGDATABASE", &request.database)
        .env("PGPASSWORD", &request.password)
        .env("PGSSLMODE", "disable")
        // What the image sets must not lead elsewhere.
        .env_remove("PGHOSTADDR")
        .env_remove("PGSERVICE")
        .env_remove("PGOPTIONS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let group = id.and_then(Pid::from_raw);
    Ok(Running { child, group })
}

fn follow(child: &mut Child, password: &str, tail: &Arc<Mutex<Tail>>) -> JoinSet<()> {
    let mut output = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        output.spawn(lines(stdout, password.to_owned(), Arc::clone(tail)));
    }
    if let Some(stderr) = child.stderr.take() {
        output.spawn(lines(stderr, password.to_owned(), Arc::clone(tail)));
    }
    output
}

/// Into the container's log, and the end of it into the answer.
async fn lines(
    from: impl AsyncRead + Unpin + Send + 'static,
    password: String,
    tail: Arc<Mutex<Tail>>,
) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut from)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = without(&String::from_utf8_lossy(&line), &password);
        let text = text.trim_end_matches(['\n', '\r']);
        // A log that nobody takes is no reason to end.
        let _ = writeln!(io::stdout(), "{text}");
        tail.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }
}
