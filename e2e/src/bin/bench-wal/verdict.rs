//! What must hold, as ratios of figures of one run: our fastest way beside the peers' fastest.

use serde::Serialize;

use crate::{
    report::{Report, Summary},
    round::{Direction, Setting},
    tools::Side,
};

/// Of the best peer's segments per second, where requests are delayed: latency is what working ahead is for.
const DELAYED: f64 = 1.3;
/// Where they are not.
const BARE: f64 = 1.0;

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

/// The marks of all settings in which both we and a peer were measured. One that was never measured does not hold.
pub fn all(report: &Report) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for panel in report.panels() {
        let (ours, peer) = (
            report.best(panel, Side::Ours),
            report.best(panel, Side::Peer),
        );
        let (Some(ours), Some(peer)) = (ours, peer) else {
            verdicts.push(missing(panel));
            continue;
        };
        verdicts.push(speed(panel, ours, peer));
        if panel.1.delay_milliseconds == 0 {
            verdicts.push(cpu(panel, ours, peer, report.hashing_milliseconds));
        }
    }
    verdicts
}

fn title((direction, setting): (Direction, Setting), what: &str) -> String {
    format!("{}, {}: {what}", direction.name(), setting.name())
}

fn missing(panel: (Direction, Setting)) -> Verdict {
    Verdict {
        name: title(panel, "speed"),
        value: 0.0,
        limit: DELAYED,
        holds: false,
        how: "we or all peers were not measured".into(),
    }
}

fn tool(summary: &Summary) -> String {
    format!("{} {}", summary.tool, summary.how)
}

fn speed(panel: (Direction, Setting), ours: &Summary, peer: &Summary) -> Verdict {
    let (our, their) = (
        ours.median.segments_per_second,
        peer.median.segments_per_second,
    );
    let limit = if panel.1.delay_milliseconds == 0 {
        BARE
    } else {
        DELAYED
    };
    Verdict {
        name: title(panel, "speed to best peer"),
        value: our / their,
        limit,
        holds: our / their >= limit,
        how: format!(
            "{our:.1}/s ({}) to {their:.1}/s ({}), at least {limit}",
            tool(ours),
            tool(peer)
        ),
    }
}

fn cpu(panel: (Direction, Setting), ours: &Summary, peer: &Summary, hashing: f64) -> Verdict {
    let (our, their) = (ours.median.cpu_milliseconds, peer.median.cpu_milliseconds);
    let limit = their + hashing;
    Verdict {
        name: title(panel, "CPU ms per segment"),
        value: our,
        limit,
        holds: our <= limit,
        how: format!(
            "at most {limit:.1}: {their:.1} ({}) and {hashing:.1} of hashing",
            tool(peer)
        ),
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
    use crate::{round::Measured, sample::Kind};

    fn summary(side: Side, rate: f64, cpu: f64) -> Summary {
        Summary {
            setting: setting(0),
            direction: Direction::Push,
            tool: format!("{side:?}"),
            how: String::new(),
            side,
            samples: 1,
            failures: 0,
            median: Measured {
                segments: 48,
                segments_per_second: rate,
                cpu_milliseconds: cpu,
                store_cpu_milliseconds: 0.0,
                peak_megabytes: 0.0,
                peak_with_cache_megabytes: 0.0,
                call_milliseconds: 0.0,
                calls: 48,
                stored_megabytes: 0.0,
            },
            spread: [rate, rate],
        }
    }

    const fn setting(delay_milliseconds: u64) -> Setting {
        Setting {
            kind: Kind::Pages,
            delay_milliseconds,
        }
    }

    #[test]
    fn a_delay_asks_for_more_than_loopback() {
        let (ours, peer) = (
            summary(Side::Ours, 12.0, 0.0),
            summary(Side::Peer, 10.0, 0.0),
        );
        assert!(speed((Direction::Push, setting(0)), &ours, &peer).holds);
        assert!(!speed((Direction::Push, setting(30)), &ours, &peer).holds);
        let verdict = speed((Direction::Push, setting(30)), &ours, &peer);
        assert!(text(&[verdict]).contains("DOES NOT HOLD"));
    }

    #[test]
    fn hashing_is_allowed_beside_the_peers_cpu() {
        let panel = (Direction::Push, setting(0));
        let (ours, peer) = (
            summary(Side::Ours, 1.0, 25.0),
            summary(Side::Peer, 1.0, 15.0),
        );
        assert!(cpu(panel, &ours, &peer, 10.0).holds);
        assert!(!cpu(panel, &ours, &peer, 9.9).holds);
    }

    #[test]
    fn the_median_is_of_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
