//! Which timeline a restore follows, and the backups that it can begin with.

use std::cmp::Reverse;

use super::{Refusal, Request};
use crate::{
    api::TargetTimeline,
    archive::{
        Contents, Manifest,
        window::{Base, bases_with_pieces, newest_timeline},
    },
    postgres::TimelineId,
};

/// A timeline to follow and the backups that it can begin with, the one that stopped last at the end: at least one.
pub(super) struct Line<'a> {
    pub contents: &'a Contents,
    pub timeline: TimelineId,
    pub bases: Vec<Base<'a>>,
}

impl<'a> Line<'a> {
    /// The timeline that is asked for. Where none is, a named backup decides: the newest one that goes on from it.
    pub fn choose(request: &Request, contents: &'a Contents) -> Result<Self, Refusal> {
        let asked = request.target.as_ref().and_then(|target| target.timeline);
        let named = request.backup.as_deref();
        let is_named = |manifest: &Manifest| named.is_none_or(|uid| manifest.uid == uid);
        let followed = match (asked.unwrap_or(TargetTimeline::Latest), named) {
            (TargetTimeline::Latest, Some(_)) => going_on_from(contents, is_named),
            (TargetTimeline::Latest, None) => {
                vec![with_history(contents, newest_timeline(contents))?]
            }
            (TargetTimeline::Id(id), _) => vec![known(contents, id)?],
            (TargetTimeline::Current, _) => {
                let current = Self::of_backup(contents, is_named);
                return current.ok_or_else(|| nothing(contents, named));
            }
        };
        let mut lines = followed
            .into_iter()
            .map(|timeline| Self::of(contents, timeline, is_named));
        let line = lines.find(|line| !line.bases.is_empty());
        line.ok_or_else(|| nothing(contents, named))
    }

    /// That of `timeline`, with those of its backups that will do.
    fn of(
        contents: &'a Contents,
        timeline: TimelineId,
        will_do: impl Fn(&Manifest) -> bool,
    ) -> Self {
        let mut bases = bases_with_pieces(contents, timeline);
        bases.retain(|base| will_do(base.manifest));
        Self {
            contents,
            timeline,
            bases,
        }
    }

    /// The timeline that the newest of the backups was taken on, and those that were.
    fn of_backup(contents: &'a Contents, is_named: impl Fn(&Manifest) -> bool) -> Option<Self> {
        let backups = contents.backups.iter().map(|(_, manifest)| manifest);
        let mut newest: Vec<&Manifest> = backups
            .filter(|backup| is_named(backup) && contents.has_history(backup.timeline))
            .collect();
        newest.sort_by_key(|backup| (Reverse(backup.stopped_at), backup.timeline));
        let mut lines = newest.into_iter().filter_map(|backup| {
            let timeline = backup.timeline;
            let taken_on = |it: &Manifest| it.timeline == timeline && is_named(it);
            holds(contents, timeline, backup).then(|| Self::of(contents, timeline, taken_on))
        });
        lines.find(|line| !line.bases.is_empty())
    }

    /// What can be recovered: each stretch of WAL that a backup leads to.
    pub fn window(&self) -> String {
        let mut stretches: Vec<(&Base<'_>, &Base<'_>)> = Vec::new();
        for base in &self.bases {
            match stretches.last_mut() {
                Some((_, last)) if last.end() == base.end() => *last = base,
                Some(_) | None => stretches.push((base, base)),
            }
        }
        let stretches = stretches.into_iter().map(|(first, last)| {
            format!(
                "{} to {} (LSN {} to {})",
                first.manifest.stopped_at,
                last.covered(self.contents, self.timeline),
                first.manifest.stop_lsn,
                last.end(),
            )
        });
        let stretches: Vec<String> = stretches.collect();
        let others = match self.others() {
            others if others.is_empty() => String::new(),
            others => format!("; spec.target.timeline follows another: there are {others}"),
        };
        format!(
            "recoverable is {} on timeline {}{others}",
            stretches.join(" and "),
            self.timeline,
        )
    }

    fn others(&self) -> String {
        let timelines = self.contents.timelines().into_iter();
        listed(
            timelines.filter(|timeline| {
                *timeline != self.timeline && self.contents.has_history(*timeline)
            }),
        )
    }
}

fn newest_first(contents: &Contents) -> Vec<TimelineId> {
    let timelines = contents.timelines().into_iter().rev();
    timelines
        .filter(|timeline| contents.has_history(*timeline))
        .collect()
}

/// The timelines that hold one of the backups, the newest first.
fn going_on_from(contents: &Contents, is_named: impl Fn(&Manifest) -> bool) -> Vec<TimelineId> {
    let backups = contents.backups.iter().map(|(_, manifest)| manifest);
    let named: Vec<&Manifest> = backups.filter(|backup| is_named(backup)).collect();
    let mut timelines = newest_first(contents);
    timelines.retain(|timeline| {
        let mut named = named.iter();
        named.any(|backup| holds(contents, *timeline, backup))
    });
    timelines
}

/// Whether a backup lies on the line of `timeline` with all of its WAL: of that stretch alone, as to walk along each of many
/// timelines takes long.
fn holds(contents: &Contents, timeline: TimelineId, backup: &Manifest) -> bool {
    let missing = || contents.first_missing(timeline, backup.start_lsn, backup.stop_lsn);
    contents.on_line(backup, timeline) && missing().is_none()
}

fn with_history(contents: &Contents, timeline: TimelineId) -> Result<TimelineId, Refusal> {
    match contents.has_history(timeline) {
        true => Ok(timeline),
        false => Err(Refusal::HistoryMissing { timeline }),
    }
}

fn known(contents: &Contents, timeline: TimelineId) -> Result<TimelineId, Refusal> {
    if contents.timelines().contains(&timeline) {
        return with_history(contents, timeline);
    }
    Err(Refusal::TimelineUnknown {
        timeline,
        known: listed(newest_first(contents).into_iter().rev()),
    })
}

fn nothing(contents: &Contents, named: Option<&str>) -> Refusal {
    let lineage = contents.identity.lineage.to_string();
    match named {
        None => Refusal::NoBackup { lineage },
        Some(backup) => Refusal::BackupUnusable {
            backup: backup.to_owned(),
            lineage,
        },
    }
}

/// So many timelines are named.
const NAMED: usize = 10;

fn listed(timelines: impl DoubleEndedIterator<Item = TimelineId>) -> String {
    let mut newest: Vec<String> = timelines
        .rev()
        .map(|timeline| timeline.to_string())
        .collect();
    let more = newest.len().saturating_sub(NAMED);
    newest.truncate(NAMED);
    newest.reverse();
    match more {
        0 => newest.join(", "),
        more => format!("{more} older ones, {}", newest.join(", ")),
    }
}
