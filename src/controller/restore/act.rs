//! Carries out one step.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Service, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
    },
};
use serde_json::{Value as Json, json};

use super::{
    in_place,
    observe::Observed,
    phases,
    plan::{Step, Waiting},
    tell,
};
use crate::{
    api::{PgRestore, annotations, managers},
    controller::{Class, Context, PassError},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
    kubernetes::{RequestError, request},
};

/// The kinds that a restore makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The clone.
    StatefulSet,
    /// The clone's.
    Service,
    /// The recovery pod, or the clone's.
    Pod,
    /// A new claim.
    Claim,
    /// The recovery pod's.
    RoleBinding,
    /// The recovery pod's.
    ServiceAccount,
    /// An imported snapshot.
    VolumeSnapshot,
    /// Its content.
    VolumeSnapshotContent,
}

impl Kind {
    fn resource(self) -> ApiResource {
        match self {
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::Pod => ApiResource::erase::<Pod>(&()),
            Self::Claim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            Self::RoleBinding => ApiResource::erase::<RoleBinding>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::VolumeSnapshot => ApiResource::erase::<VolumeSnapshot>(&()),
            Self::VolumeSnapshotContent => ApiResource::erase::<VolumeSnapshotContent>(&()),
        }
    }

    fn api(self, observed: &Observed, ctx: &Context) -> Api<DynamicObject> {
        let resource = self.resource();
        match self {
            Self::VolumeSnapshotContent => Api::all_with(ctx.client.clone(), &resource),
            _ => Api::namespaced_with(ctx.client.clone(), &observed.identity.namespace, &resource),
        }
    }
}

/// An effect that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} {object}")]
pub struct ActError {
    verb: &'static str,
    object: String,
    #[source]
    cause: RequestError,
}

impl ActError {
    /// `object` could not be changed.
    pub(super) const fn new(verb: &'static str, object: String, cause: RequestError) -> Self {
        Self {
            verb,
            object,
            cause,
        }
    }

    /// Writing to `object` failed.
    pub(super) fn telling(object: String, cause: RequestError) -> Self {
        Self::new("write what came of it to", object, cause)
    }

    /// Why the API server refused the object itself, so that trying again cannot help.
    pub fn refused(&self) -> Option<String> {
        match self.cause.code() {
            Some(400 | 403 | 422) => Some(format!("{self}: {}", self.cause)),
            _ => None,
        }
    }
}

impl PassError for ActError {
    fn reason(&self) -> &'static str {
        self.cause.reason()
    }

    fn class(&self) -> Class {
        self.cause.class()
    }
}

/// The one effect of a pass.
pub async fn act(step: &Step, observed: &Observed, ctx: &Context) -> Result<(), ActError> {
    match step {
        Step::AddFinalizer => {
            let mut finalizers = observed.restore.finalizers().to_vec();
            finalizers.push(annotations::RESTORE_FINALIZER.to_owned());
            set_finalizers(&observed.restore, &finalizers, ctx).await
        }
        Step::RemoveFinalizer => {
            let mut finalizers = observed.restore.finalizers().to_vec();
            finalizers.retain(|finalizer| finalizer != annotations::RESTORE_FINALIZER);
            set_finalizers(&observed.restore, &finalizers, ctx).await
        }
        Step::Make(_, objects) => {
            for (kind, object) in objects {
                create(*kind, object, observed, ctx).await?;
            }
            Ok(())
        }
        Step::Exchange(effects) => in_place::act::act(effects, observed, ctx).await,
        Step::Tell(verdict) => tell::drilled(verdict, observed, ctx).await,
        Step::Complete(_) => match phases::last_restore(observed, step) {
            Some(last) => tell::restored(&last, observed, ctx).await,
            None => Ok(()),
        },
        Step::Remove(made) | Step::Wait(Waiting { remove: made, .. }) => {
            for (kind, name) in made {
                remove(*kind, name, observed, ctx).await?;
            }
            Ok(())
        }
        Step::Rest
        | Step::Keep(_)
        | Step::Fail(_)
        | Step::Show(_)
        | Step::WriteDown(_)
        | Step::WriteDownExchange(_) => Ok(()),
    }
}

/// Names the `resourceVersion`, as a list of finalizers is replaced as a whole.
async fn set_finalizers(
    restore: &PgRestore,
    finalizers: &[String],
    ctx: &Context,
) -> Result<(), ActError> {
    let namespace = restore.namespace().unwrap_or_default();
    let api: Api<PgRestore> = Api::namespaced(ctx.client.clone(), &namespace);
    let patch = json!({"metadata": {
        "resourceVersion": restore.resource_version(),
        "finalizers": finalizers,
    }});
    let params = PatchParams {
        field_manager: Some(managers::CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    match request(api.patch_metadata(&restore.name_any(), &params, &Patch::Merge(patch))).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(cause) => Err(ActError {
            verb: "set the finalizers of",
            object: format!("PgRestore {}", restore.name_any()),
            cause,
        }),
    }
}

/// One that exists already is looked at in the next pass: ours, or a name that is taken.
pub(super) async fn create(
    kind: Kind,
    object: &Json,
    observed: &Observed,
    ctx: &Context,
) -> Result<(), ActError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let failed = |cause| ActError {
        verb: "create",
        object: format!("{} {name}", kind.resource().kind),
        cause,
    };
    let parsed: DynamicObject = serde_json::from_value(object.clone())
        .map_err(|error| failed(RequestError::Kube(kube::Error::SerdeError(error))))?;
    let params = PostParams {
        field_manager: Some(managers::CONTROLLER.to_owned()),
        ..PostParams::default()
    };
    match request(kind.api(observed, ctx).create(&params, &parsed)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Ok(()),
        Err(cause) => Err(failed(cause)),
    }
}

/// Only if it is ours still.
async fn remove(
    kind: Kind,
    name: &str,
    observed: &Observed,
    ctx: &Context,
) -> Result<(), ActError> {
    let failed = |cause| ActError {
        verb: "delete",
        object: format!("{} {name}", kind.resource().kind),
        cause,
    };
    let api = kind.api(observed, ctx);
    let Some(found) = request(api.get_metadata_opt(name)).await.map_err(failed)? else {
        return Ok(());
    };
    if !observed.is_ours(&found.metadata) || found.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let params = DeleteParams::background().preconditions(Preconditions {
        uid: found.metadata.uid,
        resource_version: None,
    });
    match request(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(cause) => Err(failed(cause)),
    }
}
