//! One run: a tool pushes all segments to an empty bucket and fetches them again. What comes back is compared, so a tool
//! that does nothing is not taken for a fast one.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    drive::{Job, Order, Outcome},
    group::{Group, Program},
    sample::{Kind, SEGMENT, Sample},
    scratch,
    store::Store,
    tools::{Plan, Site, Tool},
    verdict::median,
};

/// Push or fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// `archive_command`.
    Push,
    /// `restore_command`.
    Fetch,
}

impl Direction {
    /// For the tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Fetch => "fetch",
        }
    }
}

/// What was measured of one direction of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// How many.
    pub segments: usize,
    /// From the first call to the end of the last, per segment the other way round.
    pub segments_per_second: f64,
    /// CPU of the tool, its daemons and children, per segment.
    pub cpu_milliseconds: f64,
    /// CPU of the store, per segment.
    pub store_cpu_milliseconds: f64,
    /// The most memory of all its processes, page cache apart.
    pub peak_megabytes: f64,
    /// The same with the page cache that it filled.
    pub peak_with_cache_megabytes: f64,
    /// The median of the calls.
    pub call_milliseconds: f64,
    /// How many calls there were.
    pub calls: usize,
    /// What lay in the bucket, per segment.
    pub stored_megabytes: f64,
}

/// Where runs happen.
pub struct Place<'a> {
    /// A folder for one run after the other.
    pub scratch: &'a Path,
    /// The store.
    pub store: &'a Store,
    /// Where tools find it: a proxy's port, or its own.
    pub port: u16,
    /// The log of everything.
    pub logs: &'a Path,
}

/// What a run of a tool gives, each direction.
pub type Pair = [(Direction, Measured); 2];

/// One run of `tool`. Leaves nothing behind.
///
/// # Errors
/// A call failed, or what was fetched is not what was pushed.
pub fn run(tool: &dyn Tool, sample: &Sample, place: &Place<'_>, bucket: &str) -> Result<Pair> {
    let ran = push_and_fetch(tool, sample, place, bucket);
    for name in ["kept", "pgdata", "site"] {
        scratch::remove(&place.scratch.join(name))?;
    }
    place.store.remove(bucket)?;
    ran
}

fn push_and_fetch(
    tool: &dyn Tool,
    sample: &Sample,
    place: &Place<'_>,
    bucket: &str,
) -> Result<Pair> {
    let count = sample.segments.len().min(tool.most_segments());
    let site = Site {
        root: place.scratch.join("site"),
        pgdata: place.scratch.join("pgdata"),
        port: place.port,
        bucket: bucket.to_owned(),
        segments: sample.segments[..count].to_vec(),
    };
    scratch::empty(&site.root)?;
    place.store.create(bucket)?;
    sample.data_directory(&site.pgdata, &site.segments)?;
    sample.warm(&site.segments)?;
    tool.prepare(&site)?;
    let mut run = Run {
        place,
        site: &site,
        stored: 0,
    };
    let pushed = run.measure(tool.push(&site), Job::Push).context("push")?;
    run.stored = place.store.bytes(bucket)?;
    let pushed = run.per_segment(pushed);
    // Empty: some look there for what they need not fetch.
    sample.data_directory(&site.pgdata, &[])?;
    let kept = place.scratch.join("kept");
    scratch::empty(&kept)?;
    let job = Job::Fetch {
        names: site.segments.clone(),
        kept: kept.clone(),
    };
    let fetched = run.measure(tool.fetch(&site)?, job).context("fetch")?;
    let fetched = run.per_segment(fetched);
    compare(sample, &site.segments, &kept)?;
    Ok([(Direction::Push, pushed), (Direction::Fetch, fetched)])
}

struct Run<'a> {
    place: &'a Place<'a>,
    site: &'a Site,
    stored: u64,
}

/// Sums, not yet per segment.
struct Sums {
    outcome: Outcome,
    cpu: f64,
    store_cpu: f64,
    peak: f64,
    peak_with_cache: f64,
}

impl Run<'_> {
    fn measure(&self, plan: Plan, job: Job) -> Result<Sums> {
        let group = Group::new()?;
        let mut daemon = self.daemon(&group, &plan)?;
        let order = Order {
            pgdata: self.site.pgdata.clone(),
            command: plan.command.clone(),
            what: job,
            outcome: self.site.root.join("outcome.json"),
        };
        let path = self.site.root.join("order.json");
        scratch::write(&path, serde_json::to_vec(&order)?)?;
        self.note(&plan.command)?;
        // What was written before is not this tool's.
        scratch::output(&mut Command::new("sync"))?;
        let bench = std::env::current_exe()?.display().to_string();
        let line = vec![bench, "drive".into(), path.display().to_string()];
        let (cpu, store_cpu) = (group.cpu()?, self.place.store.cpu()?);
        let mut driver = group.spawn(&self.program(line, &plan))?;
        let status = driver.wait()?;
        ensure!(
            status.success(),
            "a call failed: see {}",
            self.place.logs.display()
        );
        group.settle(usize::from(daemon.is_some()))?;
        let outcome: Outcome = serde_json::from_slice(&scratch::read(&order.outcome)?)?;
        let sums = Sums {
            cpu: group.cpu()? - cpu - outcome.own_cpu_milliseconds,
            store_cpu: self.place.store.cpu()? - store_cpu,
            peak: group.peak(),
            peak_with_cache: group.peak_with_cache(),
            outcome,
        };
        if let Some(daemon) = &mut daemon {
            let ended = daemon.try_wait()?;
            ensure!(
                ended.is_none(),
                "the daemon ended: see {}",
                self.place.logs.display()
            );
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(sums)
    }

    fn program(&self, line: Vec<String>, plan: &Plan) -> Program {
        Program {
            line,
            environment: plan.environment.clone(),
            directory: self.site.pgdata.clone(),
            log: self.place.logs.to_owned(),
        }
    }

    /// So that what follows in the log is known to be this tool's.
    fn note(&self, command: &str) -> Result<()> {
        let mut log = fs::OpenOptions::new().append(true).open(self.place.logs)?;
        Ok(writeln!(log, "== {command}")?)
    }

    /// One that listens.
    fn daemon(&self, group: &Group, plan: &Plan) -> Result<Option<std::process::Child>> {
        let Some((line, socket)) = &plan.daemon else {
            return Ok(None);
        };
        let mut daemon = group.spawn(&self.program(line.clone(), plan))?;
        scratch::until("the daemon", || {
            let ended = daemon.try_wait()?;
            ensure!(
                ended.is_none(),
                "the daemon ended: see {}",
                self.place.logs.display()
            );
            Ok(std::os::unix::net::UnixStream::connect(socket).is_ok())
        })?;
        group.rests()?;
        Ok(Some(daemon))
    }

    // No count of segments has more digits than that.
    #[allow(clippy::cast_precision_loss, reason = "see above")]
    fn per_segment(&self, sums: Sums) -> Measured {
        let segments = self.site.segments.len();
        let each = segments as f64;
        Measured {
            segments,
            segments_per_second: each / sums.outcome.seconds,
            cpu_milliseconds: sums.cpu / each,
            store_cpu_milliseconds: sums.store_cpu / each,
            peak_megabytes: sums.peak,
            peak_with_cache_megabytes: sums.peak_with_cache,
            calls: sums.outcome.call_milliseconds.len(),
            call_milliseconds: median(&sums.outcome.call_milliseconds).unwrap_or_default(),
            stored_megabytes: self.stored as f64 / 1e6 / each,
        }
    }
}

fn compare(sample: &Sample, names: &[String], kept: &Path) -> Result<()> {
    for name in names {
        let (source, fetched) = (
            scratch::read(&sample.path(name))?,
            scratch::read(&kept.join(name))?,
        );
        ensure!(
            source.len() as u64 == SEGMENT && source == fetched,
            "{name} came back with other content"
        );
    }
    Ok(())
}

/// What is alike in all the runs that are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Setting {
    /// The WAL.
    pub kind: Kind,
    /// Added to each request.
    pub delay_milliseconds: u64,
}

impl Setting {
    /// For the tables.
    pub fn name(self) -> String {
        let kind = match self.kind {
            Kind::Pages => "pages of pgbench",
            Kind::Random => "random rows",
        };
        match self.delay_milliseconds {
            0 => format!("{kind}, bare loopback"),
            delay => format!("{kind}, +{delay} ms"),
        }
    }

    /// As [`Duration`].
    pub const fn delay(self) -> Duration {
        Duration::from_millis(self.delay_milliseconds)
    }
}

/// Where the log of a run is kept.
pub fn log(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("tools.log");
    fs::File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
    Ok(path)
}
