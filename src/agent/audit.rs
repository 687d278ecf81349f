//! What can be recovered, from the bucket's side, and what is kept.

mod known;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use object_store::path::Path;

use self::known::Known;
use super::{
    config::Wanted,
    retention::{Decided, wal::Sweeps},
    shared::Shared,
    store::Trouble,
};
use crate::{
    api::{
        RecoveryWindow, Retention, RetentionStatus,
        conditions::{RECOVERABLE, Status},
    },
    archive::{Contents, Lineage, LineageId, window},
    clock::micro_time,
};

pub use known::{Existing, Seen, is_running};

/// Between two audits without a reason.
const EVERY: Duration = Duration::from_secs(60);
/// Between two audits that list everything: what lies far behind the end of the log and comes or goes is seen then.
const EVERYTHING: Duration = Duration::from_secs(3600);
/// The least time between two audits.
const APART: Duration = Duration::from_secs(2);

/// Audits until the process is to end: every minute, after each backup, and when one goes.
pub async fn run(shared: Arc<Shared>, mut seen: Seen) {
    let mut wanted = shared.wanted.clone();
    let mut progress = shared.progress.subscribe();
    let mut next = tokio::time::Instant::now();
    let mut earlier = Earlier::default();
    let mut known = Known::default();
    tokio::select! {
        known = seen.backups.wait_for(Option::is_some) => if known.is_err() { return },
        () = shared.stop.cancelled() => return,
    }
    while !shared.stop.is_cancelled() {
        tokio::select! {
            () = shared.audit.notified() => {}
            () = tokio::time::sleep_until(next) => {}
            changed = wanted.changed() => if changed.is_err() { return },
            is_open = seen.changed() => {
                if !is_open { return }
                if seen.read() == known { continue }
            }
            _ = progress.changed() => {
                follow(&shared);
                continue;
            }
            () = shared.stop.cancelled() => return,
        }
        known = seen.read();
        if let Err(trouble) = audit(&shared, &mut earlier, &known).await {
            tracing::warn!(reason = trouble.reason, %trouble, "failed to audit the archive");
            shared.metrics.error(trouble.reason);
        }
        tokio::time::sleep(APART).await;
        next = tokio::time::Instant::now() + EVERY;
    }
}

/// Between audits the end of the window moves with what is shipped: each clock pair was written before it is told here.
fn follow(shared: &Shared) {
    let progress = shared.progress.borrow().clone();
    shared.reporter.edit(|report| {
        if let Some(wal) = &mut report.wal {
            wal.archived_through = progress.durable.or(wal.archived_through);
            wal.lag_bytes = match (progress.flushed, progress.durable) {
                (Some(flushed), Some(durable)) => i64::try_from(flushed.bytes_since(durable)).ok(),
                _ => wal.lag_bytes,
            };
        }
        if progress.lineage == report.lineage
            && let (Some(window), Some(covered)) = (&mut report.recoverable, progress.covered)
            && window.from.is_some()
        {
            let covered = micro_time(covered);
            if window.to.as_ref().is_none_or(|to| to.0 < covered.0) {
                window.to = Some(covered);
            }
        }
    });
}

/// What was listed in full last, and when.
type Listed = (LineageId, tokio::time::Instant);

/// Whether everything is to be listed.
fn in_full(listed: Option<&Listed>, id: &LineageId, now: tokio::time::Instant) -> bool {
    listed.is_none_or(|(known, at)| known != id || now.duration_since(*at) >= EVERYTHING)
}

/// What earlier audits have found out.
#[derive(Default)]
struct Earlier {
    listed: Option<Listed>,
    sweeps: BTreeMap<LineageId, Sweeps>,
}

async fn audit(shared: &Shared, earlier: &mut Earlier, known: &Known) -> Result<(), Trouble> {
    let Wanted::Protect(config) = shared.wanted.borrow().clone() else {
        return Ok(());
    };
    let Some(id) = shared.reporter.read().lineage else {
        return Ok(());
    };
    let archive = shared.stores.archive(&config)?;
    let lineage = archive.lineage(id.clone());
    let now = tokio::time::Instant::now();
    let mut contents = match in_full(earlier.listed.as_ref(), &id, now) {
        true => {
            let contents = lineage.contents().await?;
            earlier.listed = Some((id.clone(), now));
            contents
        }
        false => lineage.contents_again().await?,
    };
    if let Some(orphans) = &contents.orphans {
        tell_of(orphans, shared);
    }
    let kept = match &config.retention {
        Some(retention) => {
            earlier.sweeps.retain(|of, _| *of == id);
            let sweeps = earlier.sweeps.entry(id.clone()).or_default();
            keep(
                shared,
                (&lineage, &mut contents),
                (retention, known),
                sweeps,
            )
            .await?
        }
        None => {
            contents.keep_backups(&known.uids());
            None
        }
    };
    let window = window::window(&contents);
    let (status, reason, message) = judge(&window);
    shared.reporter.edit(|report| {
        // The lineage may have changed meanwhile.
        if report.lineage.as_ref() == Some(&id) {
            report.recoverable = Some(window);
            report.retention = kept.map(Box::new);
        }
    });
    shared
        .reporter
        .condition(RECOVERABLE, status, reason, message);
    follow(shared);
    Ok(())
}

/// What the policy's retention keeps, and without the WAL that nothing kept needs. Nothing where it cannot be understood: the
/// controller says so.
async fn keep(
    shared: &Shared,
    (lineage, contents): (&Lineage, &mut Contents),
    (retention, known): (&Retention, &Known),
    sweeps: &mut Sweeps,
) -> Result<Option<RetentionStatus>, Trouble> {
    let uids = known.uids();
    let mut left_out = contents.keep_backups(&uids);
    let decide = |contents: &Contents| {
        let holds = known.holds(contents, lineage.id());
        Decided::of(retention, holds, contents, shared.clock.now()).ok()
    };
    let Some(mut decided) = decide(contents) else {
        return Ok(None);
    };
    let may_delete = |decided: &Decided| {
        !retention.dry_run && decided.decision.goes.is_empty() && known.may_delete()
    };
    let now = shared.clock.now();
    if contents.orphans.is_some() || sweeps.is_wanted(&decided, may_delete(&decided), now) {
        // What goes is chosen of what is there now, and not of what was there once.
        if contents.orphans.is_none() {
            *contents = lineage.contents().await?;
            left_out = contents.keep_backups(&uids);
            decided = match decide(contents) {
                Some(decided) => decided,
                None => return Ok(None),
            };
        }
        let about = (&decided, may_delete(&decided));
        sweeps
            .sweep(shared, lineage, about, (contents, left_out))
            .await;
    }
    Ok(Some(
        decided.status((lineage.id(), contents), sweeps.told()),
    ))
}

/// So many orphans are named in the log.
const NAMED: usize = 3;

/// Objects that no restore reads harm nothing, but somebody puts them where only agents should write.
fn tell_of(orphans: &BTreeSet<Path>, shared: &Shared) {
    let count = i64::try_from(orphans.len()).unwrap_or(i64::MAX);
    let before = shared.metrics.orphans.set(count);
    if count > before {
        let some: Vec<_> = orphans.iter().take(NAMED).map(Path::as_ref).collect();
        let some = some.join(", ");
        tracing::warn!(
            count,
            "objects that no restore reads are in the archive, such as {some}; `highwater archive verify` names all"
        );
    }
}

/// What the window means. The message holds nothing that moves.
fn judge(window: &RecoveryWindow) -> (Status, &'static str, String) {
    let gaps: Vec<_> = window
        .timelines
        .iter()
        .flat_map(|timeline| timeline.gaps.iter().map(move |gap| (timeline.id, gap)))
        .map(|(timeline, gap)| format!("{} to {} on timeline {timeline}", gap.from, gap.to))
        .collect();
    match (&window.from, gaps.is_empty()) {
        (Some(from), true) => (
            Status::True,
            "Recoverable",
            format!("every moment from {} on", from.0),
        ),
        (Some(from), false) => (
            Status::True,
            "RecoverableWithGaps",
            format!("from {} on; WAL is missing: {}", from.0, gaps.join(", ")),
        ),
        (None, true) => (
            Status::False,
            "NoBackup",
            "there is no finished backup of this lineage yet".to_owned(),
        ),
        (None, false) => (
            Status::False,
            "WalMissing",
            format!("no backup has unbroken WAL; missing: {}", gaps.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Gap, TimelineWindow},
        postgres::{Lsn, TimelineId},
    };

    #[test]
    fn everything_is_listed_at_first_and_then_each_hour() {
        let begin = tokio::time::Instant::now();
        let [ours, other] = ["0123456789", "9876543210"].map(|id| id.parse().unwrap());
        let listed = (ours, begin);
        assert!(in_full(None, &listed.0, begin));
        assert!(!in_full(Some(&listed), &listed.0, begin + EVERY));
        assert!(in_full(Some(&listed), &other, begin + EVERY));
        assert!(in_full(Some(&listed), &listed.0, begin + EVERYTHING));
    }

    #[test]
    fn the_window_decides() {
        let at = Some(micro_time(jiff::Timestamp::UNIX_EPOCH));
        let gaps = vec![TimelineWindow {
            id: TimelineId::FIRST,
            from: Lsn::new(1),
            to: Lsn::new(9),
            gaps: vec![Gap {
                from: Lsn::new(3),
                to: Lsn::new(4),
            }],
            began: None,
            stored_bytes: None,
            last_commit: None,
        }];
        for (from, timelines, expected) in [
            (None, vec![], "NoBackup"),
            (at.clone(), vec![], "Recoverable"),
            (at, gaps.clone(), "RecoverableWithGaps"),
            (None, gaps, "WalMissing"),
        ] {
            let window = RecoveryWindow {
                from,
                to: None,
                backup_needed_from: None,
                timelines,
            };
            assert_eq!(judge(&window).1, expected);
        }
    }
}
