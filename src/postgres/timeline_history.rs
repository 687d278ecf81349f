//! Timeline history files: where each timeline branched off.

use super::{Lsn, TimelineId};

/// The history of one timeline: content of `0000000N.history` (PostgreSQL manual, section 26.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    entries: Vec<HistoryEntry>,
}

/// One ancestor, and where the next timeline of the history left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: TimelineId,
    /// Its log counts up to here, exclusively.
    pub switch_lsn: Lsn,
}

/// One timeline of an ancestry, and which part of its log belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AncestryPart {
    /// The timeline.
    pub timeline: TimelineId,
    /// From here, inclusively.
    pub from: Lsn,
    /// To here, exclusively; `None` for the timeline itself, which goes on.
    pub to: Option<Lsn>,
}

/// A file that is no timeline history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line is not `<timeline> <LSN> <reason>`.
    #[error(
        "failed to parse the history of timeline {timeline}: line {line} is {content:?}, want a timeline, an LSN and a reason"
    )]
    Line {
        /// Whose history it is.
        timeline: TimelineId,
        /// From 1.
        line: usize,
        /// The line.
        content: String,
    },
    /// Timelines or LSNs go backwards, or reach the timeline itself.
    #[error(
        "failed to parse the history of timeline {timeline}: timeline {ancestor} in line {line} is out of order"
    )]
    Order {
        /// Whose history it is.
        timeline: TimelineId,
        /// From 1.
        line: usize,
        /// What the line names.
        ancestor: TimelineId,
    },
    /// Every timeline but the first has a parent.
    #[error("failed to parse the history of timeline {0}: it names no parent")]
    Empty(TimelineId),
}

impl TimelineHistory {
    /// The first timeline: it has no ancestors and no file.
    pub const fn first() -> Self {
        Self {
            timeline: TimelineId::FIRST,
            entries: Vec::new(),
        }
    }

    /// Parses the content of `timeline`'s history file.
    ///
    /// # Errors
    /// Not a history file, or not of this timeline.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            let trimmed = content.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let entry = parse_line(trimmed).ok_or_else(|| HistoryError::Line {
                timeline,
                line,
                content: content.to_owned(),
            })?;
            let follows = entries.last().is_none_or(|last| {
                last.timeline < entry.timeline && last.switch_lsn <= entry.switch_lsn
            });
            if !follows || entry.timeline >= timeline {
                let ancestor = entry.timeline;
                return Err(HistoryError::Order {
                    timeline,
                    line,
                    ancestor,
                });
            }
            entries.push(entry);
        }
        match entries.is_empty() && timeline != TimelineId::FIRST {
            true => Err(HistoryError::Empty(timeline)),
            false => Ok(Self { timeline, entries }),
        }
    }

    /// Whose history it is.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The timeline that this one branched off from, and where.
    pub fn parent(&self) -> Option<HistoryEntry> {
        self.entries.last().copied()
    }

    /// The whole log as seen from this timeline: ancestors, oldest first, then the timeline itself.
    pub fn ancestry(&self) -> Vec<AncestryPart> {
        let mut from = Lsn::new(0);
        let mut parts: Vec<_> = self
            .entries
            .iter()
            .map(|entry| {
                let part = AncestryPart {
                    timeline: entry.timeline,
                    from,
                    to: Some(entry.switch_lsn),
                };
                from = entry.switch_lsn;
                part
            })
            .collect();
        parts.push(AncestryPart {
            timeline: self.timeline,
            from,
            to: None,
        });
        parts
    }

    /// Whether the state of the log at `lsn` on `timeline` is part of this history: up to a fork, inclusively, ancestor and
    /// child agree.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        if timeline == self.timeline {
            return self.parent().is_none_or(|parent| parent.switch_lsn <= lsn);
        }
        let entry = self.entries.iter().find(|entry| entry.timeline == timeline);
        entry.is_some_and(|entry| lsn <= entry.switch_lsn)
    }

    /// The timeline whose log holds the byte at `lsn`.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let older = self.entries.iter().find(|entry| lsn < entry.switch_lsn);
        older.map_or(self.timeline, |entry| entry.timeline)
    }

    /// The file's name: `0000000N.history`.
    pub fn file_name(timeline: TimelineId) -> String {
        format!("{timeline:08X}.history")
    }
}

fn parse_line(line: &str) -> Option<HistoryEntry> {
    let mut words = line.split_whitespace();
    Some(HistoryEntry {
        timeline: TimelineId::new(words.next()?.parse().ok()?)?,
        switch_lsn: words.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    const THREE: &str = "1\t0/3000060\tno recovery target specified\n\n# by hand\n2\t0/5000000\tbefore 2026-11-20\n";

    #[test]
    fn tells_which_timeline_holds_what() {
        let history = TimelineHistory::parse(tli(3), THREE).unwrap();
        for (lsn, want) in [
            (0, 1),
            (0x0300_005F, 1),
            (0x0300_0060, 2),
            (0x04FF_FFFF, 2),
            (0x0500_0000, 3),
        ] {
            assert_eq!(history.timeline_at(Lsn::new(lsn)), tli(want), "{lsn:x}");
        }
        for (timeline, lsn, want) in [
            (1, 0x0300_0060, true),
            (1, 0x0300_0061, false),
            (2, 0x0500_0000, true),
            (2, 0x0500_0001, false),
            (3, 0x0500_0000, true),
            (3, 0x04FF_FFFF, false),
            (4, 0, false),
        ] {
            let name = format!("{timeline} {lsn:x}");
            assert_eq!(
                history.contains(tli(timeline), Lsn::new(lsn)),
                want,
                "{name}"
            );
        }
        let parts = history.ancestry();
        assert_eq!(parts.len(), 3);
        assert_eq!(
            (parts[1].from, parts[1].to),
            (Lsn::new(0x0300_0060), Some(Lsn::new(0x0500_0000)))
        );
        assert_eq!((parts[2].timeline, parts[2].to), (tli(3), None));
    }

    #[test]
    fn the_first_timeline_has_no_file() {
        assert!(TimelineHistory::first().contains(tli(1), Lsn::new(0)));
        assert_eq!(
            TimelineHistory::parse(tli(1), ""),
            Ok(TimelineHistory::first())
        );
        assert_eq!(TimelineHistory::file_name(tli(10)), "0000000A.history");
    }

    #[test]
    fn refuses_what_is_no_history() {
        for (name, timeline, text) in [
            ("empty", 2, ""),
            ("no LSN", 2, "1\n"),
            ("not a number", 2, "x\t0/1\tr\n"),
            ("zero", 2, "0\t0/1\tr\n"),
            ("itself", 2, "2\t0/1\tr\n"),
            ("twice", 3, "1\t0/1\tr\n1\t0/2\tr\n"),
            ("backwards", 3, "2\t0/1\tr\n1\t0/2\tr\n"),
            ("LSN backwards", 3, "1\t0/2\tr\n2\t0/1\tr\n"),
        ] {
            assert!(
                TimelineHistory::parse(tli(timeline), text).is_err(),
                "{name}"
            );
        }
    }
}
