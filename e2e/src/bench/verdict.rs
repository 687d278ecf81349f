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

/// Between which the median lies with 95 in 100, by order: no shape of the figures is assumed. With fewer than six the
/// least and the greatest, which is less sure.
pub fn interval(figures: &[f64]) -> Option<[f64; 2]> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = i32::try_from(sorted.len()).ok()?;
    // What lies outside of both: each figure is as likely on the one side of the median as on the other.
    let (mut outside, mut choose, mut cut) = (0.0, 1.0, 0_usize);
    for at in 0..count / 2 {
        outside += 2.0 * choose / 2.0_f64.powi(count);
        if outside > 0.05 {
            break;
        }
        cut = usize::try_from(at).ok()?;
        choose *= f64::from(count - at) / f64::from(at + 1);
    }
    Some([*sorted.get(cut)?, *sorted.get(sorted.len() - 1 - cut)?])
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
    fn the_interval_is_that_of_the_order() {
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(interval(&ten), Some([2.0, 9.0]));
        assert_eq!(interval(&ten[..5]), Some([1.0, 5.0]));
        assert_eq!(interval(&ten[..6]), Some([1.0, 6.0]));
        assert_eq!(interval(&ten[..9]), Some([2.0, 8.0]));
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn the_median_is_of_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
