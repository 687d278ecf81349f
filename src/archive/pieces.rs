//! What there is of the log, segment by segment, in its order. Pure.

use super::Records;
use crate::postgres::{Lsn, TimelineId};

/// A stretch of WAL that is there: a segment or the beginning of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The timeline in the segment's name.
    pub timeline: TimelineId,
    /// Its first byte.
    pub from: Lsn,
    /// The byte after its last.
    pub to: Lsn,
    /// What its records say; `None` where that is not known.
    pub records: Option<Records>,
    /// Whether it can be read with a private key only.
    pub encrypted: bool,
}

/// Unbroken stretches of the log, in its order. All pieces lie in one place, as there may be a million.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    pieces: Vec<Piece>,
    /// Of each range, the number of its first piece.
    begins: Vec<usize>,
}

impl Ranges {
    /// Cut where bytes are missing.
    pub(super) fn of(pieces: Vec<Piece>) -> Self {
        let begins = (0..pieces.len()).filter(|at| {
            let before = at.checked_sub(1).and_then(|before| pieces.get(before));
            before.map(|before| before.to) != pieces.get(*at).map(|piece| piece.from)
        });
        let begins = begins.collect();
        Self { pieces, begins }
    }

    /// From where to where each goes.
    pub(super) fn stretches(&self) -> Vec<(Lsn, Lsn)> {
        let bounds = |range: &[Piece]| Some((range.first()?.from, range.last()?.to));
        self.iter().filter_map(bounds).collect()
    }

    /// Each with its first piece at least.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[Piece]> {
        (0..self.len()).map(|number| self.range(number))
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.begins.len()
    }

    /// Whether there is no WAL at all.
    pub const fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    /// The range of that number; empty if there is none.
    pub fn range(&self, number: usize) -> &[Piece] {
        let Some(begin) = self.begins.get(number) else {
            return &[];
        };
        let end = self.begins.get(number + 1).copied();
        let range = *begin..end.unwrap_or(self.pieces.len());
        self.pieces.get(range).unwrap_or_default()
    }
}

/// Pieces of one line, each segment's once.
pub(super) struct Pieces {
    pieces: Vec<Piece>,
    /// As they come, but for a tail that lies before a whole segment, and for an ancestor's that is found behind a fork.
    ordered: bool,
}

impl Pieces {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            pieces: Vec::with_capacity(capacity),
            ordered: true,
        }
    }

    pub(super) fn extend(&mut self, more: impl Iterator<Item = Piece>) {
        for piece in more {
            match self.pieces.last_mut() {
                Some(last) if last.from == piece.from => last.or_better(piece),
                Some(last) => {
                    self.ordered &= last.from < piece.from;
                    self.pieces.push(piece);
                }
                None => self.pieces.push(piece),
            }
        }
    }

    pub(super) fn in_order(mut self) -> Vec<Piece> {
        if !self.ordered {
            self.pieces.sort_by_key(|piece| piece.from);
            self.pieces.dedup_by(|next, kept| {
                let same = next.from == kept.from;
                if same {
                    kept.or_better(*next);
                }
                same
            });
        }
        self.pieces
    }
}

/// Where the pieces of one line go on without a gap.
#[derive(Default)]
pub(super) struct Stretches {
    before: Vec<(Lsn, Lsn)>,
    /// The last piece: another one of the same segment may stand for it.
    last: Option<(Lsn, Lsn)>,
    disordered: bool,
}

impl Stretches {
    pub(super) fn extend(&mut self, more: impl Iterator<Item = Piece>) {
        for Piece { from, to, .. } in more {
            match &mut self.last {
                Some((begin, end)) if *begin == from => *end = to.max(*end),
                last => {
                    let before = last.replace((from, to));
                    self.disordered |= before.is_some_and(|(begin, _)| from < begin);
                    self.put(before);
                }
            }
        }
    }

    fn put(&mut self, piece: Option<(Lsn, Lsn)>) {
        let Some((from, to)) = piece else { return };
        match self.before.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            Some(_) | None => self.before.push((from, to)),
        }
    }

    /// `None` where the pieces did not come in order.
    pub(super) fn in_order(mut self) -> Option<Vec<(Lsn, Lsn)>> {
        let last = self.last.take();
        self.put(last);
        (!self.disordered).then_some(self.before)
    }
}

impl Piece {
    /// Of two of one segment that which goes further, and of equal ones the newer timeline's.
    fn or_better(&mut self, other: Self) {
        if (other.to, other.timeline) > (self.to, self.timeline) {
            *self = other;
        }
    }
}
