//! PgRestore: claims from a backup's snapshots, a recovery pod that replays WAL on them, and a StatefulSet like the
//! source's on the result. Nothing of the source is touched, unless the restore is to go in its place.

mod act;
mod check;
mod claims;
mod clone;
mod drill;
mod ending;
mod granted;
mod in_place;
mod observe;
mod overrides;
mod phases;
mod plan;
mod planning;
mod pod;
mod recorded;
mod references;
mod report;
mod running;
mod source;
mod tell;
mod undecodable;
mod validate;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::{Class, Context, PassError, drive, error_policy};
use crate::{
    api::{PgRestore, annotations, names},
    csi::VolumeSnapshot,
    kubernetes::RequestError,
};

/// Why a restore cannot be carried out: `Completed=False`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One word in CamelCase.
    pub reason: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Which restore it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace, where everything is made.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: what carries it as a label is this restore's.
    pub uid: String,
}

impl Identity {
    /// Of this object.
    pub fn of(restore: &PgRestore) -> Self {
        Self {
            namespace: restore.namespace().unwrap_or_default(),
            name: restore.name_any(),
            uid: restore.uid().unwrap_or_default(),
        }
    }

    /// The labels of everything that this restore makes.
    pub fn label_map(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (
                annotations::RESTORE_LABEL.to_owned(),
                names::label(&self.name),
            ),
            (annotations::RESTORE_UID_LABEL.to_owned(), self.uid.clone()),
        ])
    }

    fn labels(&self) -> Json {
        json!(self.label_map())
    }

    fn owner_reference(&self) -> Json {
        json!({
            "apiVersion": "highwater.dev/v1alpha1",
            "kind": "PgRestore",
            "name": self.name,
            "uid": self.uid,
            "controller": true,
        })
    }
}

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("failed to observe PgRestore {name}")]
    Observe {
        /// The restore.
        name: String,
        /// Why.
        #[source]
        cause: RequestError,
    },
    /// The effect failed.
    #[error(transparent)]
    Act(#[from] act::ActError),
    /// The status could not be written.
    #[error("failed to report PgRestore {name}")]
    Report {
        /// The restore.
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

/// One pass over one restore.
async fn reconcile(restore: Arc<PgRestore>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = restore.name_any();
    let now = ctx.clock.now();
    // Two that find nobody else would both begin.
    let _alone = match drill::is_one(&restore) {
        true => Some(ctx.drills.lock().await),
        false => None,
    };
    let observed = observe::observe(&restore, now, &ctx)
        .await
        .map_err(|cause| Error::Observe {
            name: name.clone(),
            cause,
        })?;
    let Some(observed) = observed else {
        return Ok(Action::await_change());
    };
    let step = plan::plan(&observed, &ctx.image);
    let outcome = act::act(&step, &observed, &ctx).await;
    report::report(&observed, &step, outcome.as_ref().err(), now, &ctx)
        .await
        .map_err(|cause| Error::Report { name, cause })?;
    outcome?;
    Ok(step.requeue())
}

/// Runs until a watch ends.
pub async fn run(ctx: Arc<Context>) {
    let (sender, undecodable) = mpsc::unbounded_channel();
    let (store, writer) = reflector::store();
    // An error is that nobody listens any more: the process ends.
    let restores = ctx.decoded(move |object| sender.send(object).unwrap_or_default());
    let restores = restores.reflect(writer).applied_objects();
    let controller = Controller::for_stream(restores, store.clone());
    let ours = || watcher::Config::default().labels(annotations::RESTORE_UID_LABEL);
    let stream = controller
        .watches(ctx.watched::<Pod>(), ours(), by_label(store.clone()))
        .watches(
            ctx.watched::<PersistentVolumeClaim>(),
            ours(),
            by_label(store.clone()),
        )
        .watches(
            ctx.watched::<PartialObjectMeta<StatefulSet>>(),
            ours(),
            by_label(store.clone()),
        )
        .watches(ctx.watched::<VolumeSnapshot>(), ours(), by_label(store))
        .run(reconcile, error_policy, ctx.clone());
    tokio::select! {
        () = drive("restore", ctx.clone(), stream) => {}
        () = undecodable::tell(ctx, undecodable) => {}
    }
}

/// Maps what a restore made to the restore.
fn by_label<K: ResourceExt>(
    store: Store<PgRestore>,
) -> impl Fn(K) -> Option<ObjectRef<PgRestore>> + Send + Sync {
    move |object| {
        let uid = object.labels().get(annotations::RESTORE_UID_LABEL)?;
        let restore = store.find(|restore| restore.uid().as_ref() == Some(uid))?;
        Some(ObjectRef::from_obj(&*restore))
    }
}
