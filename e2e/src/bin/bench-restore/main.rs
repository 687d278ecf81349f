//! How long it takes to plan a restore, and to do one. `scripts/bench restore` builds what a part needs, and runs it.

mod beside;
mod content;
mod lineage;
mod ours;
mod pgbackrest;
mod planner;
mod size;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use highwater_e2e::harness::marks::{self, Mark};

/// Measures, prints a table, writes `e2e/bench/results/restore-PART.json`, and fails if a mark does not hold.
#[derive(Parser)]
struct Args {
    /// What is measured.
    part: Part,
    /// The `highwater` to measure; the planner is linked in.
    #[arg(long, required_if_eq_any([("part", "size"), ("part", "peer")]))]
    program: Option<PathBuf>,
    /// How many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Gigabytes of the databases that are restored.
    #[arg(long, value_delimiter = ',', default_value = "1,3,10")]
    sizes: Vec<content::Size>,
    #[command(flatten)]
    peer: pgbackrest::Place,
}

/// Each in a process of its own: the memory of one is not another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Plans, with 10,000 backups and a million segments on 50 timelines; without a cluster.
    Planner,
    /// From the PgRestore to the first query, on the dev cluster.
    Size,
    /// The same, and pgBackRest's restore beside it: also writes `restore-peer.{txt,svg}`.
    Peer,
}

#[tokio::main]
async fn main() -> ExitCode {
    marks::ending(run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<bool> {
    let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results");
    std::fs::create_dir_all(&results)
        .with_context(|| format!("failed to make {}", results.display()))?;
    let (marks, name) = match args.part {
        Part::Planner => (planner::measure(args.repeat)?, "restore-planner.json"),
        Part::Size => (restores(args, None).await?, "restore-size.json"),
        Part::Peer => (restores(args, Some(&results)).await?, "restore-peer.json"),
    };
    println!("\n{}", marks::table(&marks));
    let results = results.join(name);
    marks::write(&marks, &results)?;
    println!("written to {}", results.display());
    Ok(marks.iter().all(|mark| mark.holds))
}

/// Ours, and where there is a folder to tell of it, pgBackRest's beside them.
async fn restores(args: &Args, beside: Option<&Path>) -> Result<Vec<Mark>> {
    let program = args.program.as_deref().context("want --program")?;
    let peer = beside.map(|_| &args.peer);
    let times = size::measure(program, peer, &args.sizes, args.repeat).await?;
    if let Some(results) = beside {
        beside::tell(&times, results)?;
    }
    size::marks(&times)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn its_arguments_go_together() {
        Args::command().debug_assert();
        let part = |arguments: &str| Args::try_parse_from(arguments.split(' ')).is_ok();
        assert!(part("bench-restore planner"));
        assert!(part("bench-restore size --program p --sizes 1,10"));
        assert!(part("bench-restore peer --program p --peers f"));
        for lacks in ["size", "peer --program p", "peer --peers f"] {
            assert!(!part(&format!("bench-restore {lacks}")), "{lacks}");
        }
    }
}
