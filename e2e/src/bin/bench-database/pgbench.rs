//! One run of pgbench, over TCP and with a password.

use anyhow::Result;
use highwater_e2e::bench::pgbench::{self, Load};

use crate::{bench::Place, scratch};

const THREADS: &str = "2";

/// The tables.
///
/// # Errors
/// pgbench's.
pub fn fill(place: &Place, scale: u32) -> Result<()> {
    program(place, &["-q", "-i", "-s", &scale.to_string()]).map(drop)
}

/// Runs for so many seconds, at `rate` transactions per second or as fast as it goes.
///
/// # Errors
/// pgbench's; a transaction failed.
pub fn run(place: &Place, seconds: u32, rate: Option<f64>) -> Result<Load> {
    let logs = place.cluster.root.join("pgbench");
    scratch::empty(&logs)?;
    place.cluster.hand_over(&logs)?;
    // What every run begins with: else checkpoints would fall into some of them.
    place.cluster.sql("CHECKPOINT")?;
    let (seconds, clients) = (seconds.to_string(), place.clients.to_string());
    let prefix = format!("--log-prefix={}/log", logs.display());
    let mut arguments = vec!["-T", &seconds, "-c", &clients, "-j", THREADS, "-l", &prefix];
    let rate = rate.map(|rate| format!("--rate={rate:.3}"));
    arguments.extend(rate.as_deref());
    let said = program(place, &arguments)?;
    pgbench::read(&said, &logs)
}

fn program(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut command = place.cluster.command("pgbench");
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPASSWORD", &place.password)
        .args(arguments);
    scratch::output(&mut command)
}
