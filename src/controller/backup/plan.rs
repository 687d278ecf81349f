//! The decision: what is known, and the time, give one step. Pure and total.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    at_once::WAITS_FOR_OTHERS,
    attempt::{Content, Planned, Recorded, Running, Seen, Session, SnapshotSet},
    door::Rejection,
    evidence::{Evidence, Proofs},
    group::{self, GroupContent, GroupSeen},
    setback::Setback,
    sweep::Removal,
    turn,
};
use crate::{api::Deadlines, csi::DeletionPolicy};

/// How long the agent may be silent after it had to end backup mode.
const GRACE: Duration = Duration::from_secs(60);
/// The pause before the third attempt; the second begins at once. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause from the beginning of one attempt to the beginning of the next.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct State {
    /// When the object was created: the deadline over all attempts counts from here.
    pub created: Timestamp,
    /// The policy's.
    pub deadlines: Deadlines,
    /// Whether our finalizer is on the object.
    pub finalizer: bool,
    /// Where the backup stands.
    pub phase: Phase,
    /// What to remove next of attempts that are void; of all, when the object is deleted.
    pub leftovers: Vec<Removal>,
    /// Why it does not begin, as `Accepted=False` says it: reason and sentence.
    pub said: Option<(String, String)>,
}

/// Where a backup stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// The object is being deleted.
    Deleting {
        /// Namespace or CRD goes too: then nobody asked for the data to go.
        keep: bool,
        /// What the archive's catalog may have of it.
        entry: Entry,
        /// A restore that begins with it and is not over.
        read_by: Option<String>,
    },
    /// `Completed` is `True` or `False`.
    Finished,
    /// No attempt runs.
    Waiting {
        /// The last attempt, which is void.
        last: Option<Last>,
        /// The next one's pod and volumes, or why there is none yet.
        door: Result<Proposal, Rejection>,
    },
    /// An attempt runs.
    Running(Running),
}

/// What the archive's catalog may have of a backup that goes. Nothing may choose it any more when its snapshots go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Gone,
    /// The agent has not been told to delete it.
    There,
    /// The agent is to delete it.
    Going,
    /// Nobody is there to delete it, as the protection has ended, or the agent did not in time.
    Left,
}

/// An attempt that is void.
#[derive(Clone, Debug, PartialEq)]
pub struct Last {
    /// Its number.
    pub number: u32,
    /// When it began.
    pub began: Timestamp,
    /// Why it is void, or why none has followed it, as status has it.
    pub why: String,
}

/// What the next attempt would consist of, if it began now.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Number, pod and volumes.
    pub set: SnapshotSet<Planned>,
    /// The StatefulSet's spec, without literal values of environment variables.
    pub stateful_set: serde_json::Value,
}

/// One pass: at most one step of the backup, and beside it what keeps its snapshots in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The backup's next step.
    pub step: Step,
    /// Contents of the running attempt that would outlive it.
    pub make_deletable: Vec<Content>,
    /// The janitor's part: of void attempts, or of a deleted object. It never holds up the step.
    pub sweep: Vec<Removal>,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing may exist that a deletion of the object would forget.
    AddFinalizer,
    /// It cannot begin now: `Accepted=False` with the reason, until the deadline.
    Hold(Rejection),
    /// Write attempt and expected snapshots into status. Nothing else happens yet.
    Accept(Proposal),
    /// One VolumeSnapshot per member that is due, names known beforehand: safe to repeat as a whole.
    CreateSnapshots(SnapshotSet<Recorded>),
    /// The claims get the label that the attempt's group selects by.
    LabelClaims(SnapshotSet<Recorded>),
    /// One VolumeGroupSnapshot, its name known beforehand.
    CreateGroup(SnapshotSet<Recorded>),
    /// No wait without a deadline.
    Await {
        /// For what.
        what: Awaited,
        /// Until when.
        until: Timestamp,
    },
    /// The backup is catalogued: its snapshots no longer go with the namespace.
    Retain(Vec<Content>),
    /// And neither does what they belong to.
    RetainGroup(GroupContent),
    /// Only `Evidence::collect` makes the value this needs.
    Complete(Evidence),
    /// This attempt is void for ever. The next has other names and does not wait for the old one to be gone.
    Abandon(Setback),
    /// No more attempts: `Completed=False`.
    Fail(Setback),
    /// Say that its data is to go: `Discarded=True`.
    Discard,
    /// Take our finalizer off: the object may go.
    Release,
    /// Nothing is left to do.
    Done,
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The pause between two attempts to be over.
    Turn,
    /// What keeps it from beginning, which is said, to change: a watch tells.
    Door,
    /// The agent: backup mode.
    Session,
    /// The CSI driver: every cut.
    Cut,
    /// The agent: the end of backup mode.
    Stop,
    /// The agent: what `pg_backup_stop` gave, in the archive.
    Label,
    /// The agent: WAL up to the stop LSN in the archive.
    Wal,
    /// The CSI driver: every snapshot ready.
    Ready,
    /// The agent: the manifest.
    Catalogue,
    /// The restore that begins with it to be over.
    Restored,
    /// The agent: the manifest to be gone.
    Uncatalogued,
    /// Snapshots that are being deleted.
    Gone,
}

impl Awaited {
    /// In a sentence.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Turn => "its turn",
            Self::Door => "what keeps it from beginning",
            Self::Session => "backup mode",
            Self::Cut => "the cut of every snapshot",
            Self::Stop => "the end of backup mode",
            Self::Label => "the backup label in the archive",
            Self::Wal => "the WAL up to the stop LSN in the archive",
            Self::Ready => "the readiness of every snapshot",
            Self::Catalogue => "the manifest in the archive",
            Self::Restored => "the restore that begins with it",
            Self::Uncatalogued => "the deletion of the manifest in the archive",
            Self::Gone => "the deletion of its snapshots",
        }
    }
}

/// `duration` after `time`.
pub fn after(time: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| time.checked_add(duration).ok())
        .unwrap_or(Timestamp::MAX)
}

impl State {
    /// The end of the deadline over all attempts.
    pub fn deadline(&self) -> Timestamp {
        after(self.created, self.deadlines.backup.get())
    }

    /// Whether `rejection` is what status says already.
    fn says(&self, rejection: &Rejection) -> bool {
        let said = self.said.as_ref();
        said.is_some_and(|(reason, text)| {
            reason == rejection.reason() && *text == rejection.to_string()
        })
    }
}

/// Decides.
pub fn plan(state: &State, now: Timestamp) -> Plan {
    let mut sweep = state.leftovers.clone();
    let mut make_deletable = Vec::new();
    let step = match &state.phase {
        Phase::Deleting { .. } if !state.finalizer => Step::Done,
        Phase::Deleting { keep: true, .. } => Step::Release,
        Phase::Deleting {
            read_by: Some(_), ..
        } => {
            sweep.clear();
            forever(Awaited::Restored)
        }
        Phase::Deleting { entry, .. } => {
            let step = plan_deleting(*entry, sweep.is_empty());
            if matches!(entry, Entry::There | Entry::Going) {
                sweep.clear();
            }
            step
        }
        Phase::Finished if sweep.is_empty() => Step::Done,
        Phase::Finished => forever(Awaited::Gone),
        Phase::Waiting { .. } | Phase::Running(_) if !state.finalizer => Step::AddFinalizer,
        Phase::Waiting { last, door } => plan_waiting(state, last.as_ref(), door, now),
        Phase::Running(running) => {
            if !running.agent.catalogued {
                make_deletable = running.contents_not(DeletionPolicy::Delete);
                sweep.extend(group::make_deletable(running));
            }
            plan_running(state, running, now)
        }
    };
    if step == Step::Release {
        sweep.clear();
    }
    Plan {
        step,
        make_deletable,
        sweep,
    }
}

fn plan_deleting(entry: Entry, swept: bool) -> Step {
    match entry {
        Entry::There => Step::Discard,
        Entry::Going => forever(Awaited::Uncatalogued),
        Entry::Gone | Entry::Left if swept => Step::Release,
        Entry::Gone | Entry::Left => forever(Awaited::Gone),
    }
}

const fn forever(what: Awaited) -> Step {
    let until = Timestamp::MAX;
    Step::Await { what, until }
}

fn plan_waiting(
    state: &State,
    last: Option<&Last>,
    door: &Result<Proposal, Rejection>,
    now: Timestamp,
) -> Step {
    let turn = last.map(|last| after(last.began, pause(last.number)));
    let overdue = now >= state.deadline();
    match (door, turn) {
        (Err(rejection), _) if overdue || rejection.is_final() => {
            Step::Fail(Setback::Rejected(rejection.clone()))
        }
        (Err(rejection), _) if rejection.is_watched() && state.says(rejection) => Step::Await {
            what: Awaited::Door,
            until: state.deadline(),
        },
        (Err(rejection), _) => Step::Hold(rejection.clone()),
        (Ok(_), _) if overdue => Step::Fail(never_cut(state, last)),
        (Ok(_), Some(turn)) if now < turn => Step::Await {
            what: Awaited::Turn,
            until: turn,
        },
        (Ok(proposal), _) => Step::Accept(proposal.clone()),
    }
}

/// Why there was no attempt that came so far, where the next could begin at the deadline.
fn never_cut(state: &State, last: Option<&Last>) -> Setback {
    let said = state.said.as_ref();
    let waited = || said.filter(|(reason, _)| reason == WAITS_FOR_OTHERS);
    let waited = || waited().map(|(_, why)| Rejection::AtOnce(why.clone()));
    if let Some(refused) = said.and_then(turn::said).or_else(waited) {
        return Setback::Rejected(refused);
    }
    Setback::AttemptsFailed {
        within: state.deadlines.backup,
        why: last.map_or_else(|| "there was none".to_owned(), |last| last.why.clone()),
    }
}

/// From the beginning of attempt `number` to the beginning of the next.
fn pause(number: u32) -> Duration {
    match number {
        0 | 1 => Duration::ZERO,
        n => FIRST_PAUSE
            .saturating_mul(1 << (n - 2).min(16))
            .min(LONGEST_PAUSE),
    }
}

fn plan_running(state: &State, running: &Running, now: Timestamp) -> Step {
    let stopped = running.agent.stopped_since.is_some();
    if let Some(why) = first_lost(running) {
        return give_up(state, Setback::SnapshotLost(why), now);
    }
    match (&running.agent.session, running.cut_since) {
        // After the stop the session has done its work: how it ends says nothing.
        (_, Some(cut)) if stopped => plan_finish(state, running, cut, now),
        (_, None) if stopped => give_up(state, Setback::StoppedBeforeCut, now),
        (Session::Lost { why }, _) => give_up(state, Setback::SessionLost(why.clone()), now),
        (Session::Awaited, None) => match state.deadline() {
            until if now < until => group::creation(running, false).unwrap_or(Step::Await {
                what: Awaited::Session,
                until,
            }),
            _ => too_late(state, running, Awaited::Session),
        },
        // `Cut` was written while this attempt's session was open: it was taken back.
        (Session::Awaited, Some(_)) => give_up(
            state,
            Setback::SessionLost("the agent withdrew it".to_owned()),
            now,
        ),
        // Backup mode has ended: only the archive keeps the agent from saying so, as it may keep it from shipping WAL later.
        (Session::Open { since }, Some(cut)) if running.agent.keeping => {
            let until = after(cut.max(*since), state.deadlines.ready.get());
            match now < until {
                true => Step::Await {
                    what: Awaited::Label,
                    until,
                },
                false => give_up(state, not_ready(state, running, Awaited::Label), now),
            }
        }
        (Session::Open { since }, cut) if cut.is_some() || running.all_cut() => {
            let until = after(*since, state.deadlines.backup_mode.get() + GRACE);
            if now < until {
                Step::Await {
                    what: Awaited::Stop,
                    until,
                }
            } else {
                give_up(
                    state,
                    Setback::AgentSilent(state.deadlines.backup_mode),
                    now,
                )
            }
        }
        (Session::Open { .. }, _) => plan_cut(state, running, now),
    }
}

fn first_lost(running: &Running) -> Option<String> {
    let group = running.group.as_ref().and_then(|seen| match seen {
        GroupSeen::Lost(why) => Some(why.clone()),
        GroupSeen::Missing | GroupSeen::There(_) => None,
    });
    let member = |seen: &Seen| match seen {
        Seen::Lost(why) => Some(why.clone()),
        Seen::Missing | Seen::There(_) => None,
    };
    group.or_else(|| running.seen.iter().find_map(member))
}

/// The session is open and not every cut was read.
fn plan_cut(state: &State, running: &Running, now: Timestamp) -> Step {
    if now >= state.deadline() {
        return too_late(state, running, Awaited::Cut);
    }
    if running.replaced {
        let pod = running.set.attempt().pod.clone();
        return give_up(state, Setback::StandbyReplaced(pod), now);
    }
    let until = match running.first_made_at() {
        Some(made) => after(made, state.deadlines.cut.get()).min(state.deadline()),
        None => state.deadline(),
    };
    if now >= until {
        let (within, trouble) = (state.deadlines.cut, running.trouble());
        return give_up(state, Setback::CutTooLate { within, trouble }, now);
    }
    group::creation(running, true).unwrap_or(Step::Await {
        what: Awaited::Cut,
        until,
    })
}

/// Backup mode ended after every cut.
fn plan_finish(state: &State, running: &Running, cut: Timestamp, now: Timestamp) -> Step {
    let until = after(cut, state.deadlines.ready.get());
    let wait = |what: Awaited| {
        if now < until {
            return Step::Await { what, until };
        }
        give_up(state, not_ready(state, running, what), now)
    };
    if !running.agent.archived {
        return wait(Awaited::Wal);
    }
    if !running.all_ready() {
        return wait(Awaited::Ready);
    }
    if !running.agent.catalogued {
        return wait(Awaited::Catalogue);
    }
    let deletable = running.contents_not(DeletionPolicy::Retain);
    if !deletable.is_empty() {
        return Step::Retain(deletable);
    }
    if let Some(content) = running.group_content_not(DeletionPolicy::Retain) {
        return Step::RetainGroup(content);
    }
    match Evidence::collect(&Proofs::of(running)) {
        Some(evidence) => Step::Complete(evidence),
        None => wait(Awaited::Ready),
    }
}

fn not_ready(state: &State, running: &Running, what: Awaited) -> Setback {
    Setback::NotReadyInTime {
        what: what.noun(),
        within: state.deadlines.ready,
        trouble: running.trouble(),
    }
}

fn too_late(state: &State, running: &Running, what: Awaited) -> Step {
    Step::Fail(Setback::BackupTooLate {
        what: what.noun(),
        within: state.deadlines.backup,
        trouble: running.trouble(),
    })
}

/// One attempt less; and the last one, if there is no time for another.
fn give_up(state: &State, setback: Setback, now: Timestamp) -> Step {
    if now >= state.deadline() {
        Step::Fail(setback)
    } else {
        Step::Abandon(setback)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
