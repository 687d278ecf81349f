//! From a target to a base backup and an end.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{Chosen, Ended, Refusal, line::Line};
use crate::{
    api::{RestoreTarget, StopAt, TargetXid},
    archive::{Piece, RestorePoint, contents::on_line, window::Base},
    postgres::Lsn,
};

/// Nothing that PostgreSQL stops at.
const NOWHERE: StopAt = StopAt {
    time: None,
    lsn: None,
    xid: None,
    inclusive: true,
};

impl<'a> Line<'a> {
    /// `ended` is where the target's transaction ends, if it has one.
    pub(super) fn to(
        &self,
        target: &RestoreTarget,
        ended: &[Ended],
    ) -> Result<Chosen<'a>, Refusal> {
        let RestoreTarget {
            latest: _,
            time,
            lsn,
            xid,
            name,
            immediate,
            inclusive,
            timeline: _,
        } = target;
        let inclusive = inclusive.unwrap_or(true);
        if let Some(time) = time {
            return self.to_time(time.0, inclusive);
        }
        if let Some(lsn) = lsn {
            return self.to_lsn(*lsn, inclusive, format!("LSN {lsn}"));
        }
        if let Some(xid) = xid {
            return self.to_xid(*xid, inclusive, ended);
        }
        if let Some(name) = name {
            return self.to_name(name);
        }
        match immediate {
            Some(_) => self.to_consistency(),
            None => self.to_latest(),
        }
    }

    fn to_latest(&self) -> Result<Chosen<'a>, Refusal> {
        let base = self.newest("latest", |_| true)?;
        if let Some(gap) = self.gap_after(&base, "latest") {
            return Err(gap);
        }
        let end = base.end();
        let covered = base.covered(self.contents, self.timeline);
        let summary = format!("to the end of the archive, {end} ({covered}),");
        Ok(base.up_to_its_end(summary))
    }

    /// Not beyond the newest backup. By its stop LSN, as PostgreSQL's own `immediate` cannot tell where the backup of a standby
    /// ends.
    fn to_consistency(&self) -> Result<Chosen<'a>, Refusal> {
        let manifest = self.newest("immediate", |_| true)?.manifest;
        let (stop_lsn, stopped_at) = (manifest.stop_lsn, manifest.stopped_at);
        let said = format!(
            "the end of backup {}, LSN {stop_lsn} ({stopped_at}),",
            manifest.name
        );
        self.to_lsn(stop_lsn, false, said)
    }

    fn to_time(&self, time: Timestamp, inclusive: bool) -> Result<Chosen<'a>, Refusal> {
        let target = time.to_string();
        let base = self.newest(&target, |base| base.manifest.stopped_at <= time)?;
        // Recovery stops at the first commit after the target (or at it, if exclusive): what holds that one is the last
        // that it needs.
        let past = |commit: Timestamp| commit > time || (!inclusive && commit == time);
        let stop_at = StopAt {
            time: Some(MicroTime(time)),
            inclusive,
            ..NOWHERE
        };
        let after_stop = || base.pieces_from(base.manifest.stop_lsn);
        let commits = |piece: &&Piece| piece.records?.last_commit.filter(|at| past(*at));
        let stopper = after_stop().find(|piece| commits(piece).is_some());
        if let Some(wal_to) = stopper.map(|piece| piece.to) {
            return Ok(base.stopping(wal_to, stop_at, format!("to {target}")));
        }
        if base.covered(self.contents, self.timeline) < time {
            let gap = self.gap_after(&base, &target);
            return Err(gap.unwrap_or_else(|| self.after_window(target)));
        }
        if after_stop().any(|piece| piece.records.is_none()) {
            // Some commit may come after the target. If none does, PostgreSQL says so: better than one too many.
            let end = base.end();
            return Ok(base.stopping(end, stop_at, format!("to {target}")));
        }
        // PostgreSQL would call it an error that no commit comes after the target; it is the end of what there is.
        let end = base.end();
        Ok(base.up_to_its_end(format!(
            "to {target}: nothing was committed after it, so to the end of the archive, {end},"
        )))
    }

    /// `said` is what is asked for, in words.
    fn to_lsn(&self, lsn: Lsn, inclusive: bool, said: String) -> Result<Chosen<'a>, Refusal> {
        let base = self.newest(&said, |base| base.manifest.stop_lsn <= lsn)?;
        if base.end() < lsn {
            let gap = self.gap_after(&base, &said);
            return Err(gap.unwrap_or_else(|| self.after_window(said)));
        }
        let stop_at = StopAt {
            lsn: Some(lsn),
            inclusive,
            ..NOWHERE
        };
        // Recovery stops at the first record that begins at the target or after it.
        let begins = |piece: &&Piece| piece.records?.last_record.filter(|begin| *begin >= lsn);
        let summary = format!("to {said}");
        let from_target = || base.pieces_from(lsn);
        let stopper = from_target().find(|piece| begins(piece).is_some());
        if let Some(wal_to) = stopper.map(|piece| piece.to) {
            return Ok(base.stopping(wal_to, stop_at, summary));
        }
        let end = base.end();
        if from_target().any(|piece| piece.records.is_none()) {
            return Ok(base.stopping(end, stop_at, summary));
        }
        // PostgreSQL is given nothing behind the end, and would call it an error that no record begins there.
        let last = base.pieces().last();
        let summary = match last.filter(|last| self.contents.goes_on(last)) {
            Some(left) => format!("{summary}, where timeline {} was left,", left.timeline),
            None => format!(
                "{summary}: no record begins after it, so to the end of the archive, {end},"
            ),
        };
        Ok(base.up_to_its_end(summary))
    }

    /// A transaction ends at a position, and that is what is recovered to: the end of its record, or before it.
    fn to_xid(
        &self,
        xid: TargetXid,
        inclusive: bool,
        ended: &[Ended],
    ) -> Result<Chosen<'a>, Refusal> {
        let found = ended.iter().filter(|it| self.reaches(it.timeline, it.end));
        let found: Vec<&Ended> = found.collect();
        match found.as_slice() {
            [] => self.to_unread_xid(xid, inclusive),
            [
                Ended {
                    timeline: _,
                    start,
                    end,
                    committed,
                },
            ] => {
                let how = match committed {
                    Some(at) => format!("committed at {at}"),
                    None => "rolled back".to_owned(),
                };
                let (lsn, edge) = match inclusive {
                    true => (*end, "the end"),
                    false => (*start, "before the end"),
                };
                let said = format!("{edge} of transaction {xid} ({how}), LSN {lsn}");
                self.to_lsn(lsn, false, said)
            }
            several => {
                let places = several.iter().map(|ended| match ended.committed {
                    Some(at) => format!("LSN {} ({at})", ended.end),
                    None => format!("LSN {} (rolled back)", ended.end),
                });
                Err(ambiguous(format!("transaction {xid}"), places.collect()))
            }
        }
    }

    /// Its end was not found. Where WAL cannot be read now, recovery itself looks for it.
    fn to_unread_xid(&self, xid: TargetXid, inclusive: bool) -> Result<Chosen<'a>, Refusal> {
        let holding = self.holding(xid.in_wal()).into_iter();
        let unread: Vec<Piece> = holding.filter(|piece| piece.encrypted).collect();
        let ends = unread.first().zip(unread.last());
        // All of it lies behind the end of the backup: a standby's cannot be told from the WAL.
        let found = ends.and_then(|(first, last)| {
            let mut bases = self.bases.iter().rev();
            let base = bases.find(|base| base.manifest.stop_lsn <= first.from)?;
            (last.to <= base.end()).then(|| (base.clone(), last.to))
        });
        let (base, wal_to) = found.ok_or_else(|| Refusal::TransactionNotFound {
            xid: xid.to_string(),
            timeline: self.timeline,
            window: self.window(),
        })?;
        let stop_at = StopAt {
            xid: Some(xid.in_wal()),
            inclusive,
            ..NOWHERE
        };
        let summary = format!(
            "to transaction {xid}, which recovery looks for in encrypted WAL up to {wal_to},"
        );
        Ok(base.stopping(wal_to, stop_at, summary))
    }

    /// A restore point is a position, too: the end of its record.
    fn to_name(&self, name: &str) -> Result<Chosen<'a>, Refusal> {
        let points = self.contents.restore_points.iter();
        let mut on_line: Vec<&RestorePoint> = points
            .filter(|(timeline, point)| self.reaches(*timeline, point.lsn))
            .map(|(_, point)| point)
            .collect();
        // Both timelines archive the segment that holds a fork, and what lies in it before.
        on_line.sort_by_key(|point| point.lsn);
        on_line.dedup_by(|next, kept| (next.lsn, &next.name) == (kept.lsn, &kept.name));
        let named: Vec<&RestorePoint> = (on_line.iter().copied())
            .filter(|point| point.name == name)
            .collect();
        match named.as_slice() {
            [] => Err(Refusal::RestorePointNotFound {
                name: name.to_owned(),
                timeline: self.timeline,
                known: known(&on_line),
                unsearched: self.contents.unsearched(),
                window: self.window(),
            }),
            [point] => {
                let RestorePoint { name, lsn, at } = point;
                let said = format!("restore point {name} of {at}, LSN {lsn}");
                self.to_lsn(*lsn, false, said)
            }
            several => {
                let places = several
                    .iter()
                    .map(|it| format!("LSN {} ({})", it.lsn, it.at));
                Err(ambiguous(
                    format!("restore point {name:?}"),
                    places.collect(),
                ))
            }
        }
    }

    /// Whether a backup of the line leads to `lsn`, which was written on `timeline`.
    fn reaches(&self, timeline: crate::postgres::TimelineId, lsn: Lsn) -> bool {
        let ancestors = self.contents.ancestors(self.timeline);
        // Of those that stopped by then the last one leads furthest.
        let stopped = |base: &Base<'_>| base.manifest.stop_lsn <= lsn;
        let behind = self.bases.partition_point(stopped);
        let last = behind.checked_sub(1).and_then(|last| self.bases.get(last));
        on_line(self.timeline, &ancestors, timeline, lsn)
            && last.is_some_and(|base| lsn <= base.end())
    }

    /// The newest base that fits; otherwise the target lies before the first.
    fn newest(&self, target: &str, fits: impl Fn(&Base<'a>) -> bool) -> Result<Base<'a>, Refusal> {
        let found = self.bases.iter().rev().find(|base| fits(base));
        found.cloned().ok_or_else(|| Refusal::BeforeWindow {
            target: target.to_owned(),
            window: self.window(),
        })
    }

    /// Missing WAL after the end of `base`, if the archive goes on behind it.
    fn gap_after(&self, base: &Base<'a>, target: &str) -> Option<Refusal> {
        Some(Refusal::Gap {
            target: target.to_owned(),
            from: base.end(),
            to: base.goes_on_at()?,
            window: self.window(),
        })
    }

    fn after_window(&self, target: String) -> Refusal {
        Refusal::AfterWindow {
            target,
            window: self.window(),
        }
    }
}

impl Base<'_> {
    pub(super) fn pieces_from(&self, lsn: Lsn) -> impl Iterator<Item = &Piece> {
        let pieces = self.pieces();
        let first = pieces.partition_point(|piece| piece.to <= lsn);
        pieces.get(first..).unwrap_or_default().iter()
    }
}

/// So many places are named.
const NAMED: usize = 5;

fn ambiguous(target: String, mut places: Vec<String>) -> Refusal {
    let count = places.len();
    let places = places.split_off(count.saturating_sub(NAMED));
    Refusal::TargetAmbiguous {
        target,
        count,
        places: places.join(", "),
    }
}

/// The newest restore points, for whoever mistook a name.
fn known(points: &[&RestorePoint]) -> String {
    if points.is_empty() {
        return "there is none at all".to_owned();
    }
    let newest = points.iter().rev().take(NAMED);
    let newest: Vec<String> = newest
        .map(|point| format!("{} ({})", point.name, point.at))
        .collect();
    format!("the newest are {}", newest.join(", "))
}
