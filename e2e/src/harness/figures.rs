//! What a torture run did, what it must have done, and when what is due. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Backups that completed.
    pub backups: u32,
    /// Of those, backups of a standby.
    pub of_standby: u32,
    /// Backups that failed, and said why.
    pub failed: u32,
    /// Processes that were killed, by what they were.
    pub kills: BTreeMap<&'static str, u32>,
    /// Standbys that were promoted after their primary was killed.
    pub failovers: u32,
    /// Times at which the object store did not answer.
    pub outages: u32,
    /// Restores that were compared with the ledger.
    pub restores: u32,
    /// Rows that were acknowledged, owed, and not in a restore.
    pub lost: i64,
    /// What must not have happened.
    pub complaints: Vec<String>,
}

impl Figures {
    /// How many were killed.
    pub fn killed(&self) -> u32 {
        self.kills.values().sum()
    }

    /// What keeps this from being a run that proves something.
    pub fn judge(&self, floor: &Floor, ran: Duration) -> Vec<String> {
        let Floor {
            kills,
            failovers,
            restores,
            of_standby,
            minutes,
        } = *floor;
        let mut wrong = self.complaints.clone();
        let mut least = |what: &str, done: u64, least: u64| {
            if done < least {
                wrong.push(format!("{done} {what}, at least {least} are needed"));
            }
        };
        least("kills", self.killed().into(), kills.into());
        least("failovers", self.failovers.into(), failovers.into());
        least("restores", self.restores.into(), restores.into());
        let of_standbys = "backups of a standby";
        least(of_standbys, self.of_standby.into(), of_standby.into());
        least("minutes", ran.as_secs() / 60, minutes);
        if self.lost > 0 {
            wrong.push(format!("{} acknowledged rows are lost", self.lost));
        }
        wrong
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            backups,
            of_standby,
            failed,
            kills,
            failovers,
            outages,
            restores,
            lost,
            complaints,
        } = self;
        let kinds: Vec<_> = kills
            .iter()
            .map(|(who, count)| format!("{who} {count}"))
            .collect();
        write!(
            f,
            "backups {backups} completed ({of_standby} of a standby), {failed} failed; kills {} ({}); failovers {failovers}; outages {outages}; \
             restores {restores}; lost rows {lost}; complaints {}",
            self.killed(),
            kinds.join(", "),
            complaints.len()
        )
    }
}

/// The least that a run must have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Processes.
    pub kills: u32,
    /// Standbys promoted.
    pub failovers: u32,
    /// Restores compared.
    pub restores: u32,
    /// Backups of a standby that completed.
    pub of_standby: u32,
    /// Under load, with kills.
    pub minutes: u64,
}

impl Floor {
    /// For a run of so many minutes: that of the long form from an hour on.
    pub const fn of(minutes: u64) -> Self {
        match minutes {
            60.. => Self {
                kills: 200,
                failovers: 20,
                restores: 100,
                of_standby: 10,
                minutes: 60,
            },
            _ => Self {
                kills: 8,
                failovers: 1,
                restores: 4,
                of_standby: 1,
                minutes,
            },
        }
    }
}

/// A fifth more than the floor asks for: some come too late to count.
pub const fn aimed(floor: u32) -> u32 {
    floor + floor.div_ceil(5)
}

/// How long to wait before the next of `aimed` things, of which `done` are done, so that they are spread over what is left:
/// `chance`, of 0 to 99, makes it half as long up to half as long again.
pub fn pause(left: Duration, done: u32, aimed: u32, chance: u32) -> Duration {
    let even = left / aimed.saturating_sub(done).max(1);
    even * (50 + chance.min(99)) / 100
}

/// Whether one more of `aimed` things, spread over the whole, is due by now.
pub fn is_due(elapsed: Duration, whole: Duration, done: u32, aimed: u32) -> bool {
    // In the middle of its share, so that the last one is not at the very end.
    let share = whole / aimed.max(1);
    done < aimed && elapsed >= share * done + share / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn done() -> Figures {
        Figures {
            kills: [("agent", 120), ("controller", 80)].into(),
            failovers: 20,
            restores: 100,
            of_standby: 10,
            ..Figures::default()
        }
    }

    #[test]
    fn a_run_below_its_floor_fails() {
        let floor = Floor::of(60);
        assert_eq!(done().judge(&floor, HOUR), Vec::<String>::new());
        let second = Duration::from_secs(1);
        assert_eq!(done().judge(&floor, HOUR - second).len(), 1);
        let mut less = done();
        less.kills.insert("agent", 119);
        (less.failovers, less.restores, less.of_standby) = (19, 99, 9);
        assert_eq!(less.judge(&floor, HOUR).len(), 4);
        let short = less.judge(&Floor::of(2), HOUR);
        assert_eq!(short, Vec::<String>::new());
    }

    #[test]
    fn a_lost_row_or_a_complaint_fails_a_run() {
        let mut lossy = done();
        lossy.lost = 1;
        lossy.complaints.push("a session was left".into());
        let wrong = lossy.judge(&Floor::of(60), HOUR);
        let expected = ["a session was left", "1 acknowledged rows are lost"];
        assert_eq!(wrong, expected);
        let told = lossy.to_string();
        assert!(
            told.contains("kills 200 (agent 120, controller 80)"),
            "{told}"
        );
    }

    #[test]
    fn kills_are_spread_over_what_is_left() {
        let pauses = [(0, 50), (0, 0), (119, 50), (120, 50)]
            .map(|(done, chance)| pause(HOUR, done, 120, chance).as_secs());
        assert_eq!(pauses, [30, 15, 3600, 3600]);
    }

    #[test]
    fn each_failover_is_due_in_its_share() {
        let due = |seconds, done| is_due(Duration::from_secs(seconds), HOUR, done, 24);
        assert!(!due(74, 0) && due(75, 0) && !due(224, 1) && due(225, 1));
        assert!(due(3525, 23) && !due(3600, 24));
    }
}
