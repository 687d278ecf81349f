//! Transactions: which segments may hold the end of one, and where it is.

use jiff::Timestamp;

use super::{Refusal, Request, line::Line};
use crate::{
    archive::{Contents, Piece, Segment, window::Base},
    postgres::{Lsn, SegmentName, SegmentSize, TimelineId},
};

/// The record that ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The timeline in the name of the segment that the record ends in.
    pub timeline: TimelineId,
    /// Where the record begins.
    pub start: Lsn,
    /// Where the next one may begin.
    pub end: Lsn,
    /// When it was committed; `None`: it was rolled back.
    pub committed: Option<Timestamp>,
}

/// The segments, whole or not, whose records must be read before a plan can be made: those in which the transaction that is
/// asked for may end. What can be read with a private key only is left out.
///
/// # Errors
/// There is no backup to begin with, or no such timeline.
pub fn to_look_up(request: &Request, contents: &Contents) -> Result<Vec<SegmentName>, Refusal> {
    let Some(xid) = request.target.as_ref().and_then(|target| target.xid) else {
        return Ok(Vec::new());
    };
    let line = Line::choose(request, contents)?;
    let holding = line.holding(xid.in_wal()).into_iter();
    let readable = holding.filter(|piece| !piece.encrypted);
    let size = contents.identity.segment_size;
    Ok(readable
        .map(|piece| SegmentName::containing(piece.timeline, piece.from, size))
        .collect())
}

impl Line<'_> {
    /// The pieces that a backup leads to in which transaction `xid` may end, in their order.
    pub(super) fn holding(&self, xid: u32) -> Vec<Piece> {
        let contents = self.contents;
        let size = contents.identity.segment_size;
        // Of a million only few: those are looked for on the line, and not each of the line's among all.
        let whole = contents.segments.iter();
        let whole = whole.filter(|(_, segment)| may_end_in(segment, xid));
        let tails = contents.tails.keys();
        let tails = tails.filter(|name| !contents.segments.contains_key(*name));
        let names = whole.map(|(name, _)| name).chain(tails);
        // Of the backups of one stretch the first leads to all that the others do.
        let mut firsts: Vec<&Base<'_>> = self.bases.iter().collect();
        firsts.dedup_by_key(|base| base.end());
        let mut holding: Vec<Piece> = names
            .filter_map(|name| led_to(&firsts, *name, size))
            .collect();
        holding.sort_by_key(|piece| piece.from);
        holding
    }
}

/// What the line has of a segment, if one of the backups leads to it and had stopped before its end.
fn led_to(firsts: &[&Base<'_>], name: SegmentName, size: SegmentSize) -> Option<Piece> {
    let stopped = |base: &&Base<'_>| base.manifest.stop_lsn < name.end(size);
    let behind = firsts.partition_point(stopped);
    let base = firsts.get(behind.checked_sub(1)?)?;
    let pieces = base.pieces();
    let at = pieces.binary_search_by_key(&name.start(size), |piece| piece.from);
    let piece = pieces.get(at.ok()?)?;
    // In its place there may be another timeline's.
    let is_it = piece.timeline == name.timeline();
    (is_it && base.manifest.stop_lsn < piece.to).then_some(*piece)
}

/// What was read says which ids ended; of what was not, nothing is known.
fn may_end_in(segment: &Segment, xid: u32) -> bool {
    let between = |(first, last)| is_between(xid, first, last);
    segment.records.is_none() || segment.ended.is_some_and(between)
}

/// Transaction ids go round.
fn is_between(xid: u32, first: u32, last: u32) -> bool {
    xid.wrapping_sub(first) <= last.wrapping_sub(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round() {
        for (xid, first, last, expected) in [
            (5, 3, 7, true),
            (3, 3, 7, true),
            (8, 3, 7, false),
            (2, 3, 7, false),
            (3, u32::MAX - 1, 5, true),
            (u32::MAX, u32::MAX - 1, 5, true),
            (6, u32::MAX - 1, 5, false),
        ] {
            assert_eq!(
                is_between(xid, first, last),
                expected,
                "{xid} {first} {last}"
            );
        }
    }
}
