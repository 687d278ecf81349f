//! What keeps a restore from being carried out, found before anything is made. Pure.

use super::{
    Rejection, claims, clone, drill, granted, in_place, observe::Observed, overrides, recorded,
    source::Source,
};
use crate::api::{
    ArchiveSource, PgBackup, RestorePlan, RestoredVolume,
    conditions::{self, COMPLETED, PLANNED, Status},
    names,
};

/// What is known to be possible.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The plan's backup.
    pub backup: PgBackup,
    /// The StatefulSet of the source.
    pub source: Source,
    /// What will be made.
    pub volumes: Vec<RestoredVolume>,
}

/// How far a restore that has made nothing yet is.
#[derive(Clone, Debug)]
pub enum Door {
    /// It cannot be carried out.
    Refused(Rejection),
    /// The agent has not planned it yet.
    Planning(String),
    /// It can.
    Open(Box<Ready>),
}

/// Looks at everything that must hold before the first object is made.
pub fn door(observed: &Observed) -> Door {
    let into = &observed.into;
    let refused = name_too_long(observed)
        .or_else(|| overrides::refuse(into))
        .or_else(|| drill::program(&observed.restore).and_then(overrides::refuse_program))
        .or_else(|| names_taken(observed))
        .or_else(|| policy_missing(observed))
        .or_else(|| source_missing(observed));
    if let Some(refused) = refused {
        return Door::Refused(refused);
    }
    let status = observed.status();
    let planned = conditions::find(&status.conditions, PLANNED);
    let plan = match (planned, status.plan) {
        (Some(planned), _) if planned.status == Status::False.as_str() => {
            let refused = Rejection::new(planned.reason.clone(), planned.message.clone());
            return Door::Refused(refused);
        }
        (Some(planned), Some(plan)) if planned.status == Status::True.as_str() => plan,
        (planned, _) => {
            let said = planned
                .map(|planned| planned.message.as_str())
                .filter(|m| !m.is_empty());
            let waiting = match &observed.restore.spec.source.archive {
                Some(_) => "waiting for the planning pod to choose backup and timeline",
                None => "waiting for the agent of the source to choose backup and timeline",
            };
            return Door::Planning(said.unwrap_or(waiting).to_owned());
        }
    };
    match planned_part(observed, &plan) {
        Ok(ready) => Door::Open(Box::new(ready)),
        Err(refused) => Door::Refused(refused),
    }
}

fn planned_part(observed: &Observed, plan: &RestorePlan) -> Result<Ready, Rejection> {
    let into = &observed.into;
    if observed.archive.is_none() {
        return Err(no_archive(&plan.archive));
    }
    vouched(observed, plan)?;
    let Some(backup) = observed.backup.clone() else {
        return Err(Rejection::new(
            "BackupNotFound",
            format!(
                "PgBackup {} of the plan does not exist any more: create a new PgRestore",
                plan.backup
            ),
        ));
    };
    is_of_source(observed, plan, &backup)?;
    is_completed(&backup)?;
    let source = Source::of(observed.live.as_ref(), &backup).ok_or_else(|| {
        Rejection::new(
            "StatefulSetUnknown",
            format!(
                "the source's StatefulSet is gone, and backup {} does not hold its spec: create the StatefulSet again (replicas 0 is enough)",
                plan.backup
            ),
        )
    })?;
    if let Some(clone) = &into.stateful_set {
        let refused = source
            .refuse_clone()
            .or_else(|| refuse_labels(observed, clone));
        if let Some(refused) = refused {
            return Err(refused);
        }
    }
    if let Some(refused) = in_place::refuse(observed, &backup) {
        return Err(refused);
    }
    other_driver(observed, &backup)?;
    let archived = observed.restore.spec.source.archive.is_some();
    let found = (!archived).then_some(observed.snapshots.as_slice());
    let mut volumes = claims::volumes(&observed.identity, into, &backup, found)?;
    in_place::at_least_as_large(observed, &mut volumes);
    Ok(Ready {
        backup,
        source,
        volumes,
    })
}

/// What would select the clone's pods.
pub fn refuse_labels(observed: &Observed, clone: &str) -> Option<Rejection> {
    let (identity, selecting) = (&observed.identity, &observed.selecting);
    clone::refuse_labels(identity, clone, &observed.into, selecting)
}

/// A copy that is to be protected is not made without.
fn policy_missing(observed: &Observed) -> Option<Rejection> {
    let policy = observed.into.policy.as_deref()?;
    (!observed.policy_exists).then(|| {
        Rejection::new(
            "PolicyNotFound",
            format!(
                "PgBackupPolicy {policy} of into.policy does not exist: create it, or leave into.policy out and annotate the new StatefulSet later; then create a new PgRestore"
            ),
        )
    })
}

fn no_archive(name: &str) -> Rejection {
    Rejection::new(
        "ArchiveNotFound",
        format!(
            "PgArchive {name} does not exist: create it again, it names the bucket that the WAL is in"
        ),
    )
}

fn name_too_long(observed: &Observed) -> Option<Rejection> {
    (observed.identity.name.len() > names::LONGEST_OWNER).then(|| {
        Rejection::new(
            "NameTooLong",
            format!(
                "its name has more than {} characters, and its recovery pod could not be told from others by its ServiceAccount: make a PgRestore of a shorter name",
                names::LONGEST_OWNER
            ),
        )
    })
}

/// What has a name that this restore needs, and is not its own. Looked at until the result is handed over.
pub fn names_taken(observed: &Observed) -> Option<Rejection> {
    let taken = |what: String| {
        Rejection::new(
            "NameTaken",
            format!("{what} exists already: choose another name in spec.into, or delete it"),
        )
    };
    let set = observed
        .set
        .as_ref()
        .map(|set| (&set.metadata, "StatefulSet"));
    let service = observed
        .service
        .as_ref()
        .map(|service| (&service.metadata, "Service"));
    let claims = observed
        .claims
        .iter()
        .map(|claim| (&claim.metadata, "PersistentVolumeClaim"));
    set.into_iter()
        .chain(service)
        .chain(claims)
        .find(|(metadata, _)| !observed.is_ours(metadata))
        .map(|(metadata, kind)| {
            taken(format!(
                "{kind} {}",
                metadata.name.as_deref().unwrap_or_default()
            ))
        })
}

fn source_missing(observed: &Observed) -> Option<Rejection> {
    let source = &observed.restore.spec.source;
    if let Some(source) = &source.archive {
        return archive_missing(observed, source);
    }
    if let (Some(name), None) = (&source.backup, &observed.backup) {
        return Some(Rejection::new(
            "BackupNotFound",
            format!("PgBackup {name} does not exist: kubectl get pgb lists what there is"),
        ));
    }
    if let (Some(_), Some(backup)) = (&source.backup, &observed.backup)
        && let Err(refused) = is_completed(backup)
    {
        return Some(refused);
    }
    if observed.protection.is_some() {
        return None;
    }
    let backup = observed.backup.as_ref();
    let name = source
        .protection
        .clone()
        .or_else(|| backup.map(|backup| backup.spec.protection.clone()))
        .unwrap_or_default();
    Some(Rejection::new(
        "ProtectionNotFound",
        format!(
            "PgProtection {name} does not exist: its agent plans restores; kubectl get pgx lists what there is"
        ),
    ))
}

fn archive_missing(observed: &Observed, source: &ArchiveSource) -> Option<Rejection> {
    if observed.archive.is_none() {
        return Some(no_archive(&source.archive));
    }
    let namespace = &observed.identity.namespace;
    // Asked of a plan alone too: it would show another namespace's backup.
    if let Some(grant) = &source.granted_by {
        return granted::not_granted(grant, namespace, observed.granting.as_ref());
    }
    if observed.restore.spec.plan_only == Some(true) {
        return None;
    }
    let allowed = observed.import_from.as_deref();
    recorded::not_allowed(source, namespace, allowed)
}

/// The plan is an agent's word, and an agent speaks for its own protection alone.
fn is_of_source(
    observed: &Observed,
    plan: &RestorePlan,
    backup: &PgBackup,
) -> Result<(), Rejection> {
    let source = &observed.restore.spec.source;
    if let Some(archive) = &source.archive {
        return recorded::is_of_archive(archive, plan);
    }
    let protection = observed.protection.as_ref();
    let named = source.protection.as_deref();
    let protection = named.or(protection.and_then(|found| found.metadata.name.as_deref()));
    if protection == Some(backup.spec.protection.as_str()) {
        return Ok(());
    }
    Err(Rejection::new(
        "PlanNotOfSource",
        format!(
            "the plan names PgBackup {}, which is of PgProtection {} and not of the source: create a new PgRestore, and find out who wrote this one's status",
            plan.backup, backup.spec.protection
        ),
    ))
}

/// Where another namespace grants the restore, its own objects say what is restored.
fn vouched(observed: &Observed, plan: &RestorePlan) -> Result<(), Rejection> {
    let archive = observed.restore.spec.source.archive.as_ref();
    match archive.and_then(|archive| archive.granted_by.as_ref()) {
        None => Ok(()),
        Some(grant) => granted::vouched(grant, plan, observed.granting.as_ref()),
    }
}

fn is_completed(backup: &PgBackup) -> Result<(), Rejection> {
    let conditions = backup
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    if conditions::is_true(conditions.unwrap_or_default(), COMPLETED) {
        return Ok(());
    }
    Err(Rejection::new(
        "BackupNotCompleted",
        format!(
            "PgBackup {} is not completed: nothing can be promised of it; choose another, or wait",
            backup.metadata.name.as_deref().unwrap_or_default()
        ),
    ))
}

fn other_driver(observed: &Observed, backup: &PgBackup) -> Result<(), Rejection> {
    let into = &observed.into;
    let volumes = backup.status.iter().flat_map(|status| &status.volumes);
    for volume in volumes {
        let Some(class) = into
            .storage_class_name
            .as_ref()
            .or(volume.storage_class_name.as_ref())
        else {
            continue;
        };
        match observed.classes.get(class).cloned().flatten() {
            Some(driver) if driver == volume.driver => {}
            Some(driver) => {
                return Err(Rejection::new(
                    "OtherDriver",
                    format!(
                        "StorageClass {class} is of driver {driver}, the snapshot of volume {} is of {}: choose a class of that driver in into.storageClassName",
                        volume.volume, volume.driver
                    ),
                ));
            }
            None => {
                return Err(Rejection::new(
                    "StorageClassNotFound",
                    format!(
                        "StorageClass {class} does not exist: name one of driver {} in into.storageClassName",
                        volume.driver
                    ),
                ));
            }
        }
    }
    Ok(())
}
