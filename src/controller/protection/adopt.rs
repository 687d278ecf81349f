//! Makes a PgProtection for each StatefulSet that carries the annotation `highwater.dev/policy`, and keeps its policy the
//! annotation's. What happens when the annotation goes is the protection's own business.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde_json::json;

use crate::{
    api::{PgProtection, PgProtectionSpec, annotations, managers},
    controller::{Class, Context, PassError, drive, error_policy},
    kubernetes::{RequestError, request},
};

type Set = PartialObjectMeta<StatefulSet>;

/// A StatefulSet that could not be protected.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} PgProtection {name}: {cause}")]
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

/// What to do for one StatefulSet.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Not annotated, or all is as it should be.
    Rest,
    /// There is no PgProtection yet.
    Create {
        /// The policy it names.
        policy: String,
    },
    /// The annotation names another policy now.
    ChangePolicy {
        /// The policy it names.
        policy: String,
    },
    /// The old one is being deleted; then a new one is made.
    AwaitDeletion,
}

fn plan(policy: Option<&String>, existing: Option<&PgProtection>) -> Step {
    let Some(policy) = policy.cloned() else {
        return Step::Rest;
    };
    let Some(existing) = existing else {
        return Step::Create { policy };
    };
    if existing.metadata.deletion_timestamp.is_some() {
        return Step::AwaitDeletion;
    }
    let ours = existing
        .labels()
        .contains_key(annotations::FROM_ANNOTATION_LABEL);
    if ours && existing.spec.policy != policy {
        return Step::ChangePolicy { policy };
    }
    Step::Rest
}

/// What the passes over all StatefulSets share.
struct Sets {
    ctx: Arc<Context>,
    protections: Store<PgProtection>,
}

/// Between two passes without a reason.
const REST: Duration = Duration::from_secs(600);

async fn reconcile(set: Arc<Set>, sets: Arc<Sets>) -> Result<Action, Error> {
    let ctx = &sets.ctx;
    let policy = set.annotations().get(annotations::POLICY);
    if policy.is_none() {
        return Ok(Action::await_change());
    }
    let name = set.name_any();
    let namespace = set.namespace().unwrap_or_default();
    // Each change of a status asks for a pass: where the watch says that all is as it should be, nothing is read.
    let about = ObjectRef::new(&name).within(&namespace);
    if let Some(known) = sets.protections.get(&about)
        && plan(policy, Some(&known)) == Step::Rest
    {
        return Ok(Action::requeue(REST));
    }
    let api: Api<PgProtection> = Api::namespaced(ctx.client.clone(), &namespace);
    let failed = |verb| {
        let name = name.clone();
        move |cause| Error { verb, name, cause }
    };
    let existing = request(api.get_opt(&name)).await.map_err(failed("read"))?;
    let outcome = match plan(policy, existing.as_ref()) {
        Step::Rest => return Ok(Action::requeue(REST)),
        Step::AwaitDeletion => return Ok(Action::requeue(Duration::from_secs(5))),
        Step::Create { policy } => {
            let protection = protection(&name, policy);
            let created = request(api.create(&PostParams::default(), &protection)).await;
            created.map(drop).map_err(failed("create"))
        }
        Step::ChangePolicy { policy } => {
            let patch = json!({"spec": {"policy": policy}});
            let params = PatchParams {
                field_manager: Some(managers::CONTROLLER.to_owned()),
                ..PatchParams::default()
            };
            let patched = request(api.patch(&name, &params, &Patch::Merge(patch))).await;
            patched.map(drop).map_err(failed("change"))
        }
    };
    let about = set.object_ref(&());
    match &outcome {
        Ok(()) => {
            let note = format!("PgProtection {name} says how this database is protected");
            ctx.events.normal(&about, "Protected", note).await;
        }
        Err(error) if error.class() == Class::Terminal => {
            ctx.events
                .warning(&about, "NotProtected", error.to_string())
                .await;
        }
        Err(_) => {}
    }
    outcome.map(|()| Action::requeue(REST))
}

/// No owner: it outlives the StatefulSet.
fn protection(name: &str, policy: String) -> PgProtection {
    let mut protection = PgProtection::new(
        name,
        PgProtectionSpec {
            stateful_set: name.to_owned(),
            policy,
            archive_name: None,
            connection: None,
            exclude_volumes: Vec::new(),
            allow_restore_to: Vec::new(),
        },
    );
    protection.labels_mut().extend([
        (
            annotations::FROM_ANNOTATION_LABEL.to_owned(),
            "true".to_owned(),
        ),
        (
            annotations::MANAGED_BY_LABEL.to_owned(),
            annotations::MANAGED_BY.to_owned(),
        ),
    ]);
    protection
}

/// Runs until a watch ends.
pub async fn run(ctx: Arc<Context>) {
    let (store, writer) = reflector::store();
    let stream = watcher(ctx.watched::<Set>(), watcher::Config::default())
        .default_backoff()
        .modify(strip)
        .reflect(writer)
        .applied_objects();
    let (protections, of_protections) = ctx.told::<PgProtection>();
    let passes =
        Controller::for_stream(stream, store).watches_stream(of_protections, |protection| {
            let namespace = protection.namespace().unwrap_or_default();
            Some(ObjectRef::<Set>::new(&protection.spec.stateful_set).within(&namespace))
        });
    let sets = Arc::new(Sets {
        ctx: ctx.clone(),
        protections,
    });
    let on_error =
        |set: Arc<Set>, error: &Error, sets: Arc<Sets>| error_policy(set, error, sets.ctx.clone());
    drive("adoption", ctx, passes.run(reconcile, on_error, sets)).await;
}

/// There may be thousands of StatefulSets in a cluster: only what is read is kept.
fn strip(set: &mut Set) {
    set.managed_fields_mut().clear();
    set.labels_mut().clear();
    set.annotations_mut()
        .retain(|key, _| key == annotations::POLICY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let gold = "gold".to_owned();
        let ours = protection("orders", "gold".into());
        let other = protection("orders", "silver".into());
        let mut by_hand = other.clone();
        by_hand.labels_mut().clear();
        let mut deleted = ours.clone();
        deleted.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
        );
        let policy = || "gold".to_owned();
        for (name, mark, existing, expected) in [
            ("not annotated", None, None, Step::Rest),
            ("annotation gone", None, Some(&ours), Step::Rest),
            ("new", Some(&gold), None, Step::Create { policy: policy() }),
            ("as it should be", Some(&gold), Some(&ours), Step::Rest),
            (
                "another policy",
                Some(&gold),
                Some(&other),
                Step::ChangePolicy { policy: policy() },
            ),
            ("made by hand", Some(&gold), Some(&by_hand), Step::Rest),
            ("deleted", Some(&gold), Some(&deleted), Step::AwaitDeletion),
        ] {
            assert_eq!(plan(mark, existing), expected, "{name}");
        }
    }
}
