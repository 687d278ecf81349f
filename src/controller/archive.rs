//! PgArchive: gathers from the protections of its namespace whether the store can be used. The controller itself talks to
//! no store, so a pass has no effect but its report.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    runtime::{
        Controller, WatchStreamExt, controller::Action, reflector, reflector::ObjectRef, watcher,
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
    kubernetes::{RequestError, apply_status, request},
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
#[error("failed to {verb} PgArchive {name}")]
pub struct Error {
    verb: &'static str,
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

/// What was read.
struct Observed {
    archive: PgArchive,
    /// The protections that use it.
    protections: Vec<PgProtection>,
}

async fn observe(archive: &PgArchive, ctx: &Context) -> Result<Option<Observed>, RequestError> {
    let namespace = archive.namespace().unwrap_or_default();
    let name = archive.name_any();
    let archives: Api<PgArchive> = Api::namespaced(ctx.client.clone(), &namespace);
    let Some(archive) = request(archives.get_opt(&name)).await? else {
        return Ok(None);
    };
    let cached = ListParams::default().match_any();
    let policies: Api<PgBackupPolicy> = Api::namespaced(ctx.client.clone(), &namespace);
    let policies: Vec<String> = request(policies.list(&cached))
        .await?
        .iter()
        .filter(|policy| policy.spec.archive == name)
        .map(ResourceExt::name_any)
        .collect();
    let protections: Api<PgProtection> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut protections = request(protections.list(&cached)).await?.items;
    protections.retain(|protection| policies.contains(&protection.spec.policy));
    Ok(Some(Observed {
        archive,
        protections,
    }))
}

async fn reconcile(archive: Arc<PgArchive>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = archive.name_any();
    let failed = |verb| {
        let name = name.clone();
        move |cause| Error { verb, name, cause }
    };
    let now = ctx.clock.now();
    let observed = observe(&archive, &ctx).await.map_err(failed("observe"))?;
    if let Some(observed) = observed {
        report(&observed, now, &ctx)
            .await
            .map_err(failed("report"))?;
    }
    Ok(Action::requeue(Duration::from_secs(300)))
}

async fn report(observed: &Observed, now: Timestamp, ctx: &Context) -> Result<(), RequestError> {
    let before = observed.archive.status.clone().unwrap_or_default();
    let after = status(observed, now);
    if before == after {
        return Ok(());
    }
    let namespace = observed.archive.namespace().unwrap_or_default();
    let api: Api<PgArchive> = Api::namespaced(ctx.client.clone(), &namespace);
    let name = observed.archive.name_any();
    apply_status(&api, &name, managers::CONTROLLER, &after).await?;
    let about = observed.archive.object_ref(&());
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
fn worst(protections: &[PgProtection]) -> Option<StoreFindings> {
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
fn available(protections: &[PgProtection]) -> (Status, String, String) {
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
    let any = watcher::Config::default;
    let (store, writer) = reflector::store();
    let archives = ctx.watched::<PgArchive>();
    let stream = watcher(archives, any())
        .default_backoff()
        .reflect(writer)
        .applied_objects();
    let used = store.clone();
    let stream = Controller::for_stream(stream, store)
        .watches(ctx.watched::<PgBackupPolicy>(), any(), |policy| {
            let namespace = policy.namespace().unwrap_or_default();
            Some(ObjectRef::new(&policy.spec.archive).within(&namespace))
        })
        .watches(ctx.watched::<PgProtection>(), any(), move |protection| {
            let in_namespace =
                |archive: &&Arc<PgArchive>| archive.namespace() == protection.namespace();
            let archives = used.state();
            archives
                .iter()
                .filter(in_namespace)
                .map(|archive| ObjectRef::from_obj(&**archive))
                .collect::<Vec<_>>()
        })
        .run(reconcile, error_policy, ctx.clone());
    drive("archive", ctx, stream).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn protection(name: &str, archiving: Option<(&str, &str)>) -> PgProtection {
        let conditions: Vec<_> = archiving
            .iter()
            .map(|(status, reason)| {
                json!({"type": "WalArchiving", "status": status, "reason": reason, "message": "text",
                       "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"statefulSet": name, "policy": "gold"},
            "status": {"conditions": conditions},
        }))
        .unwrap()
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

    fn found(name: &str, create_only: bool, metadata: bool, skew: i64) -> PgProtection {
        let mut protection = protection(name, Some(("True", "Archiving")));
        protection.status.as_mut().unwrap().store_findings = Some(StoreFindings {
            create_only,
            metadata,
            clock_skew_seconds: skew,
        });
        protection
    }

    fn observed(protections: Vec<PgProtection>) -> Observed {
        let archive = json!({"metadata": {"name": "main", "generation": 2}, "spec": {"s3": {"bucket": "backups"}}});
        Observed {
            archive: serde_json::from_value(archive).unwrap(),
            protections,
        }
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
        observed.protections[0]
            .status
            .as_mut()
            .unwrap()
            .store_findings = None;
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
