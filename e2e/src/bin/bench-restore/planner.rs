//! How long the planner takes, and how much memory, where there is most to choose from.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater::{
    archive::{
        Contents, Ended, Request,
        plan::{plan, to_look_up},
        retention::{Holds, Period, Rules, decide},
        window::window,
    },
    postgres::{Lsn, TimelineId},
};
use highwater_e2e::harness::{crash::peak_memory, marks::Mark};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::lineage::{Scale, at, contents, middle, point, start, transaction, uid};

/// What the mark is for: 10,000 backups, a million segments.
const SCALE: Scale = Scale {
    timelines: 50,
    segments: 20_000,
    backups: 200,
};
/// Milliseconds.
const LIMIT: f64 = 200.0;
/// MB.
const MEMORY: f64 = 256.0;

const HOW: &str =
    "archive::plan::plan on contents in memory: the slowest of all targets of a round";
/// Milliseconds of a retention's decision.
const DECISION: f64 = 100.0;
const RETENTION: &str = "archive::retention::decide on the same contents: two days, the newest 7, 30 days and 12 months, and whether each of a million segments is needed";
const WINDOW: &str = "archive::window::window on the same contents";
const PEAK: &str =
    "VmHWM of the process after all plans, contents included, its program's file apart";

/// One request, and what the plan must say: up to where WAL is needed, or `None` where it must be refused.
struct Case {
    name: String,
    request: Request,
    expected: Option<Lsn>,
}

/// Plans to every kind of target, so often.
pub fn measure(repeat: u32) -> Result<Vec<Mark>> {
    let Scale {
        timelines,
        segments,
        backups,
    } = SCALE;
    println!("making {timelines} timelines of {segments} segments and {backups} backups");
    let contents = contents(SCALE)?;
    let cases = cases(SCALE)?;
    let (mut slowest, mut windows) = (Vec::new(), Vec::new());
    for round in 1..=repeat {
        let took = round_of(&cases, &contents)?;
        let longest = took.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (name, longest) = longest.context("nothing was planned")?;
        println!("round {round}: at most {longest:.1} ms, {name}");
        if round == 1 {
            took.iter()
                .for_each(|(name, took)| println!("  {took:>8.2} ms  {name}"));
        }
        slowest.push(*longest);
    }
    // Before anything else is asked for.
    let peak = megabytes(peak_memory(std::process::id())?);
    for _ in 1..=repeat {
        windows.push(milliseconds(|| {
            let found = window(&contents).timelines.len();
            ensure!(found == timelines as usize, "a window of {found} timelines");
            Ok(())
        })?);
    }
    let mut decisions = Vec::new();
    for _ in 1..=repeat {
        decisions.push(milliseconds(|| decided(&contents))?);
    }
    Ok(vec![
        Mark::of(
            ("planner: slowest target", "ms"),
            Some(LIMIT),
            HOW,
            &slowest,
        )?,
        Mark::of(("planner: peak memory", "MB"), Some(MEMORY), PEAK, &[peak])?,
        Mark::of(("window of all timelines", "ms"), None, WINDOW, &windows)?,
        Mark::of(
            ("retention: decision", "ms"),
            Some(DECISION),
            RETENTION,
            &decisions,
        )?,
    ])
}

fn decided(contents: &Contents) -> Result<()> {
    let rules = Rules {
        window: Some(SignedDuration::from_hours(48)),
        last: 7,
        periods: BTreeMap::from([(Period::Day, 30), (Period::Month, 12)]),
        zone: TimeZone::UTC,
        minimum: 1,
    };
    let decision = decide(&rules, &Holds::default(), contents, Timestamp::MAX);
    let gone = contents.segments.keys();
    let gone = gone.filter(|name| !decision.needed.has(**name)).count();
    let (all, segments) = (contents.backups.len(), contents.segments.len());
    ensure!(
        decision.goes.len() > all / 2 && decision.goes.len() < all && gone > segments / 2,
        "{} of {all} backups and {gone} of {segments} segments go",
        decision.goes.len()
    );
    Ok(())
}

/// What each took, in milliseconds.
fn round_of<'a>(cases: &'a [Case], contents: &Contents) -> Result<Vec<(&'a str, f64)>> {
    let took = |case: &'a Case| Ok((case.name.as_str(), milliseconds(|| case.plan(contents))?));
    cases.iter().map(took).collect()
}

fn milliseconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

#[allow(clippy::cast_precision_loss, reason = "no process is so large")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Case {
    fn plan(&self, contents: &Contents) -> Result<()> {
        let name = &self.name;
        let looked_up = to_look_up(&self.request, contents);
        let looked_up = looked_up.with_context(|| format!("failed to plan {name}"))?;
        ensure!(
            looked_up.len() == self.request.ended.len(),
            "{name}: {} segments are looked through",
            looked_up.len()
        );
        match (plan(&self.request, contents), self.expected) {
            (Ok(plan), Some(end)) => {
                ensure!(plan.wal_to == end, "{name}: want up to {end}, got {plan:?}");
            }
            (Err(_), None) => {}
            (Ok(plan), None) => bail!("{name}: was not refused, but got {plan:?}"),
            (Err(refusal), Some(_)) => bail!("{name}: {refusal}"),
        }
        Ok(())
    }

    fn new(name: &str, target: Value, expected: Option<Lsn>) -> Result<Self> {
        let request = Request {
            backup: None,
            target: Some(serde_json::from_value(target)?),
            archive: "main".to_owned(),
            archive_name: "shop-orders".to_owned(),
            can_decrypt: false,
            ended: Vec::new(),
        };
        Ok(Self {
            name: name.to_owned(),
            request,
            expected,
        })
    }

    fn of_backup(mut self, uid: String) -> Self {
        self.request.backup = Some(uid);
        self
    }

    fn found(mut self, ended: Ended) -> Self {
        self.request.ended.push(ended);
        self
    }
}

/// Every kind of target in the middle of the log, and each timeline to its end.
fn cases(scale: Scale) -> Result<Vec<Case>> {
    let (end, half) = (start(scale.end()), scale.timelines.div_ceil(2));
    let number = scale.first(half) + scale.segments / 2;
    let behind = start(number + 1);
    let ended = Ended {
        timeline: TimelineId::new(half).context("no timeline")?,
        start: middle(number),
        end: middle(number).advance(40),
        committed: Some(at(number)),
    };
    let beyond = json!({"lsn": start(scale.end() + 1)});
    let dead = scale.backups - 1;
    let mut cases = vec![
        Case::new("latest", json!({"latest": {}}), Some(end))?,
        Case::new("time", json!({"time": at(number - 1)}), Some(behind))?,
        Case::new("LSN", json!({"lsn": middle(number)}), Some(behind))?,
        Case::new("restore point", json!({"name": point(half)}), Some(behind))?,
        Case::new(
            "transaction",
            json!({"xid": transaction(number)}),
            Some(behind),
        )?
        .found(ended),
        Case::new("end of the backup", json!({"immediate": {}}), Some(end))?,
        Case::new("refused, behind the end", beyond, None)?,
        Case::new("refused, no such restore point", json!({"name": "x"}), None)?,
        Case::new(
            "current timeline",
            json!({"timeline": "Current"}),
            Some(end),
        )?,
        Case::new("the oldest backup", json!({}), Some(end))?.of_backup(uid(1, 0)),
        Case::new("a backup that is not there", json!({}), None)?.of_backup("x".to_owned()),
    ];
    for timeline in 1..=scale.timelines {
        let end = Some(start(scale.first(timeline + 1)));
        let name = format!("timeline {timeline}");
        cases.push(Case::new(&name, json!({"timeline": timeline}), end)?);
        // Of no other timeline: it was taken behind the place where its own was left.
        let name = format!("the last backup of timeline {timeline}");
        cases.push(Case::new(&name, json!({}), end)?.of_backup(uid(timeline, dead)));
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use super::*;

    /// Milliseconds, of a development build beside other tests. What walks the log for each backup or for each timeline takes
    /// many times as long.
    const GENEROUS: f64 = 1000.0;

    #[test]
    fn a_thousand_backups_over_a_hundred_thousand_segments_are_planned_in_time() {
        let tenth = Scale {
            segments: SCALE.segments / 10,
            backups: SCALE.backups / 10,
            ..SCALE
        };
        let (contents, cases) = (contents(tenth).unwrap(), cases(tenth).unwrap());
        assert!(contents.segments.len() >= 100_000 && contents.backups.len() == 1000);
        let mut best: BTreeMap<&str, f64> = BTreeMap::new();
        // Of several times the least: another program may have had the processor.
        for _ in 0..3 {
            for (name, took) in round_of(&cases, &contents).unwrap() {
                let least = best.entry(name).or_insert(took);
                *least = took.min(*least);
            }
        }
        println!("{best:#?}");
        best.retain(|_, took| *took > GENEROUS);
        assert!(best.is_empty(), "{best:?} ms");
    }
}
