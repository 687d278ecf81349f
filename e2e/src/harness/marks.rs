//! Figures against their limits, as the benchmarks write them and the demo prints them.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// How a benchmark ends: whether every mark holds, or why it is not known.
pub fn ending(done: Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a mark does not hold");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One figure: a median, what it must not exceed, and how it was got.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// What is measured.
    pub name: &'static str,
    /// The median.
    pub value: f64,
    /// The least and the greatest.
    pub spread: [f64; 2],
    /// How often it was measured.
    pub samples: usize,
    /// `s` or `MB`.
    pub unit: &'static str,
    /// The most that is allowed; none where the figure is only told.
    pub limit: Option<f64>,
    /// Whether the median is within the limit.
    pub holds: bool,
    /// How it was measured.
    pub how: &'static str,
}

impl Mark {
    /// From at least one sample.
    ///
    /// # Errors
    /// There is none.
    pub fn of(
        (name, unit): (&'static str, &'static str),
        limit: Option<f64>,
        how: &'static str,
        samples: &[f64],
    ) -> Result<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let (Some(least), Some(greatest)) = (sorted.first(), sorted.last()) else {
            anyhow::bail!("{name}: nothing was measured");
        };
        let value = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        ensure!(value.is_finite(), "{name}: {value} is no figure");
        Ok(Self {
            name,
            value: rounded(value),
            spread: [rounded(*least), rounded(*greatest)],
            samples: sorted.len(),
            unit,
            limit,
            holds: limit.is_none_or(|limit| value <= limit),
            how,
        })
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A table for people.
pub fn table(marks: &[Mark]) -> String {
    let line = |mark: &Mark| {
        let limit = mark.limit.map_or_else(String::new, |limit| {
            format!("limit {limit:>5.1} {:<2}", mark.unit)
        });
        let verdict = match (mark.limit, mark.holds) {
            (None, _) => "",
            (_, true) => "holds",
            (_, false) => "DOES NOT HOLD",
        };
        let [least, greatest] = mark.spread;
        let spread = match mark.samples {
            1 => String::new(),
            samples => format!("{least:.2} to {greatest:.2} in {samples}"),
        };
        let (name, value, unit) = (mark.name, mark.value, mark.unit);
        let line =
            format!("  {name:<44} {value:>7.2} {unit:<2}  {limit:<14}  {verdict:<13}  {spread}");
        line.trim_end().to_owned() + "\n"
    };
    marks.iter().map(line).collect()
}

/// Writes `{"marks": […]}`.
///
/// # Errors
/// The file cannot be written.
pub fn write(marks: &[Mark], path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "marks": marks }))?;
    let folder = path.parent().context("the results have no folder")?;
    fs::create_dir_all(folder)?;
    fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn mark(limit: f64, samples: &[f64]) -> Mark {
        Mark::of(("waiting", "s"), Some(limit), "by hand", samples).unwrap()
    }

    #[test]
    fn the_median_counts_and_the_spread_is_told() {
        let odd = mark(0.3, &[0.9, 0.1, 0.3]);
        assert_eq!((odd.value, odd.spread, odd.holds), (0.3, [0.1, 0.9], true));
        let even = mark(0.3, &[0.9, 0.1, 0.3, 0.5]);
        assert_eq!((even.value, even.holds), (0.4, false));
        assert!(Mark::of(("waiting", "s"), None, "", &[]).is_err());
        let text = table(&[odd, even]);
        assert!(
            text.contains("holds") && text.contains("DOES NOT HOLD"),
            "{text}"
        );
        assert!(text.contains("0.10 to 0.90 in 3"), "{text}");
    }

    #[test]
    fn the_file_has_the_agreed_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results/waiting.json");
        write(&[mark(0.3, &[0.2])], &path).unwrap();
        let value: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let mark = value["marks"][0].as_object().unwrap();
        for key in ["name", "value", "unit", "limit", "holds", "how"] {
            assert!(mark.contains_key(key), "{key}");
        }
    }
}
