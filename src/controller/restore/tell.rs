//! What a restore says of the backup that it began with, and of the protection of that.

use kube::Api;
use serde_json::json;

use super::{
    act::ActError,
    drill::{self, Verdict},
    observe::Observed,
};
use crate::{
    api::{
        LastRestore, PgBackup, PgProtection,
        conditions::{self, VERIFIED},
        managers,
    },
    controller::{Context, context::Chain},
    kubernetes::{RequestError, apply_status},
};

/// What a drill found.
///
/// # Errors
/// As any request.
pub async fn drilled(
    verdict: &Verdict,
    observed: &Observed,
    ctx: &Context,
) -> Result<(), ActError> {
    let namespace = &observed.identity.namespace;
    if let Some(name) = &verdict.backup {
        verified(name, verdict, observed, ctx).await?;
    }
    let before = observed
        .protection
        .as_ref()
        .and_then(|it| it.status.as_ref());
    let before = before.and_then(|status| status.last_verified.as_ref());
    if let (Some(name), Some(passed)) = (&verdict.protection, &verdict.passed)
        && drill::is_newer(passed, before)
    {
        let api: Api<PgProtection> = Api::namespaced(ctx.client.clone(), namespace);
        let status = json!({"lastVerified": passed});
        applied(apply_status(&api, name, managers::VERIFICATION, &status).await)
            .map_err(|cause| ActError::telling(format!("PgProtection {name}"), cause))?;
    }
    let outcome = verdict.passed.as_ref().map_or("Failed", |_| "Passed");
    let protection = verdict.protection.as_deref().unwrap_or_default();
    ctx.metrics.drill(namespace, protection, outcome);
    Ok(())
}

async fn verified(
    name: &str,
    verdict: &Verdict,
    observed: &Observed,
    ctx: &Context,
) -> Result<(), ActError> {
    let api: Api<PgBackup> = Api::namespaced(ctx.client.clone(), &observed.identity.namespace);
    let backup = observed.backup.as_ref();
    let before = backup.and_then(|backup| backup.status.as_ref());
    let before = before.map_or(&[][..], |status| &status.conditions);
    let mut conditions = conditions::owned(before, &[VERIFIED]);
    conditions::upsert(
        &mut conditions,
        VERIFIED,
        verdict.status(),
        &verdict.reason,
        &verdict.message,
        backup.and_then(|it| it.metadata.generation),
        ctx.clock.now(),
    );
    let status = json!({"conditions": conditions});
    applied(apply_status(&api, name, managers::VERIFICATION, &status).await)
        .map_err(|cause| ActError::telling(format!("PgBackup {name}"), cause))
}

/// What a completed restore took. One that is as good as done is not held up where the API server refuses this.
///
/// # Errors
/// As any request, where another try may help.
pub async fn restored(
    last: &LastRestore,
    observed: &Observed,
    ctx: &Context,
) -> Result<(), ActError> {
    let protection = observed.protection.as_ref();
    let Some(name) = protection.and_then(|it| it.metadata.name.as_deref()) else {
        return Ok(());
    };
    let api: Api<PgProtection> = Api::namespaced(ctx.client.clone(), &observed.identity.namespace);
    let status = json!({"lastRestore": last});
    let told = applied(apply_status(&api, name, managers::LAST_RESTORE, &status).await);
    match told.map_err(|cause| ActError::telling(format!("PgProtection {name}"), cause)) {
        Err(error) if error.refused().is_some() => {
            tracing::warn!(error = %Chain(&error), "what a restore took is not told");
            Ok(())
        }
        told => told,
    }
}

/// What is gone by now needs no word.
fn applied<K>(outcome: Result<K, RequestError>) -> Result<(), RequestError> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
