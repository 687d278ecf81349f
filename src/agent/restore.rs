//! Plans restores of this protection. Needs the archive only: the database may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use tokio::{sync::watch, time::Instant};

use super::{
    config::{Config, Wanted},
    pause::Pause,
    shared::Shared,
    store::Trouble,
    watch::Objects,
};
use crate::{
    api::{
        PgBackup, PgRestore, PgRestoreStatus, RestorePlan, RestoreSource, Transport,
        conditions::{self, PLANNED, Status},
        managers,
    },
    archive::{
        Contents, LineageId, Refusal, Request,
        plan::{plan, tries_older},
    },
    controller::context::Chain,
    kubernetes::{RequestError, apply_status, find, request},
};

/// How long a plan waits for the newest WAL of a live database.
const NEWEST: Duration = Duration::from_secs(3);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(20);

/// Whether a restore still wants a plan.
pub fn is_open(restore: &PgRestore) -> bool {
    let empty = PgRestoreStatus::default();
    let conditions = &restore.status.as_ref().unwrap_or(&empty).conditions;
    let decided =
        |type_| conditions::is_true(conditions, type_) || conditions::is_false(conditions, type_);
    restore.metadata.deletion_timestamp.is_none()
        && !decided(PLANNED)
        && !decided(conditions::COMPLETED)
}

/// Plans until the process is to end.
pub async fn run(shared: Arc<Shared>, mut restores: watch::Receiver<Objects<PgRestore>>) {
    let mut wanted = shared.wanted.clone();
    let mut pauses: BTreeMap<String, (Pause, Instant)> = BTreeMap::new();
    loop {
        let open = restores.borrow_and_update().clone().unwrap_or_default();
        pauses.retain(|name, _| open.contains_key(name));
        let config = wanted.borrow_and_update().clone();
        if let Wanted::Protect(config) = config {
            for (name, restore) in &open {
                let due = pauses.get(name).is_none_or(|(_, at)| *at <= Instant::now());
                if due && !one(&shared, &config, restore).await {
                    let (pause, at) = pauses.entry(name.clone()).or_insert_with(|| {
                        (
                            Pause::new(Duration::from_millis(500), LONGEST),
                            Instant::now(),
                        )
                    });
                    *at = Instant::now() + pause.next();
                }
            }
        }
        let next = pauses.values().map(|(_, at)| *at).min();
        let retry = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = restores.changed() => if changed.is_err() { return },
            changed = wanted.changed() => if changed.is_err() { return },
            () = retry => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// What came of one restore.
enum Outcome {
    /// Not ours.
    Other,
    /// Chosen.
    Planned(Box<RestorePlan>),
    /// It cannot be done.
    Refused(Refusal),
    /// Try again.
    Trouble(Trouble),
}

/// Plans one restore and writes it. `false` to try again.
async fn one(shared: &Shared, config: &Config, restore: &PgRestore) -> bool {
    let outcome = match decide(shared, config, restore).await {
        Ok(outcome) => outcome,
        Err(trouble) => Outcome::Trouble(trouble),
    };
    let (plan, status, reason, message) = match outcome {
        Outcome::Other => return true,
        Outcome::Planned(plan) => {
            let summary = plan.summary.clone();
            (Some(*plan), Status::True, "Planned", summary)
        }
        Outcome::Refused(refusal) => (
            None,
            Status::False,
            refusal.reason(),
            Chain(&refusal).to_string(),
        ),
        Outcome::Trouble(trouble) => {
            shared.metrics.error(trouble.reason);
            (None, Status::Unknown, trouble.reason, trouble.message)
        }
    };
    let settled = status != Status::Unknown;
    tracing::info!(restore = restore.name_any(), reason, "{message}");
    let before = restore
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let mut conditions = conditions::owned(before, &[PLANNED]);
    let now = shared.clock.now();
    let generation = restore.metadata.generation;
    conditions::upsert(
        &mut conditions,
        PLANNED,
        status,
        reason,
        message,
        generation,
        now,
    );
    let part = PgRestoreStatus {
        plan,
        conditions,
        ..PgRestoreStatus::default()
    };
    if restore.status.as_ref().is_some_and(|s| {
        conditions::owned(&s.conditions, &[PLANNED]) == part.conditions && s.plan == part.plan
    }) {
        return settled;
    }
    let api = shared.api::<PgRestore>();
    match apply_status(&api, &restore.name_any(), managers::AGENT, &part).await {
        Ok(applied) => {
            let about = kube::Resource::object_ref(&applied, &());
            let after = &part.conditions;
            shared.events.condition_changes(&about, before, after).await;
            settled
        }
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            tracing::warn!(restore = restore.name_any(), error = %Chain(&error), "failed to apply the plan");
            false
        }
    }
}

async fn decide(shared: &Shared, config: &Config, restore: &PgRestore) -> Result<Outcome, Trouble> {
    let RestoreSource {
        protection,
        backup,
        archive,
    } = &restore.spec.source;
    // A planning pod's: no agent need be there.
    if archive.is_some() {
        return Ok(Outcome::Other);
    }
    if let Some(name) = backup {
        let Some(backup) = ours(shared, name).await? else {
            return Ok(Outcome::Other);
        };
        let session = backup
            .status
            .as_ref()
            .and_then(|status| status.session.as_ref());
        let lineage = session.and_then(|session| session.lineage.clone());
        let uid = backup.uid();
        // A backup without a lineage was never in backup mode: whatever lineage is asked, it is not in it.
        let lineage = lineage.or_else(|| shared.reporter.read().lineage);
        let existing = uid.iter().cloned().collect();
        let lineages = lineage.into_iter().collect();
        return in_lineages(shared, config, restore, (uid, existing), lineages).await;
    }
    if protection.as_ref() != Some(&shared.protection) {
        return Ok(Outcome::Other);
    }
    // PostgreSQL's archiver brings no unfinished segment, whoever waits.
    if config.transport != Transport::ArchiveCommand {
        newest(shared).await;
    }
    let backups = backups(shared).await?;
    let stays = |it: &&PgBackup| it.metadata.deletion_timestamp.is_none();
    let existing = backups.iter().filter(stays);
    let existing = existing.filter_map(ResourceExt::uid).collect();
    let lineages = lineages(shared.reporter.read().lineage, backups);
    in_lineages(shared, config, restore, (None, existing), lineages).await
}

/// The first lineage that can do it; else the refusal of the first, which is the current one. With the UID of the backup
/// that the restore names, and of those that it can begin with.
async fn in_lineages(
    shared: &Shared,
    config: &Config,
    restore: &PgRestore,
    (backup, existing): (Option<String>, BTreeSet<String>),
    lineages: Vec<LineageId>,
) -> Result<Outcome, Trouble> {
    let archive = shared.stores.archive(config)?;
    let mut refused = None;
    for lineage in lineages {
        let lineage = archive.lineage(lineage);
        let mut contents: Contents = lineage.contents().await?;
        contents.keep_backups(&existing);
        let mut request = Request {
            backup: backup.clone(),
            target: restore.spec.target.clone(),
            archive: config.archive.clone(),
            archive_name: config.archive_name.clone(),
            can_decrypt: restore.spec.decryption.is_some(),
            ended: Vec::new(),
        };
        request.ended = lineage.look_up(&request, &contents).await?;
        match plan(&request, &contents) {
            Ok(plan) => return Ok(Outcome::Planned(Box::new(plan))),
            // This history it is; that it cannot be read makes no other the right one.
            Err(refusal @ Refusal::KeyMissing { .. }) => return Ok(Outcome::Refused(refusal)),
            Err(refusal) => {
                let older = tries_older(request.target.as_ref(), &refusal, &contents);
                refused = refused.or(Some(refusal));
                if !older {
                    break;
                }
            }
        }
    }
    match refused {
        Some(refusal) => Ok(Outcome::Refused(refusal)),
        None => Err(Trouble::said(
            "NoLineage",
            "this protection has no lineage in the archive yet",
        )),
    }
}

/// The backup, if it is of this protection.
async fn ours(shared: &Shared, name: &str) -> Result<Option<PgBackup>, Trouble> {
    let api = shared.api::<PgBackup>();
    let backup = find(&api, name).await.map_err(unreadable)?;
    Ok(backup.filter(|backup| backup.spec.protection == shared.protection))
}

/// The backups of this protection. The archive's history may have been another's before: an agent may not name that one's
/// (docs/security.md).
async fn backups(shared: &Shared) -> Result<Vec<PgBackup>, Trouble> {
    let api = shared.api::<PgBackup>();
    let all = request(api.list(&kube::api::ListParams::default()))
        .await
        .map_err(unreadable)?;
    let ours = all.items.into_iter();
    Ok(ours
        .filter(|backup| backup.spec.protection == shared.protection)
        .collect())
}

/// The lineages of a protection: the current one, then those of its backups, newest first.
fn lineages(current: Option<LineageId>, backups: Vec<PgBackup>) -> Vec<LineageId> {
    let mut of_backups: Vec<_> = backups
        .into_iter()
        .filter_map(|backup| {
            let session = backup.status?.session?;
            Some((session.started_at?, session.lineage?))
        })
        .collect();
    of_backups.sort_by_key(|(at, _)| std::cmp::Reverse(at.0));
    let mut lineages: Vec<_> = current.into_iter().collect();
    for (_, lineage) in of_backups {
        if !lineages.contains(&lineage) {
            lineages.push(lineage);
        }
    }
    lineages
}

fn unreadable(error: RequestError) -> Trouble {
    Trouble::new("ApiUnreachable", &error)
}

/// While the database lives, what it has flushed by now belongs to the plan: waits for it, but not for long.
async fn newest(shared: &Shared) {
    if shared.link.borrow().is_none() {
        return;
    }
    let mut progress = shared.progress.subscribe();
    let before = progress.borrow_and_update().covered;
    shared.demand.send_modify(|demand| demand.clock += 1);
    let told = progress.wait_for(|progress| progress.covered > before);
    if tokio::time::timeout(NEWEST, told).await.is_err() {
        tracing::info!("planning without the newest WAL: it does not come");
    }
}
