//! PgProtection: an agent for each protected database, its members, its first backup, its end.
//!
//! [`adopt`] makes a PgProtection for an annotated StatefulSet. The rest is the usual five files, with [`find`] (how
//! PostgreSQL is reached), [`mounts`] and [`agent`] (the objects of an agent) under them.

mod act;
mod adopt;
pub mod agent;
mod drills;
mod find;
#[cfg(test)]
mod find_tests;
mod memory;
mod mounts;
mod observe;
mod plan;
#[cfg(test)]
mod plan_tests;
mod report;
mod retention;
#[cfg(test)]
mod retention_tests;
mod safe;
mod schedule;
#[cfg(test)]
mod schedule_tests;
mod validate;

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, TryStreamExt, future};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::{
    ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;

use self::{memory::Memory, observe::Observed};
use super::{Class, Context, PassError, drive, error_policy, is_ready};
use crate::{
    api::{
        PgArchive, PgBackup, PgBackupPolicy, PgProtection, RecoveryWindow, annotations, conditions,
    },
    kubernetes::RequestError,
};

/// Why a protection cannot be carried out as it is: `Active=False`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Rejection {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("failed to observe PgProtection {name}")]
    Observe {
        /// The protection.
        name: String,
        /// Why.
        #[source]
        cause: RequestError,
    },
    /// The effect failed.
    #[error(transparent)]
    Act(#[from] act::ActError),
    /// The status could not be written.
    #[error("failed to report PgProtection {name}")]
    Report {
        /// The protection.
        name: String,
        /// Why.
        #[source]
        cause: RequestError,
    },
}

impl PassError for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Observe { cause, .. } | Self::Report { cause, .. } => cause.reason(),
            Self::Act(error) => error.reason(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Observe { cause, .. } | Self::Report { cause, .. } => cause.class(),
            Self::Act(error) => error.class(),
        }
    }
}

/// What the passes over all protections share.
struct Protections {
    ctx: Arc<Context>,
    memory: Arc<Memory>,
    /// What [`observe::slim`] leaves of them.
    backups: Store<PgBackup>,
}

/// One pass over one protection.
async fn reconcile(
    protection: Arc<PgProtection>,
    protections: Arc<Protections>,
) -> Result<Action, Error> {
    let ctx = &protections.ctx;
    let now = ctx.clock.now();
    let about = ObjectRef::from_obj(&*protection);
    let changes = protections.memory.changes(&about);
    let Some((observed, known_until)) = protections.observe(&protection, now).await? else {
        protections.memory.forget(&about);
        return Ok(Action::await_change());
    };
    let judgement = validate::validate(&observed, &ctx.image);
    let step = plan::plan(&judgement, &observed, now);
    if known_until.is_some() && step.acts() {
        // What is done rests on what was read for it.
        protections.memory.changed(&about);
        return Ok(Action::requeue(Duration::ZERO));
    }
    let outcome = act::act(&step, &observed, ctx).await;
    let reported = report::report(&observed, &judgement, &step, &outcome, now, ctx).await;
    reported.map_err(|cause| Error::Report {
        name: protection.name_any(),
        cause,
    })?;
    outcome?;
    let rest = step.rest(now);
    let until = known_until.unwrap_or_else(|| now + rest);
    if known_until.is_none() && !step.acts() {
        protections.memory.keep(&about, changes, observed, until);
    }
    let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    Ok(Action::requeue(rest.min(left)))
}

impl Protections {
    /// What is known of `cached` if only a backup has called, and until when; or what is read. `None`: it is gone.
    async fn observe(
        &self,
        cached: &PgProtection,
        now: Timestamp,
    ) -> Result<Option<(Observed, Option<Timestamp>)>, Error> {
        let name = cached.name_any();
        let namespace = cached.namespace().unwrap_or_default();
        let told = is_ready(&self.backups)
            .then(|| observe::backups_among(&self.backups, &namespace, &name));
        let known = self.memory.recall(&ObjectRef::from_obj(cached), now);
        if let (Some((known, until)), Some(backups)) = (known, &told) {
            let observed = Observed {
                protection: cached.clone(),
                backups: backups.clone(),
                ..known
            };
            return Ok(Some((observed, Some(until))));
        }
        let observed = observe::observe(&namespace, &name, told, &self.ctx).await;
        let observed = observed.map_err(|cause| Error::Observe { name, cause })?;
        Ok(observed.map(|observed| (observed, None)))
    }
}

/// Runs until a watch ends.
pub async fn run(ctx: Arc<Context>) {
    tokio::select! {
        () = adopt::run(ctx.clone()) => {}
        () = protections(ctx) => {}
    }
}

async fn protections(ctx: Arc<Context>) {
    let memory = Arc::new(Memory::default());
    let (store, writer) = reflector::store();
    let own_changes = memory.clone();
    let stream = ctx
        .decoded(drop)
        .modify(|protection: &mut PgProtection| protection.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(decisive, kube::runtime::PredicateConfig::default())
        .inspect_ok(move |protection| own_changes.changed(&ObjectRef::from_obj(protection)));
    let controller = Controller::for_stream(stream, store.clone());
    let managed = watcher::Config::default().labels(&format!(
        "{}={}",
        annotations::MANAGED_BY_LABEL,
        annotations::MANAGED_BY
    ));
    let of_policy = select(
        (&store, &memory),
        |protection: &PgProtection, policy: &PgBackupPolicy| {
            protection.spec.policy == policy.name_any()
        },
    );
    let of_archive = select((&store, &memory), |_: &PgProtection, _: &PgArchive| true);
    let of_set = select(
        (&store, &memory),
        |protection: &PgProtection, set: &PartialObjectMeta<StatefulSet>| {
            protection.spec.stateful_set == set.name_any()
        },
    );
    let of_agent = select(
        (&store, &memory),
        |protection: &PgProtection, agent: &Deployment| {
            crate::api::names::agent(&protection.name_any()) == agent.name_any()
        },
    );
    // Their metadata is enough, and there may be thousands.
    let sets = ctx.watched::<PartialObjectMeta<StatefulSet>>();
    let any = watcher::Config::default;
    let (backups, decided) = decided_backups(&ctx);
    let protections = Arc::new(Protections {
        ctx: ctx.clone(),
        memory,
        backups,
    });
    let on_error = |protection: Arc<PgProtection>, error: &Error, all: Arc<Protections>| {
        all.memory.changed(&ObjectRef::from_obj(&*protection));
        error_policy(protection, error, all.ctx.clone())
    };
    let stream = controller
        .watches(ctx.watched::<Deployment>(), managed, of_agent)
        .watches_stream(decided, |backup| {
            let namespace = backup.namespace().unwrap_or_default();
            Some(ObjectRef::new(&backup.spec.protection).within(&namespace))
        })
        .watches_stream(ctx.decoded(drop).touched_objects(), of_policy)
        .watches_stream(ctx.decoded(drop).touched_objects(), of_archive)
        .watches(sets, any(), of_set)
        .run(reconcile, on_error, protections);
    drive("protection", ctx, stream).await;
}

/// Backups as they come, are completed, fail and go. What happens between is nothing to a protection, and its reads would only
/// keep the API server from the backup.
fn decided_backups(
    ctx: &Context,
) -> (
    Store<PgBackup>,
    impl Stream<Item = Result<PgBackup, watcher::Error>> + Send + use<>,
) {
    let mut known = HashMap::new();
    let (store, writer) = reflector::store();
    let stream = watcher(ctx.watched::<PgBackup>(), watcher::Config::default())
        .default_backoff()
        .modify(observe::slim)
        .reflect(writer)
        .try_filter_map(move |event| future::ready(Ok(news(event, &mut known))));
    (store, stream)
}

/// What of a backup a protection waits for.
#[derive(Clone, Copy, PartialEq)]
enum Said {
    /// It is not over.
    UnderWay,
    /// It is whole.
    Completed,
    /// It failed for good: another may be wanted in its place.
    Failed,
}

fn said(backup: &PgBackup) -> Said {
    let conditions = backup
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    if conditions::is_true(conditions, conditions::COMPLETED) {
        return Said::Completed;
    }
    match conditions::is_false(conditions, conditions::COMPLETED) {
        true => Said::Failed,
        false => Said::UnderWay,
    }
}

/// The backup of `event`, if it says what `known`, by UID, does not.
fn news(event: Event<PgBackup>, known: &mut HashMap<Option<String>, Said>) -> Option<PgBackup> {
    match event {
        Event::Init | Event::InitDone => None,
        Event::Delete(backup) => {
            known.remove(&backup.metadata.uid);
            Some(backup)
        }
        Event::InitApply(backup) | Event::Apply(backup) => {
            let said = said(&backup);
            let before = known.insert(backup.metadata.uid.clone(), said);
            (before != Some(said)).then_some(backup)
        }
    }
}

/// Maps another object to the protections of its namespace that `concerns` names; what was read for them is old.
fn select<K: ResourceExt, C: Fn(&PgProtection, &K) -> bool + Send + Sync>(
    (store, memory): (&Store<PgProtection>, &Arc<Memory>),
    concerns: C,
) -> impl Fn(K) -> Vec<ObjectRef<PgProtection>> + Send + Sync + use<K, C> {
    let (store, memory) = (store.clone(), memory.clone());
    move |other| {
        store
            .state()
            .iter()
            .filter(|protection| {
                protection.namespace() == other.namespace() && concerns(protection, &other)
            })
            .map(|protection| ObjectRef::from_obj(&**protection))
            .inspect(|about| memory.changed(about))
            .collect()
    }
}

/// What of a protection may call for a pass. Positions, which change all the time, do not.
fn decisive(protection: &PgProtection) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let metadata = &protection.metadata;
    metadata.generation.hash(&mut hasher);
    metadata.deletion_timestamp.is_some().hash(&mut hasher);
    metadata.finalizers.hash(&mut hasher);
    metadata.labels.hash(&mut hasher);
    if let Some(status) = &protection.status {
        status.lineage.hash(&mut hasher);
        status.archive_name.hash(&mut hasher);
        for member in &status.members {
            (&member.uid, &member.address).hash(&mut hasher);
        }
        if let Some(database) = &status.database {
            (&database.data_directory, &database.tablespaces).hash(&mut hasher);
        }
        if let Some(primary) = &status.primary {
            primary.timeline.hash(&mut hasher);
        }
        // Without a backup nothing behind a gap can be restored, and a second gap wants a second one.
        let needed = |window: &RecoveryWindow| window.backup_needed_from;
        status
            .recoverable
            .as_ref()
            .and_then(needed)
            .hash(&mut hasher);
        // On which branch a backup lies.
        for timeline in status
            .recoverable
            .iter()
            .flat_map(|window| &window.timelines)
        {
            (timeline.id, timeline.began.is_some()).hash(&mut hasher);
        }
        // Each deletion wants a decision of its own, about the rules that are there.
        let retention = status.retention.as_ref();
        let retention = retention.map(|retention| json!(retention).to_string());
        retention.hash(&mut hasher);
        for condition in &status.conditions {
            (&condition.type_, &condition.status, &condition.reason).hash(&mut hasher);
        }
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;
    use crate::api::{PgBackupStatus, conditions::Status};

    fn backup(uid: &str, what: &str, status: Status) -> PgBackup {
        let mut conditions: Vec<Condition> = Vec::new();
        conditions::upsert(
            &mut conditions,
            what,
            status,
            "R",
            "",
            None,
            Timestamp::UNIX_EPOCH,
        );
        let spec = serde_json::from_value(serde_json::json!({"protection": "orders"})).unwrap();
        let mut backup = PgBackup::new(uid, spec);
        backup.metadata.uid = Some(uid.to_owned());
        backup.status = Some(PgBackupStatus {
            conditions,
            ..PgBackupStatus::default()
        });
        backup
    }

    #[test]
    fn a_backup_calls_for_a_pass_when_it_comes_is_completed_fails_and_goes() {
        let mut known = HashMap::new();
        let mut calls = |event| news(event, &mut known).is_some();
        let session = || backup("a", conditions::SESSION, Status::True);
        let completed = || backup("a", conditions::COMPLETED, Status::True);
        assert!(!calls(Event::Init));
        assert!(calls(Event::InitApply(session())));
        assert!(!calls(Event::Apply(backup(
            "a",
            conditions::CUT,
            Status::True
        ))));
        assert!(calls(Event::Apply(completed())));
        assert!(
            !calls(Event::InitApply(completed())),
            "a new watch tells nothing new"
        );
        assert!(calls(Event::Delete(completed())));
        assert!(calls(Event::Apply(session())), "another of the same name");
        let failed = || backup("a", conditions::COMPLETED, Status::False);
        assert!(
            calls(Event::Apply(failed())),
            "another is wanted in its place"
        );
        assert!(!calls(Event::Apply(failed())));
    }

    #[test]
    fn what_is_decided_about_retention_calls_for_a_pass() {
        let told = |dry_run: bool, newest: &str| {
            let spec = serde_json::json!({"statefulSet": "orders", "policy": "gold"});
            let mut protection = PgProtection::new("orders", serde_json::from_value(spec).unwrap());
            let status = serde_json::json!({"retention": {
                "rules": {"window": "1d", "dryRun": dry_run}, "lineage": "k3v9q2m4tz",
                "newest": newest, "kept": 1, "expired": 1,
            }});
            protection.status = Some(serde_json::from_value(status).unwrap());
            decisive(&protection)
        };
        let before = told(true, "a");
        assert_eq!(told(true, "a"), before);
        assert_ne!(told(false, "a"), before, "the same, by other rules");
        assert_ne!(told(true, "b"), before);
    }

    #[test]
    fn a_second_gap_and_a_failover_call_for_a_pass_and_positions_do_not() {
        let told = |timeline: u32, needed: Option<&str>, to: &str| {
            let spec = serde_json::json!({"statefulSet": "orders", "policy": "gold"});
            let mut protection = PgProtection::new("orders", serde_json::from_value(spec).unwrap());
            let status = serde_json::json!({
                "primary": {"pod": "orders-0", "timeline": timeline},
                "recoverable": {"backupNeededFrom": needed, "to": to},
            });
            protection.status = Some(serde_json::from_value(status).unwrap());
            decisive(&protection)
        };
        let (noon, later) = ("2026-11-20T12:00:00.000000Z", "2026-11-20T12:00:05.000000Z");
        let before = told(1, Some("0/3000000"), noon);
        assert_eq!(told(1, Some("0/3000000"), later), before);
        assert_ne!(told(1, Some("0/9000000"), later), before, "a second gap");
        assert_ne!(told(1, None, later), before);
        assert_ne!(told(2, Some("0/3000000"), later), before, "a failover");
    }
}
