//! Medians of all runs, as a table and as JSON.

use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::json;

use crate::{
    round::{Direction, Measured, Pair, Setting},
    scratch,
    tools::{Side, Tool},
    verdict::{Verdict, median},
};

/// One run of one tool.
pub struct Run {
    setting: Setting,
    /// Its place among all tools.
    pub tool: usize,
    result: Result<Pair>,
}

impl Run {
    /// Of the tool at this place of all.
    pub fn new(setting: Setting, tool: usize, result: Result<Pair>) -> Self {
        Self {
            setting,
            tool,
            result,
        }
    }

    /// Segments per second. `None`: it failed.
    pub fn rate(&self, direction: Direction) -> Option<f64> {
        let pair = self.result.as_ref().ok()?;
        let (_, measured) = pair.iter().find(|(of, _)| *of == direction)?;
        Some(measured.segments_per_second)
    }
}

/// The medians of one tool in one setting and direction.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Where.
    pub setting: Setting,
    /// Push or fetch.
    pub direction: Direction,
    /// The tool.
    pub tool: String,
    /// How it was used.
    pub how: String,
    /// Whose.
    pub side: Side,
    /// How often it was measured.
    pub samples: usize,
    /// How often it failed.
    pub failures: usize,
    /// The median of each figure.
    pub median: Measured,
    /// The least and the greatest of segments per second.
    pub spread: [f64; 2],
}

/// All that was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    versions: Vec<(String, String)>,
    /// CPU milliseconds of a SHA-256 of one segment.
    pub hashing_milliseconds: f64,
    seconds: u64,
    rounds: u32,
    /// Cores that everything shares.
    pub cores: usize,
    /// Each tool in each setting and direction.
    pub summaries: Vec<Summary>,
    failed: Vec<String>,
}

impl Report {
    /// From all runs.
    pub fn new(
        versions: Vec<(String, String)>,
        hashing_milliseconds: f64,
        seconds: u64,
        rounds: u32,
        tools: &[Box<dyn Tool>],
        runs: Vec<Run>,
    ) -> Self {
        let mut gathered: Vec<Gathered> = Vec::new();
        let mut failed = Vec::new();
        for run in runs {
            if let Err(error) = &run.result {
                let (name, how) = tools[run.tool].name();
                failed.push(format!("{name} {how}, {}: {error:#}", run.setting.name()));
            }
            for direction in [Direction::Push, Direction::Fetch] {
                gather(&mut gathered, tools[run.tool].as_ref(), &run, direction);
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            versions,
            hashing_milliseconds,
            seconds,
            rounds,
            cores,
            summaries: gathered.iter().filter_map(Gathered::summary).collect(),
            failed,
        }
    }

    /// Runs that failed.
    pub const fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Settings and directions, in order.
    pub fn panels(&self) -> Vec<(Direction, Setting)> {
        let mut panels: Vec<_> = self
            .summaries
            .iter()
            .map(|s| (s.direction, s.setting))
            .collect();
        panels.sort();
        panels.dedup();
        panels
    }

    /// The tools of a panel, fastest first.
    pub fn panel(&self, (direction, setting): (Direction, Setting)) -> Vec<&Summary> {
        let here = |s: &&Summary| s.direction == direction && s.setting == setting;
        let mut panel: Vec<_> = self.summaries.iter().filter(here).collect();
        let rate = |summary: &Summary| summary.median.segments_per_second;
        panel.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        panel
    }

    /// The fastest of one side in a panel.
    pub fn best(&self, panel: (Direction, Setting), side: Side) -> Option<&Summary> {
        self.panel(panel)
            .into_iter()
            .find(|summary| summary.side == side)
    }
}

/// What belongs together: tools that fetch alike are one.
struct Gathered {
    setting: Setting,
    direction: Direction,
    tool: String,
    how: String,
    side: Side,
    failures: usize,
    measured: Vec<Measured>,
}

fn gather(all: &mut Vec<Gathered>, tool: &dyn Tool, run: &Run, direction: Direction) {
    let (name, pushes) = tool.name();
    let how = match direction {
        Direction::Push => pushes,
        Direction::Fetch => tool.fetches().unwrap_or(pushes),
    };
    let same = |g: &Gathered| {
        g.setting == run.setting && g.direction == direction && g.tool == name && g.how == how
    };
    let at = all.iter().position(same).unwrap_or(all.len());
    if at == all.len() {
        all.push(Gathered {
            setting: run.setting,
            direction,
            tool: name,
            how,
            side: tool.side(),
            failures: 0,
            measured: Vec::new(),
        });
    }
    match &run.result {
        Err(_) => all[at].failures += 1,
        Ok(pair) => {
            let of = pair.iter().filter(|(which, _)| *which == direction);
            all[at]
                .measured
                .extend(of.map(|(_, measured)| measured.clone()));
        }
    }
}

impl Gathered {
    /// None if it failed each time.
    fn summary(&self) -> Option<Summary> {
        let each = |figure: fn(&Measured) -> f64| -> Vec<f64> {
            self.measured.iter().map(figure).collect()
        };
        let middle = |figure| median(&each(figure));
        let rates = each(|m| m.segments_per_second);
        let mut typical = self.measured.first()?.clone();
        typical.segments_per_second = median(&rates)?;
        typical.cpu_milliseconds = middle(|m| m.cpu_milliseconds)?;
        typical.store_cpu_milliseconds = middle(|m| m.store_cpu_milliseconds)?;
        typical.peak_megabytes = middle(|m| m.peak_megabytes)?;
        typical.peak_with_cache_megabytes = middle(|m| m.peak_with_cache_megabytes)?;
        typical.call_milliseconds = middle(|m| m.call_milliseconds)?;
        typical.stored_megabytes = middle(|m| m.stored_megabytes)?;
        let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = rates.iter().copied().fold(0.0, f64::max);
        Some(Summary {
            setting: self.setting,
            direction: self.direction,
            tool: self.tool.clone(),
            how: self.how.clone(),
            side: self.side,
            samples: rates.len(),
            failures: self.failures,
            median: typical,
            spread: [least, greatest],
        })
    }
}

/// A table for people: a part per direction and setting.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for panel in report.panels() {
        let (direction, setting) = panel;
        let peer = report
            .best(panel, Side::Peer)
            .map(|best| best.median.segments_per_second);
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "tool",
            "",
            "segments/s",
            "least to greatest",
            "to best peer",
            "CPU ms",
            "store's",
            "MB peak",
            "ms/call",
            "MB stored",
        ]);
        for summary in report.panel(panel) {
            table.add_row(row(summary, peer));
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        text += &format!("\n{}: {}\n{table}\n", direction.name(), setting.name());
    }
    text += &format!(
        "\nmedians; CPU, stored and the store's CPU per segment; memory without page cache\n\
         SHA-256 of a segment: {:.1} ms CPU; {} cores; {} rounds in {} s\n",
        report.hashing_milliseconds, report.cores, report.rounds, report.seconds
    );
    for (name, version) in &report.versions {
        text += &format!("{name}: {version}\n");
    }
    for failed in &report.failed {
        text += &format!("FAILED: {failed}\n");
    }
    text
}

fn row(summary: &Summary, peer: Option<f64>) -> [String; 10] {
    let (median, [least, greatest]) = (&summary.median, summary.spread);
    [
        summary.tool.clone(),
        summary.how.clone(),
        format!("{:.1}", median.segments_per_second),
        format!("{least:.1} to {greatest:.1} in {}", summary.samples),
        peer.map_or_else(String::new, |peer| {
            format!("{:.2}", median.segments_per_second / peer)
        }),
        format!("{:.1}", median.cpu_milliseconds),
        format!("{:.1}", median.store_cpu_milliseconds),
        format!("{:.0}", median.peak_megabytes),
        format!("{:.0}", median.call_milliseconds),
        format!("{:.2}", median.stored_megabytes),
    ]
}

/// Everything, for programs.
///
/// # Errors
/// The file system's.
pub fn write(report: &Report, verdicts: &[Verdict], path: &Path) -> Result<()> {
    let all = json!({ "marks": verdicts, "report": report });
    scratch::write(path, serde_json::to_string_pretty(&all)? + "\n")
}
