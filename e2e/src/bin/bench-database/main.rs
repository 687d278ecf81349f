//! What shipping WAL costs the database, in one run. `scripts/bench database` builds what it needs.

mod bench;
mod pgbench;
mod receiving;
mod report;
mod ship;
mod shipping;
mod watched;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use highwater_e2e::bench::{cluster, group, scratch, store, verdict, weight};

/// The cost of shipping WAL to the database that it is of.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure, print a table, write `e2e/bench/results/database.json`, fail if a mark does not hold.
    Run(bench::Args),
    /// Ship WAL as the agent does, until SIGTERM: in a process of its own.
    #[command(hide = true)]
    Ship {
        /// From where to where: JSON.
        order: PathBuf,
    },
}

fn main() -> ExitCode {
    // As in the product: before any client.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match Cli::parse().what {
        What::Run(args) => bench::run(&args),
        What::Ship { order } => ship::run(&order).map(|()| true),
    };
    highwater_e2e::harness::marks::ending(done)
}
