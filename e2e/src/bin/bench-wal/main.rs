//! WAL push and fetch beside the peers, in one run. `scripts/bench wal` builds and installs what it needs.

mod bench;
mod drive;
mod hashing;
mod plot;
mod proxy;
mod report;
mod round;
mod sample;
mod tools;
mod verdict;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use highwater_e2e::bench::{cluster, group, scratch, store};

/// WAL push and fetch of Highwater and its peers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure, print a table, write `e2e/bench/results/wal.{json,svg}`, fail if a mark does not hold.
    Run(bench::Args),
    /// Act as PostgreSQL's archiver, or as its recovery, once: in a control group of its own.
    #[command(hide = true)]
    Drive {
        /// What to do: JSON.
        order: PathBuf,
    },
    /// Read ahead for `highwater wal fetch` as `highwater recover` does, until it is killed.
    #[command(hide = true)]
    Prefetch {
        /// The configuration of the fetch.
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Run(args) => bench::run(&args),
        What::Drive { order } => drive::run(&order).map(|()| true),
        What::Prefetch { config } => prefetch(&config).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a mark does not hold, or a run failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// With one thread, as in the recovery program.
fn prefetch(config: &std::path::Path) -> anyhow::Result<()> {
    let config = serde_json::from_slice(&std::fs::read(config)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let _prefetcher = highwater::recovery::prefetch::Prefetcher::start(&config, None)?;
        std::future::pending::<anyhow::Result<()>>().await
    })
}
