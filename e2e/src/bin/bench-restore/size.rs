//! Restores by the size of the database, alone or beside pgBackRest's of the same content, in turn.

use std::path::Path;

use anyhow::{Context, Result};
use highwater_e2e::{
    bench::verdict::median,
    harness::{Database, marks::Mark},
};
use serde::Serialize;

use crate::{content::Size, ours, pgbackrest};

/// Seconds beside the replay.
const LIMIT: f64 = 8.0;
/// What the slowest size may take of the time of the fastest one.
const TIMES: f64 = 1.3;

const HOW: &str =
    "clock: before PgRestore is sent to the answer of a query, minus progress.replaySeconds";
const REPLAY: &str = "status.progress.replaySeconds, as recovery says";
const FLAT: &str = "greatest median by the least one";

/// What its figures are called: beside the replay, and the replay.
const fn names(size: Size) -> (&'static str, &'static str) {
    match size {
        Size::One => ("1 GB: to first query, beside the replay", "1 GB: replay"),
        Size::Three => ("3 GB: to first query, beside the replay", "3 GB: replay"),
        Size::Ten => ("10 GB: to first query, beside the replay", "10 GB: replay"),
    }
}

/// What the restores of one size took, a round after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Of the database.
    pub size: Size,
    /// Highwater's.
    pub ours: Vec<ours::Time>,
    /// pgBackRest's, where it was measured.
    pub peer: Vec<pgbackrest::Time>,
}

struct Subject {
    database: Database,
    peer: Option<pgbackrest::Subject>,
    times: Times,
}

/// Restores a database of each size, one after the other, so often; and by `peer`, too.
pub async fn measure(
    program: &Path,
    peer: Option<&pgbackrest::Place>,
    sizes: &[Size],
    repeat: u32,
) -> Result<Vec<Times>> {
    let place = ours::Place::new(program).await?;
    place.remove_objects(pgbackrest::FOLDER)?;
    let mut subjects = Vec::new();
    for size in sizes {
        subjects.push(Subject::filled(&place, peer, *size).await?);
    }
    for round in 1..=repeat {
        for subject in &mut subjects {
            subject.round(round).await?;
        }
    }
    let times = subjects.into_iter().map(|subject| subject.times).collect();
    place.clear()?;
    place.remove_objects(pgbackrest::FOLDER)?;
    if let Some(peer) = peer {
        peer.clear()?;
    }
    Ok(times)
}

impl Subject {
    async fn filled(
        place: &ours::Place,
        peer: Option<&pgbackrest::Place>,
        size: Size,
    ) -> Result<Self> {
        // First the one that goes away when it is backed up: both at once would need the room of both.
        let peer = match peer {
            Some(peer) => Some(peer.filled(&place.endpoint(), size).await?),
            None => None,
        };
        Ok(Self {
            database: place.filled(size).await?,
            peer,
            times: Times {
                size,
                ours: Vec::new(),
                peer: Vec::new(),
            },
        })
    }

    /// Who begins changes from round to round.
    async fn round(&mut self, round: u32) -> Result<()> {
        if round.is_multiple_of(2) {
            self.peer(round).await?;
        }
        let ours = ours::restore(&self.database, self.times.size, round).await?;
        self.times.ours.push(ours);
        if !round.is_multiple_of(2) {
            self.peer(round).await?;
        }
        Ok(())
    }

    async fn peer(&mut self, round: u32) -> Result<()> {
        if let Some(peer) = &self.peer {
            self.times.peer.push(peer.restore(round).await?);
        }
        Ok(())
    }
}

/// Each size's, and how much of the least median the greatest one is.
pub fn marks(all: &[Times]) -> Result<Vec<Mark>> {
    let (mut marks, mut medians) = (Vec::new(), Vec::new());
    for times in all {
        let (beside_replay, replay) = names(times.size);
        let of = |figure: fn(&ours::Time) -> f64| times.ours.iter().map(figure).collect();
        let figures: Vec<f64> = of(|time| time.beside_replay);
        medians.push(
            median(&figures).with_context(|| format!("{beside_replay}: nothing was measured"))?,
        );
        marks.push(Mark::of((beside_replay, "s"), Some(LIMIT), HOW, &figures)?);
        let figures: Vec<f64> = of(|time| time.replay);
        marks.push(Mark::of((replay, "s"), None, REPLAY, &figures)?);
    }
    let least = medians.iter().copied().min_by(f64::total_cmp);
    let greatest = medians.iter().copied().max_by(f64::total_cmp);
    let (least, greatest) = least.zip(greatest).context("no size was measured")?;
    if all.len() > 1 {
        let name = ("all sizes: greatest by least", "x");
        marks.push(Mark::of(name, Some(TIMES), FLAT, &[greatest / least])?);
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn times(size: Size, seconds: &[f64]) -> Times {
        let time = |seconds: &f64| ours::Time {
            beside_replay: *seconds,
            replay: 0.1,
        };
        Times {
            size,
            ours: seconds.iter().map(time).collect(),
            peer: Vec::new(),
        }
    }

    fn broken(sizes: &[(Size, &[f64])]) -> Vec<&'static str> {
        let all = sizes.iter().map(|(size, seconds)| times(*size, seconds));
        let marks = marks(&all.collect::<Vec<_>>()).unwrap();
        let broken = marks.iter().filter(|mark| !mark.holds);
        broken.map(|mark| mark.name).collect()
    }

    #[test]
    fn a_restore_takes_eight_seconds_beside_its_replay_whatever_the_size() {
        assert!(broken(&[(Size::One, &[8.0, 8.0, 30.0])]).is_empty());
        assert_eq!(broken(&[(Size::One, &[8.1])]), [names(Size::One).0]);
        let flat = broken(&[
            (Size::Three, &[6.0]),
            (Size::One, &[5.0]),
            (Size::Ten, &[6.4]),
        ]);
        assert!(flat.is_empty(), "{flat:?}");
        let steep = broken(&[
            (Size::One, &[5.0]),
            (Size::Three, &[5.0]),
            (Size::Ten, &[6.6]),
        ]);
        assert_eq!(steep, ["all sizes: greatest by least"]);
        assert!(marks(&[times(Size::One, &[])]).is_err());
    }
}
