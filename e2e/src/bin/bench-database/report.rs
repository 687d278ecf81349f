//! Ratios of one round each, their medians, and the marks.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::json;

use crate::{
    bench::{WAYS, Way},
    scratch,
    ship::Transport,
    verdict::{Verdict, interval, median},
    watched::Cost,
};

/// Of the transactions per second without shipping.
const THROUGHPUT: f64 = 0.97;
/// Of the latency that 95 of 100 transactions do not exceed, without shipping.
const LATENCY: f64 = 1.03;
/// In MiB, for segments of 16 MiB.
const MEMORY: f64 = 64.0;

/// A minute of load, with or without shipping.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Which.
    pub way: Way,
    /// How many.
    pub transactions_per_second: f64,
    /// How long 95 of 100 took at most.
    pub p95_milliseconds: f64,
    /// What was written meanwhile.
    pub wal_megabytes: f64,
    /// Of the shipping process.
    pub cost: Option<Cost>,
}

/// What had piled up, shipped with nothing else to do.
#[derive(Clone, Debug, Serialize)]
pub struct Backlog {
    /// How WAL came.
    pub transport: Transport,
    /// How much.
    pub segments: f64,
    /// From the start of the process to the end of the last upload.
    pub seconds: f64,
    /// Of all of that.
    pub cost: Cost,
}

/// All that was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Transactions per second as fast as it went.
    pub maximum: f64,
    /// What was asked for.
    pub rate: f64,
    /// Of each run.
    pub seconds: u32,
    /// pgbench's.
    pub clients: u32,
    /// pgbench's.
    pub scale: u32,
    /// A run of each way, in the order of [`WAYS`].
    pub rounds: Vec<Vec<Run>>,
    /// Of each transport.
    pub backlogs: Vec<Backlog>,
}

/// For people.
pub const fn name(way: Way) -> &'static str {
    match way {
        Way::Without => "without",
        Way::Shipping(Transport::Streaming) => "streaming",
        Way::Shipping(Transport::Sql) => "sql",
        Way::Receiving => "pg_receivewal",
    }
}

type Figure = fn(&Run) -> f64;

impl Report {
    fn of(&self, way: Way, figure: Figure) -> Vec<f64> {
        let runs = self.rounds.iter().flatten();
        runs.filter(|run| run.way == way).map(figure).collect()
    }

    /// To the run without shipping of the same round.
    fn ratios(&self, way: Way, figure: Figure) -> Vec<f64> {
        let without = self.of(Way::Without, figure);
        let with = self.of(way, figure);
        with.iter()
            .zip(without)
            .map(|(with, without)| with / without)
            .collect()
    }

    fn peaks(&self, way: Way) -> Vec<f64> {
        self.of(way, |run| run.cost.map_or(0.0, |cost| cost.peak_mebibytes))
    }
}

fn greatest(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

/// The marks of both transports.
///
/// # Errors
/// Nothing was measured.
pub fn verdicts(report: &Report) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let shipping = WAYS.into_iter().filter(|way| match way {
        Way::Without | Way::Receiving => false,
        Way::Shipping(_) => true,
    });
    for way in shipping {
        let throughput = |run: &Run| run.transactions_per_second;
        let latency = |run: &Run| run.p95_milliseconds;
        let limit = (THROUGHPUT, false);
        verdicts.push(ratio(report, way, ("throughput", throughput), limit)?);
        verdicts.push(ratio(
            report,
            way,
            ("p95 latency", latency),
            (LATENCY, true),
        )?);
        let peak = greatest(&report.peaks(way));
        verdicts.push(memory(way, "MiB, peak under load", peak));
    }
    verdicts.extend(report.backlogs.iter().map(|backlog| {
        let peak = backlog.cost.peak_mebibytes;
        memory(
            Way::Shipping(backlog.transport),
            "MiB, peak with a backlog",
            peak,
        )
    }));
    Ok(verdicts)
}

fn ratio(
    report: &Report,
    way: Way,
    (what, figure): (&str, Figure),
    (limit, at_most): (f64, bool),
) -> Result<Verdict> {
    let ratios = report.ratios(way, figure);
    let value = median(&ratios).context("nothing was measured")?;
    let [least, most] = interval(&ratios).context("nothing was measured")?;
    let receiving = median(&report.ratios(Way::Receiving, figure));
    let receiving = receiving.context("pg_receivewal was not measured")?;
    let (holds, word) = match at_most {
        true => (value <= limit, "most"),
        false => (value >= limit, "least"),
    };
    Ok(Verdict {
        name: format!("{}: {what} to without", name(way)),
        value,
        limit,
        holds,
        how: format!(
            "at {word} {limit}; median of {} rounds, 95 in 100 between {least:.3} and {most:.3}; pg_receivewal {receiving:.3}",
            ratios.len()
        ),
    })
}

fn memory(way: Way, what: &str, value: f64) -> Verdict {
    Verdict {
        name: format!("{}: {what}", name(way)),
        value,
        limit: MEMORY,
        // A process that was never seen has no memory.
        holds: value > 0.0 && value <= MEMORY,
        how: format!("at most {MEMORY}; VmHWM of the shipping process, greatest of all runs"),
    }
}

/// A table for people.
///
/// # Errors
/// Nothing was measured.
pub fn table(report: &Report) -> Result<String> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "WAL",
        "transactions/s",
        "p95 ms",
        "MB of WAL",
        "MiB peak",
        "CPU s per GB of WAL",
    ]);
    for way in WAYS {
        let middle = |figure| median(&report.of(way, figure)).context("nothing was measured");
        let cpu = median(&report.of(way, |run| {
            let seconds = run.cost.map_or(0.0, |cost| cost.cpu_seconds);
            seconds / (run.wal_megabytes / 1000.0)
        }));
        let of_shipping = |figure: f64, digits| match way {
            Way::Without => String::new(),
            Way::Shipping(_) | Way::Receiving => format!("{figure:.digits$}"),
        };
        table.add_row([
            name(way).to_owned(),
            format!("{:.1}", middle(|run| run.transactions_per_second)?),
            format!("{:.2}", middle(|run| run.p95_milliseconds)?),
            format!("{:.0}", middle(|run| run.wal_megabytes)?),
            of_shipping(greatest(&report.peaks(way)), 1),
            of_shipping(cpu.context("nothing was measured")?, 2),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(format!(
        "\n{table}\nmedians of {} rounds of {} s at {:.0} of {:.0} transactions/s, {} clients, scale {}; memory: the greatest\n",
        report.rounds.len(),
        report.seconds,
        report.rate,
        report.maximum,
        report.clients,
        report.scale,
    ))
}

/// Everything, for programs.
///
/// # Errors
/// The file system's.
pub fn write(report: &Report, verdicts: &[Verdict], path: &Path) -> Result<()> {
    let all = json!({ "marks": verdicts, "report": report });
    scratch::write(path, serde_json::to_string_pretty(&all)? + "\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn run(way: Way, rate: f64, p95: f64) -> Run {
        let cost = Cost {
            peak_mebibytes: 40.0,
            cpu_seconds: 1.0,
        };
        Run {
            way,
            transactions_per_second: rate,
            p95_milliseconds: p95,
            wal_megabytes: 500.0,
            cost: (way != Way::Without).then_some(cost),
        }
    }

    /// Two rounds on a machine that is twice as slow in the second.
    fn report(rate: f64, p95: f64) -> Report {
        let round = |slow: f64| {
            vec![
                run(WAYS[0], 100.0 / slow, 10.0 * slow),
                run(WAYS[1], 100.0 * rate / slow, 10.0 * p95 * slow),
                run(WAYS[2], 100.0 / slow, 10.0 * slow),
                run(WAYS[3], 100.0 / slow, 20.0 * slow),
            ]
        };
        Report {
            maximum: 200.0,
            rate: 100.0,
            seconds: 60,
            clients: 8,
            scale: 30,
            rounds: vec![round(1.0), round(2.0)],
            backlogs: Vec::new(),
        }
    }

    fn failing(report: &Report) -> Vec<String> {
        let verdicts = verdicts(report).unwrap();
        let failing = verdicts.into_iter().filter(|verdict| !verdict.holds);
        failing.map(|verdict| verdict.name).collect()
    }

    #[test]
    fn each_round_is_compared_with_itself() {
        assert!(failing(&report(0.98, 1.02)).is_empty());
        assert_eq!(
            failing(&report(0.96, 1.0)),
            ["streaming: throughput to without"]
        );
        assert_eq!(
            failing(&report(1.0, 1.04)),
            ["streaming: p95 latency to without"]
        );
    }

    #[test]
    fn memory_counts_by_its_greatest() {
        let mut report = report(1.0, 1.0);
        report.rounds[0][2].cost.as_mut().unwrap().peak_mebibytes = 64.1;
        assert_eq!(failing(&report), ["sql: MiB, peak under load"]);
        report.rounds[0][2].cost = None;
        report.rounds[1][2].cost = None;
        assert_eq!(failing(&report), ["sql: MiB, peak under load"]);
    }
}
