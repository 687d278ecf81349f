//! WAL that nothing kept needs: written down, and deleted when nobody can be reading it any more.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Decided, count};
use crate::{
    agent::{shared::Shared, store::Trouble},
    api::{DeletedWal, ExpiredWal, Retention},
    archive::{
        Contents, Deleted, Lineage, Manifest,
        retention::{Due, Stays, Why},
    },
    clock::micro_time,
    postgres::SegmentName,
};

/// Backups of a catalog, with the folder of each.
pub type Catalog = Vec<(String, Manifest)>;

/// Looks for WAL that nothing needs when something has changed, when what was found is due, and whenever everything is listed.
#[derive(Debug, Default)]
pub struct Sweeps {
    last: Option<Swept>,
}

/// What was found, and what it followed from.
#[derive(Debug)]
struct Swept {
    retention: Retention,
    kept: BTreeMap<String, BTreeSet<Why>>,
    may_delete: bool,
    told: ExpiredWal,
}

impl Sweeps {
    /// Whether it is to be looked for at `now`.
    pub fn is_wanted(&self, decided: &Decided, may_delete: bool, now: Timestamp) -> bool {
        let Some(last) = &self.last else { return true };
        let due = last.told.next_at.as_ref().is_some_and(|at| at.0 <= now);
        let same = last.retention == decided.retention
            && last.kept == decided.decision.kept
            && last.may_delete == may_delete;
        due || !same
    }

    /// What is to be told of it.
    pub fn told(&self) -> Option<ExpiredWal> {
        self.last.as_ref().map(|last| last.told.clone())
    }

    /// Looks for it in `contents`, of which everything was listed, and deletes what is due if it `may_delete`. `left_out`: what is
    /// in the catalog beside, as its PgBackup is gone. `contents` is then what is left.
    pub async fn sweep(
        &mut self,
        shared: &Shared,
        lineage: &Lineage,
        (decided, may_delete): (&Decided, bool),
        (contents, left_out): (&mut Contents, Catalog),
    ) {
        let before = shared.reporter.read().retention;
        let before = before.and_then(|it| it.wal).unwrap_or_default();
        let now = shared.clock.now();
        let known = contents.backups.len();
        contents.backups.extend(left_out);
        let rules = (&decided.rules, &decided.holds);
        let stays = Stays::by(&decided.decision, rules, contents, now);
        contents.backups.truncate(known);
        let needed = |name: SegmentName| stays.has(name);
        let mut told = ExpiredWal {
            last: before.last,
            ..ExpiredWal::default()
        };
        if may_delete {
            let due = due(now, &decided.retention);
            let deleted = delete(shared, lineage, (contents, &needed), (now, due), &mut told).await;
            if let Err(trouble) = deleted {
                let Trouble { reason, message } = trouble;
                tracing::warn!(reason, message, "failed to delete WAL that nothing needs");
                shared.metrics.error(reason);
                told.refused = Some(message);
            }
        }
        let left = contents.segments.keys().filter(|name| !needed(**name));
        told.segments = count(left.count());
        if may_delete && told.refused.is_none() {
            told.next_at = next_at(contents, &decided.retention).map(micro_time);
        }
        self.last = Some(Swept {
            retention: decided.retention.clone(),
            kept: decided.decision.kept.clone(),
            may_delete,
            told,
        });
    }
}

/// What nothing has needed since then may go.
fn due(now: Timestamp, retention: &Retention) -> Timestamp {
    now.checked_sub(grace(retention)).unwrap_or(Timestamp::MIN)
}

fn grace(retention: &Retention) -> SignedDuration {
    let grace = SignedDuration::try_from(retention.wal_grace.get());
    grace.unwrap_or(SignedDuration::MAX)
}

/// When the first of what is there and is not needed is due.
fn next_at(contents: &Contents, retention: &Retention) -> Option<Timestamp> {
    let size = contents.identity.segment_size;
    let there = contents.segments.keys().chain(contents.tails.keys());
    let since = there.filter_map(|name| contents.expired.since(*name, size));
    since.min()?.checked_add(grace(retention)).ok()
}

/// Writes down what nothing needs, then deletes what nothing has needed since `due`.
async fn delete(
    shared: &Shared,
    lineage: &Lineage,
    (contents, needed): (&mut Contents, &(dyn Fn(SegmentName) -> bool + Sync)),
    (now, since): (Timestamp, Timestamp),
    told: &mut ExpiredWal,
) -> Result<(), Trouble> {
    let expired = contents.expired.next(contents, needed, (now, since));
    if expired != contents.expired {
        lineage.put_expired(&expired).await?;
        contents.expired = expired.clone();
    }
    let due = Due {
        expired: &expired,
        needed,
        since,
        size: contents.identity.segment_size,
    };
    let mut there = contents.segments.keys().chain(contents.tails.keys());
    if !there.any(|name| due.has(*name)) {
        return Ok(());
    }
    let doomed = lineage.doomed(&due).await?;
    let gone = doomed.segments();
    let mut deleted = Deleted::default();
    let done = lineage
        .delete_doomed(doomed, &shared.stop, &mut deleted)
        .await;
    if deleted.segments > 0 {
        tell(shared, deleted, now, told).await;
    }
    done?;
    contents.segments.retain(|name, _| !gone.contains(name));
    contents.tails.retain(|name, _| !gone.contains(name));
    Ok(())
}

async fn tell(shared: &Shared, deleted: Deleted, now: Timestamp, told: &mut ExpiredWal) {
    let Deleted { segments, bytes } = deleted;
    shared.metrics.expired_segments.inc_by(segments);
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    told.last = Some(DeletedWal {
        at: micro_time(now),
        segments: number(segments),
        bytes: number(bytes),
    });
    let note = format!(
        "{segments} WAL segments ({bytes} bytes) are deleted: nothing that is kept needs them"
    );
    tracing::info!("{note}");
    shared
        .events
        .normal(&shared.about, "WalExpired", note)
        .await;
}
