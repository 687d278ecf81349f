//! How long it takes to plan a restore, and to do one. `scripts/bench restore` builds what a part needs, and runs it.

mod lineage;
mod planner;
mod rto;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use highwater_e2e::harness::marks;

/// Measures, prints a table, writes `e2e/bench/results/restore-PART.json`, and fails if a mark does not hold.
#[derive(Parser)]
struct Args {
    /// What is measured.
    part: Part,
    /// The `highwater` to measure; the planner is linked in.
    #[arg(long, required_if_eq("part", "rto"))]
    program: Option<PathBuf>,
    /// How many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Gigabytes of the databases that are restored.
    #[arg(long, value_delimiter = ',', default_value = "1,3,10")]
    sizes: Vec<rto::Size>,
}

/// Each in a process of its own: the memory of one is not another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Plans, with 10,000 backups and a million segments on 50 timelines; without a cluster.
    Planner,
    /// From the PgRestore to the first query, on the dev cluster.
    Rto,
}

#[tokio::main]
async fn main() -> ExitCode {
    marks::ending(run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<bool> {
    let (marks, name) = match args.part {
        Part::Planner => (planner::measure(args.repeat)?, "restore-planner.json"),
        Part::Rto => {
            let program = args.program.as_deref().context("want --program")?;
            let marks = rto::measure(program, &args.sizes, args.repeat).await?;
            (marks, "restore-rto.json")
        }
    };
    println!("\n{}", marks::table(&marks));
    let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results");
    let results = results.join(name);
    marks::write(&marks, &results)?;
    println!("written to {}", results.display());
    Ok(marks.iter().all(|mark| mark.holds))
}
