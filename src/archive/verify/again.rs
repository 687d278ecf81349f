//! What came while everything else was read, read before it is judged: a tail that was merged, a segment that became whole.

use super::super::{
    Contents, Manifest, ReadError,
    contents::{Segment, Tail},
};
use super::{Subject, backups::missing, inventory::Inventory};
use crate::postgres::{
    SegmentName,
    wal::{self, ScanEnd},
};

/// What of a segment was read again.
enum Read {
    Whole(Segment),
    Beginning(Tail),
    Nothing,
}

/// Reads what lies in `later` where `sound` lacks WAL for one of `backups`, and lay there otherwise before.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn read(
    subject: &Subject<'_>,
    later: &Inventory,
    mut sound: Contents,
    backups: &[(String, Manifest)],
) -> Result<Contents, ReadError> {
    for (_, manifest) in backups {
        let Some(at) = missing(manifest, &sound) else {
            continue;
        };
        let size = subject.identity.segment_size;
        let new = changed(subject, later).into_iter();
        let needed = new.filter(|name| name.end(size) > at && name.start(size) < manifest.stop_lsn);
        for name in needed {
            match again(subject, name).await? {
                Read::Whole(segment) => drop(sound.segments.insert(name, segment)),
                Read::Beginning(tail) => drop(sound.tails.insert(name, tail)),
                Read::Nothing => {}
            }
        }
    }
    Ok(sound)
}

/// The segments that became whole, and the unfinished ones whose parts are others now.
fn changed(subject: &Subject<'_>, later: &Inventory) -> Vec<SegmentName> {
    let before = subject.inventory;
    let whole = later.segments.keys();
    let whole = whole.filter(|name| !before.segments.contains_key(name));
    let parts = |inventory: &Inventory, name: &SegmentName| {
        let parts = inventory.tails.get(name).into_iter().flatten();
        let names = parts.map(|(part, encoding, _)| (part.clone(), *encoding));
        names.collect::<Vec<_>>()
    };
    let tails = later.tails.keys();
    let tails = tails.filter(|name| parts(before, name) != parts(later, name));
    whole.chain(tails).copied().collect()
}

async fn again(subject: &Subject<'_>, name: SegmentName) -> Result<Read, ReadError> {
    let size = subject.identity.segment_size;
    let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
    let lineage = subject.lineage;
    let whole = match lineage.whole(name, length).await {
        Ok(whole) => whole,
        // As of one that was listed before: what can be seen without a key is that it is there.
        Err(error) if error.wants_key() => {
            return Ok(Read::Whole(Segment {
                valid_end: name.end(size),
                records: None,
                ended: None,
                encrypted: true,
            }));
        }
        Err(ReadError::Corrupt { .. }) => return Ok(Read::Nothing),
        Err(error) => return Err(error),
    };
    let (plain, is_whole) = match whole {
        Some(plain) => (plain, true),
        None => match lineage.listed_tail(name, length).await {
            Ok(beginning) => (beginning.plain, false),
            Err(error @ ReadError::Unavailable { .. }) => return Err(error),
            Err(_) => return Ok(Read::Nothing),
        },
    };
    let identifier = Some(subject.identity.system_identifier);
    let scan = move || {
        let end = name.start(size).advance(plain.len() as u64);
        let scan = wal::scan(&plain, name, size, identifier, None).ok()?;
        Some(match scan.end {
            // The last record of a beginning is cut.
            ScanEnd::Data => end,
            ScanEnd::Full | ScanEnd::Switch | ScanEnd::Invalid { .. } => scan.valid_end,
        })
    };
    let scanned = tokio::task::spawn_blocking(scan).await;
    Ok(match (scanned.ok().flatten(), is_whole) {
        (None, _) => Read::Nothing,
        (Some(valid_end), true) => Read::Whole(Segment {
            valid_end,
            records: None,
            ended: None,
            encrypted: false,
        }),
        (Some(end), false) => Read::Beginning(Tail {
            end,
            records: None,
            encrypted: false,
        }),
    })
}
