//! What every controller gets: the client, the clock, events, metrics; and how a failed pass is tried again.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt};
use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        controller::{Action, Error as ControllerError},
        reflector::{self, Lookup, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;

use super::{backup::Limits, events::Events, metrics::Metrics, scope::Scope};
use crate::{
    clock::Clock,
    guarded::{self, Undecodable},
    kubernetes::RequestError,
};

/// Shared by all controllers of this process.
pub struct Context {
    /// The client; wrap every call in [`crate::kubernetes::request`].
    pub client: Client,
    /// The wall clock; a pass reads it once.
    pub clock: Arc<dyn Clock>,
    /// The one recorder of events.
    pub events: Events,
    /// The image of the agents and of the recovery pods' init container.
    pub image: Image,
    /// Where the controllers work.
    pub scope: Scope,
    /// Counters.
    pub metrics: Metrics,
    /// How many backups may be on their way into backup mode, or in it, at once.
    pub backups_at_once: Limits,
    /// How many drills may run at once.
    pub drills_at_once: usize,
    /// Held by a drill's pass while it finds out whether it may begin.
    pub drills: tokio::sync::Mutex<()>,
    /// Passes that failed in a row, by object.
    failures: Failures,
}

/// An image as a pod spec has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name with tag or digest.
    pub name: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
}

impl Context {
    /// A context without history.
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        events: Events,
        image: Image,
        scope: Scope,
    ) -> Self {
        Self {
            client,
            clock,
            events,
            image,
            scope,
            metrics: Metrics::default(),
            backups_at_once: Limits::default(),
            drills_at_once: 1,
            drills: tokio::sync::Mutex::default(),
            failures: Failures::default(),
        }
    }

    /// The objects of a namespaced kind that the controllers watch.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let client = self.client.clone();
        match &self.scope {
            Scope::Cluster => Api::all(client),
            Scope::Namespace(namespace) => Api::namespaced(client, namespace),
        }
    }

    /// A watch of all objects of a namespaced kind. Those that cannot be decoded stop nothing: each is logged, counted, and
    /// handed to `skipped` once.
    pub fn decoded<K, F>(
        &self,
        mut skipped: F,
    ) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K, F>
    where
        F: FnMut(Undecodable) + Send,
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + fmt::Debug
            + Send
            + 'static,
    {
        let metrics = self.metrics.clone();
        let events = guarded::watch(self.watched(), watcher::Config::default());
        guarded::decoded(events, move |count, new| {
            let kind = K::kind(&());
            metrics.undecodable(&kind, count);
            if let Some(object) = new {
                guarded::warn(&kind, &object);
                skipped(object);
            }
        })
    }

    /// A watch of all objects of a namespaced kind: its store, and what it tells of as it comes, changes and goes. The store
    /// has it first. The stream must be polled.
    pub fn told<K>(
        &self,
    ) -> (
        Store<K>,
        impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>,
    )
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = reflector::store();
        let events = self
            .decoded(drop)
            .modify(|object: &mut K| object.meta_mut().managed_fields = None)
            .reflect(writer);
        (store, events.touched_objects())
    }
}

/// Whether a watch has told of everything that is there once.
pub fn is_ready<K>(store: &Store<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    matches!(store.wait_until_ready().now_or_never(), Some(Ok(())))
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Yes: the pass is repeated, each time after a longer pause.
    Transient,
    /// No: only a change of the object or of what it names helps. The pass is repeated rarely.
    Terminal,
}

/// An error that a reconciler may return.
pub trait PassError: std::error::Error + Send + 'static {
    /// One word in CamelCase for logs and metrics, from a fixed set.
    fn reason(&self) -> &'static str;

    /// Whether trying again can help. From types and status codes, never from text.
    fn class(&self) -> Class;
}

impl PassError for RequestError {
    fn reason(&self) -> &'static str {
        match self.code() {
            Some(403) => "Forbidden",
            Some(404) => "NotFound",
            Some(409) => "Conflict",
            Some(422) => "Invalid",
            Some(_) => "ApiError",
            None => "ApiUnreachable",
        }
    }

    fn class(&self) -> Class {
        match self.code() {
            // A right may be granted, but nobody gains from asking every second.
            Some(400 | 403 | 422) => Class::Terminal,
            _ => Class::Transient,
        }
    }
}

/// The first pause after a transient error; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause after a transient error.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause after a terminal error.
const TERMINAL_PAUSE: Duration = Duration::from_secs(60);

/// For [`kube::runtime::Controller::run`]: the pause that the error's class and the failures in a row give.
#[allow(clippy::needless_pass_by_value, reason = "the signature is kube's")]
pub fn error_policy<K, E>(object: Arc<K>, error: &E, ctx: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
    E: PassError,
{
    let key = key_of(&ObjectRef::from_obj(&*object));
    let failures = ctx.failures.count(key);
    Action::requeue(pause(error.class(), failures, random()))
}

/// The pause after `failures` failures in a row; `jitter` spreads it over half to whole.
fn pause(class: Class, failures: u32, jitter: u32) -> Duration {
    let base = match class {
        Class::Terminal => TERMINAL_PAUSE,
        Class::Transient => FIRST_PAUSE
            .saturating_mul(1 << failures.saturating_sub(1).min(16))
            .min(LONGEST_PAUSE),
    };
    base / 2 + (base / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX))
}

/// Enough for jitter, and no dependency.
fn random() -> u32 {
    let word = RandomState::new().build_hasher().finish();
    u32::try_from(word >> 32).unwrap_or_default()
}

/// Runs a controller's stream to its end: each error is logged and counted here, once.
pub async fn drive<K, E>(
    controller: &'static str,
    ctx: Arc<Context>,
    stream: impl Stream<Item = Result<(ObjectRef<K>, Action), ControllerError<E, watcher::Error>>>,
) where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()>,
    E: PassError,
{
    let mut stream = std::pin::pin!(stream);
    while let Some(outcome) = stream.next().await {
        match outcome {
            Ok((object, _)) => {
                ctx.failures.forget(&key_of(&object));
                ctx.metrics.pass(controller, "Ok");
            }
            Err(ControllerError::ReconcilerFailed(error, object)) => {
                ctx.metrics.pass(controller, error.reason());
                tracing::warn!(controller, object = %Named(&object), reason = error.reason(), error = %Chain(&error), "pass failed");
            }
            // The object went while its pass was queued.
            Err(ControllerError::ObjectNotFound(_)) => {}
            Err(error) => {
                ctx.metrics.pass(controller, "WatchFailed");
                tracing::warn!(controller, error = %Chain(&error), "watch failed");
            }
        }
    }
}

/// `namespace/name` of an object.
struct Named<'a, K: Lookup>(&'a ObjectRef<K>);

impl<K: Lookup> fmt::Display for Named<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.0.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.0.name)
    }
}

/// An error with its causes, each once.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        f.write_str(&text)
    }
}

fn key_of<K: Resource<DynamicType = ()> + Lookup<DynamicType = ()>>(object: &ObjectRef<K>) -> Key {
    Key {
        kind: <K as Resource>::kind(&()).into_owned(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: String,
    namespace: Option<String>,
    name: String,
}

/// Failures in a row. Holds failing objects only.
#[derive(Default)]
struct Failures(Mutex<HashMap<Key, u32>>);

impl Failures {
    fn count(&self, key: Key) -> u32 {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn forget(&self, key: &Key) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_ceiling_and_are_spread() {
        let millis = |failures, jitter| pause(Class::Transient, failures, jitter).as_millis();
        for (failures, least, most) in [
            (1, 100, 200),
            (2, 200, 400),
            (5, 1600, 3200),
            (60, 15_000, 30_000),
        ] {
            assert_eq!(millis(failures, 0), least, "{failures}");
            assert_eq!(millis(failures, u32::MAX), most, "{failures}");
        }
        assert_eq!(pause(Class::Terminal, 1, u32::MAX), TERMINAL_PAUSE);
    }

    #[test]
    fn failures_are_counted_by_object_until_one_pass_succeeds() {
        let key = |name: &str| Key {
            kind: "PgBackup".into(),
            namespace: Some("shop".into()),
            name: name.into(),
        };
        let failures = Failures::default();
        assert_eq!(failures.count(key("a")), 1);
        assert_eq!(failures.count(key("a")), 2);
        assert_eq!(failures.count(key("b")), 1);
        failures.forget(&key("a"));
        assert_eq!(failures.count(key("a")), 1);
    }
}
