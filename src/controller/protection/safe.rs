//! Whether a database is safe, in one word: what an admin looks at first. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{observe::Observed, report::AGENT_STARTING};
use crate::api::{
    PgProtectionStatus,
    conditions::{
        self, ACTIVE, CONNECTED, RECOVERABLE, SLOT_WITHIN_CEILING, Status, WAL_ARCHIVING,
    },
};

/// So long after its time a scheduled backup is missed.
const OVERDUE: SignedDuration = SignedDuration::from_hours(1);
/// What has to hold, in the order in which one thing leads to the next.
const NEEDED: [&str; 5] = [
    ACTIVE,
    CONNECTED,
    WAL_ARCHIVING,
    SLOT_WITHIN_CEILING,
    RECOVERABLE,
];
/// A reason of `Recoverable`, which is `True` then.
const WITH_GAPS: &str = "RecoverableWithGaps";

/// What condition `Safe` says.
#[derive(Debug, PartialEq, Eq)]
pub struct Word {
    /// Its status.
    pub status: Status,
    /// Its reason: that of the first condition that does not hold, where one does not.
    pub reason: String,
    /// What is wrong.
    pub message: String,
}

impl Word {
    fn new(status: Status, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// Judges by what the agent says, and by `ours`: what this pass says.
pub fn judge(observed: &Observed, ours: &PgProtectionStatus, now: Timestamp) -> Word {
    let said = |type_: &str| {
        let theirs = observed.protection.status.as_ref();
        let theirs = theirs.map_or(&[][..], |status| &status.conditions);
        let ours = conditions::find(&ours.conditions, type_);
        ours.or_else(|| conditions::find(theirs, type_)).cloned()
    };
    let mut needed = NEEDED.into_iter();
    if let Some(word) = needed.find_map(|type_| holds(type_, said(type_))) {
        return word;
    }
    let otherwise = || not_reached(observed).or_else(|| unsound(observed, ours));
    otherwise()
        .or_else(|| overdue(ours, now))
        .unwrap_or_else(|| safe(said(RECOVERABLE)))
}

/// What is to be said where the condition does not hold.
fn holds(type_: &str, said: Option<Condition>) -> Option<Word> {
    let Some(said) = said else {
        let message = format!("nothing is known of {type_} yet");
        return Some(Word::new(Status::Unknown, AGENT_STARTING, message));
    };
    let status = match said.status.as_str() {
        "True" => return None,
        "False" => Status::False,
        _ => Status::Unknown,
    };
    Some(Word::new(status, &said.reason, said.message))
}

fn not_reached(observed: &Observed) -> Option<Word> {
    let window = observed.protection.status.as_ref()?.recoverable.as_ref()?;
    let from = window.backup_needed_from?;
    let message = format!(
        "WAL from {from} on follows a gap, and no backup leads to it yet: Highwater takes one by itself"
    );
    Some(Word::new(Status::False, "BackupNeeded", message))
}

/// The newest backup is the one that the next restore begins with.
fn unsound(observed: &Observed, ours: &PgProtectionStatus) -> Option<Word> {
    let newest = &ours.last_backup.as_ref()?.name;
    let mut all = observed.backups.iter();
    all.find(|it| it.name == *newest && it.unsound)?;
    let message = format!("a drill found PgBackup {newest} wanting, the newest one");
    Some(Word::new(Status::False, "VerificationFailed", message))
}

fn overdue(ours: &PgProtectionStatus, now: Timestamp) -> Option<Word> {
    let due = ours.schedules.iter();
    let due = due.filter_map(|it| it.next_schedule_time.as_ref());
    let due = due.map(|it| it.0).min()?;
    (due + OVERDUE < now).then(|| {
        let message = format!("the backup that was due at {due} is not taken");
        Word::new(Status::False, "BackupOverdue", message)
    })
}

fn safe(recoverable: Option<Condition>) -> Word {
    match recoverable.filter(|it| it.reason == WITH_GAPS) {
        Some(with_gaps) => Word::new(Status::True, WITH_GAPS, with_gaps.message),
        None => Word::new(
            Status::True,
            "Safe",
            "WAL is archived, a backup leads to it, and none of it is missing",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            observe::BackupSeen,
            plan_tests::{archiving, set_condition},
        },
        *,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// All is as it should be, and the newest backup is `b1`.
    fn safe() -> (Observed, PgProtectionStatus) {
        let mut observed = archiving();
        for type_ in [SLOT_WITHIN_CEILING, RECOVERABLE] {
            set_condition(&mut observed, type_, Status::True, "Fine", 0);
        }
        observed.backups.push(BackupSeen {
            name: "b1".into(),
            ..BackupSeen::default()
        });
        let mut ours: PgProtectionStatus = serde_json::from_value(json!({
            "lastBackup": {"name": "b1", "at": "2026-11-20T12:00:00.000000Z"},
        }))
        .unwrap();
        say(&mut ours, ACTIVE, Status::True, "AgentRunning");
        (observed, ours)
    }

    fn say(status: &mut PgProtectionStatus, type_: &str, value: Status, reason: &str) {
        let list = &mut status.conditions;
        conditions::upsert(list, type_, value, reason, "as was said", None, at(0));
    }

    fn judged((observed, ours): &(Observed, PgProtectionStatus)) -> (Status, String) {
        let word = judge(observed, ours, at(1_800_000_000));
        (word.status, word.reason)
    }

    #[test]
    fn the_first_that_does_not_hold_is_the_reason() {
        assert_eq!(judged(&safe()), (Status::True, "Safe".into()));
        for (number, type_) in NEEDED.into_iter().enumerate() {
            for (value, behind) in [
                (Status::False, Status::True),
                (Status::Unknown, Status::False),
            ] {
                let mut case = safe();
                for later in &NEEDED[number + 1..] {
                    set_condition(&mut case.0, later, behind, "Later", 0);
                }
                match type_ {
                    ACTIVE => say(&mut case.1, type_, value, "Wrong"),
                    _ => set_condition(&mut case.0, type_, value, "Wrong", 0),
                }
                assert_eq!(judged(&case), (value, "Wrong".into()), "{type_}");
            }
            let mut unknown = safe();
            unknown.1.conditions.retain(|it| it.type_ != type_);
            let status = unknown.0.protection.status.as_mut().unwrap();
            status.conditions.retain(|it| it.type_ != type_);
            assert_eq!(judged(&unknown), (Status::Unknown, "AgentStarting".into()));
        }
    }

    #[test]
    fn what_no_condition_says_is_looked_at_too() {
        let mut gap = safe();
        set_condition(&mut gap.0, RECOVERABLE, Status::True, WITH_GAPS, 0);
        assert_eq!(judged(&gap), (Status::True, WITH_GAPS.into()), "behind it");
        let window = json!({"backupNeededFrom": "0/3000000"});
        let status = gap.0.protection.status.as_mut().unwrap();
        status.recoverable = serde_json::from_value(window).unwrap();
        assert_eq!(judged(&gap), (Status::False, "BackupNeeded".into()));

        let mut wanting = safe();
        wanting.0.backups[0].unsound = true;
        assert_eq!(
            judged(&wanting),
            (Status::False, "VerificationFailed".into())
        );
        wanting.0.backups[0].name = "older".into();
        assert_eq!(judged(&wanting), (Status::True, "Safe".into()));

        let mut late = safe();
        let schedule = |due: i64| {
            let due = at(due).to_string();
            json!([{"name": "a", "cron": "@daily", "since": due, "nextScheduleTime": due}])
        };
        for (due, reason) in [
            (1_800_000_000 - 3600, "Safe"),
            (1_800_000_000 - 3601, "BackupOverdue"),
        ] {
            late.1.schedules = serde_json::from_value(schedule(due)).unwrap();
            assert_eq!(judged(&late).1, reason);
        }
    }
}
