//! How a protection stands with its policy's schedules: what is due, and when to look again. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

use super::{Rejection, observe::Observed};
use crate::{
    api::{BackupSchedule, ScheduleStatus, VerificationSchedule, annotations, conditions::Status},
    recurrence::Recurrence,
};

/// The policy's schedules at one moment.
pub struct Schedules {
    /// Those that count.
    running: Vec<Standing>,
    /// How many are suspended.
    suspended: usize,
    /// The first that cannot be understood.
    rejection: Option<Rejection>,
    /// Whether the annotation says that no backup is to be taken by itself.
    paused: bool,
}

/// One schedule.
#[derive(Debug)]
pub struct Standing {
    /// As it is to be told, if nothing is done about what is due.
    status: ScheduleStatus,
    /// The last time of it that nothing was done about, without jitter.
    due: Option<Timestamp>,
    /// Behind [`Standing::due`] or, where nothing is due, behind what was dealt with last.
    recurrence: Recurrence,
    jitter: SignedDuration,
}

/// What was done about all that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dealt {
    /// A backup was taken.
    Taken,
    /// None was, as another was not finished.
    Skipped,
}

/// Looks at them at `now`.
pub fn schedules(observed: &Observed, now: Timestamp) -> Schedules {
    let specs = observed
        .policy
        .as_ref()
        .map_or(&[][..], |policy| &policy.spec.schedules);
    let mut all = Schedules {
        running: Vec::new(),
        suspended: 0,
        rejection: None,
        paused: is_paused(observed),
    };
    for spec in specs {
        if spec.suspend {
            all.suspended += 1;
            continue;
        }
        let known = known(spec, observed);
        match stand(spec, known, observed, now) {
            Ok(standing) => all.running.push(standing),
            Err(rejection) => drop(all.rejection.get_or_insert(rejection)),
        }
    }
    all
}

/// Whether backups are only taken when they are asked for.
pub fn is_paused(observed: &Observed) -> bool {
    observed
        .marks()
        .get(annotations::PAUSED)
        .map(String::as_str)
        == Some(PAUSE)
}

/// The policy's drills at one moment; `None` where it wants none.
pub fn drills(observed: &Observed, now: Timestamp) -> Option<Result<Standing, Rejection>> {
    let VerificationSchedule {
        cron,
        time_zone,
        jitter,
        suspend,
        drill: _,
        decryption: _,
    } = observed.policy.as_ref()?.spec.verify.as_ref()?;
    if *suspend {
        return None;
    }
    let spec = BackupSchedule {
        name: VERIFY.to_owned(),
        cron: cron.clone(),
        time_zone: time_zone.clone(),
        jitter: *jitter,
        suspend: false,
    };
    let status = observed.protection.status.as_ref();
    let said = status.and_then(|status| status.verification.clone());
    let said = said.filter(|said| reads_as(said, &spec));
    Some(stand(&spec, said, observed, now))
}

fn stand(
    spec: &BackupSchedule,
    known: Option<ScheduleStatus>,
    observed: &Observed,
    now: Timestamp,
) -> Result<Standing, Rejection> {
    let BackupSchedule {
        name,
        cron,
        time_zone,
        jitter,
        suspend: _,
    } = spec;
    let metadata = &observed.protection.metadata;
    let created = metadata.creation_timestamp.as_ref().map_or(now, |it| it.0);
    let recurrence = Recurrence::parse(cron, time_zone.as_deref(), created).map_err(|error| {
        let policy = &observed.protection.spec.policy;
        Rejection::new(
            "ScheduleInvalid",
            format!("schedule {name} of PgBackupPolicy {policy} does nothing: {error}"),
        )
    })?;
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let jitter = share(jitter.get(), uid);
    let mut status = known.unwrap_or_else(|| ScheduleStatus {
        name: name.clone(),
        cron: cron.clone(),
        time_zone: time_zone.clone(),
        since: whole_second(now),
        last_schedule_time: None,
        last_skipped_time: None,
        next_schedule_time: None,
    });
    let dealt = dealt_with(&status);
    let due = recurrence.last(now - jitter).filter(|last| *last > dealt);
    let next = due.or_else(|| recurrence.after(dealt));
    status.next_schedule_time = next.map(|next| Time(next + jitter));
    Ok(Standing {
        status,
        due,
        recurrence,
        jitter,
    })
}

/// What is known of the schedule, if it still reads as it did: a changed one counts anew.
fn known(spec: &BackupSchedule, observed: &Observed) -> Option<ScheduleStatus> {
    let said = &observed.protection.status.as_ref()?.schedules;
    said.iter().find(|said| reads_as(said, spec)).cloned()
}

fn reads_as(said: &ScheduleStatus, spec: &BackupSchedule) -> bool {
    said.name == spec.name && said.cron == spec.cron && said.time_zone == spec.time_zone
}

/// Up to when everything was dealt with.
fn dealt_with(status: &ScheduleStatus) -> Timestamp {
    let told = [&status.last_schedule_time, &status.last_skipped_time];
    let latest = told.into_iter().flatten().map(|time| time.0).max();
    latest.map_or(status.since.0, |latest| latest.max(status.since.0))
}

/// A database's own part of `jitter`: always the same.
fn share(jitter: Duration, uid: &str) -> SignedDuration {
    let hash = Sha256::digest(uid.as_bytes());
    let hash = hash
        .iter()
        .take(8)
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    let seconds = hash % (jitter.as_secs() + 1);
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or_default())
}

fn whole_second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

impl Schedules {
    /// The time, without jitter, that a backup is to be taken for now: one for all that are due.
    pub fn due(&self) -> Option<Timestamp> {
        let due = self
            .running
            .iter()
            .filter_map(|standing| standing.due)
            .max();
        due.filter(|_| !self.paused)
    }

    /// When something is due next that is not yet.
    pub fn next(&self) -> Option<Timestamp> {
        self.running.iter().filter_map(Standing::coming).min()
    }

    /// As the status is to tell them, now that `dealt` was done about what was due.
    pub fn told(self, dealt: Option<Dealt>) -> Vec<ScheduleStatus> {
        let mut told: Vec<_> = self
            .running
            .into_iter()
            .map(|standing| standing.told(dealt))
            .collect();
        told.sort_by(|a, b| a.name.cmp(&b.name));
        told
    }

    /// What condition `Scheduled` says.
    pub fn condition(&self) -> (Status, &'static str, String) {
        if let Some(rejection) = &self.rejection {
            return (Status::False, rejection.reason, rejection.message.clone());
        }
        let (reason, message) = match (self.paused, self.running.len(), self.suspended) {
            (true, _, _) => ("Paused", PAUSED),
            (false, 0, 0) => ("NoSchedule", NO_SCHEDULE),
            (false, 0, _) => ("Suspended", SUSPENDED),
            (false, _, _) => {
                let each = |standing: &Standing| {
                    let ScheduleStatus {
                        name,
                        cron,
                        time_zone,
                        ..
                    } = &standing.status;
                    let zone = time_zone.as_deref().map(|zone| format!(" {zone}"));
                    format!("{name}: {cron}{}", zone.unwrap_or_default())
                };
                let all: Vec<_> = self.running.iter().map(each).collect();
                return (Status::True, "Scheduled", all.join("; "));
            }
        };
        (Status::False, reason, message.to_owned())
    }
}

impl Standing {
    /// The time, without jitter, that something is to be done for now.
    pub const fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// When it is due next, if it is not.
    pub fn coming(&self) -> Option<Timestamp> {
        let said = self.status.next_schedule_time.as_ref();
        said.filter(|_| self.due.is_none()).map(|next| next.0)
    }

    /// As the status is to tell it, now that `dealt` was done about what was due.
    pub fn told(self, dealt: Option<Dealt>) -> ScheduleStatus {
        let Self {
            mut status,
            due,
            recurrence,
            jitter,
        } = self;
        let (Some(due), Some(dealt)) = (due, dealt) else {
            return status;
        };
        match dealt {
            Dealt::Taken => status.last_schedule_time = Some(Time(due)),
            Dealt::Skipped => status.last_skipped_time = Some(Time(due)),
        }
        let next = recurrence.after(due);
        status.next_schedule_time = next.map(|next| Time(next + jitter));
        status
    }
}

/// The field of the policy: the name of its one schedule.
const VERIFY: &str = "verify";
/// The value of the annotation that pauses.
const PAUSE: &str = "true";
const PAUSED: &str = "annotation highwater.dev/paused of the StatefulSet is true: no backup is taken by itself, WAL is shipped, and what is due is caught up once when the annotation goes";
const NO_SCHEDULE: &str = "the policy has no schedules: a backup is taken when a lineage begins, after a gap in the WAL, and when it is asked for. Add spec.schedules to the PgBackupPolicy";
const SUSPENDED: &str = "all schedules of the policy are suspended";
