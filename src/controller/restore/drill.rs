//! A restore that is a drill: what it may begin, and what its end says of the backup. Pure.

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};

use super::observe::Observed;
use crate::api::{
    IntoVolumes, LastVerified, PgRestore, PgRestoreSpec, RestoreInto, VerifyProgram,
    conditions::{self, COMPLETED, RECOVERED, Status, VERIFIED},
};

/// What came of a drill, for the backup and its protection.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The PgBackup that the drill began with, if there still is one.
    pub backup: Option<String>,
    /// The PgProtection of that backup, if there still is one.
    pub protection: Option<String>,
    /// One word, as the condition `Verified` has it.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// For the protection, where the drill was passed.
    pub passed: Option<LastVerified>,
}

impl Verdict {
    /// Of the condition `Verified`.
    pub fn status(&self) -> Status {
        match self.passed {
            Some(_) => Status::True,
            None => Status::False,
        }
    }
}

/// Whether this restore is a drill.
pub fn is_one(restore: &PgRestore) -> bool {
    restore.spec.verify.is_some() && restore.spec.plan_only != Some(true)
}

/// The program that looks at the restored database.
pub fn program(restore: &PgRestore) -> Option<&VerifyProgram> {
    restore.spec.verify.as_ref()?.program.as_ref()
}

/// Where to: the claims of a drill are called after it, and those that a restore in place recovers into.
pub fn destination(spec: &PgRestoreSpec, name: &str) -> RestoreInto {
    let own = || {
        Some(IntoVolumes {
            name_prefix: Some(name.to_owned()),
            names: Vec::new(),
        })
    };
    match (&spec.verify, &spec.into.in_place) {
        (None, None) => spec.into.clone(),
        (None, Some(_)) => RestoreInto {
            volumes: own(),
            ..spec.into.clone()
        },
        (Some(_), _) => RestoreInto {
            volumes: own(),
            ..RestoreInto::default()
        },
    }
}

/// Drills that have begun and are not decided.
pub fn running<'a>(all: impl IntoIterator<Item = &'a PgRestore>, except: &str) -> Vec<String> {
    let runs = |restore: &&PgRestore| {
        let status = restore.status.as_ref();
        let completed = status.and_then(|it| conditions::find(&it.conditions, COMPLETED));
        is_one(restore)
            && restore.metadata.uid.as_deref() != Some(except)
            && status.is_some_and(|it| !it.volumes.is_empty())
            && completed.is_none_or(|it| it.status == Status::Unknown.as_str())
    };
    let mut names: Vec<String> = all.into_iter().filter(runs).map(named).collect();
    names.sort();
    names
}

fn named(restore: &PgRestore) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let metadata = &restore.metadata;
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

/// Why a drill that could begin does not: so many may run at once in all that this controller serves.
pub fn must_wait(observed: &Observed, at_once: usize) -> Option<String> {
    let others = &observed.drills;
    (is_one(&observed.restore) && others.len() >= at_once).then(|| {
        format!(
            "waiting for other drills to end ({}): {at_once} at once, as --drills-at-once of the controller says",
            others.join(", ")
        )
    })
}

/// What is to be told of the backup, once recovery is decided.
pub fn verdict(observed: &Observed) -> Option<Verdict> {
    let status = observed.status();
    let told = conditions::find(&status.conditions, VERIFIED).is_some();
    let recovered = conditions::find(&status.conditions, RECOVERED)?;
    if !is_one(&observed.restore) || told || recovered.status == Status::Unknown.as_str() {
        return None;
    }
    let passed = recovered.status == Status::True.as_str();
    let plan = status.plan.as_ref()?;
    let restore = &observed.identity.name;
    let name = |metadata: &kube::api::ObjectMeta| metadata.name.clone();
    let checks = status.progress.iter().flat_map(|progress| &progress.checks);
    let checks: Vec<&str> = checks.map(|check| check.name.as_str()).collect();
    // What came from a bucket alone may be another backup than the one of that name here.
    let here = observed
        .backup
        .as_ref()
        .filter(|_| observed.restore.spec.source.archive.is_none());
    Some(Verdict {
        backup: here.and_then(|it| name(&it.metadata)),
        protection: observed
            .protection
            .as_ref()
            .and_then(|it| name(&it.metadata)),
        reason: match passed {
            true => "Verified".to_owned(),
            false => recovered.reason.clone(),
        },
        message: match passed {
            true => format!(
                "PgRestore {restore} restored it {} and found nothing wrong ({})",
                plan.summary,
                checks.join(", ")
            ),
            false => format!("PgRestore {restore}: {}", recovered.message),
        },
        passed: passed.then(|| LastVerified {
            restore: restore.clone(),
            backup: plan.backup.clone(),
            at: at(recovered),
            target: plan.summary.clone(),
        }),
    })
}

fn at(recovered: &Condition) -> MicroTime {
    MicroTime(recovered.last_transition_time.0)
}

/// Whether `new` is to be told, or what the protection says already is newer.
pub fn is_newer(new: &LastVerified, before: Option<&LastVerified>) -> bool {
    before.is_none_or(|before| new.at.0.cmp(&before.at.0) != Ordering::Less)
}
