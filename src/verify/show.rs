//! The report as tables. Pure.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, TableComponent, presets::UTF8_HORIZONTAL_ONLY};
use indicatif::HumanBytes;
use jiff::Timestamp;

use super::{Report, Verdict};
use crate::{
    api::Gap,
    archive::verify::{Finding, LineageReport, Note, TimelineReport},
};

/// All of it: tables first, then what is wrong, a line each, and the verdict at the end, where people look.
pub(super) fn tables(report: &Report) -> String {
    let mut text = format!("archive {}\n", report.archive);
    for lineage in &report.lineages {
        text.push_str(&of_lineage(lineage));
    }
    for Note { object, what } in &report.notes {
        let _ = writeln!(text, "note: {object}: {what}");
    }
    for finding in &report.findings {
        let _ = writeln!(text, "{}", line(finding));
    }
    let _ = writeln!(text, "{}", verdict(report));
    text
}

/// One finding in one line.
fn line(finding: &Finding) -> String {
    let Finding {
        problem,
        object,
        what,
        meaning,
        action,
    } = finding;
    let what = what.replace(['\n', '\r'], " ");
    format!("{problem:?}: {object}: {what}; {meaning}; {action}")
}

fn verdict(report: &Report) -> String {
    let read = format!(
        "{} objects, {} read",
        report.objects_read,
        HumanBytes(report.bytes_read)
    );
    let locked: u64 = report
        .lineages
        .iter()
        .map(|lineage| lineage.not_decrypted)
        .sum();
    let unread = match (locked, &report.stopped) {
        (0, None) => String::new(),
        (locked, None) => format!(
            "; {locked} encrypted segments and tails were compared by their hashes alone: give --identity to read them"
        ),
        (_, Some(why)) => format!("; not everything was read: {why}"),
    };
    match report.verdict {
        Verdict::Sound => format!("sound: {read}{unread}"),
        Verdict::Damaged => format!(
            "damaged: {} findings; {read}{unread}",
            report.findings.len()
        ),
        Verdict::Incomplete => format!("no verdict: {read}{unread}"),
    }
}

fn of_lineage(lineage: &LineageReport) -> String {
    let mut text = format!(
        "\nlineage {} of cluster {} (PostgreSQL {}, segments of {}): {} stored, {} of WAL\n",
        lineage.lineage,
        lineage.system_identifier,
        lineage.major_version,
        HumanBytes(lineage.segment_size.get()),
        HumanBytes(lineage.stored_bytes),
        HumanBytes(lineage.wal_bytes),
    );
    let window = &lineage.recoverable;
    let _ = writeln!(
        text,
        "recoverable from {} to {}; last commit {}",
        time(window.from.as_ref().map(|from| from.0)),
        time(window.to.as_ref().map(|to| to.0)),
        time(lineage.last_commit),
    );
    let _ = writeln!(text, "{}", timelines(&lineage.timelines));
    if !lineage.backups.is_empty() {
        let _ = writeln!(text, "{}", backups(lineage));
    }
    let _ = writeln!(text, "{}\n", kinds(lineage));
    text
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY);
    // Lines below the header and at the end alone.
    for line in [
        TableComponent::TopBorder,
        TableComponent::TopBorderIntersections,
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
    ] {
        table.remove_style(line);
    }
    table.set_header(header.to_vec());
    table
}

fn number(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

fn range(Gap { from, to }: &Gap) -> String {
    format!("{from} to {to}")
}

fn timelines(timelines: &[TimelineReport]) -> Table {
    let mut table = table(&[
        "timeline",
        "left",
        "from",
        "to",
        "segments",
        "stored",
        "WAL",
        "gaps",
        "abandoned",
        "last commit",
    ]);
    for timeline in timelines {
        let began = timeline
            .began
            .map(|fork| format!("{} at {}", fork.timeline, fork.at));
        let gaps: Vec<String> = timeline.gaps.iter().map(range).collect();
        table.add_row(vec![
            number(timeline.id),
            Cell::new(or_none(began)),
            Cell::new(or_none(timeline.from)),
            Cell::new(or_none(timeline.to)),
            number(timeline.segments),
            number(HumanBytes(timeline.stored_bytes)),
            number(HumanBytes(timeline.wal_bytes)),
            Cell::new(match gaps.is_empty() {
                true => "none".to_owned(),
                false => gaps.join(", "),
            }),
            Cell::new(or_none(timeline.abandoned.as_ref().map(range))),
            Cell::new(time(timeline.last_commit)),
        ]);
    }
    table
}

fn backups(lineage: &LineageReport) -> Table {
    let mut table = table(&["backup", "timeline", "start", "stop", "stopped", "usable"]);
    for backup in &lineage.backups {
        table.add_row(vec![
            Cell::new(&backup.name),
            number(backup.timeline),
            Cell::new(backup.start_lsn.to_string()),
            Cell::new(backup.stop_lsn.to_string()),
            Cell::new(backup.stopped_at.to_string()),
            Cell::new(match backup.usable {
                true => "yes",
                false => "no",
            }),
        ]);
    }
    table
}

fn kinds(lineage: &LineageReport) -> Table {
    let mut table = table(&["objects", "number", "stored"]);
    let there = lineage.kinds.iter().filter(|kind| kind.objects > 0);
    for kind in there {
        table.add_row(vec![
            Cell::new(kind.kind),
            number(kind.objects),
            number(HumanBytes(kind.stored_bytes)),
        ]);
    }
    table
}
