//! Watches that one object cannot stop. An object that the API server has and this program cannot decode would make each
//! list fail, and with it all that the watch tells of the others.

use std::{collections::HashSet, fmt::Debug, mem};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Resource,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// An object that cannot be decoded.
pub type Undecodable = InvalidObject;

/// What a watch tells, object by object decoded or not.
pub type Guarded<K> = Event<DeserializeGuard<K>>;

/// A watch that goes on where objects cannot be decoded. Its pauses after a failure grow.
pub fn watch<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
) -> impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).default_backoff()
}

/// Those of `events` that can be decoded. `skipped` has the others: how many there are now, and one that is new among them.
/// What was there before it could not be decoded stays as it was until the next list.
pub fn decoded<K: Resource + Send>(
    events: impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send,
    mut skipped: impl FnMut(usize, Option<Undecodable>) + Send,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send {
    let mut sieve = Sieve::default();
    events.flat_map(move |event| {
        let passed = event.map(|event| {
            let before = sieve.known.len();
            let (passed, new) = sieve.sift(event);
            if new.is_some() || sieve.known.len() != before {
                skipped(sieve.known.len(), new);
            }
            passed
        });
        stream::iter(passed.transpose())
    })
}

/// Logs one.
pub fn warn(kind: &str, object: &Undecodable) {
    let metadata = &object.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    tracing::warn!(kind, namespace, name, error = %object, "failed to decode an object: it is left out");
}

/// The objects of one watch that cannot be decoded, by UID.
#[derive(Default)]
struct Sieve {
    known: HashSet<Option<String>>,
    listed: HashSet<Option<String>>,
}

impl Sieve {
    /// The event, if its object can be decoded; the object, if not and nobody has heard of it.
    fn sift<K: Resource>(&mut self, event: Guarded<K>) -> (Option<Event<K>>, Option<Undecodable>) {
        match event {
            Event::Init => {
                self.listed.clear();
                (Some(Event::Init), None)
            }
            Event::InitDone => {
                self.known = mem::take(&mut self.listed);
                (Some(Event::InitDone), None)
            }
            Event::InitApply(DeserializeGuard(Ok(object))) => {
                self.known.remove(&object.meta().uid);
                (Some(Event::InitApply(object)), None)
            }
            Event::Apply(DeserializeGuard(Ok(object))) => {
                self.known.remove(&object.meta().uid);
                (Some(Event::Apply(object)), None)
            }
            Event::Delete(DeserializeGuard(object)) => match object {
                Ok(object) => {
                    self.known.remove(&object.meta().uid);
                    (Some(Event::Delete(object)), None)
                }
                Err(object) => {
                    self.known.remove(&object.metadata.uid);
                    (None, None)
                }
            },
            Event::InitApply(DeserializeGuard(Err(object))) => {
                self.listed.insert(object.metadata.uid.clone());
                (None, self.know(object))
            }
            Event::Apply(DeserializeGuard(Err(object))) => (None, self.know(object)),
        }
    }

    fn know(&mut self, object: Undecodable) -> Option<Undecodable> {
        let new = self.known.insert(object.metadata.uid.clone());
        new.then_some(object)
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::PgRestore;

    fn restore(name: &str, time: &str) -> DeserializeGuard<PgRestore> {
        let object: Value = json!({
            "apiVersion": "highwater.dev/v1alpha1",
            "kind": "PgRestore",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1},
            "spec": {
                "source": {"protection": "orders"},
                "target": {"time": time},
                "into": {"statefulSet": "copy", "size": 5, "volumes": null},
            },
        });
        serde_json::from_value(object).unwrap()
    }

    fn good(name: &str) -> DeserializeGuard<PgRestore> {
        restore(name, "2026-11-30T14:03:12Z")
    }

    fn bad(name: &str) -> DeserializeGuard<PgRestore> {
        restore(name, "2026-11-31T14:03:12Z")
    }

    fn told(event: &Event<PgRestore>) -> String {
        match event {
            Event::Init => "Init".to_owned(),
            Event::InitDone => "InitDone".to_owned(),
            Event::InitApply(it) | Event::Apply(it) => it.name_any(),
            Event::Delete(it) => format!("-{}", it.name_any()),
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_decoded_leaves_the_others_alone_and_is_told_once() {
        let events = [
            Event::Init,
            Event::InitApply(good("a")),
            Event::InitApply(bad("b")),
            Event::InitApply(good("c")),
            Event::InitDone,
            Event::Apply(bad("b")),
            Event::Apply(bad("d")),
            Event::Apply(good("e")),
            Event::Init,
            Event::InitApply(good("a")),
            Event::InitApply(bad("d")),
            Event::InitDone,
            Event::Delete(good("a")),
            Event::Delete(bad("d")),
        ];
        let mut skipped = Vec::new();
        let events = stream::iter(events.map(Ok));
        let passed = decoded(events, |count, new: Option<Undecodable>| {
            let name = new.as_ref().and_then(|new| new.metadata.name.clone());
            if let Some(new) = new {
                assert!(new.error.contains("failed to parse time"), "{}", new.error);
            }
            skipped.push((count, name));
        });
        let passed: Vec<_> = passed.map(|event| told(&event.unwrap())).collect().await;
        let want = "Init a c InitDone e Init a InitDone -a";
        assert_eq!(passed.join(" "), want);
        let (b, d) = (Some("b".to_owned()), Some("d".to_owned()));
        assert_eq!(skipped, [(1, b), (2, d), (1, None), (0, None)]);
    }
}
