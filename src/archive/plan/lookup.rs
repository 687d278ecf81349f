//! Transactions: which segments may hold the end of one, and where it is.

use jiff::Timestamp;

use super::{Refusal, Request, line::Line};
use crate::{
    archive::{Contents, Piece},
    postgres::{Lsn, SegmentName, TimelineId},
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
    /// The pieces that a backup leads to in which transaction `xid` may end.
    pub(super) fn holding(&self, xid: u32) -> Vec<Piece> {
        let mut holding: Vec<Piece> = Vec::new();
        for base in &self.bases {
            // Backups of one stretch share its end.
            let known = holding.last().map_or(Lsn::new(0), |piece| piece.to);
            let pieces = base.pieces_from(base.manifest.stop_lsn);
            let new = pieces.filter(|piece| piece.from >= known);
            holding.extend(new.filter(|piece| self.may_hold(piece, xid)));
        }
        holding
    }

    fn may_hold(&self, piece: &Piece, xid: u32) -> bool {
        let contents = self.contents;
        let size = contents.identity.segment_size;
        let name = SegmentName::containing(piece.timeline, piece.from, size);
        match contents.segments.get(&name) {
            // What was read says which ids ended; of what was not, nothing is known.
            Some(segment) if segment.records.is_some() => segment
                .ended
                .is_some_and(|(first, last)| is_between(xid, first, last)),
            Some(_) | None => true,
        }
    }
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
