//! Every order of the requests of two controllers that both work, for two backups of one database: at no moment are both in
//! backup mode. And for each precondition the mistake that must break it, so that the search is known to see.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::{Claim, Place, claim, is_over, of, place};
use crate::api::{PgBackup, PgProtection};

/// The most attempts that a backup has.
const ATTEMPTS: u8 = 2;

/// A PgBackup, as the API server has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Backup {
    /// The number of its last attempt; 0: there was none.
    attempt: u8,
    /// `Accepted` is `True`: the agent may be in backup mode.
    accepted: bool,
    finished: bool,
    gone: bool,
}

/// Backup and attempt, as the PgProtection has it.
type Written = Option<(u8, u8)>;

/// A backup that a controller has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    which: u8,
    /// The last attempt. It was neither accepted nor finished.
    attempt: u8,
    /// Nobody has written to it since.
    unchanged: bool,
}

/// What a controller has done of one pass over a backup, one request after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Pass {
    #[default]
    Idle,
    /// It has read the backup.
    Read(Read),
    /// And the protection, to which nobody may have written since.
    Judging(Read, Written, bool),
    /// It may begin; whether the turn is its own already, and as before.
    Taking(Read, bool, bool),
    /// The turn is written down.
    Accepting(Read),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    backups: [Backup; 2],
    turn: Written,
    controllers: [Pass; 2],
}

/// A mistake to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    No,
    /// The turn is not written down: who sees nobody begins.
    OnlyLooks,
    /// The turn is written over whatever is there.
    TakesBlindly,
    /// Accepted is written over whatever is there.
    AcceptsBlindly,
    /// One that waits between two attempts has lost its turn for the attempt that it has not begun, too.
    AnyAttempt,
    /// Who has read a backup long ago writes its earlier attempt over the later one.
    GoesBack,
}

fn uid(which: u8) -> String {
    format!("uid-{which}")
}

fn backup(which: u8, seen: Backup) -> PgBackup {
    let condition = |type_: &str, holds: bool| {
        let status = if holds { "True" } else { "Unknown" };
        json!({"type": type_, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let mut status = json!({
        "conditions": [condition("Accepted", seen.accepted), condition("Completed", seen.finished)],
    });
    if seen.attempt > 0 {
        status["attempt"] = json!({"number": seen.attempt, "startedAt": "2026-01-01T00:00:00.000000Z", "pod": "p",
            "podUid": "u", "address": "a"});
    }
    serde_json::from_value(json!({
        "metadata": {"name": format!("backup-{which}"), "namespace": "shop", "uid": uid(which)},
        "spec": {"protection": "orders"},
        "status": status,
    }))
    .unwrap()
}

fn protection(turn: Written) -> PgProtection {
    let mut status = json!({});
    if let Some((which, attempt)) = turn {
        status["turn"] =
            json!({"backup": format!("backup-{which}"), "uid": uid(which), "attempt": attempt});
    }
    serde_json::from_value(json!({
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"statefulSet": "orders", "policy": "gold"},
        "status": status,
    }))
    .unwrap()
}

/// What the product decides by what it has read, and by the other backup as it is now. `None`: it may not begin.
fn judge(read: Read, turn: Written, other: Backup, mistake: Mistake) -> Option<Claim> {
    if mistake == Mistake::OnlyLooks {
        return (!other.accepted).then_some(Claim::Written);
    }
    let asks = Backup {
        attempt: read.attempt,
        ..Backup::default()
    };
    let (asks, seen) = (backup(read.which, asks), protection(turn));
    let live = (!other.gone).then(|| backup(1 - read.which, other));
    let may = match place(&seen, &asks, |_| live.clone()) {
        Place::Free | Place::Ours => true,
        Place::Taken(_) => mistake == Mistake::AnyAttempt && !other.accepted,
        Place::Unknown(turn) => is_over(turn, live.as_ref()),
    };
    let claim = match claim(&seen, &of(&asks, u32::from(read.attempt) + 1)) {
        Claim::Late if mistake == Mistake::GoesBack => Claim::Write,
        claim => claim,
    };
    may.then_some(claim)
}

/// Judgements that were made before: building the objects takes the time.
type Memory = HashMap<(Read, Written, Backup), Option<Claim>>;

impl World {
    /// Every state that one more thing leads to.
    fn next(self, mistake: Mistake, memory: &mut Memory) -> Vec<Self> {
        let mut next = Vec::new();
        for controller in 0..2 {
            next.extend(self.of_controller(controller, mistake, memory));
            // It dies, and is started again.
            next.push(self.with(controller, Pass::Idle));
        }
        for which in 0..2 {
            next.extend(self.of_backup(which));
        }
        next
    }

    fn with(mut self, controller: usize, pass: Pass) -> Self {
        self.controllers[controller] = pass;
        self
    }

    /// The next request of a controller.
    fn of_controller(self, controller: usize, mistake: Mistake, memory: &mut Memory) -> Vec<Self> {
        let to = |pass| vec![self.with(controller, pass)];
        match self.controllers[controller] {
            Pass::Idle => (0..2u8)
                .filter_map(|which| self.read(which))
                .map(|read| self.with(controller, Pass::Read(read)))
                .collect(),
            Pass::Read(read) => to(Pass::Judging(read, self.turn, true)),
            Pass::Judging(read, turn, unchanged) => {
                let other = self.backups[usize::from(1 - read.which)];
                let key = (read, turn, other);
                let judged = memory.entry(key);
                let judged = *judged.or_insert_with(|| judge(read, turn, other, mistake));
                to(match judged {
                    Some(Claim::Written) => Pass::Taking(read, true, unchanged),
                    Some(Claim::Write) => Pass::Taking(read, false, unchanged),
                    Some(Claim::Late) | None => Pass::Idle,
                })
            }
            Pass::Taking(read, ours, unchanged) => {
                if ours {
                    return to(Pass::Accepting(read));
                }
                if !unchanged && mistake != Mistake::TakesBlindly {
                    return to(Pass::Idle);
                }
                vec![
                    self.write_turn(wanted(read))
                        .with(controller, Pass::Accepting(read)),
                ]
            }
            Pass::Accepting(read) => {
                let there = self.backups[usize::from(read.which)];
                let blindly = mistake == Mistake::AcceptsBlindly && !there.finished && !there.gone;
                if !read.unchanged && !blindly {
                    return to(Pass::Idle);
                }
                let mut there = there;
                (there.accepted, there.attempt) = (true, read.attempt + 1);
                vec![self.write(read.which, there).with(controller, Pass::Idle)]
            }
        }
    }

    fn read(self, which: u8) -> Option<Read> {
        let Backup {
            attempt,
            accepted,
            finished,
            gone,
        } = self.backups[usize::from(which)];
        let waits = !accepted && !finished && !gone && attempt < ATTEMPTS;
        waits.then_some(Read {
            which,
            attempt,
            unchanged: true,
        })
    }

    fn write(mut self, which: u8, backup: Backup) -> Self {
        self.backups[usize::from(which)] = backup;
        for pass in &mut self.controllers {
            match pass {
                Pass::Idle => {}
                Pass::Read(read)
                | Pass::Judging(read, _, _)
                | Pass::Taking(read, _, _)
                | Pass::Accepting(read) => read.unchanged &= read.which != which,
            }
        }
        self
    }

    fn write_turn(mut self, turn: (u8, u8)) -> Self {
        self.turn = Some(turn);
        for pass in &mut self.controllers {
            match pass {
                Pass::Judging(_, _, unchanged) | Pass::Taking(_, _, unchanged) => {
                    *unchanged = false
                }
                Pass::Idle | Pass::Read(_) | Pass::Accepting(_) => {}
            }
        }
        self
    }

    /// What becomes of an attempt that runs, whoever writes it down; and a person may delete the backup.
    fn of_backup(self, which: u8) -> Vec<Self> {
        let it = self.backups[usize::from(which)];
        let stopped = Backup {
            accepted: false,
            ..it
        };
        let finished = Backup {
            finished: true,
            ..stopped
        };
        let gone = Backup {
            gone: true,
            ..stopped
        };
        let changes = [
            (it.accepted, stopped),
            (it.accepted, finished),
            (!it.gone, gone),
        ];
        let changes = changes.into_iter().filter(|(may, _)| *may);
        changes.map(|(_, then)| self.write(which, then)).collect()
    }
}

/// The turn that a pass asks for.
fn wanted(read: Read) -> (u8, u8) {
    (read.which, read.attempt + 1)
}

/// All states that can come about, or the first in which both are in backup mode.
fn search(mistake: Mistake) -> Result<HashSet<World>, World> {
    let mut seen = HashSet::from([World::default()]);
    let mut open = vec![World::default()];
    let mut memory = Memory::new();
    while let Some(world) = open.pop() {
        for next in world.next(mistake, &mut memory) {
            if next.backups.iter().all(|backup| backup.accepted) {
                return Err(next);
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    Ok(seen)
}

#[test]
fn two_controllers_never_have_two_backups_of_one_database_in_backup_mode() {
    let all = search(Mistake::No).unwrap_or_else(|both| panic!("{both:?}"));
    let reached = |holds: fn(&World) -> bool| all.iter().any(holds);
    assert!(reached(|world| world.backups.iter().all(|it| it.finished)));
    assert!(reached(|world| world
        .backups
        .iter()
        .all(|it| it.finished && it.attempt == ATTEMPTS)));
    assert!(reached(
        |world| world.backups[0].gone && world.backups[1].finished
    ));
    let busy = |pass: &Pass| matches!(pass, Pass::Accepting(..));
    let both_accept = |world: &&World| world.controllers.iter().all(busy);
    assert!(
        all.iter().any(|world| both_accept(&world)),
        "they never met"
    );
    println!("{} states", all.len());
}

#[test]
fn a_turn_that_is_not_taken_so_is_seen() {
    for mistake in [
        Mistake::OnlyLooks,
        Mistake::TakesBlindly,
        Mistake::AcceptsBlindly,
        Mistake::AnyAttempt,
        Mistake::GoesBack,
    ] {
        assert!(search(mistake).is_err(), "{mistake:?}");
    }
}

#[test]
fn what_is_written_down_counts_until_the_attempt_is_over() {
    let mine = Backup::default();
    let of_other = |attempt| protection(Some((1, attempt)));
    let asked = |turn: u8, other: Option<Backup>| {
        let seen = of_other(turn);
        match place(&seen, &backup(0, mine), |_| other.map(|it| backup(1, it))) {
            Place::Free => "free",
            Place::Ours => "ours",
            Place::Taken(_) => "taken",
            Place::Unknown(_) => "unknown",
        }
    };
    let running = Backup {
        attempt: 1,
        accepted: true,
        ..mine
    };
    let void = Backup {
        accepted: false,
        ..running
    };
    let finished = Backup {
        finished: true,
        ..running
    };
    for (turn, other, expected) in [
        (1, None, "unknown"),
        (1, Some(mine), "taken"),
        (1, Some(running), "taken"),
        (1, Some(void), "free"),
        (2, Some(void), "taken"),
        (1, Some(finished), "free"),
    ] {
        assert_eq!(asked(turn, other), expected, "{turn} {other:?}");
    }
    let ours = protection(Some((0, 1)));
    assert_eq!(place(&ours, &backup(0, mine), |_| None), Place::Ours);
    let again = Backup { attempt: 1, ..mine };
    assert_eq!(place(&ours, &backup(0, again), |_| None), Place::Free);
    assert_eq!(of(&backup(0, mine), 1), *super::written(&ours).unwrap());
}
