//! What to do next for a protection: one step. Pure and total.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    agent::{Objects, holds},
    drills,
    observe::{BackupSeen, Observed},
    retention::{self, Expired},
    schedule,
    validate::Judgement,
};
use crate::api::{
    BackupReason, annotations,
    conditions::{self, ACTIVE, CONNECTED, SLOTS_DROPPED, WAL_ARCHIVING},
    names,
};

/// The reason of `Active=False` by which the agent knows that its slots must go.
pub const UNPROTECTED: &str = "Unprotected";
/// How long the agent has to drop its slots.
const SLOTS_DEADLINE: SignedDuration = SignedDuration::from_mins(2);
/// The pause after the first failed backup for a gap; it doubles up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest pause after a failed backup for a gap.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// One effect, or none.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing may be made before deletion is known to wait for us.
    AddFinalizer,
    /// The agent is missing, or not as it should be.
    DeployAgent(Box<Objects>),
    /// Its slots are gone, or it had time enough.
    RemoveAgent {
        /// What is left behind in the database, for an event.
        left: Option<String>,
    },
    /// Nothing holds the object any more.
    Release,
    /// Make a PgBackup; one of this name that exists is the same one.
    TakeBackup {
        /// Its name.
        name: String,
        /// Why.
        reason: BackupReason,
        /// The value of the annotation that asked for it.
        annotation: Option<String>,
    },
    /// Say that what is due is left out.
    SkipBackup {
        /// The time of the schedule.
        due: Timestamp,
        /// The backup that is not finished.
        under_way: String,
    },
    /// Make a PgRestore that is a drill; one of this name that exists is the same one.
    Drill {
        /// Its name.
        name: String,
    },
    /// Say that a drill that is due is left out.
    SkipDrill {
        /// The time of the schedule.
        due: Timestamp,
        /// The drill that is not finished.
        under_way: String,
    },
    /// Forget a drill that has ended.
    DeleteDrill {
        /// Its name.
        name: String,
        /// Its UID: another one of that name stays.
        uid: String,
    },
    /// Delete a PgBackup that the policy's retention does not keep.
    ExpireBackup(Expired),
    /// The agent drops its slots.
    AwaitSlots {
        /// Until then.
        until: Timestamp,
    },
    /// Nothing to do; look again after this time, whatever happens.
    Rest(Duration),
}

impl Step {
    /// Whether it does anything but wait.
    pub fn acts(&self) -> bool {
        match self {
            Self::AddFinalizer
            | Self::DeployAgent(_)
            | Self::RemoveAgent { .. }
            | Self::TakeBackup { .. }
            | Self::SkipBackup { .. }
            | Self::Drill { .. }
            | Self::SkipDrill { .. }
            | Self::DeleteDrill { .. }
            | Self::ExpireBackup(_)
            | Self::Release
            | Self::AwaitSlots { .. } => true,
            Self::Rest(_) => false,
        }
    }

    /// When the next pass comes at the latest.
    pub fn rest(&self, now: Timestamp) -> Duration {
        match self {
            Self::AddFinalizer
            | Self::DeployAgent(_)
            | Self::RemoveAgent { .. }
            | Self::TakeBackup { .. }
            | Self::SkipBackup { .. }
            | Self::Drill { .. }
            | Self::SkipDrill { .. }
            | Self::DeleteDrill { .. }
            | Self::ExpireBackup(_) => Duration::from_millis(100),
            Self::Release => Duration::from_secs(300),
            Self::AwaitSlots { until } => Duration::try_from(until.duration_since(now))
                .unwrap_or_default()
                .max(Duration::from_millis(100)),
            Self::Rest(pause) => *pause,
        }
    }
}

/// Decides.
pub fn plan(judgement: &Judgement, observed: &Observed, now: Timestamp) -> Step {
    let protection = &observed.protection;
    let deleting = protection.metadata.deletion_timestamp.is_some();
    let held = protection
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == annotations::PROTECTION_FINALIZER);
    if let Some(since) = leaving_since(observed, now) {
        return match (&observed.agent.deployment, deleting && held) {
            (Some(_), _) => leave(observed, since, now),
            (None, true) => Step::Release,
            (None, false) => Step::Rest(Duration::from_secs(300)),
        };
    }
    if !held {
        return Step::AddFinalizer;
    }
    if let Ok(objects) = &judgement.agent
        && !is_deployed(observed, objects)
    {
        return Step::DeployAgent(Box::new(objects.clone()));
    }
    let wanted = wanted_backup(judgement, observed, now)
        .or_else(|| drills::next(observed, now))
        .or_else(|| retention::next(observed, now));
    wanted.unwrap_or_else(|| Step::Rest(look_again(judgement, observed, now)))
}

/// Since when the protection is to end, if it is.
pub fn leaving_since(observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    if let Some(deleted) = &observed.protection.metadata.deletion_timestamp {
        return Some(deleted.0);
    }
    if !observed.unprotected() {
        return None;
    }
    let said = condition(observed, ACTIVE).filter(|active| active.reason == UNPROTECTED);
    Some(said.map_or(now, |active| active.last_transition_time.0))
}

fn leave(observed: &Observed, since: Timestamp, now: Timestamp) -> Step {
    if slots_dropped(observed) {
        return Step::RemoveAgent { left: None };
    }
    let until = since + SLOTS_DEADLINE;
    if now < until {
        return Step::AwaitSlots { until };
    }
    let said = condition(observed, SLOTS_DROPPED)
        .map(|dropped| dropped.message.clone())
        .filter(|message| !message.is_empty());
    let left = said.unwrap_or_else(|| {
        let slot = names::slot(observed.protection.metadata.uid.as_deref().unwrap_or_default());
        format!(
            "the agent did not say that replication slot {slot} is gone: it would keep WAL until the disk is full; where it is left, run SELECT pg_drop_replication_slot('{slot}')"
        )
    });
    Step::RemoveAgent { left: Some(left) }
}

/// Whether this agent says that its slots are gone. The word of an agent before it, from an earlier end of the protection,
/// says nothing about the slots that this one made.
fn slots_dropped(observed: &Observed) -> bool {
    let deployed: Option<Timestamp> = observed
        .agent
        .deployment
        .as_ref()
        .and_then(|live| live["metadata"]["creationTimestamp"].as_str()?.parse().ok());
    condition(observed, SLOTS_DROPPED).is_some_and(|dropped| {
        dropped.status == conditions::Status::True.as_str()
            && deployed.is_none_or(|deployed| dropped.last_transition_time.0 >= deployed)
    })
}

fn is_deployed(observed: &Observed, objects: &Objects) -> bool {
    observed.agent.bound
        && observed
            .agent
            .deployment
            .as_ref()
            .is_some_and(|live| holds(live, &objects.deployment))
}

fn wanted_backup(judgement: &Judgement, observed: &Observed, now: Timestamp) -> Option<Step> {
    let asked_for = annotated_backup(observed);
    if asked_for.is_some() || schedule::is_paused(observed) {
        return asked_for;
    }
    first_backup(judgement, observed)
        .or_else(|| gap_backup(judgement, observed, now))
        .or_else(|| scheduled_backup(judgement, observed, now))
}

/// One for all schedules that are due, unless another backup is under way.
fn scheduled_backup(judgement: &Judgement, observed: &Observed, now: Timestamp) -> Option<Step> {
    let due = schedule::schedules(observed, now).due()?;
    let name = names::scheduled_backup(&observed.protection.name_any(), due);
    let is_over = |it: &BackupSeen| it.goes || it.completed.is_some() || it.failed.is_some();
    let mut others = observed.backups.iter().filter(|it| it.name != name);
    if let Some(other) = others.find(|it| !is_over(it)) {
        let under_way = other.name.clone();
        return Some(Step::SkipBackup { due, under_way });
    }
    holds_backups(judgement, observed).then_some(Step::TakeBackup {
        name,
        reason: BackupReason::Scheduled,
        annotation: None,
    })
}

/// The one that a new value of the annotation asks for.
fn annotated_backup(observed: &Observed) -> Option<Step> {
    let value = observed.marks().remove(annotations::BACKUP_NOW)?;
    let honoured = observed
        .protection
        .status
        .as_ref()
        .and_then(|status| status.backup_now.as_ref());
    (honoured != Some(&value)).then(|| Step::TakeBackup {
        name: names::annotation_backup(&observed.protection.name_any(), &value),
        reason: BackupReason::Annotation,
        annotation: Some(value),
    })
}

/// The first of a lineage, as soon as its WAL is being archived.
fn first_backup(judgement: &Judgement, observed: &Observed) -> Option<Step> {
    let lineage = observed.protection.status.as_ref()?.lineage.as_ref()?;
    let name = names::first_backup(&observed.protection.name_any(), lineage.as_str());
    let there = |backup: &BackupSeen| {
        let BackupSeen {
            name: other,
            uid: _,
            version: _,
            held: _,
            unsound: _,
            lineage: of,
            stopped: _,
            completed: _,
            failed: _,
            goes: _,
        } = backup;
        *other == name || of.as_ref() == Some(lineage)
    };
    (holds_backups(judgement, observed) && !observed.backups.iter().any(there)).then_some(
        Step::TakeBackup {
            name,
            reason: BackupReason::First,
            annotation: None,
        },
    )
}

/// The one without which nothing behind a gap in the WAL can be restored.
fn gap_backup(judgement: &Judgement, observed: &Observed, now: Timestamp) -> Option<Step> {
    let (name, due) = next_gap_backup(observed)?;
    let may_begin = due.is_none_or(|due| due <= now) && holds_backups(judgement, observed);
    may_begin.then_some(Step::TakeBackup {
        name,
        reason: BackupReason::Gap,
        annotation: None,
    })
}

/// The name of the next one, and when it may begin if others have failed before; `None` where none is missing.
fn next_gap_backup(observed: &Observed) -> Option<(String, Option<Timestamp>)> {
    let status = observed.protection.status.as_ref()?;
    let (lineage, window) = (status.lineage.as_ref()?, status.recoverable.as_ref()?);
    let from = window.backup_needed_from?;
    let timeline = status.primary.as_ref()?.timeline;
    let protection = observed.protection.name_any();
    // One that failed closes nothing: the next has a name of its own.
    let mut due = None;
    for count in 0.. {
        let name = names::gap_backup(&protection, lineage.as_str(), timeline, from, count);
        let seen = observed.backups.iter().find(|backup| backup.name == name);
        match seen.map(|backup| backup.failed) {
            Some(Some(failed)) => due = due.max(Some(failed + again_after(count))),
            Some(None) => return None,
            None => return Some((name, due)),
        }
    }
    None
}

/// Names that count: were those backups not there, others would be taken in their place.
pub fn spoken_for(observed: &Observed) -> BTreeSet<String> {
    let status = observed.protection.status.as_ref();
    let protection = observed.protection.name_any();
    let lineage = status.and_then(|status| status.lineage.as_ref());
    let first = lineage.map(|lineage| names::first_backup(&protection, lineage.as_str()));
    let needed = || {
        let status = status?;
        let from = status.recoverable.as_ref()?.backup_needed_from?;
        Some((status.primary.as_ref()?.timeline, from))
    };
    let gap = lineage.zip(needed()).map(|(lineage, (timeline, from))| {
        let name = |count| names::gap_backup(&protection, lineage.as_str(), timeline, from, count);
        let is_there = |name: &String| observed.backups.iter().any(|it| it.name == *name);
        (0..).map(name).take_while(is_there).collect::<Vec<_>>()
    });
    first.into_iter().chain(gap.into_iter().flatten()).collect()
}

/// From the failure of gap backup number `count` to the next: some fail as soon as they are made.
fn again_after(count: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(1 << count.min(16))
        .min(LONGEST_RETRY)
}

/// Whether a backup taken now would hold the database, and its WAL be archived.
fn holds_backups(judgement: &Judgement, observed: &Observed) -> bool {
    judgement.agent.is_ok()
        && judgement.backups.is_ok()
        && observed.agent.running
        && is_true(observed, CONNECTED)
        && is_true(observed, WAL_ARCHIVING)
}

/// How long until the next look if no watch says anything: the usual pause, or until a backup is due before that.
fn look_again(judgement: &Judgement, observed: &Observed, now: Timestamp) -> Duration {
    let gap = next_gap_backup(observed).and_then(|(_, due)| due);
    let scheduled = schedule::schedules(observed, now).next();
    let drill = schedule::drills(observed, now);
    let drill = drill.and_then(|drill| drill.ok()?.coming());
    let expiry = retention::coming(observed);
    let coming = [gap, scheduled, drill, expiry]
        .into_iter()
        .flatten()
        .filter(|due| *due > now);
    let left = coming
        .min()
        .and_then(|due| Duration::try_from(due.duration_since(now)).ok());
    let pause = pause(judgement, observed);
    left.map_or(pause, |left| pause.min(left))
}

fn pause(judgement: &Judgement, observed: &Observed) -> Duration {
    let replicas = observed
        .stateful_set
        .as_ref()
        .and_then(|set| set.spec.as_ref()?.replicas)
        .and_then(|replicas| usize::try_from(replicas).ok())
        .unwrap_or_default();
    // An hour where all is well: what is watched calls, and a thousand idle databases must be nothing to the API server.
    // Pods are not watched: there is one StatefulSet to protect among thousands of pods.
    let pods_missing = observed.members.len() < replicas.max(observed.pods);
    Duration::from_secs(if judgement.agent.is_err() || judgement.backups.is_err() {
        15
    } else if pods_missing {
        2
    } else if !observed.agent.running {
        5
    } else {
        3600
    })
}

fn condition<'a>(
    observed: &'a Observed,
    type_: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let status = observed.protection.status.as_ref()?;
    conditions::find(&status.conditions, type_)
}

fn is_true(observed: &Observed, type_: &str) -> bool {
    condition(observed, type_)
        .is_some_and(|condition| condition.status == conditions::Status::True.as_str())
}
