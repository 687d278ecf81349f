//! `highwater archive verify`: is what lies in the archive what was archived, and can it be restored?

mod progress;
mod show;

use std::{
    io::{self, Write as _},
    num::NonZeroU8,
    path::PathBuf,
    process::ExitCode,
};

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use crate::{
    archive::{
        Archive, LineageId, ReadError,
        verify::{Finding, LineageReport, Note, Run, Scope},
    },
    archiver::{Config, ConfigError},
    clock::{Clock, SystemClock},
    postgres::{SegmentName, TimelineId},
    telemetry::say,
};

/// Something is wrong with the archive.
const DAMAGED: u8 = 1;
/// A wrong call: nothing was looked at.
const USAGE: u8 = 2;
/// Not everything was read, and nothing wrong was found in what was: as of `wal fetch`.
const UNAVAILABLE: u8 = 200;
/// Ended by SIGINT or SIGTERM, as shells say it.
const INTERRUPTED: u8 = 130;

/// Arguments of `highwater archive verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the archive is: the same file as of `wal push` and `wal fetch`.
    #[arg(long)]
    config: PathBuf,
    /// Only this lineage. Default: the configuration's, or all of the database.
    #[arg(long)]
    lineage: Option<LineageId>,
    /// Only the WAL of this timeline, a decimal number.
    #[arg(long, value_parser = timeline)]
    timeline: Option<TimelineId>,
    /// Only WAL from this segment on: its place in the log counts, on every timeline.
    #[arg(long)]
    from: Option<SegmentName>,
    /// Only WAL up to this segment, this one included.
    #[arg(long)]
    to: Option<SegmentName>,
    /// A file of age identities or SSH private keys: without it encrypted WAL is compared by its hashes alone. Default: the
    /// configuration's `decryption`.
    #[arg(long)]
    identity: Option<PathBuf>,
    /// How the report looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Segments that are read at once; fewer where 128 MiB do not hold them.
    #[arg(long, default_value_t = PARALLEL)]
    parallel: NonZeroU8,
}

const PARALLEL: NonZeroU8 = NonZeroU8::MIN.saturating_add(3);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

fn timeline(text: &str) -> Result<TimelineId, String> {
    let parsed = text.parse().ok().and_then(TimelineId::new);
    parsed.ok_or_else(|| format!("failed to parse timeline {text:?}: want a number from 1"))
}

/// What a verification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Verdict {
    /// Everything in scope was read, and nothing is wrong.
    Sound,
    /// Something is wrong.
    Damaged,
    /// Not everything was read, and nothing wrong was found in what was.
    Incomplete,
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    archive: String,
    verdict: Verdict,
    /// Why not everything was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    began_at: Timestamp,
    ended_at: Timestamp,
    objects_read: u64,
    bytes_read: u64,
    findings: Vec<Finding>,
    notes: Vec<Note>,
    lineages: Vec<LineageReport>,
}

/// Why nothing is verified.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] crate::archive::OpenError),
    #[error("{0} is not in the archive: check lineage, archiveName and prefix")]
    NoLineage(String),
    #[error("{0} holds no lineage: check archiveName and prefix, or everything was deleted")]
    Empty(String),
    #[error("failed to start the runtime: {0}")]
    Runtime(io::Error),
    #[error("failed to write the report: {0}")]
    Write(io::Error),
}

/// How a verification came to its end.
enum Ended {
    Complete(Vec<LineageReport>),
    Unavailable(ReadError),
    Interrupted,
}

/// Verifies, prints the report to standard output, and says by the exit code what came of it.
pub fn run(args: &Args) -> ExitCode {
    match verify(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            say(&failure);
            ExitCode::from(match failure {
                Failure::Write(_) | Failure::Runtime(_) => UNAVAILABLE,
                Failure::Config(_) | Failure::Open(_) => USAGE,
                Failure::NoLineage(_) | Failure::Empty(_) => USAGE,
            })
        }
    }
}

fn verify(args: &Args) -> Result<u8, Failure> {
    let mut config = Config::read(&args.config)?;
    if let Some(path) = &args.identity {
        config.decryption = Some(path.clone());
    }
    let archive = config.open()?;
    let scope = Scope {
        lineage: args.lineage.clone().or(config.lineage.clone()),
        timeline: args.timeline,
        from: args.from,
        to: args.to,
        parallel: args.parallel,
        now: SystemClock.now(),
    };
    let run = Run::default();
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::Runtime)?;
    let ended = runtime.block_on(until_the_end(&archive, &scope, &run))?;
    // What still waits for the store is not waited for.
    runtime.shutdown_background();
    let (report, code) = report(config.place(), scope.now, &run, ended)?;
    print(&report, args.output).map_err(Failure::Write)?;
    Ok(code)
}

/// What is to be said, and the exit code.
fn report(
    archive: String,
    began_at: Timestamp,
    run: &Run,
    ended: Ended,
) -> Result<(Report, u8), Failure> {
    let (lineages, unread) = match ended {
        Ended::Complete(lineages) => (lineages, None),
        Ended::Unavailable(ReadError::NotFound { key }) => return Err(Failure::NoLineage(key)),
        Ended::Unavailable(error) => (Vec::new(), Some((error.to_string(), UNAVAILABLE))),
        Ended::Interrupted => {
            let what = "it was interrupted".to_owned();
            (Vec::new(), Some((what, INTERRUPTED)))
        }
    };
    let left_out = run.left_out();
    let left_out = (!left_out.is_empty()).then(|| (left_out.join("; "), UNAVAILABLE));
    let unread = unread.or(left_out);
    let (findings, progress) = (run.findings(), run.progress());
    if lineages.is_empty() && findings.is_empty() && unread.is_none() {
        return Err(Failure::Empty(archive));
    }
    let (verdict, code) = match (findings.is_empty(), &unread) {
        (false, _) => (Verdict::Damaged, DAMAGED),
        (true, Some((_, code))) => (Verdict::Incomplete, *code),
        (true, None) => (Verdict::Sound, 0),
    };
    let report = Report {
        archive,
        verdict,
        stopped: unread.map(|(why, _)| why),
        began_at,
        ended_at: SystemClock.now(),
        objects_read: progress.objects_read,
        bytes_read: progress.bytes_read,
        findings,
        notes: run.notes(),
        lineages,
    };
    Ok((report, code))
}

/// Verifies until everything is read, the store gives up, or somebody ends it.
async fn until_the_end(archive: &Archive, scope: &Scope, run: &Run) -> Result<Ended, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    Ok(tokio::select! {
        verified = archive.verify(scope, run) => match verified {
            Ok(lineages) => Ended::Complete(lineages),
            Err(error) => Ended::Unavailable(error),
        },
        () = progress::show(run) => Ended::Interrupted,
        _ = interrupt.recv() => Ended::Interrupted,
        _ = terminate.recv() => Ended::Interrupted,
    })
}

fn print(report: &Report, output: Output) -> io::Result<()> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(report)?,
        Output::Table => show::tables(report),
    };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end())?;
    stdout.flush()
}
