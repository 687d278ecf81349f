//! One recovery from restored volumes to a database that was stopped in order. Knows nothing of Kubernetes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

pub use super::error::JobError;
use super::{
    beside::Exchange,
    checks::{self, CheckError},
    commits,
    controldata::ControlData,
    cut,
    directory::{DataDirectory, Texts},
    fetch::{FetchConfig, FetchProgress},
    files::{self, Owner},
    marker::{Marker, Step},
    pace::Pace,
    prefetch::Prefetcher,
    program::Programs,
    promoted::{self, Promoted},
    server::{Outcome, Server},
    settings::{self, Inputs, files as names},
};
use crate::{
    api::{PassedCheck, RestorePlan, RestoreProgress, Verify},
    clock::{Clock as _, SystemClock, micro_time},
    postgres::{ControlFile, Lsn, SystemIdentifier},
};

/// What is recovered, and from what.
#[derive(Clone, Debug)]
pub struct Job {
    /// The PgRestore's UID.
    pub restore: String,
    /// What the archive holds beside the snapshots.
    pub texts: Texts,
    /// What the backup's manifest says.
    pub source: Source,
    /// What each fetch must know; `progress` is set by the job.
    pub fetch: FetchConfig,
    /// A private directory for configuration and socket, with a short path.
    pub work: PathBuf,
    /// Highwater's own binary.
    pub program: PathBuf,
    /// What a drill looks at; absent: it is none.
    pub verify: Option<Verify>,
    /// Where a drill's own program is asked.
    pub exchange: Exchange,
}

impl Job {
    /// Where PostgreSQL listens, if there is a program that asks it.
    fn address(&self) -> Option<IpAddr> {
        let program = self.verify.as_ref()?.program.as_ref();
        program.map(|_| self.exchange.address)
    }
}

/// The database that was backed up.
#[derive(Clone, Debug)]
pub struct Source {
    /// PGDATA, as the container sees it.
    pub data_directory: PathBuf,
    /// Where the restored volumes are mounted.
    pub mounts: Vec<PathBuf>,
    /// PostgreSQL's major version.
    pub major: i32,
    /// The identifier that initdb gave the cluster.
    pub system_identifier: SystemIdentifier,
    /// What `pg_backup_stop` returned.
    pub stop_lsn: Lsn,
    /// When it returned, by the clock of the primary.
    pub stopped_at: Timestamp,
    /// The user that the agent connected as.
    pub user: String,
    /// The database that the agent connected to.
    pub database: String,
    /// Settings that matter for replay.
    pub settings: BTreeMap<String, String>,
}

/// What PostgreSQL is started for. From the marker and pg_control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was not started yet: make the directory right, then replay.
    Prepare,
    /// It may have been killed while it replayed: go on.
    Replay,
    /// It was promoted: it only has to be started and stopped.
    Promoted,
}

/// A new timeline in pg_control means that PostgreSQL ended recovery before it was killed: with `recovery.signal` it
/// would refuse to go back to the plan's.
fn stage(marker: Option<Step>, control: Option<&ControlData>, plan: &RestorePlan) -> Stage {
    match (marker, control) {
        (Some(Step::Prepared | Step::Done), Some(control)) if control.timeline > plan.timeline => {
            Stage::Promoted
        }
        (Some(Step::Prepared | Step::Done), _) => Stage::Replay,
        (None | Some(Step::Preparing), _) => Stage::Prepare,
    }
}

/// Runs the recovery to its end, or from where an earlier try was killed. What is known of the progress goes into
/// `progress`.
///
/// # Errors
/// See [`JobError`].
pub async fn run(
    job: &Job,
    progress: &watch::Sender<RestoreProgress>,
    stop: &mut watch::Receiver<bool>,
) -> Result<RestoreProgress, JobError> {
    let started = Instant::now();
    let source = &job.source;
    let directory = DataDirectory::open(&source.data_directory, source.major)?;
    let marker = Marker::read(&directory.path, &job.restore).map_err(work(&directory.path))?;
    if let Some(outcome) = marker.as_ref().and_then(|marker| decided(job, marker)) {
        return outcome;
    }
    let programs = Programs::find(source.major, directory.owner).await?;
    let mut marker = marker.unwrap_or_else(|| Marker::new(&job.restore));
    let control = prepare(job, &directory, &programs, &mut marker).await?;
    let replay = control.timeline <= job.fetch.plan.timeline;
    progress.send_modify(|p| begin(p, &marker, replay));

    let prefetcher = replay
        .then(|| prefetch(&job.fetch, directory.owner))
        .flatten();
    let started_replay = Instant::now();
    let run = Run {
        job,
        directory: &directory,
        programs: &programs,
        control: &control,
        replay,
    };
    let (server, replay_time) = tokio::select! {
        biased;
        server = run.until_promoted(&mut marker, stop) => (server?, started_replay.elapsed()),
        never = follow_fetch(job, progress) => match never {},
        never = commits::follow(&job.fetch, progress) => match never {},
    };
    progress.send_modify(is_promoted);
    drop(prefetcher);
    let fetched = FetchProgress::read(&job.fetch.progress);
    if replay {
        marker.ended_early = ended_early(&job.fetch.plan, fetched.reached);
        // Before anything that takes time: a try that finds PostgreSQL promoted cannot find it out any more.
        directory.write(&marker)?;
    }
    let promoted =
        promoted::settle(&job.work, &source.user, &source.database, &directory.path).await?;
    progress.send_modify(|progress| answers(progress, &promoted));
    let checks = run.stopped(server, &promoted, progress, stop).await?;
    let mut result = finished(&fetched, promoted, checks, progress);
    result.replay_seconds = Some(seconds(replay_time));
    result.total_seconds = Some(seconds(started.elapsed()));
    directory.say_restored(&job.fetch.plan)?;
    marker.step = Step::Done;
    marker.result = Some(result.clone());
    directory.write(&marker)?;
    decided(job, &marker).unwrap_or(Ok(result))
}

/// PostgreSQL is about to be started. What an earlier try began is not begun again.
fn begin(progress: &mut RestoreProgress, marker: &Marker, replay: bool) {
    progress.dropped_slots.clone_from(&marker.dropped_slots);
    let now = Some(micro_time(SystemClock.now()));
    progress.replay_started_at = progress.replay_started_at.take().or(now);
    if replay {
        progress.replayed_to = None;
    }
}

/// The replay is over, and with it what was said of its rest. A try that was killed after it may have said so already.
fn is_promoted(progress: &mut RestoreProgress) {
    progress.remaining_seconds = None;
    let now = Some(micro_time(SystemClock.now()));
    progress.promoted_at = progress.promoted_at.take().or(now);
}

fn answers(progress: &mut RestoreProgress, promoted: &Promoted) {
    let at = Some(micro_time(promoted.answered_at));
    progress.answered_at = progress.answered_at.take().or(at);
    let replayed_to = promoted.replayed_to.map(micro_time);
    progress.replayed_to = replayed_to.or(progress.replayed_to.take());
}

/// To the millisecond: what the marker holds is then read back as it was.
fn seconds(time: std::time::Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

/// Without it recovery is slower, and nothing else.
fn prefetch(config: &FetchConfig, owner: Option<Owner>) -> Option<Prefetcher> {
    Prefetcher::start(config, owner)
        .inspect_err(|error| tracing::warn!(%error, "recovering without prefetch"))
        .ok()
}

async fn shut_down(
    server: Server,
    programs: &Programs,
    directory: &DataDirectory,
) -> Result<(), JobError> {
    server.stop(programs, &directory.path).await?;
    let control = programs.control_data(&directory.path).await?;
    if !control.is_shut_down() {
        return Err(JobError::NotShutDown(control.state));
    }
    Ok(directory.clear()?)
}

/// What a try came to: another one says the same.
fn decided(job: &Job, marker: &Marker) -> Option<Result<RestoreProgress, JobError>> {
    let result = marker
        .result
        .as_ref()
        .filter(|_| marker.step == Step::Done)?;
    Some(match marker.ended_early {
        Some(reached) => Err(JobError::EndedEarly {
            reached,
            expected: job.fetch.plan.wal_to,
        }),
        None => Ok(result.clone()),
    })
}

/// Without a target of its own PostgreSQL promotes wherever it believes the log to end, and calls that success: so it must
/// have asked for all WAL of the plan. With a target it makes sure itself.
fn ended_early(plan: &RestorePlan, reached: Option<Lsn>) -> Option<Lsn> {
    let reached = reached.unwrap_or(plan.wal_from);
    (plan.stop_at.is_none() && reached < plan.wal_to).then_some(reached)
}

/// Makes directory and working directory ready for a start.
async fn prepare(
    job: &Job,
    directory: &DataDirectory,
    programs: &Programs,
    marker: &mut Marker,
) -> Result<ControlData, JobError> {
    let step = Some(marker.step);
    let control = match stage(step, None, &job.fetch.plan) {
        Stage::Prepare => {
            let source = &job.source;
            let end = (source.stop_lsn, source.stopped_at);
            cut::reaches(&job.fetch.plan, &job.texts.backup_label, end)?;
            let control = directory.control()?;
            // Of another cluster that says nothing, and is told below.
            let ours = |it: &ControlFile| it.system_identifier == job.source.system_identifier;
            if let Some(control) = control.filter(ours) {
                cut::within(&control, &job.texts.backup_label, job.source.stop_lsn)?;
            }
            directory.prepare(&job.texts, &job.source.mounts, marker)?;
            programs.control_data(&directory.path).await?
        }
        Stage::Replay | Stage::Promoted => {
            let control = programs.control_data(&directory.path).await?;
            let stage = stage(step, Some(&control), &job.fetch.plan);
            tracing::info!(
                ?stage,
                state = control.state,
                "going on where an earlier try ended"
            );
            directory.resume(stage == Stage::Replay)?;
            control
        }
    };
    if control.system_identifier != job.source.system_identifier {
        return Err(JobError::OtherCluster {
            found: control.system_identifier,
            expected: job.source.system_identifier,
        });
    }
    configure(job, directory.owner)?;
    Ok(control)
}

/// Writes PostgreSQL's configuration and fetch's.
fn configure(job: &Job, owner: Option<Owner>) -> Result<(), JobError> {
    files::private_directory(&job.work, owner).map_err(work(&job.work))?;
    files::remove(&job.fetch.progress).map_err(work(&job.fetch.progress))?;
    let fetch = serde_json::to_vec(&job.fetch)
        .map_err(std::io::Error::from)
        .map_err(work(&job.work))?;
    let hba = settings::hba(job.address());
    for (name, content) in [
        (
            names::CONFIGURATION,
            &b"# Everything is given on the command line.\n"[..],
        ),
        (names::HBA, hba.as_bytes()),
        (names::IDENT, &[]),
        (names::FETCH, &fetch),
    ] {
        let path = job.work.join(name);
        files::private_file(&path, content, owner).map_err(work(&path))?;
    }
    Ok(())
}

fn work(path: &Path) -> impl FnOnce(std::io::Error) -> JobError + use<> {
    let path = path.to_owned();
    move |cause| JobError::Work { path, cause }
}

struct Run<'a> {
    job: &'a Job,
    directory: &'a DataDirectory,
    programs: &'a Programs,
    control: &'a ControlData,
    replay: bool,
}

impl Run<'_> {
    /// Starts PostgreSQL and waits for its promotion. A preloaded library that this image lacks is left out.
    async fn until_promoted(
        &self,
        marker: &mut Marker,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Server, JobError> {
        let mut preload = settings::preload_libraries(&self.job.source.settings);
        preload.retain(|name| !marker.left_out.contains(name));
        loop {
            let mut server = Server::start(self.programs, &self.arguments(&preload))?;
            match server.ready(&self.directory.path, stop).await? {
                Outcome::Ready => return Ok(server),
                Outcome::Terminated => {
                    if let Err(error) = server.stop(self.programs, &self.directory.path).await {
                        tracing::warn!(%error, "failed to stop PostgreSQL in order");
                    }
                    return Err(JobError::Terminated);
                }
                Outcome::Exited { status, log } => {
                    if let Some(missing) = settings::missing_library(&preload, &log).cloned() {
                        tracing::warn!(
                            library = missing,
                            "leaving out a library that cannot be loaded"
                        );
                        preload.retain(|name| *name != missing);
                        marker.left_out.push(missing);
                        self.directory.write(marker)?;
                        continue;
                    }
                    return Err(self.exited(status, log));
                }
            }
        }
    }

    /// Stops PostgreSQL in order. A drill looks at it before and after.
    async fn stopped(
        &self,
        server: Server,
        promoted: &Promoted,
        progress: &watch::Sender<RestoreProgress>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Vec<PassedCheck>, JobError> {
        let (job, programs, directory) = (self.job, self.programs, self.directory);
        let Some(verify) = &job.verify else {
            shut_down(server, programs, directory).await?;
            return Ok(Vec::new());
        };
        progress.send_modify(|progress| progress.percent = WHOLE.to_owned());
        let running = checks::Running {
            programs,
            socket: &job.work,
            superuser: &promoted.superuser,
            database: &job.source.database,
            exchange: &job.exchange,
        };
        let checked = unless_stopped(stop, running.check(verify)).await;
        // Whoever looks at a failed drill's copy finds a directory that starts.
        shut_down(server, programs, directory).await?;
        let mut passed = checked?;
        let of_files = checks::stopped(programs, &directory.path, verify);
        passed.extend(unless_stopped(stop, of_files).await?);
        Ok(passed)
    }

    fn arguments(&self, preload: &[String]) -> Vec<String> {
        settings::arguments(&Inputs {
            plan: &self.job.fetch.plan,
            recorded: &self.job.source.settings,
            preload,
            from_control: &self.control.kept_settings,
            program: &self.job.program,
            work: &self.job.work,
            pgdata: &self.directory.path,
            address: self.job.address(),
            replay: self.replay,
        })
    }

    fn exited(&self, status: String, log: Vec<String>) -> JobError {
        match FetchProgress::read(&self.job.fetch.progress).failure {
            Some(failure) => JobError::Fetch(failure),
            None => JobError::Exited { status, log },
        }
    }
}

/// Checks of a large database take hours: whoever is told to stop begins them anew in the next try.
async fn unless_stopped(
    stop: &mut watch::Receiver<bool>,
    checks: impl Future<Output = Result<Vec<PassedCheck>, CheckError>>,
) -> Result<Vec<PassedCheck>, JobError> {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Err(JobError::Terminated),
        passed = checks => Ok(passed?),
    }
}

/// Reads fetch's progress now and then, until it is dropped.
async fn follow_fetch(
    job: &Job,
    progress: &watch::Sender<RestoreProgress>,
) -> std::convert::Infallible {
    let started = Instant::now();
    let mut pace = Pace::default();
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let fetched = FetchProgress::read(&job.fetch.progress);
        if let Some(reached) = fetched.reached {
            pace.see(reached, started.elapsed());
        }
        progress.send_if_modified(|progress| {
            let before = progress.clone();
            progress.replayed_lsn = fetched.reached;
            progress.segments = fetched.segments;
            progress.percent = percent(&job.fetch.plan, fetched.reached);
            progress.remaining_seconds = pace.remaining(job.fetch.plan.wal_to);
            *progress != before
        });
    }
}

/// All WAL of the plan is replayed: a drill looks at the database then.
pub const WHOLE: &str = "100%";

/// How much of the plan's WAL was fetched: never all of it before the end.
pub fn percent(plan: &RestorePlan, reached: Option<Lsn>) -> String {
    let whole = plan.wal_to.bytes_since(plan.wal_from).max(1);
    let done = reached.map_or(0, |lsn| lsn.bytes_since(plan.wal_from));
    format!("{}%", (done.saturating_mul(100) / whole).min(99))
}

/// What is known by now, and what the end adds.
fn finished(
    fetched: &FetchProgress,
    promoted: Promoted,
    checks: Vec<PassedCheck>,
    progress: &watch::Sender<RestoreProgress>,
) -> RestoreProgress {
    RestoreProgress {
        replayed_lsn: fetched.reached,
        percent: WHOLE.to_owned(),
        segments: fetched.segments,
        remaining_seconds: None,
        end_lsn: promoted.end,
        new_timeline: Some(promoted.timeline),
        disabled_subscriptions: promoted.disabled_subscriptions,
        checks,
        ..progress.borrow().clone()
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
