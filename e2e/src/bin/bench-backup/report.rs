//! Ours beside the bare script's, and the marks. Pure.

use anyhow::{Context, Result};
use highwater_e2e::{
    bench::verdict::median,
    harness::{marks::Mark, measure::BackupTimes},
};

use crate::{bare::Bare, cost};

/// Seconds that a session may last longer than the bare script's.
const MORE: f64 = 0.3;
/// The same for twenty at once, and what the largest database may take of the smallest one's time.
const TIMES: f64 = 1.3;
/// Seconds from the object to Completed, beside the checkpoint.
const COMPLETED: f64 = 2.5;
/// Requests of one backup.
const REQUESTS: f64 = 37.0;
/// The controller's, in MB.
const MEMORY: f64 = 45.0;

/// A size of a database, and what its figures are called.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub gigabytes: i64,
    session: &'static str,
    completed: &'static str,
}

/// Those that are compared.
pub const SIZES: [Size; 3] = [
    Size {
        gigabytes: 1,
        session: "1 GB: session to Stopped",
        completed: "1 GB: to Completed, beside the checkpoint",
    },
    Size {
        gigabytes: 3,
        session: "3 GB: session to Stopped",
        completed: "3 GB: to Completed, beside the checkpoint",
    },
    Size {
        gigabytes: 10,
        session: "10 GB: session to Stopped",
        completed: "10 GB: to Completed, beside the checkpoint",
    },
];

const SESSION: &str =
    "return of pg_backup_start, by the database, to PgBackup's condition Stopped, by a watch";
const MODE: &str = "status.session.backupModeSeconds: pg_backup_start to pg_backup_stop";
const BARE: &str = "return of pg_backup_start to return of pg_backup_stop";
const CUT: &str =
    "watch: first VolumeSnapshot to the last creation time in a content, of Highwater";
const BARE_CUT: &str =
    "VolumeSnapshots sent to the last creation time read from a content, of the bare script";
const ALL: &str =
    "first PgBackup sent to the last one's Completed: with checkpoints, WAL, readiness and catalog";
const BARE_ALL: &str = "first script's beginning to the last one's end: with checkpoints alone";
const TO_COMPLETED: &str = "watch: PgBackup created to Completed, minus session.checkpointSeconds";

/// What the figures of a part are called.
struct Names {
    session: &'static str,
    mode: &'static str,
    bare: &'static str,
    cut: &'static str,
    bare_cut: &'static str,
    completed: &'static str,
    judged: &'static str,
}

const ONE: Names = Names {
    session: "1 volume: session to Stopped",
    mode: "1 volume: backup mode",
    bare: "1 volume: bare script",
    cut: "1 volume: cut",
    bare_cut: "1 volume: cut of the bare script",
    completed: "1 volume: to Completed beside checkpoint",
    judged: "1 volume: longer than the bare script",
};
const FOUR: Names = Names {
    session: "4 volumes: session to Stopped",
    mode: "4 volumes: backup mode",
    bare: "4 volumes: bare script",
    cut: "4 volumes: cut",
    bare_cut: "4 volumes: cut of the bare script",
    completed: "4 volumes: to Completed beside checkpoint",
    judged: "4 volumes: longer than the bare script",
};
const TWENTY: Names = Names {
    session: "20 databases: session to Stopped",
    mode: "20 databases: backup mode",
    bare: "20 databases: bare script",
    cut: "20 databases: cut",
    bare_cut: "20 databases: cut of the bare script",
    completed: "20 databases: to Completed beside checkpoint",
    judged: "20 databases: times the bare script",
};

/// What both took, in one run.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    pub ours: Vec<BackupTimes>,
    pub bare: Vec<Bare>,
    /// Of each round: from the first PgBackup until all are Completed.
    pub ours_all: Vec<f64>,
    /// Of each round: from the first script's beginning until all have ended.
    pub bare_all: Vec<f64>,
}

impl Pair {
    /// A sentence about the last `count` of both.
    pub fn last(&self, count: usize) -> String {
        let tail = |figures: Vec<f64>| {
            let from = figures.len().saturating_sub(count);
            median(&figures[from..]).unwrap_or(f64::NAN)
        };
        let last = |figures: &[f64]| figures.last().copied().unwrap_or(f64::NAN);
        format!(
            "session {:.2} s (cut {:.2}), bare script {:.2} s (cut {:.2}), Completed {:.2} s beside the checkpoint; all {:.2} s, all bare scripts {:.2} s",
            tail(self.ours(|times| times.session)),
            tail(self.ours(|times| times.cut)),
            tail(self.bare(|times| times.session)),
            tail(self.bare(|times| times.cut)),
            tail(self.ours(|times| times.beside_checkpoint)),
            last(&self.ours_all),
            last(&self.bare_all),
        )
    }

    fn ours(&self, figure: fn(&BackupTimes) -> f64) -> Vec<f64> {
        self.ours.iter().map(figure).collect()
    }

    fn bare(&self, figure: fn(&Bare) -> f64) -> Vec<f64> {
        self.bare.iter().map(figure).collect()
    }

    /// The medians of both sessions.
    fn sessions(&self) -> Result<(f64, f64)> {
        let ours = median(&self.ours(|times| times.session));
        let bare = median(&self.bare(|times| times.session));
        ours.zip(bare).context("nothing was measured")
    }

    /// Everything of a part but its judgement.
    fn told(&self, names: &Names, completed: Option<f64>) -> Result<Vec<Mark>> {
        let ours = |name, limit, how, figure| Mark::of((name, "s"), limit, how, &self.ours(figure));
        let bare = |name, how, figure| Mark::of((name, "s"), None, how, &self.bare(figure));
        Ok(vec![
            ours(names.session, None, SESSION, |times| times.session)?,
            ours(names.mode, None, MODE, |times| times.backup_mode)?,
            bare(names.bare, BARE, |times| times.session)?,
            ours(names.cut, None, CUT, |times| times.cut)?,
            bare(names.bare_cut, BARE_CUT, |times| times.cut)?,
            ours(names.completed, completed, TO_COMPLETED, |times| {
                times.beside_checkpoint
            })?,
        ])
    }

    fn by_difference(&self, names: &Names) -> Result<Vec<Mark>> {
        let mut marks = self.told(names, Some(COMPLETED))?;
        let (ours, bare) = self.sessions()?;
        let how = "median of session to Stopped, minus that of the bare script in the same run";
        let judged = (names.judged, "s");
        marks.push(Mark::of(judged, Some(MORE), how, &[ours - bare])?);
        Ok(marks)
    }

    fn by_ratio(&self, names: &Names) -> Result<Vec<Mark>> {
        let mut marks = self.told(names, None)?;
        for (name, how, samples) in [
            ("20 databases: all Completed", ALL, &self.ours_all),
            ("20 databases: all bare scripts", BARE_ALL, &self.bare_all),
        ] {
            if !samples.is_empty() {
                marks.push(Mark::of((name, "s"), None, how, samples)?);
            }
        }
        let (ours, bare) = self.sessions()?;
        let how = "median of session to Stopped, by that of the bare script for the same databases";
        let judged = (names.judged, "x");
        marks.push(Mark::of(judged, Some(TIMES), how, &[ours / bare])?);
        Ok(marks)
    }
}

/// All that was found out; what was not measured is empty.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub one: Option<Pair>,
    pub four: Option<Pair>,
    pub twenty: Option<Pair>,
    /// In the order of [`SIZES`].
    pub sizes: Vec<Pair>,
    /// Of each backup.
    pub requests: Vec<f64>,
    /// Of a minute in which nothing changes.
    pub idle: Vec<f64>,
    /// Of the same minute: on the lease, and beginnings of watches.
    pub apart: Vec<f64>,
    /// Of the greater replica, in MB.
    pub memory: Vec<f64>,
    /// Each way in each round.
    pub cost: Vec<Vec<cost::Run>>,
}

impl Report {
    /// Against the limits.
    ///
    /// # Errors
    /// A part was begun and nothing measured.
    pub fn marks(&self) -> Result<Vec<Mark>> {
        let mut marks = Vec::new();
        if let Some(pair) = &self.one {
            marks.extend(pair.by_difference(&ONE)?);
        }
        if let Some(pair) = &self.four {
            marks.extend(pair.by_difference(&FOUR)?);
        }
        if let Some(pair) = &self.twenty {
            marks.extend(pair.by_ratio(&TWENTY)?);
        }
        if !self.sizes.is_empty() {
            marks.extend(sizes(&self.sizes)?);
        }
        let counts = [
            (
                "requests of a backup",
                Some(REQUESTS),
                "audit log: of controller and agent, from the PgBackup until nobody asks; no leases, no watches",
                &self.requests,
            ),
            (
                "requests of an idle minute",
                Some(0.0),
                "audit log: of controller and agent, while the database writes nothing; no leases, no watches",
                &self.idle,
            ),
            (
                "leases and watches of that minute",
                None,
                "audit log: what the replicas ask of their lease, and watches that begin again",
                &self.apart,
            ),
        ];
        for (name, limit, how, samples) in counts {
            if !samples.is_empty() {
                marks.push(Mark::of((name, ""), limit, how, samples)?);
            }
        }
        if !self.memory.is_empty() {
            let how =
                "process_resident_memory_bytes of the greater replica, with 200 finished backups";
            let name = ("controller, 200 finished backups", "MB");
            marks.push(Mark::of(name, Some(MEMORY), how, &self.memory)?);
        }
        if !self.cost.is_empty() {
            marks.extend(cost::marks(&self.cost)?);
        }
        Ok(marks)
    }
}

/// Each size's, and how many times as long a greater one takes as a smaller one.
fn sizes(pairs: &[Pair]) -> Result<Vec<Mark>> {
    let mut marks = flat(
        "1, 3, 10 GB: session to Stopped",
        SIZES.map(|size| size.session).into_iter().zip(pairs),
        |times| times.session,
        SESSION,
    )?;
    marks.extend(flat(
        "1, 3, 10 GB: to Completed",
        SIZES.map(|size| size.completed).into_iter().zip(pairs),
        |times| times.beside_checkpoint,
        TO_COMPLETED,
    )?);
    Ok(marks)
}

fn flat<'a>(
    name: &'static str,
    pairs: impl Iterator<Item = (&'static str, &'a Pair)>,
    figure: fn(&BackupTimes) -> f64,
    how: &'static str,
) -> Result<Vec<Mark>> {
    let told = pairs.map(|(name, pair)| Mark::of((name, "s"), None, how, &pair.ours(figure)));
    let mut marks: Vec<_> = told.collect::<Result<_>>()?;
    let by_smaller = marks.iter().enumerate().flat_map(|(at, greater)| {
        let smaller = marks[..at].iter();
        smaller.map(|smaller| greater.value / smaller.value)
    });
    let growth = by_smaller.max_by(f64::total_cmp);
    let growth = growth.context("no two sizes were measured")?;
    let how = "the greatest median of a size by that of a smaller one";
    marks.push(Mark::of((name, "x"), Some(TIMES), how, &[growth])?);
    Ok(marks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pair(ours: &[f64], bare: &[f64]) -> Pair {
        let ours = ours.iter().map(|session| BackupTimes {
            beside_cut: 0.1,
            session: *session,
            backup_mode: session - 0.1,
            cut: 0.4,
            beside_checkpoint: session + 1.0,
        });
        let bare = bare.iter().map(|session| Bare {
            session: *session,
            cut: 0.4,
        });
        Pair {
            ours: ours.collect(),
            bare: bare.collect(),
            ..Pair::default()
        }
    }

    fn broken(report: &Report) -> Vec<&'static str> {
        let marks = report.marks().unwrap();
        let broken = marks.iter().filter(|mark| !mark.holds);
        broken.map(|mark| mark.name).collect()
    }

    #[test]
    fn a_session_is_judged_beside_the_bare_script() {
        let report = |ours: &[f64]| Report {
            one: Some(pair(ours, &[0.4, 0.5, 9.0])),
            four: Some(pair(&[0.5], &[0.5])),
            ..Report::default()
        };
        assert!(broken(&report(&[0.7, 0.79, 9.0])).is_empty());
        assert_eq!(broken(&report(&[0.7, 0.81, 9.0])), [ONE.judged]);
        assert_eq!(
            broken(&report(&[1.6])),
            [ONE.completed, ONE.judged],
            "beside the checkpoint, too"
        );
    }

    #[test]
    fn twenty_are_judged_by_the_ratio() {
        let report = |ours: f64| Report {
            twenty: Some(pair(&[ours], &[4.0])),
            ..Report::default()
        };
        assert!(broken(&report(5.1)).is_empty());
        assert_eq!(broken(&report(5.3)), [TWENTY.judged]);
    }

    #[test]
    fn sizes_are_flat_when_a_greater_one_takes_no_longer() {
        let report = |sizes: [f64; 3]| Report {
            sizes: sizes.map(|ours| pair(&[ours], &[])).into(),
            ..Report::default()
        };
        assert!(broken(&report([1.0, 0.9, 1.1])).is_empty());
        let flat = ["1, 3, 10 GB: session to Stopped"];
        assert_eq!(broken(&report([1.0, 0.9, 1.2])), flat);
        // That the smallest takes longest is no growth.
        assert!(broken(&report([2.0, 1.0, 1.1])).is_empty());
        let both = [flat[0], "1, 3, 10 GB: to Completed"];
        assert_eq!(broken(&report([1.0, 0.9, 3.0])), both);
        assert_eq!(broken(&report([1.0, 3.0, 1.0])), both);
    }

    #[test]
    fn what_was_not_measured_is_no_mark_and_a_begun_part_without_figures_is_an_error() {
        assert!(Report::default().marks().unwrap().is_empty());
        let begun = Report {
            one: Some(Pair::default()),
            ..Report::default()
        };
        assert!(begun.marks().is_err());
    }

    #[test]
    fn requests_and_memory_have_their_limits() {
        let report = Report {
            requests: vec![37.0, 38.0, 38.0],
            idle: vec![1.0],
            apart: vec![30.0],
            memory: vec![45.0],
            ..Report::default()
        };
        let expected = ["requests of a backup", "requests of an idle minute"];
        assert_eq!(broken(&report), expected);
    }
}
