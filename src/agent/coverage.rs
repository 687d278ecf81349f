//! Whether a stretch of WAL is in the archive. Pure.

use crate::{
    archive::Contents,
    postgres::{Lsn, TimelineId},
};

/// The first position from `start` to `stop` that the archive has no WAL for, as `timeline` sees the log.
pub fn missing(contents: &Contents, timeline: TimelineId, start: Lsn, stop: Lsn) -> Option<Lsn> {
    let pieces = contents.pieces(timeline);
    first_hole(
        pieces.iter().map(|piece| (piece.from, piece.to)),
        start,
        stop,
    )
}

/// The first position from `start` on, before `stop`, that no piece holds. Pieces come in order.
fn first_hole(pieces: impl Iterator<Item = (Lsn, Lsn)>, start: Lsn, stop: Lsn) -> Option<Lsn> {
    let mut reached = start;
    for (from, to) in pieces {
        if from <= reached {
            reached = reached.max(to);
        }
    }
    (reached < stop).then_some(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_found_wherever_it_is() {
        let hole = |pieces: &[(u64, u64)], start, stop| {
            let pieces = pieces
                .iter()
                .map(|(from, to)| (Lsn::new(*from), Lsn::new(*to)));
            first_hole(pieces, Lsn::new(start), Lsn::new(stop)).map(Lsn::get)
        };
        assert_eq!(hole(&[(0, 16), (16, 32), (32, 40)], 5, 40), None);
        assert_eq!(hole(&[(0, 16), (16, 32), (32, 40)], 5, 41), Some(40));
        assert_eq!(hole(&[(0, 16), (32, 40)], 5, 36), Some(16));
        assert_eq!(hole(&[(16, 32)], 5, 20), Some(5));
        assert_eq!(hole(&[], 5, 6), Some(5));
    }
}
