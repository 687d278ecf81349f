//! Where watching begins.

use crate::{
    agent::wal::{
        compare::{Compared, compare},
        error::Error,
        plan::holes,
        route::Route,
    },
    archive::Contents,
    postgres::{
        Lsn, SegmentName,
        archiver::{self, Fate},
    },
};

/// More than a push puts before an earlier segment is there.
const AHEAD: u64 = 64;

/// Where the whole segments on the path to the current timeline begin.
pub(super) fn on_path(route: &Route, contents: &Contents) -> impl Iterator<Item = Lsn> {
    let Route { path, size, .. } = route;
    let named = contents.segments.keys();
    let own = named.filter(|name| path.segment(name.start(*size), *size) == **name);
    own.map(|name| name.start(*size))
}

/// The start of the first of `holes` that is still to be filled.
pub(super) async fn first_pending(
    route: &Route,
    holes: Vec<SegmentName>,
) -> Result<Option<Lsn>, Error> {
    for hole in holes {
        match archiver::fate(&route.client, hole, route.size).await? {
            Fate::Waits | Fate::Unnoticed => return Ok(Some(hole.start(route.size))),
            Fate::Done | Fate::Gone => {}
        }
    }
    Ok(None)
}

/// Where whole segments end before the first hole that is still to be filled: a push puts several at once, and a slot may hold
/// more that nobody has archived. `end` is where the last of them ends, `restart` what the slot holds.
pub(super) async fn unbroken_end(
    route: &Route,
    end: Lsn,
    restart: Option<Lsn>,
) -> Result<Lsn, Error> {
    let (size, contents) = (route.size, route.lineage.contents_again().await?);
    let first = on_path(route, &contents).min().unwrap_or(end);
    let is_there = |name: &SegmentName| contents.segments.contains_key(name);
    let back = |from: Lsn, segments: u64| {
        Lsn::new(from.get().saturating_sub(segments * size.get())).max(first)
    };
    let held = restart.map_or(end, |lsn| Lsn::new(lsn.get() - size.offset(lsn)));
    let mut from = back(end, AHEAD).min(held.max(first));
    let mut to = end;
    let mut unbroken = end;
    loop {
        match first_pending(route, holes(&route.path, size, from, to, is_there)).await? {
            // It may have begun earlier.
            Some(hole) if hole == from && from > first => {
                unbroken = hole;
                (from, to) = (back(from, AHEAD), from);
            }
            Some(hole) => return Ok(hole),
            None => return Ok(unbroken),
        }
    }
}

/// Whether the last segment before `durable` is the database's own, as far as it still has that.
pub(super) async fn is_own(route: &Route, durable: Lsn) -> Result<(), Error> {
    let Some(start) = durable.get().checked_sub(route.size.get()) else {
        return Ok(());
    };
    let last = route.path.segment(Lsn::new(start), route.size);
    match compare(route, last).await? {
        Compared::Same | Compared::Unknown => Ok(()),
        Compared::Other(what) => Err(Error::Conflict(what)),
    }
}
