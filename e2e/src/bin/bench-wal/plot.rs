//! A plot: a panel per direction and setting, a bar per tool, fastest first.

use std::path::Path;

use anyhow::Result;
use highwater_e2e::bench::plot::{self, Bar, Panel, Shade};

use crate::{
    report::{Report, Summary},
    tools::Side,
};

/// Writes an SVG.
///
/// # Errors
/// The file system's.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let panels = report.panels().into_iter().map(|panel| {
        let (direction, setting) = panel;
        Panel {
            title: format!("{}: {} (segments/s)", direction.name(), setting.name()),
            bars: report.panel(panel).into_iter().map(bar).collect(),
        }
    });
    plot::draw(&panels.collect::<Vec<_>>(), path)
}

fn bar(summary: &Summary) -> Bar {
    Bar {
        label: format!("{} {}", summary.tool, summary.how),
        value: summary.median.segments_per_second,
        shade: match summary.side {
            Side::Ours => Shade::Ours,
            Side::Peer => Shade::Peer,
            Side::Floor => Shade::Floor,
        },
    }
}
