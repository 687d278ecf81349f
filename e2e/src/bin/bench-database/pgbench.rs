//! One run of pgbench, over TCP and with a password, and what its log says of each transaction.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{bench::Place, scratch};

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Transactions per second.
    pub rate: f64,
    /// 95 of 100 transactions took at most so long, counted from when they were due.
    pub p95_milliseconds: f64,
}

const THREADS: &str = "2";

/// The tables.
///
/// # Errors
/// pgbench's.
pub fn fill(place: &Place, scale: u32) -> Result<()> {
    pgbench(place, &["-q", "-i", "-s", &scale.to_string()]).map(drop)
}

/// Runs for so many seconds, at `rate` transactions per second or as fast as it goes.
///
/// # Errors
/// pgbench's; a transaction failed.
pub fn run(place: &Place, seconds: u32, rate: Option<f64>) -> Result<Load> {
    let logs = place.cluster.root.join("pgbench");
    scratch::empty(&logs)?;
    place.hand_over(&logs)?;
    // What every run begins with: else checkpoints would fall into some of them.
    place.cluster.sql("CHECKPOINT")?;
    let (seconds, clients) = (seconds.to_string(), place.clients.to_string());
    let prefix = format!("--log-prefix={}/log", logs.display());
    let mut arguments = vec!["-T", &seconds, "-c", &clients, "-j", THREADS, "-l", &prefix];
    let rate = rate.map(|rate| format!("--rate={rate:.3}"));
    arguments.extend(rate.as_deref());
    let said = pgbench(place, &arguments)?;
    Ok(Load {
        rate: per_second(&said).context("pgbench does not say how many transactions per second")?,
        p95_milliseconds: p95(latencies(&logs)?)?,
    })
}

fn pgbench(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut command = place.cluster.command("pgbench");
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPASSWORD", &place.password)
        .args(arguments);
    scratch::output(&mut command)
}

fn per_second(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

/// Milliseconds of each transaction: the third field of a line has microseconds.
fn latencies(folder: &Path) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for name in scratch::names(folder, |_| true)? {
        let text = String::from_utf8(scratch::read(&folder.join(name))?)?;
        for line in text.lines() {
            let field = line.split(' ').nth(2).and_then(|field| field.parse().ok());
            let microseconds: f64 =
                field.with_context(|| format!("pgbench logged no latency: {line}"))?;
            all.push(microseconds / 1000.0);
        }
    }
    Ok(all)
}

/// The value that at least 95 of 100 do not exceed.
fn p95(mut figures: Vec<f64>) -> Result<f64> {
    ensure!(!figures.is_empty(), "no transaction was measured");
    figures.sort_by(f64::total_cmp);
    let rank = (figures.len() * 95).div_ceil(100);
    Ok(figures[rank - 1])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn of_a_hundred_the_ninety_fifth_counts() {
        let hundred = (1..=100).rev().map(f64::from).collect();
        assert_eq!(p95(hundred).unwrap().to_bits(), 95.0_f64.to_bits());
        assert_eq!(p95(vec![7.0]).unwrap().to_bits(), 7.0_f64.to_bits());
        assert!(p95(Vec::new()).is_err());
    }

    #[test]
    fn what_pgbench_says_is_read() {
        let said = "latency average = 1.2 ms\ntps = 812.500000 (without initial connection time)\n";
        assert_eq!(per_second(said), Some(812.5));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("log.1"),
            "0 199 2241 0 1175850568 995598 51\n",
        )
        .unwrap();
        std::fs::write(
            folder.path().join("log.1.1"),
            "1 4 500 0 1175850568 998079 0\n",
        )
        .unwrap();
        assert_eq!(latencies(folder.path()).unwrap(), [2.241, 0.5]);
        // A transaction that failed has no latency.
        std::fs::write(
            folder.path().join("log.1.2"),
            "1 4 failed 0 1175850568 998079\n",
        )
        .unwrap();
        assert!(latencies(folder.path()).is_err());
    }
}
