//! Backups beside a bare script that does the same, in one run on the dev cluster. `scripts/bench backup` builds what it needs.

mod bare;
mod cost;
mod ours;
mod parts;
mod place;
mod report;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use highwater_e2e::harness::marks;
use place::Place;
use report::Report;

/// Measures, prints a table, writes `e2e/bench/results/backup.json`, and fails if a mark does not hold.
#[derive(Parser)]
struct Args {
    /// The `highwater` to measure.
    #[arg(long)]
    program: PathBuf,
    /// How many rounds of each part; in each the bare script and Highwater, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Seconds of load each time, where the cost to the database is measured: twice as many rounds of it.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..))]
    seconds: u32,
    /// These parts alone.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A database on one volume.
    One,
    /// How often the API server is asked.
    Requests,
    /// A database on four volumes: data, WAL, two tablespaces.
    Four,
    /// Databases of 1, 3 and 10 GB.
    Sizes,
    /// Twenty databases at once.
    Twenty,
    /// The controller's memory with 200 finished backups.
    Memory,
    /// What a backup costs a database under load.
    Cost,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // As in the product: before any client.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    marks::ending(run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<bool> {
    let place = Place::new(&args.program).await?;
    let marks = measure(args, &place).await?.marks()?;
    println!("\n{}", marks::table(&marks));
    let results = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/results/backup.json");
    marks::write(&marks, &results)?;
    println!("written to {}", results.display());
    Ok(marks.iter().all(|mark| mark.holds))
}

async fn measure(args: &Args, place: &Place) -> Result<Report> {
    let (repeat, mut report) = (args.repeat, Report::default());
    let [one, requests, four, sizes, twenty, memory] = [
        Part::One,
        Part::Requests,
        Part::Four,
        Part::Sizes,
        Part::Twenty,
        Part::Memory,
    ]
    .map(|part| args.wants(part));
    if one || requests {
        parts::one(place, (one, requests), repeat, &mut report).await?;
    }
    if four {
        report.four = Some(parts::four(place, repeat).await?);
    }
    if sizes {
        report.sizes = parts::sizes(place, repeat).await?;
    }
    if twenty || memory {
        parts::many(place, (twenty, memory), repeat, &mut report).await?;
    }
    if args.wants(Part::Cost) {
        let each = Duration::from_secs(args.seconds.into());
        report.cost = cost::measure(place, repeat * 2, each).await?;
    }
    Ok(report)
}
