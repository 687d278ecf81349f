//! What must hold, as ratios of figures of one run: our fastest way beside the peers' fastest.

pub use highwater_e2e::bench::verdict::{Verdict, median, text};

use crate::{
    report::{Report, Summary},
    round::{Direction, Setting},
    tools::Side,
};

/// Of the best peer's segments per second, where requests are delayed: latency is what working ahead is for.
const DELAYED: f64 = 1.3;
/// Where they are not.
const BARE: f64 = 1.0;
/// Of what the cores could do if they never waited: tool and store share them.
const BOUND: f64 = 0.85;

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
            verdicts.push(bound(panel, ours, report.cores));
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

fn bound(panel: (Direction, Setting), ours: &Summary, cores: usize) -> Verdict {
    let rate = ours.median.segments_per_second;
    let (tool, store) = (
        ours.median.cpu_milliseconds,
        ours.median.store_cpu_milliseconds,
    );
    let cores_milliseconds = f64::from(u32::try_from(cores).unwrap_or(u32::MAX)) * 1000.0;
    let bound = cores_milliseconds / (tool + store);
    Verdict {
        name: title(panel, "speed to the cores' bound"),
        value: rate / bound,
        limit: BOUND,
        holds: rate / bound >= BOUND,
        how: format!(
            "{rate:.1}/s to {bound:.1}/s: {cores} cores, {tool:.1} ms of tool and {store:.1} of store, at least {BOUND}"
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
    fn the_bound_is_that_no_core_ever_waits() {
        let panel = (Direction::Push, setting(0));
        // Two cores and 25 ms: 80 per second.
        assert!(bound(panel, &summary(Side::Ours, 68.1, 25.0), 2).holds);
        assert!(!bound(panel, &summary(Side::Ours, 67.9, 25.0), 2).holds);
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
}
