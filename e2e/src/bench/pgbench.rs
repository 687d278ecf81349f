//! What pgbench says of a run, and what its log says of each transaction.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::scratch;

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Transactions per second.
    pub rate: f64,
    /// 95 of 100 transactions took at most so long, counted from when they were due.
    pub p95_milliseconds: f64,
}

/// What a run came to, by what pgbench printed, and the folder that it wrote `-l`'s files to.
///
/// # Errors
/// It says nothing of its rate, or a transaction failed.
pub fn read(said: &str, logs: &Path) -> Result<Load> {
    Ok(Load {
        rate: per_second(said).context("pgbench does not say how many transactions per second")?,
        p95_milliseconds: p95(latencies(logs)?)?,
    })
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
