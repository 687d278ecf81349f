//! What must hold: a figure, its limit, and what is behind it.

use serde::Serialize;

/// One mark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What was compared.
    pub name: String,
    /// Ours.
    pub value: f64,
    /// What it must reach, or must not exceed.
    pub limit: f64,
    /// Whether it is within the limit.
    pub holds: bool,
    /// The figures behind it.
    pub how: String,
}

/// The median of at least one figure.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    match sorted.len() % 2 {
        0 => Some(f64::midpoint(*sorted.get(middle - 1)?, upper)),
        _ => Some(upper),
    }
}

/// A table for people.
pub fn text(verdicts: &[Verdict]) -> String {
    let line = |verdict: &Verdict| {
        let said = if verdict.holds {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        let (name, value, how) = (&verdict.name, verdict.value, &verdict.how);
        format!("  {name:<58} {value:>7.2}  {said:<13}  {how}\n")
    };
    verdicts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_median_is_of_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
