//! Carries out one part of an exchange.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, PersistentVolumeClaim},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value as Json, json};

use super::super::{
    act::{ActError, Kind, create},
    observe::Observed,
};
use crate::{
    api::managers,
    controller::Context,
    kubernetes::{RequestError, request},
};

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// What becomes of a PersistentVolume whose claim goes.
    Policy {
        /// The PersistentVolume.
        volume: String,
        /// `Retain` or `Delete`.
        policy: String,
    },
    /// A PersistentVolume is for this claim, and for no other.
    Reserve {
        /// The PersistentVolume.
        volume: String,
        /// The claim, which need not exist yet.
        claim: String,
    },
    /// A claim goes; its volume stays.
    DeleteClaim {
        /// Its name.
        name: String,
        /// Its UID: one that was made meanwhile stays.
        uid: String,
    },
    /// A claim or a VolumeSnapshot.
    Make(Kind, Json),
    /// How many pods a StatefulSet asks for.
    Scale {
        /// The StatefulSet.
        set: String,
        /// So many.
        replicas: i32,
    },
}

/// The one effect of a pass: these, in this order, up to the first that fails.
///
/// # Errors
/// As any request.
pub async fn act(effects: &[Effect], observed: &Observed, ctx: &Context) -> Result<(), ActError> {
    for effect in effects {
        one(effect, observed, ctx).await?;
    }
    Ok(())
}

async fn one(effect: &Effect, observed: &Observed, ctx: &Context) -> Result<(), ActError> {
    let namespace = &observed.identity.namespace;
    match effect {
        Effect::Policy { volume, policy } => {
            let patch = json!({"spec": {"persistentVolumeReclaimPolicy": policy}});
            let patched = patch_volume(&ctx.client, volume, patch, false).await;
            patched.map_err(|cause| failed("set the reclaim policy of", volume, cause))
        }
        Effect::Reserve { volume, claim } => {
            // Without a UID the volume is bound to the claim of that name, once there is one.
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": namespace, "name": claim, "uid": null, "resourceVersion": null,
            });
            let patch = json!({"spec": {"claimRef": claim}});
            let patched = patch_volume(&ctx.client, volume, patch, false).await;
            patched.map_err(|cause| failed("set the claim of", volume, cause))
        }
        Effect::DeleteClaim { name, uid } => {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
            let params = DeleteParams::default().preconditions(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            });
            match request(api.delete(name, &params)).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
                Err(cause) => {
                    let object = format!("PersistentVolumeClaim {name}");
                    Err(ActError::new("delete", object, cause))
                }
            }
        }
        Effect::Make(kind, object) => create(*kind, object, observed, ctx).await,
        Effect::Scale { set, replicas } => scale(&ctx.client, namespace, set, Some(*replicas))
            .await
            .map_err(|cause| ActError::new("scale", format!("StatefulSet {set}"), cause)),
    }
}

fn failed(verb: &'static str, volume: &str, cause: RequestError) -> ActError {
    ActError::new(verb, format!("PersistentVolume {volume}"), cause)
}

fn params(dry_run: bool) -> PatchParams {
    PatchParams {
        dry_run,
        field_manager: Some(managers::CONTROLLER.to_owned()),
        ..PatchParams::default()
    }
}

/// Changes a PersistentVolume, or with `dry_run` finds out whether it could be.
///
/// # Errors
/// As any request.
pub(super) async fn patch_volume(
    client: &Client,
    volume: &str,
    patch: Json,
    dry_run: bool,
) -> Result<(), RequestError> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let patch = Patch::Merge(patch);
    let patched = request(api.patch(volume, &params(dry_run), &patch)).await;
    patched.map(drop)
}

/// Scales a StatefulSet; without `replicas`, finds out whether it could be scaled.
///
/// # Errors
/// As any request.
pub(super) async fn scale(
    client: &Client,
    namespace: &str,
    set: &str,
    replicas: Option<i32>,
) -> Result<(), RequestError> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let patch = match replicas {
        Some(replicas) => json!({"spec": {"replicas": replicas}}),
        None => json!({}),
    };
    let (params, patch) = (params(replicas.is_none()), Patch::Merge(patch));
    let scaled = request(api.patch_scale(set, &params, &patch)).await;
    scaled.map(drop)
}
