//! Which timeline a restore follows, and the backups that it can begin with.

use super::{Refusal, Request};
use crate::{
    api::TargetTimeline,
    archive::{
        Contents,
        window::{Base, bases, newest_timeline},
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
        let is_named = |base: &Base<'_>| named.is_none_or(|uid| base.manifest.uid == uid);
        let followed = match (asked.unwrap_or(TargetTimeline::Latest), named) {
            (TargetTimeline::Latest, Some(_)) => newest_first(contents),
            (TargetTimeline::Latest, None) => {
                vec![with_history(contents, newest_timeline(contents))?]
            }
            (TargetTimeline::Id(id), _) => vec![known(contents, id)?],
            (TargetTimeline::Current, _) => return Self::of_backup(contents, named, is_named),
        };
        for timeline in followed {
            let mut bases = bases(contents, timeline);
            bases.retain(is_named);
            if !bases.is_empty() {
                return Ok(Self {
                    contents,
                    timeline,
                    bases,
                });
            }
        }
        Err(nothing(contents, named))
    }

    /// The timeline that the newest of the backups was taken on, and those that were.
    fn of_backup(
        contents: &'a Contents,
        named: Option<&str>,
        is_named: impl Fn(&Base<'_>) -> bool,
    ) -> Result<Self, Refusal> {
        let lines = newest_first(contents).into_iter().map(|timeline| {
            let mut bases = bases(contents, timeline);
            bases.retain(|base| base.manifest.timeline == timeline && is_named(base));
            Self {
                contents,
                timeline,
                bases,
            }
        });
        let newest = lines.max_by_key(|line| {
            let stops = line.bases.iter().map(|base| base.manifest.stopped_at);
            stops.max()
        });
        newest
            .filter(|line| !line.bases.is_empty())
            .ok_or_else(|| nothing(contents, named))
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
