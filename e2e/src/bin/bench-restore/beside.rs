//! Both restores beside each other: a table, a plot, and all figures.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use highwater_e2e::bench::{
    plot::{self, Bar, Panel, Shade},
    scratch,
    verdict::{interval, median},
};
use serde_json::json;

use crate::size::Times;

const HEADER: [&str; 7] = [
    "size",
    "Highwater s",
    "replay s",
    "pgBackRest s",
    "restore s",
    "replay s",
    "Highwater / pgBackRest",
];

/// Medians of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Medians {
    gigabytes: u32,
    /// To the first query, and the replay in it.
    ours: [f64; 2],
    /// To the first query, and restore and replay in it.
    peer: [f64; 3],
    /// Ours by the peer's, of one round each.
    ratio: f64,
    /// Of that.
    interval: [f64; 2],
}

impl Medians {
    fn of(times: &Times) -> Result<Self> {
        let middle =
            |figures: Vec<f64>| median(&figures).context("a size was not measured on both sides");
        let (ours, peer) = (times.ours.iter(), times.peer.iter());
        let pairs = ours.clone().zip(peer.clone());
        let ratios: Vec<f64> = pairs
            .map(|(ours, peer)| ours.total() / peer.total)
            .collect();
        Ok(Self {
            gigabytes: times.size.gigabytes(),
            interval: interval(&ratios).unwrap_or_default(),
            ratio: middle(ratios)?,
            ours: [
                middle(ours.clone().map(|time| time.total()).collect())?,
                middle(ours.map(|time| time.replay).collect())?,
            ],
            peer: [
                middle(peer.clone().map(|time| time.total).collect())?,
                middle(peer.clone().map(|time| time.restore).collect())?,
                middle(peer.map(|time| time.replay).collect())?,
            ],
        })
    }

    fn row(&self) -> Vec<String> {
        let ([ours, our_replay], [peer, restore, peer_replay]) = (self.ours, self.peer);
        let [least, most] = self.interval;
        let mut row = vec![format!("{} GB", self.gigabytes)];
        let seconds = [ours, our_replay, peer, restore, peer_replay];
        row.extend(seconds.map(|seconds| format!("{seconds:.2}")));
        row.push(format!("{:.2} ({least:.2} to {most:.2})", self.ratio));
        row
    }

    fn bars(&self) -> [Bar; 2] {
        let bar = |name: &str, value, shade| Bar {
            label: format!("{} GB {name}", self.gigabytes),
            value,
            shade,
        };
        [
            bar("Highwater", self.ours[0], Shade::Ours),
            bar("pgBackRest", self.peer[0], Shade::Peer),
        ]
    }
}

fn table(medians: &[Medians], rounds: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(HEADER);
    for medians in medians {
        table.add_row(medians.row());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "{table}\nmedians of {rounds} rounds, to the first query with the replay; ratios of one round each, with the interval\n"
    )
}

/// Prints the table, and writes it, the plot and all figures to `folder` as `restore-peer.*`.
///
/// # Errors
/// One side was not measured; the file system's.
pub fn tell(all: &[Times], folder: &Path) -> Result<()> {
    let medians: Vec<_> = all.iter().map(Medians::of).collect::<Result<_>>()?;
    let table = table(&medians, all.first().map_or(0, |times| times.ours.len()));
    println!("\n{table}");
    let path = |ending: &str| folder.join(format!("restore-peer.{ending}"));
    scratch::write(&path("txt"), &table)?;
    let panel = Panel {
        title: "restore, from the object store to the first query (s)".into(),
        bars: medians.iter().flat_map(Medians::bars).collect(),
    };
    plot::draw(&[panel], &path("svg"))?;
    let figures = serde_json::to_string_pretty(&json!({ "rounds": all }))? + "\n";
    scratch::write(&path("rounds.json"), figures)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::{content::Size, ours, pgbackrest};

    fn times(ours: &[f64], peer: &[f64]) -> Times {
        let ours_time = |beside_replay: &f64| ours::Time {
            beside_replay: *beside_replay,
            replay: 1.0,
        };
        let peer_time = |total: &f64| pgbackrest::Time {
            total: *total,
            restore: total - 1.5,
            replay: 1.25,
        };
        Times {
            size: Size::Three,
            ours: ours.iter().map(ours_time).collect(),
            peer: peer.iter().map(peer_time).collect(),
        }
    }

    #[test]
    fn each_round_is_compared_with_itself() {
        // The machine is twice as slow in the second.
        let medians = Medians::of(&times(&[4.0, 9.0], &[10.0, 20.0])).unwrap();
        assert!((medians.ratio - 0.5).abs() < 1e-9, "{medians:?}");
        assert_eq!(medians.ours, [7.5, 1.0]);
        assert_eq!(medians.peer, [15.0, 13.5, 1.25]);
        assert!(Medians::of(&times(&[4.0], &[])).is_err());
    }

    #[test]
    fn table_plot_and_figures_are_written() {
        let folder = tempfile::tempdir().unwrap();
        tell(&[times(&[4.0], &[10.0])], folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let table = read("restore-peer.txt");
        assert!(
            table.contains("3 GB") && table.contains("0.50 (0.50 to 0.50)"),
            "{table}"
        );
        assert!(read("restore-peer.svg").contains("3 GB pgBackRest"));
        let figures: serde_json::Value =
            serde_json::from_str(&read("restore-peer.rounds.json")).unwrap();
        assert_eq!(figures["rounds"][0]["peer"][0]["total"], 10.0);
    }
}
