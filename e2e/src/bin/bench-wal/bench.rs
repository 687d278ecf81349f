//! All rounds of all tools, one tool after the other in each, so that what disturbs the machine disturbs all alike.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    hashing, plot,
    proxy::Proxy,
    report::{self, Report, Run},
    round::{self, Direction, Place, Setting},
    sample::{Kind, Sample},
    scratch,
    store::Store,
    tools::{self, Programs, Side, Tool},
    verdict,
};

/// What is measured with what.
#[derive(clap::Args)]
pub struct Args {
    /// The `highwater` to measure: the release build.
    #[arg(long)]
    program: PathBuf,
    /// What `e2e/bench/peers.sh` printed.
    #[arg(long)]
    peers: PathBuf,
    /// The S3 server.
    #[arg(long)]
    versitygw: PathBuf,
    /// PostgreSQL's programs.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    postgres: PathBuf,
    /// A folder that every user may enter, with 4 GB to spare for 48 segments. The WAL in it is kept for the next time.
    #[arg(long, default_value = "/var/tmp/highwater-bench-wal")]
    scratch: PathBuf,
    /// Segments of each kind of WAL.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(2..))]
    segments: u16,
    /// How often each tool runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Milliseconds added to each request to the store: a setting each.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 30])]
    delay: Vec<u64>,
    /// Which WAL.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Pages, Kind::Random])]
    kind: Vec<Kind>,
    /// Each tool in each round, also those that the first round showed to be far from the fastest.
    #[arg(long)]
    all: bool,
    /// Only tools whose name holds one of these, as in `Highwater,WAL-RUS daemon`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Measures everything. Whether all runs succeeded and all marks hold.
///
/// # Errors
/// What is needed is not there.
pub fn run(args: &Args) -> Result<bool> {
    let programs = Programs::read(args.program.clone(), &args.peers)?;
    std::fs::create_dir_all(&args.scratch)?;
    let tools = chosen(args, &programs);
    ensure!(!tools.is_empty(), "no tool has such a name");
    let versions = versions(&tools)?;
    let sample = |kind| {
        Sample::of(
            kind,
            usize::from(args.segments),
            &args.scratch,
            &args.postgres,
        )
    };
    let samples = args.kind.iter().map(|kind| Ok((*kind, sample(*kind)?)));
    let samples: Vec<(Kind, Sample)> = samples.collect::<Result<_>>()?;
    let (_, first) = samples.first().context("no kind of WAL")?;
    let hashing = hashing::cost(&first.path(first.segments.first().context("no segments")?))?;
    let begin = Instant::now();
    let runs = rounds(args, &tools, &samples)?;
    let report = Report::new(
        versions,
        hashing,
        begin.elapsed().as_secs(),
        args.repeat,
        &tools,
        runs,
    );
    let verdicts = verdict::all(&report);
    println!("{}", report::table(&report));
    println!("{}", verdict::text(&verdicts));
    let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results");
    std::fs::create_dir_all(&results)?;
    report::write(&report, &verdicts, &results.join("wal.json"))?;
    plot::draw(&report, &results.join("wal.svg"))?;
    println!("written to {}/wal.{{json,svg}}", results.display());
    Ok(report.failures() == 0 && verdicts.iter().all(|verdict| verdict.holds))
}

fn chosen(args: &Args, programs: &Programs) -> Vec<Box<dyn Tool>> {
    let mut tools = tools::all(programs);
    tools.retain(|tool| {
        let (name, how) = tool.name();
        let name = format!("{name} {how}");
        args.only.is_empty() || args.only.iter().any(|only| name.contains(only))
    });
    tools
}

fn versions(tools: &[Box<dyn Tool>]) -> Result<Vec<(String, String)>> {
    let mut versions = Vec::new();
    for tool in tools {
        let (name, _) = tool.name();
        if !versions.iter().any(|(known, _)| *known == name) {
            versions.push((name, tool.version()?));
        }
    }
    Ok(versions)
}

fn rounds(args: &Args, tools: &[Box<dyn Tool>], samples: &[(Kind, Sample)]) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let logs = round::log(&args.scratch)?;
    for (kind, sample) in samples {
        for delay in &args.delay {
            let setting = Setting {
                kind: *kind,
                delay_milliseconds: *delay,
            };
            println!("\n{}", setting.name());
            // New for each setting: a server that has served much may be slower.
            let folder = args.scratch.join("store");
            scratch::empty(&folder)?;
            let store = Store::start(&args.versitygw, &folder)?;
            let proxy = Proxy::start(store.port, setting.delay())?;
            let place = Place {
                scratch: &args.scratch,
                store: &store,
                port: if *delay == 0 { store.port } else { proxy.port },
                logs: &logs,
            };
            let mut taking_part: Vec<usize> = (0..tools.len()).collect();
            for number in 1..=args.repeat {
                let round = one_round(tools, &taking_part, sample, &place, (setting, number));
                if number == 1 && !args.all {
                    taking_part = contenders(tools, &round);
                }
                runs.extend(round);
            }
        }
    }
    scratch::remove(&args.scratch.join("store"))?;
    Ok(runs)
}

/// A tool that fails is said to have failed; the others go on.
fn one_round(
    tools: &[Box<dyn Tool>],
    taking_part: &[usize],
    sample: &Sample,
    place: &Place<'_>,
    (setting, number): (Setting, u32),
) -> Vec<Run> {
    let mut runs = Vec::new();
    for at in taking_part {
        let tool = tools[*at].as_ref();
        let bucket = format!("b{number}-{at}");
        let result = round::run(tool, sample, place, &bucket);
        let (name, how) = tool.name();
        match &result {
            Ok([(_, push), (_, fetch)]) => println!(
                "round {number}: {name:12} {how:16} push {:6.1}/s {:6.1} ms CPU, fetch {:6.1}/s {:6.1} ms CPU",
                push.segments_per_second,
                push.cpu_milliseconds,
                fetch.segments_per_second,
                fetch.cpu_milliseconds,
            ),
            Err(error) => println!("round {number}: {name:12} {how:16} FAILED: {error:#}"),
        }
        runs.push(Run::new(setting, *at, result));
    }
    runs
}

/// Of the fastest of its side in the first round, a tool that is slower than this cannot have the best median.
const FAR: f64 = 0.6;

/// Those that may turn out to be the fastest of their side, in one direction or the other. One that failed is tried again.
fn contenders(tools: &[Box<dyn Tool>], round: &[Run]) -> Vec<usize> {
    let fastest = |side: Side, direction: Direction| {
        let rates = round.iter().filter(|run| tools[run.tool].side() == side);
        rates
            .filter_map(|run| run.rate(direction))
            .fold(0.0, f64::max)
    };
    let near = |run: &&Run| {
        [Direction::Push, Direction::Fetch]
            .into_iter()
            .any(|direction| {
                let best = fastest(tools[run.tool].side(), direction);
                run.rate(direction).is_none_or(|rate| rate >= FAR * best)
            })
    };
    round.iter().filter(near).map(|run| run.tool).collect()
}
