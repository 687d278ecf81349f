//! A plot: a panel per direction and setting, a bar per tool, fastest first.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    report::{Report, Summary},
    tools::Side,
};

const WIDTH: u32 = 560;
const BAR: i32 = 20;
const LABELS: i32 = 220;
const TOP: i32 = 40;
const FONT: &str = "sans-serif";
const COLUMNS: usize = 2;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes an SVG.
///
/// # Errors
/// The file system's.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let panels = report.panels();
    let most = panels.iter().map(|panel| report.panel(*panel).len()).max();
    let rows = panels.len().div_ceil(COLUMNS);
    let height = TOP + BAR * i32::try_from(most.unwrap_or_default() + 1)?;
    let size = (
        WIDTH * 2,
        u32::try_from(height)? * u32::try_from(rows.max(1))?,
    );
    let root = SVGBackend::new(path, size).into_drawing_area();
    let failed =
        |error: &dyn std::fmt::Display| anyhow!("failed to draw {}: {error}", path.display());
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    for (area, panel) in root
        .split_evenly((rows.max(1), COLUMNS))
        .iter()
        .zip(&panels)
    {
        let (direction, setting) = panel;
        let title = format!("{}: {} (segments/s)", direction.name(), setting.name());
        bars(area, &title, &report.panel(*panel)).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

fn bars(
    area: &Area<'_>,
    title: &str,
    tools: &[&Summary],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let style = |size: u32, at: HPos| {
        (FONT, size)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(at, VPos::Center))
    };
    area.draw(&Text::new(
        title.to_owned(),
        (10, TOP / 2),
        style(15, HPos::Left),
    ))?;
    let rate = |summary: &Summary| summary.median.segments_per_second;
    let greatest = tools
        .first()
        .map_or(1.0, |summary| rate(summary))
        .max(f64::MIN_POSITIVE);
    let room = f64::from(WIDTH) - f64::from(LABELS) - 60.0;
    let mut top = TOP;
    for summary in tools {
        let color = match summary.side {
            Side::Ours => RGBColor(31, 90, 166),
            Side::Peer => RGBColor(160, 160, 160),
            Side::Floor => RGBColor(215, 215, 215),
        };
        // A number of pixels.
        #[allow(clippy::cast_possible_truncation, reason = "see above")]
        let end = LABELS + (room * rate(summary) / greatest).round() as i32;
        let label = format!("{} {}", summary.tool, summary.how);
        let middle = top + BAR / 2;
        area.draw(&Text::new(
            label,
            (LABELS - 8, middle),
            style(12, HPos::Right),
        ))?;
        area.draw(&Rectangle::new(
            [(LABELS, top + 2), (end, top + BAR - 2)],
            color.filled(),
        ))?;
        area.draw(&Text::new(
            format!("{:.1}", rate(summary)),
            (end + 6, middle),
            style(12, HPos::Left),
        ))?;
        top += BAR;
    }
    Ok(())
}
