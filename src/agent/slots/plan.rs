//! What to do about the replication slot of one member. Pure.

use crate::{
    api::{OnSlotLimit, StandbySlots},
    postgres::{
        Lsn, SegmentSize,
        slot::{Slot, WalStatus},
    },
};

/// A lower ceiling than so many segments would be reached all the time.
const LEAST_SEGMENTS: u64 = 4;

/// What the policy says about slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most WAL that a slot may hold back, in bytes.
    pub ceiling: u64,
    /// What goes first when it is reached.
    pub on_limit: OnSlotLimit,
    /// Which standbys hold WAL too.
    pub standbys: StandbySlots,
}

/// What a member says.
#[derive(Clone, Debug)]
pub struct Seen {
    /// It is a standby.
    pub in_recovery: bool,
    /// Its slot, if it has one.
    pub slot: Option<Slot>,
    /// How far it has written, or replayed.
    pub end: Lsn,
    /// Whether PostgreSQL itself bounds what slots hold (`max_slot_wal_keep_size`).
    pub bounded: bool,
}

/// How much a slot holds back, beside its ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Less than half.
    Within,
    /// Half or more.
    Half,
    /// All.
    Reached,
}

/// What to do with the slot of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Leave,
    /// Hold WAL there too.
    Create,
    /// Let go of what is in the archive.
    Advance(Lsn),
    /// Let go of everything up to now: it is over its ceiling. A slot that is made anew would hold WAL from the last
    /// checkpoint on, which may be more than this one does.
    LetGo(Lsn),
    /// Make it anew: it has lost its WAL.
    Renew,
    /// It is not wanted there.
    Drop,
}

/// Bytes that the slot keeps PostgreSQL from removing.
pub fn held(seen: &Seen) -> u64 {
    let restart = seen.slot.as_ref().and_then(|slot| slot.restart_lsn);
    restart.map_or(0, |restart| seen.end.bytes_since(restart))
}

/// How full the slot is, if there is one.
pub fn fill(seen: &Seen, limits: &Limits, size: SegmentSize) -> Option<Level> {
    // The segment that is written and those on their way are always held.
    let ceiling = limits.ceiling.max(LEAST_SEGMENTS * size.get());
    seen.slot.as_ref().map(|_| level(held(seen), ceiling))
}

/// How far `held` is from the ceiling.
fn level(held: u64, ceiling: u64) -> Level {
    match held {
        held if held >= ceiling => Level::Reached,
        held if held >= ceiling / 2 => Level::Half,
        _ => Level::Within,
    }
}

/// `archived`: every byte before is durable in the archive.
pub fn plan(seen: &Seen, limits: &Limits, archived: Option<Lsn>, size: SegmentSize) -> Step {
    let over = fill(seen, limits, size) == Some(Level::Reached)
        && limits.on_limit == OnSlotLimit::ProtectDatabase;
    if !seen.in_recovery {
        // Who ships makes this one and moves it.
        return match over {
            true => Step::LetGo(seen.end),
            false => Step::Leave,
        };
    }
    let wanted = match limits.standbys {
        StandbySlots::WhereBounded => seen.bounded,
        StandbySlots::Always => true,
        StandbySlots::Never => false,
    };
    match (&seen.slot, wanted) {
        (None, false) => Step::Leave,
        (Some(slot), false) if slot.wal_status == WalStatus::Lost => Step::Drop,
        // An old primary's may be the only one that holds what was not shipped.
        (Some(_), false) if is_archived(seen, archived, size) => Step::Drop,
        (None, true) => Step::Create,
        (Some(slot), true) if slot.wal_status == WalStatus::Lost => Step::Renew,
        (Some(_), _) if over => Step::LetGo(seen.end),
        (Some(slot), _) => {
            // Whole segments only: the one that is being filled is shipped anew after a failover.
            let start = archived.map(|lsn| Lsn::new(lsn.get() - size.offset(lsn)));
            // It cannot move past what was replayed.
            let to = start.map(|lsn| lsn.min(seen.end));
            let behind = to.filter(|to| slot.restart_lsn.is_some_and(|at| at < *to));
            behind.map_or(Step::Leave, Step::Advance)
        }
    }
}

/// Whether the slot holds nothing that the archive may still need, the unfinished segment aside.
fn is_archived(seen: &Seen, archived: Option<Lsn>, size: SegmentSize) -> bool {
    archived.is_some_and(|archived| archived.advance(size.get()) >= seen.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
        Ok(size) => size,
        Err(_) => panic!(),
    };

    fn lsn(segments: f64) -> Lsn {
        Lsn::new((segments * MIB as f64) as u64)
    }

    fn slot(restart: f64, wal_status: WalStatus) -> Slot {
        Slot {
            name: "highwater_a".into(),
            restart_lsn: Some(lsn(restart)),
            wal_status,
            safe_wal_size: None,
            active: false,
        }
    }

    fn limits(standbys: StandbySlots, on_limit: OnSlotLimit) -> Limits {
        Limits {
            ceiling: 10 * MIB,
            on_limit,
            standbys,
        }
    }

    fn seen(in_recovery: bool, slot: Option<Slot>, end: f64, bounded: bool) -> Seen {
        Seen {
            in_recovery,
            slot,
            end: lsn(end),
            bounded,
        }
    }

    #[test]
    fn the_primarys_slot_gives_way_at_the_ceiling_alone() {
        let database = limits(StandbySlots::WhereBounded, OnSlotLimit::ProtectDatabase);
        let archive = limits(StandbySlots::WhereBounded, OnSlotLimit::ProtectArchive);
        let at = |end| seen(false, Some(slot(1.0, WalStatus::Extended)), end, false);
        for (name, seen, limits, expected) in [
            ("below", at(10.9), database, Step::Leave),
            ("at the ceiling", at(11.0), database, Step::LetGo(lsn(11.0))),
            ("the archive goes first", at(99.0), archive, Step::Leave),
            (
                "none",
                seen(false, None, 99.0, false),
                database,
                Step::Leave,
            ),
        ] {
            let archived = Some(lsn(5.0));
            assert_eq!(plan(&seen, &limits, archived, SIZE), expected, "{name}");
        }
    }

    #[test]
    fn standbys_hold_where_they_may_and_let_go_of_what_is_archived() {
        let bounded = StandbySlots::WhereBounded;
        let there = |restart| Some(slot(restart, WalStatus::Reserved));
        let lost = Some(slot(1.0, WalStatus::Lost));
        for (name, seen, standbys, expected) in [
            (
                "unbounded",
                seen(true, None, 9.0, false),
                bounded,
                Step::Leave,
            ),
            (
                "bounded",
                seen(true, None, 9.0, true),
                bounded,
                Step::Create,
            ),
            (
                "asked for",
                seen(true, None, 9.0, false),
                StandbySlots::Always,
                Step::Create,
            ),
            (
                "not wanted any more",
                seen(true, there(5.0), 8.5, true),
                StandbySlots::Never,
                Step::Drop,
            ),
            (
                "not wanted, and holds what is not archived",
                seen(true, there(5.0), 9.0, false),
                bounded,
                Step::Advance(lsn(7.0)),
            ),
            (
                "archived further",
                seen(true, there(5.0), 9.0, true),
                bounded,
                Step::Advance(lsn(7.0)),
            ),
            (
                "not replayed so far",
                seen(true, there(5.0), 6.5, true),
                bounded,
                Step::Advance(lsn(6.5)),
            ),
            (
                "there already",
                seen(true, there(7.0), 9.0, true),
                bounded,
                Step::Leave,
            ),
            ("lost", seen(true, lost, 9.0, true), bounded, Step::Renew),
            (
                "over",
                seen(true, there(5.0), 15.0, true),
                bounded,
                Step::LetGo(lsn(15.0)),
            ),
        ] {
            let limits = limits(standbys, OnSlotLimit::ProtectDatabase);
            let archived = Some(lsn(7.8));
            assert_eq!(plan(&seen, &limits, archived, SIZE), expected, "{name}");
        }
    }

    /// A ceiling of less than a few segments would be reached all the time.
    #[test]
    fn a_low_ceiling_is_that_of_a_few_segments() {
        let low = Limits {
            ceiling: 50,
            ..limits(StandbySlots::Never, OnSlotLimit::ProtectDatabase)
        };
        let at = |end| seen(false, Some(slot(1.0, WalStatus::Reserved)), end, false);
        for (end, expected, step) in [
            (2.9, Level::Within, Step::Leave),
            (3.0, Level::Half, Step::Leave),
            (5.0, Level::Reached, Step::LetGo(lsn(5.0))),
        ] {
            assert_eq!(fill(&at(end), &low, SIZE), Some(expected), "{end}");
            assert_eq!(plan(&at(end), &low, None, SIZE), step, "{end}");
        }
        assert_eq!(fill(&seen(false, None, 9.0, false), &low, SIZE), None);
    }

    #[test]
    fn it_warns_at_half() {
        for (held, expected) in [
            (0, Level::Within),
            (49, Level::Within),
            (50, Level::Half),
            (99, Level::Half),
            (100, Level::Reached),
        ] {
            assert_eq!(level(held, 100), expected, "{held}");
        }
    }

    proptest! {
        /// Only the ceiling, a loss or the policy takes WAL from us that is not in the archive.
        #[test]
        fn nothing_is_let_go_that_is_not_archived(
            restart in 0.0..50.0f64, end in 0.0..50.0f64, archived in 0.0..50.0f64, bounded: bool, recovery: bool,
        ) {
            let limits = limits(StandbySlots::WhereBounded, OnSlotLimit::ProtectArchive);
            let seen = seen(recovery, Some(slot(restart, WalStatus::Reserved)), end, bounded);
            let step = plan(&seen, &limits, Some(lsn(archived)), SIZE);
            let held = Held { restart, end, archived, bounded, recovery };
            prop_assert!(held.still(step), "{step:?}");
        }
    }

    /// What a slot holds, and what is in the archive.
    #[derive(Clone, Copy)]
    struct Held {
        restart: f64,
        end: f64,
        archived: f64,
        bounded: bool,
        recovery: bool,
    }

    impl Held {
        /// Whether after `step` all that is not in the archive is held as before.
        fn still(self, step: Step) -> bool {
            match step {
                Step::Advance(to) => to <= lsn(self.archived) && to > lsn(self.restart),
                Step::Drop => self.recovery && !self.bounded && self.archived + 1.1 >= self.end,
                Step::Leave | Step::Create => true,
                Step::LetGo(_) | Step::Renew => false,
            }
        }
    }

    #[test]
    fn what_judges_slots_sees_wal_let_go() {
        let held = Held {
            restart: 10.0,
            end: 30.0,
            archived: 20.0,
            bounded: false,
            recovery: true,
        };
        assert!(held.still(Step::Advance(lsn(20.0))));
        for step in [
            Step::Advance(lsn(20.1)),
            Step::LetGo(lsn(30.0)),
            Step::Renew,
            Step::Drop,
        ] {
            assert!(!held.still(step), "{step:?}");
        }
    }
}
