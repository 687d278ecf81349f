//! Carries out one step.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ServiceAccount, rbac::v1::RoleBinding};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::{agent::Objects, observe::Observed, plan::Step, retention::Expired};
use crate::{
    api::{
        BackupReason, PgBackup, PgBackupSpec, PgProtection, PgRestore, PgRestoreSpec, RestoreInto,
        RestoreSource, VerificationSchedule, annotations, managers, names,
    },
    controller::{Class, Context, PassError},
    kubernetes::{RequestError, request},
};

/// An effect that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} {object}: {cause}")]
pub struct ActError {
    verb: &'static str,
    object: String,
    #[source]
    cause: RequestError,
}

impl PassError for ActError {
    fn reason(&self) -> &'static str {
        self.cause.reason()
    }

    fn class(&self) -> Class {
        self.cause.class()
    }
}

fn failed<'a>(
    verb: &'static str,
    object: impl Into<String> + 'a,
) -> impl FnOnce(RequestError) -> ActError + 'a {
    move |cause| ActError {
        verb,
        object: object.into(),
        cause,
    }
}

/// The one effect of a pass.
pub async fn act(step: &Step, observed: &Observed, ctx: &Context) -> Result<(), ActError> {
    let protection = &observed.protection;
    match step {
        Step::AddFinalizer => {
            let mut finalizers = protection.finalizers().to_vec();
            finalizers.push(annotations::PROTECTION_FINALIZER.to_owned());
            set_finalizers(protection, &finalizers, ctx).await
        }
        Step::Release => {
            let mut finalizers = protection.finalizers().to_vec();
            finalizers.retain(|finalizer| finalizer != annotations::PROTECTION_FINALIZER);
            set_finalizers(protection, &finalizers, ctx).await
        }
        Step::DeployAgent(objects) => deploy(objects, protection, ctx).await,
        Step::RemoveAgent { left } => {
            remove(protection, ctx).await?;
            if let Some(left) = left {
                let about = protection.object_ref(&());
                ctx.events.warning(&about, "SlotsLeft", left.clone()).await;
            }
            Ok(())
        }
        Step::TakeBackup { name, reason, .. } => take(protection, name, *reason, ctx).await,
        Step::SkipBackup { due, under_way } => {
            let about = protection.object_ref(&());
            let note = format!(
                "the backup that was due at {due} is left out: PgBackup {under_way} is not finished"
            );
            ctx.events.warning(&about, "ScheduleSkipped", note).await;
            ctx.metrics
                .skipped(&namespace(protection), &protection.name_any());
            Ok(())
        }
        Step::Drill { name } => drill(observed, name, ctx).await,
        Step::SkipDrill { due, under_way } => {
            let about = protection.object_ref(&());
            let note = format!(
                "the drill that was due at {due} is left out: PgRestore {under_way} is not finished"
            );
            ctx.events.warning(&about, "DrillSkipped", note).await;
            Ok(())
        }
        Step::DeleteDrill { name, uid } => forget_drill(protection, name, uid, ctx).await,
        Step::ExpireBackup(expired) => expire(protection, expired, ctx).await,
        Step::AwaitSlots { .. } | Step::Rest(_) => Ok(()),
    }
}

fn namespace(protection: &PgProtection) -> String {
    protection.namespace().unwrap_or_default()
}

/// Names the `resourceVersion`, as a list of finalizers is replaced as a whole.
async fn set_finalizers(
    protection: &PgProtection,
    finalizers: &[String],
    ctx: &Context,
) -> Result<(), ActError> {
    let api: Api<PgProtection> = Api::namespaced(ctx.client.clone(), &namespace(protection));
    let name = protection.name_any();
    let patch = json!({"metadata": {
        "resourceVersion": protection.resource_version(),
        "finalizers": finalizers,
    }});
    let params = PatchParams {
        field_manager: Some(managers::CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    match request(api.patch_metadata(&name, &params, &Patch::Merge(patch))).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(cause) => Err(failed(
            "set the finalizers of",
            format!("PgProtection {name}"),
        )(cause)),
    }
}

async fn deploy(
    objects: &Objects,
    protection: &PgProtection,
    ctx: &Context,
) -> Result<(), ActError> {
    let Objects {
        name,
        account,
        service_account,
        role_binding,
        deployment,
    } = objects;
    let namespace = namespace(protection);
    apply::<ServiceAccount>(&namespace, account, service_account, ctx).await?;
    apply::<RoleBinding>(&namespace, name, role_binding, ctx).await?;
    apply::<Deployment>(&namespace, name, deployment, ctx).await?;
    tracing::info!(namespace, deployment = name, "agent deployed");
    Ok(())
}

async fn apply<K>(namespace: &str, name: &str, object: &Json, ctx: &Context) -> Result<(), ActError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    // The objects are ours alone.
    let params = PatchParams::apply(managers::CONTROLLER).force();
    request(api.patch(name, &params, &Patch::Apply(object)))
        .await
        .map(drop)
        .map_err(failed("apply", format!("{} {name}", K::kind(&()))))
}

/// The Deployment last: while it is there, the pass comes again.
async fn remove(protection: &PgProtection, ctx: &Context) -> Result<(), ActError> {
    let namespace = namespace(protection);
    let name = names::agent(&protection.name_any());
    let account = names::agent_account(&protection.name_any());
    delete::<RoleBinding>(&namespace, &name, ctx).await?;
    delete::<ServiceAccount>(&namespace, &account, ctx).await?;
    delete::<Deployment>(&namespace, &name, ctx).await?;
    tracing::info!(namespace, deployment = name, "agent removed");
    Ok(())
}

async fn delete<K>(namespace: &str, name: &str, ctx: &Context) -> Result<(), ActError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    match request(api.delete(name, &DeleteParams::background())).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(cause) => Err(failed("delete", format!("{} {name}", K::kind(&())))(cause)),
    }
}

/// No owner: the backup outlives the protection.
fn build_backup(protection: &PgProtection, name: &str, reason: BackupReason) -> PgBackup {
    let spec = PgBackupSpec {
        protection: protection.name_any(),
        reason,
    };
    let mut backup = PgBackup::new(name, spec);
    backup.labels_mut().extend([
        (
            annotations::PROTECTION_LABEL.to_owned(),
            names::label(&protection.name_any()),
        ),
        (
            annotations::MANAGED_BY_LABEL.to_owned(),
            annotations::MANAGED_BY.to_owned(),
        ),
    ]);
    backup
}

async fn take(
    protection: &PgProtection,
    name: &str,
    reason: BackupReason,
    ctx: &Context,
) -> Result<(), ActError> {
    let api: Api<PgBackup> = Api::namespaced(ctx.client.clone(), &namespace(protection));
    let backup = build_backup(protection, name, reason);
    match request(api.create(&PostParams::default(), &backup)).await {
        Ok(_) => {
            tracing::info!(backup = name, ?reason, "backup asked for");
            Ok(())
        }
        // The name says what it is for: it is the same one.
        Err(error) if error.is_conflict() => Ok(()),
        Err(cause) => Err(failed("create", format!("PgBackup {name}"))(cause)),
    }
}

/// No owner, as of a backup: what it says outlives the protection.
fn build_drill(protection: &PgProtection, wanted: &VerificationSchedule, name: &str) -> PgRestore {
    let spec = PgRestoreSpec {
        source: RestoreSource {
            protection: Some(protection.name_any()),
            ..RestoreSource::default()
        },
        target: None,
        into: RestoreInto::default(),
        verify: Some(wanted.drill.clone()),
        plan_only: None,
        keep_failed: None,
        decryption: wanted.decryption.clone(),
    };
    let mut restore = PgRestore::new(name, spec);
    restore.labels_mut().extend([
        (
            annotations::DRILL_LABEL.to_owned(),
            names::label(&protection.name_any()),
        ),
        (
            annotations::MANAGED_BY_LABEL.to_owned(),
            annotations::MANAGED_BY.to_owned(),
        ),
    ]);
    restore
}

async fn drill(observed: &Observed, name: &str, ctx: &Context) -> Result<(), ActError> {
    let wanted = observed.policy.as_ref();
    let Some(wanted) = wanted.and_then(|policy| policy.spec.verify.as_ref()) else {
        return Ok(());
    };
    let protection = &observed.protection;
    let api: Api<PgRestore> = Api::namespaced(ctx.client.clone(), &namespace(protection));
    let restore = build_drill(protection, wanted, name);
    match request(api.create(&PostParams::default(), &restore)).await {
        Ok(_) => {
            tracing::info!(restore = name, "drill asked for");
            Ok(())
        }
        // The name says what it is for: it is the same one.
        Err(error) if error.is_conflict() => Ok(()),
        Err(cause) => Err(failed("create", format!("PgRestore {name}"))(cause)),
    }
}

async fn forget_drill(
    protection: &PgProtection,
    name: &str,
    uid: &str,
    ctx: &Context,
) -> Result<(), ActError> {
    let this_one = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    let params = DeleteParams::default().preconditions(this_one);
    let api: Api<PgRestore> = Api::namespaced(ctx.client.clone(), &namespace(protection));
    match request(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        // It is gone, or another one.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(cause) => Err(failed("delete", format!("PgRestore {name}"))(cause)),
    }
}

/// One that is not any more as it was seen is looked at again.
async fn expire(
    protection: &PgProtection,
    expired: &Expired,
    ctx: &Context,
) -> Result<(), ActError> {
    let Expired {
        name,
        uid,
        version,
        why,
    } = expired;
    let this_one = Preconditions {
        uid: Some(uid.clone()),
        resource_version: version.clone(),
    };
    let params = DeleteParams::default().preconditions(this_one);
    let namespace = namespace(protection);
    let api: Api<PgBackup> = Api::namespaced(ctx.client.clone(), &namespace);
    match request(api.delete(name, &params)).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => return Ok(()),
        Err(cause) => return Err(failed("delete", format!("PgBackup {name}"))(cause)),
    }
    tracing::info!(backup = name, "backup expired: {why}");
    let about = protection.object_ref(&());
    let note = format!("PgBackup {name} is deleted: {why}");
    ctx.events.normal(&about, "BackupExpired", note).await;
    ctx.metrics.expired(&namespace, &protection.name_any());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An owner would take every backup with it, by the garbage collector, whatever the finalizer decides.
    #[test]
    fn a_backup_has_no_owner() {
        let protection: PgProtection = serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
            "spec": {"statefulSet": "orders", "policy": "gold"},
        }))
        .unwrap();
        let backup = build_backup(&protection, "orders-1", BackupReason::default());
        assert_eq!(backup.metadata.owner_references, None);
        assert_eq!(backup.spec.protection, "orders");
        assert_eq!(backup.labels()[annotations::PROTECTION_LABEL], "orders");
    }
}
