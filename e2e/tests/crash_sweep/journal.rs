//! What the statements of a life say of backup mode. Pure.

use highwater_e2e::flow::wire::Statement;
use jiff::Timestamp;

/// How PostgreSQL before 15 and since is told to begin, and to end.
const STARTS: [&str; 2] = ["FROM pg_start_backup(", "FROM pg_backup_start("];
const STOPS: [&str; 2] = ["FROM pg_stop_backup(", "FROM pg_backup_stop("];

/// Backup mode of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupMode {
    /// `pg_backup_start` returned.
    pub began: Timestamp,
    /// `pg_backup_stop`, which returned, was sent.
    pub stop_sent: Option<Timestamp>,
}

fn is_one_of(statement: &Statement, calls: &[&str]) -> bool {
    calls.iter().any(|call| statement.text.contains(call))
}

/// Whether anybody tried to begin backup mode.
pub fn was_tried(statements: &[Statement]) -> bool {
    statements.iter().any(|it| is_one_of(it, &STARTS))
}

/// Every session that was in backup mode, of one wire.
pub fn backup_modes(statements: &[Statement]) -> Vec<BackupMode> {
    let answered = |it: &&Statement| it.answered.is_some() && !it.failed;
    let starts = statements.iter().filter(|it| is_one_of(it, &STARTS));
    let mode = |start: &Statement| {
        let mut stops = statements.iter().filter(|it| is_one_of(it, &STOPS));
        let stop = stops.find(|it| it.connection == start.connection && answered(it));
        Some(BackupMode {
            began: start.answered?,
            stop_sent: stop.map(|it| it.sent),
        })
    };
    starts.filter(answered).filter_map(mode).collect()
}

impl BackupMode {
    /// Whether all of it was cut after the start had returned, and before the stop was sent.
    pub fn holds(&self, cuts: &[Timestamp]) -> bool {
        let held = |cut: &Timestamp| {
            self.began <= *cut && self.stop_sent.is_some_and(|stop_sent| *cut <= stop_sent)
        };
        cuts.iter().all(held)
    }
}

#[cfg(test)]
fn statement(connection: usize, text: &str, sent: i64, answered: Option<i64>) -> Statement {
    let at = |second| Timestamp::from_second(second).unwrap();
    Statement {
        connection,
        text: text.to_owned(),
        sent: at(sent),
        answered: answered.map(at),
        failed: false,
    }
}

/// The control of what judges the order: each cut but the one in between is seen.
#[test]
fn a_cut_outside_of_its_session_is_seen() {
    let (start, stop) = (
        "SELECT lsn FROM pg_backup_start($1, $2) AS lsn",
        "SELECT lsn FROM pg_backup_stop(false)",
    );
    let statements = [
        statement(1, "log in", 0, Some(0)),
        statement(1, start, 1, Some(3)),
        statement(2, stop, 4, Some(5)),
        statement(1, stop, 8, Some(9)),
        statement(3, start, 10, Some(11)),
        statement(4, start, 10, None),
    ];
    let modes = backup_modes(&statements);
    assert_eq!(modes.len(), 2);
    let cut = |second| [Timestamp::from_second(second).unwrap()];
    for (second, holds) in [(2, false), (3, true), (8, true), (9, false)] {
        assert_eq!(modes[0].holds(&cut(second)), holds, "{second}");
    }
    let never_ended = modes[1].holds(&cut(12));
    assert!(!never_ended && was_tried(&statements[1..2]));
    assert!(!was_tried(&statements[..1]));
}
