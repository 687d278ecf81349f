//! A plot: panels of bars, each with its name and its figure.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

const WIDTH: u32 = 560;
const BAR: i32 = 20;
const LABELS: i32 = 220;
const TOP: i32 = 40;
const FONT: &str = "sans-serif";
const COLUMNS: usize = 2;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Whose figure a bar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shade {
    /// Highwater's.
    Ours,
    /// That of one we are compared with.
    Peer,
    /// What nobody can do without.
    Floor,
}

/// A figure.
#[derive(Clone, Debug)]
pub struct Bar {
    /// On its left.
    pub label: String,
    /// Its length, and on its right.
    pub value: f64,
    /// Its color.
    pub shade: Shade,
}

/// Bars of one scale.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above them, with the unit.
    pub title: String,
    /// From the top.
    pub bars: Vec<Bar>,
}

/// Writes an SVG.
///
/// # Errors
/// The file system's.
pub fn draw(panels: &[Panel], path: &Path) -> Result<()> {
    let most = panels.iter().map(|panel| panel.bars.len()).max();
    let columns = panels.len().clamp(1, COLUMNS);
    let rows = panels.len().div_ceil(columns).max(1);
    let height = TOP + BAR * i32::try_from(most.unwrap_or_default() + 1)?;
    let size = (
        WIDTH * u32::try_from(columns)?,
        u32::try_from(height)? * u32::try_from(rows)?,
    );
    let root = SVGBackend::new(path, size).into_drawing_area();
    let failed =
        |error: &dyn std::fmt::Display| anyhow!("failed to draw {}: {error}", path.display());
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
        bars(area, panel).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

fn bars(area: &Area<'_>, panel: &Panel) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let style = |size: u32, at: HPos| {
        (FONT, size)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(at, VPos::Center))
    };
    let text = |text: &str, at: (i32, i32), size, side| {
        area.draw(&Text::new(text.to_owned(), at, style(size, side)))
    };
    text(&panel.title, (10, TOP / 2), 15, HPos::Left)?;
    let values = panel.bars.iter().map(|bar| bar.value);
    let greatest = values.fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH) - f64::from(LABELS) - 60.0;
    let mut top = TOP;
    for bar in &panel.bars {
        let color = match bar.shade {
            Shade::Ours => RGBColor(31, 90, 166),
            Shade::Peer => RGBColor(160, 160, 160),
            Shade::Floor => RGBColor(215, 215, 215),
        };
        // A number of pixels.
        #[allow(clippy::cast_possible_truncation, reason = "see above")]
        let end = LABELS + (room * bar.value / greatest).round() as i32;
        let middle = top + BAR / 2;
        text(&bar.label, (LABELS - 8, middle), 12, HPos::Right)?;
        let corners = [(LABELS, top + 2), (end, top + BAR - 2)];
        area.draw(&Rectangle::new(corners, color.filled()))?;
        text(
            &format!("{:.1}", bar.value),
            (end + 6, middle),
            12,
            HPos::Left,
        )?;
        top += BAR;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn each_bar_is_drawn_whatever_its_order() {
        let bar = |label: &str, value| Bar {
            label: label.into(),
            value,
            shade: Shade::Ours,
        };
        let panel = Panel {
            title: "to first query (s)".into(),
            bars: vec![bar("short", 1.0), bar("long", 20.0)],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        draw(&[panel], &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["to first query (s)", "short", "long", "1.0", "20.0"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        draw(&[], &path).unwrap();
    }
}
