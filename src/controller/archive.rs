//! PgArchive: gathers from the protections of its namespace whether the store can be used. The controller itself talks to
//! no store, so a pass has no effect but its report.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        Controller,
        controller::Action,
        reflector::{ObjectRef, Store, store::WriterDropped},
    },
};

use super::{Class, Context, PassError, drive, error_policy};
use crate::{
    api::{
        PgArchive, PgArchiveStatus, PgBackupPolicy, PgProtection, StoreFindings,
        conditions::{self, AVAILABLE, CLOCK_IN_STEP, CREATE_ONLY, Status, WAL_ARCHIVING},
        managers,
    },
    archive::{Fault, SKEW_TO_WARN_OF, store::describe},
    kubernetes::{RequestError, apply_status_unchanged},
};

/// Whether a reason of `WalArchiving=False` is the store's, not the database's.
fn is_of_store(reason: &str) -> bool {
    Fault::ALL.iter().any(|fault| fault.reason() == reason)
        || [
            "ArchiveCorrupt",
            "CredentialsUnreadable",
            "InvalidArchive",
            "InvalidRecipient",
        ]
        .contains(&reason)
}

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to report PgArchive {name}")]
pub struct Error {
    name: String,
    #[source]
    cause: RequestError,
}

impl PassError for Error {
    fn reason(&self) -> &'static str {
        self.cause.reason()
    }

    fn class(&self) -> Class {
        self.cause.class()
    }
}

/// What the passes over all archives share: each change of a protection asks for a pass, so a pass reads what the watches
/// told, and nothing else.
struct Archives {
    ctx: Arc<Context>,
    policies: Store<PgBackupPolicy>,
    protections: Store<PgProtection>,
}

impl Archives {
    /// Waits until the watches have told of everything once.
    async fn ready(&self) -> Result<(), WriterDropped> {
        self.policies.wait_until_ready().await?;
        self.protections.wait_until_ready().await
    }
}

fn using(
    archive: &PgArchive,
    policies: &Store<PgBackupPolicy>,
    protections: &Store<PgProtection>,
) -> Observed {
    let namespace = archive.namespace();
    let policies: Vec<String> = (policies.state().iter())
        .filter(|policy| policy.namespace() == namespace)
        .filter(|policy| policy.spec.archive == archive.name_any())
        .map(|policy| policy.name_any())
        .collect();
    let protections = protections.state().into_iter();
    let mut protections: Vec<_> = protections
        .filter(|protection| protection.namespace() == namespace)
        .filter(|protection| policies.contains(&protection.spec.policy))
        .collect();
    // Of several that fail the same one is named in each pass.
    protections.sort_by_key(|protection| protection.name_any());
    Observed {
        archive: archive.clone(),
        protections,
    }
}

/// What the watches told.
struct Observed {
    archive: PgArchive,
    /// The protections that use it.
    protections: Vec<Arc<PgProtection>>,
}

/// Between two passes without a reason: that something is gone a watch does not tell where it happened while it was down.
const REST: Duration = Duration::from_secs(300);
/// The pause after a status that changed while it was written: the watch brings the new one.
const OVERTAKEN: Duration = Duration::from_millis(200);

async fn reconcile(archive: Arc<PgArchive>, archives: Arc<Archives>) -> Result<Action, Error> {
    if archives.ready().await.is_err() {
        // A watch has ended, and with it this controller does.
        return Ok(Action::await_change());
    }
    let observed = using(&archive, &archives.policies, &archives.protections);
    let now = archives.ctx.clock.now();
    match report(&observed, now, &archives.ctx).await {
        Ok(()) => Ok(Action::requeue(REST)),
        Err(error) if error.is_not_found() => Ok(Action::await_change()),
        Err(error) if error.is_conflict() => Ok(Action::requeue(OVERTAKEN)),
        Err(cause) => Err(Error {
            name: archive.name_any(),
            cause,
        }),
    }
}

/// Over the version that the watch told: an older one than is stored cannot undo what was said since.
async fn report(observed: &Observed, now: Timestamp, ctx: &Context) -> Result<(), RequestError> {
    let archive = &observed.archive;
    let before = archive.status.clone().unwrap_or_default();
    let after = status(observed, now);
    if before == after {
        return Ok(());
    }
    let namespace = archive.namespace().unwrap_or_default();
    let api: Api<PgArchive> = Api::namespaced(ctx.client.clone(), &namespace);
    apply_status_unchanged(&api, &archive.metadata, managers::CONTROLLER, &after).await?;
    let about = archive.object_ref(&());
    ctx.events
        .condition_changes(&about, &before.conditions, &after.conditions)
        .await;
    Ok(())
}

fn status(observed: &Observed, now: Timestamp) -> PgArchiveStatus {
    let mut status = observed.archive.status.clone().unwrap_or_default();
    let generation = observed.archive.metadata.generation;
    status.observed_generation = generation;
    status.store = Some(describe(&observed.archive.spec));
    status.protections = i64::try_from(observed.protections.len()).ok();
    let mut set = |type_, (value, reason, message): (Status, String, String)| {
        let conditions = &mut status.conditions;
        conditions::upsert(conditions, type_, value, &reason, message, generation, now);
    };
    set(AVAILABLE, available(&observed.protections));
    let findings = worst(&observed.protections);
    if let Some(findings) = &findings {
        set(CREATE_ONLY, create_only(findings));
        set(CLOCK_IN_STEP, clock_in_step(findings));
    }
    status.store_findings = findings.or(status.store_findings);
    status
}

/// What any agent found lacking, the store lacks.
fn worst(protections: &[Arc<PgProtection>]) -> Option<StoreFindings> {
    let found = protections
        .iter()
        .filter_map(|protection| protection.status.as_ref()?.store_findings.clone());
    found.reduce(|one, other| StoreFindings {
        create_only: one.create_only && other.create_only,
        metadata: one.metadata && other.metadata,
        clock_skew_seconds: std::cmp::max_by_key(
            one.clock_skew_seconds,
            other.clock_skew_seconds,
            |skew| skew.abs(),
        ),
    })
}

fn create_only(findings: &StoreFindings) -> (Status, String, String) {
    let answer = |status, reason: &str, message: &str| (status, reason.into(), message.into());
    match findings.create_only {
        true => answer(
            Status::True,
            "OneWriterWins",
            "of several that create one object, one wins: nothing is overwritten",
        ),
        false => answer(
            Status::False,
            "StoreOverwrites",
            "the store overwrites objects that must be new (If-None-Match: * is ignored): Highwater looks before it writes and compares afterwards, but a write that another agent left under way may still replace an object; use a store that heeds the condition",
        ),
    }
}

fn clock_in_step(findings: &StoreFindings) -> (Status, String, String) {
    let skew = findings.clock_skew_seconds;
    match skew.unsigned_abs() < SKEW_TO_WARN_OF.as_secs().unsigned_abs() {
        true => (
            Status::True,
            "InStep".into(),
            "the store's clock is less than five minutes from the agents'".into(),
        ),
        false => (
            Status::False,
            "ClockSkewed".into(),
            format!(
                "the store's clock is {} minutes {} an agent's: requests that are signed with a wrong time are refused; set the clock of the agent's node or of the store",
                skew.unsigned_abs() / 60,
                if skew > 0 { "ahead of" } else { "behind" },
            ),
        ),
    }
}

/// One protection whose store fails makes it unavailable; one that works, and none that fails, available.
fn available(protections: &[Arc<PgProtection>]) -> (Status, String, String) {
    let said: Vec<_> = protections
        .iter()
        .filter_map(|protection| {
            let list = &protection.status.as_ref()?.conditions;
            Some((protection, conditions::find(list, WAL_ARCHIVING)?))
        })
        .collect();
    let refused = said.iter().find(|(_, condition)| {
        condition.status == Status::False.as_str() && is_of_store(&condition.reason)
    });
    if let Some((protection, condition)) = refused {
        let message = format!("{}: {}", protection.name_any(), condition.message);
        return (Status::False, condition.reason.clone(), message);
    }
    let working = said
        .iter()
        .filter(|(_, condition)| condition.status == Status::True.as_str())
        .count();
    let answer = |status, reason: &str, message: String| (status, reason.to_owned(), message);
    match (working, protections.len()) {
        (0, 0) => answer(
            Status::Unknown,
            "NotUsed",
            "no protection uses this archive".to_owned(),
        ),
        (0, _) => answer(
            Status::Unknown,
            "NotTried",
            "no protection has reached the store yet".to_owned(),
        ),
        (working, all) => answer(
            Status::True,
            "Available",
            format!("{working} of {all} protections archive WAL here"),
        ),
    }
}

/// Runs until a watch ends.
pub async fn run(ctx: Arc<Context>) {
    let (archives, own) = ctx.told::<PgArchive>();
    let (policies, of_policies) = ctx.told::<PgBackupPolicy>();
    let (protections, of_protections) = ctx.told::<PgProtection>();
    let (by_policies, by_protections) = (archives.clone(), archives.clone());
    let passes = Controller::for_stream(own, archives)
        .watches_stream(of_policies, move |policy| {
            of_namespace(&by_policies, policy.namespace().as_deref())
        })
        .watches_stream(of_protections, move |protection| {
            of_namespace(&by_protections, protection.namespace().as_deref())
        });
    let archives = Arc::new(Archives {
        ctx: ctx.clone(),
        policies,
        protections,
    });
    let on_error = |archive: Arc<PgArchive>, error: &Error, archives: Arc<Archives>| {
        error_policy(archive, error, archives.ctx.clone())
    };
    drive("archive", ctx, passes.run(reconcile, on_error, archives)).await;
}

/// All archives of a namespace: which one a policy named before, it does not tell.
fn of_namespace(archives: &Store<PgArchive>, namespace: Option<&str>) -> Vec<ObjectRef<PgArchive>> {
    let archives = archives.state().into_iter();
    let archives = archives.filter(|archive| archive.metadata.namespace.as_deref() == namespace);
    archives
        .map(|archive| ObjectRef::from_obj(&*archive))
        .collect()
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

    fn protection(name: &str, archiving: Option<(&str, &str)>) -> Arc<PgProtection> {
        let conditions: Vec<_> = archiving
            .iter()
            .map(|(status, reason)| {
                json!({"type": "WalArchiving", "status": status, "reason": reason, "message": "text",
                       "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let protection = json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"statefulSet": name, "policy": "gold"},
            "status": {"conditions": conditions},
        });
        Arc::new(serde_json::from_value(protection).unwrap())
    }

    #[test]
    fn one_that_fails_counts_more_than_one_that_works() {
        let works = || protection("a", Some(("True", "Archiving")));
        let fails = || protection("b", Some(("False", "BucketNotFound")));
        let untrusted = || protection("e", Some(("False", "CertificateNotTrusted")));
        let to_nobody = || protection("f", Some(("False", "InvalidRecipient")));
        let offline = || protection("c", Some(("False", "DatabaseUnreachable")));
        let silent = || protection("d", None);
        for (protections, status, reason) in [
            (vec![], Status::Unknown, "NotUsed"),
            (vec![silent(), offline()], Status::Unknown, "NotTried"),
            (vec![works(), offline()], Status::True, "Available"),
            (vec![works(), fails()], Status::False, "BucketNotFound"),
            (
                vec![works(), to_nobody()],
                Status::False,
                "InvalidRecipient",
            ),
            (
                vec![works(), untrusted()],
                Status::False,
                "CertificateNotTrusted",
            ),
        ] {
            let found = available(&protections);
            assert_eq!((found.0, found.1.as_str()), (status, reason));
        }
    }

    fn found(name: &str, create_only: bool, metadata: bool, skew: i64) -> Arc<PgProtection> {
        let mut protection = protection(name, Some(("True", "Archiving")));
        let status = Arc::make_mut(&mut protection).status.as_mut().unwrap();
        status.store_findings = Some(StoreFindings {
            create_only,
            metadata,
            clock_skew_seconds: skew,
        });
        protection
    }

    fn observed(protections: Vec<Arc<PgProtection>>) -> Observed {
        let archive = json!({"metadata": {"name": "main", "generation": 2}, "spec": {"s3": {"bucket": "backups"}}});
        Observed {
            archive: serde_json::from_value(archive).unwrap(),
            protections,
        }
    }

    /// A store that a watch has filled.
    fn filled<K>(objects: impl IntoIterator<Item = K>) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let (store, mut writer) = reflector::store();
        for object in objects {
            writer.apply_watcher_event(&watcher::Event::Apply(object));
        }
        store
    }

    #[tokio::test]
    async fn what_uses_an_archive_is_in_its_namespace_and_names_its_policy() {
        let policy = |name: &str, namespace: &str, archive: &str| -> PgBackupPolicy {
            let policy = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"archive": archive}});
            serde_json::from_value(policy).unwrap()
        };
        let protection = |name: &str, namespace: &str, policy: &str| -> PgProtection {
            let protection = json!({"metadata": {"name": name, "namespace": namespace},
                "spec": {"statefulSet": name, "policy": policy}});
            serde_json::from_value(protection).unwrap()
        };
        let policies = filled([
            policy("gold", "shop", "main"),
            policy("iron", "shop", "other"),
            policy("gold", "stage", "main"),
        ]);
        let protections = filled([
            protection("z", "shop", "gold"),
            protection("a", "shop", "gold"),
            protection("other", "shop", "iron"),
            protection("elsewhere", "stage", "gold"),
        ]);
        let archive = json!({"metadata": {"name": "main", "namespace": "shop"}, "spec": {"s3": {"bucket": "b"}}});
        let archive: PgArchive = serde_json::from_value(archive).unwrap();
        let observed = using(&archive, &policies, &protections);
        let names: Vec<_> = observed
            .protections
            .iter()
            .map(|it| it.name_any())
            .collect();
        assert_eq!(names, ["a", "z"]);

        let archives = filled([archive]);
        let of = |namespace| of_namespace(&archives, namespace).len();
        assert_eq!((of(Some("shop")), of(Some("stage")), of(None)), (1, 0, 0));
    }

    #[test]
    fn what_one_agent_misses_the_store_lacks() {
        let silent = protection("d", None);
        for (protections, expected) in [
            (vec![], None),
            (vec![silent.clone()], None),
            (
                vec![silent, found("a", true, true, 0)],
                Some((true, true, 0)),
            ),
            (
                vec![found("a", true, false, -600), found("b", false, true, 60)],
                Some((false, false, -600)),
            ),
        ] {
            let worst = worst(&protections);
            let worst = worst.map(|w| (w.create_only, w.metadata, w.clock_skew_seconds));
            assert_eq!(worst, expected);
        }
    }

    #[test]
    fn what_the_store_lacks_is_said_once() {
        let now = Timestamp::UNIX_EPOCH;
        let mut observed = observed(vec![found("a", false, true, -660)]);
        let first = status(&observed, now);
        let said = |type_| {
            let condition = conditions::find(&first.conditions, type_).unwrap();
            (condition.status.as_str(), condition.reason.as_str())
        };
        assert_eq!(said(CREATE_ONLY), ("False", "StoreOverwrites"));
        assert_eq!(said(CLOCK_IN_STEP), ("False", "ClockSkewed"));
        let text = &conditions::find(&first.conditions, CLOCK_IN_STEP)
            .unwrap()
            .message;
        assert!(text.contains("11 minutes behind"), "{text}");
        // Later nothing is written anew, also while no agent speaks.
        observed.archive.status = Some(first.clone());
        let later = Timestamp::from_second(900).unwrap();
        assert_eq!(status(&observed, later), first);
        observed.protections = vec![protection("a", Some(("True", "Archiving")))];
        assert_eq!(
            status(&observed, later).store_findings,
            first.store_findings
        );

        observed.protections = vec![found("a", true, true, 240)];
        let better = status(&observed, later);
        assert!(conditions::is_true(&better.conditions, CREATE_ONLY));
        assert!(conditions::is_true(&better.conditions, CLOCK_IN_STEP));
    }
}
