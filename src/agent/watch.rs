//! What the agent reads from the Kubernetes API: watches that keep only what is alive and ours.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::config::{NotReady, Wanted, resolve};
use crate::{
    api::{PgArchive, PgBackupPolicy, PgProtection},
    controller::context::Chain,
    guarded::{self, Guarded},
};

/// The objects of a kind that are kept, by name. `None` until they were listed once.
pub type Objects<K> = Option<BTreeMap<String, Arc<K>>>;

/// Keeps `objects` as the API server has them; those that `keep` refuses are left out. Ends only if its receivers do.
pub async fn collect<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    keep: impl Fn(&K) -> bool,
    objects: watch::Sender<Objects<K>>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    gather(guarded::watch(api, config), keep, objects).await;
}

/// An object that cannot be decoded stops no other, and stays what it was when it was decoded last.
async fn gather<K: Resource<DynamicType = ()>>(
    events: impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send,
    keep: impl Fn(&K) -> bool,
    objects: watch::Sender<Objects<K>>,
) {
    let mut events = events.boxed();
    let mut listed = BTreeMap::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), error = %Chain(&error), "watch failed");
                continue;
            }
        };
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(DeserializeGuard(Ok(object))) => {
                if keep(&object) {
                    listed.insert(object.name_any(), Arc::new(object));
                }
            }
            Event::InitApply(DeserializeGuard(Err(object))) => {
                guarded::warn(&K::kind(&()), &object);
                let name = object.metadata.name.unwrap_or_default();
                let known = objects.borrow();
                if let Some(known) = known.as_ref().and_then(|known| known.get(&name)) {
                    listed.insert(name, known.clone());
                }
            }
            Event::InitDone => {
                objects.send_replace(Some(std::mem::take(&mut listed)));
            }
            Event::Apply(DeserializeGuard(Ok(object))) => apply(&objects, object, &keep),
            Event::Apply(DeserializeGuard(Err(object))) => {
                guarded::warn(&K::kind(&()), &object);
            }
            Event::Delete(object) => {
                change(&objects, |map| map.remove(&object.name_any()).is_some());
            }
        }
    }
}

fn apply<K: Resource>(objects: &watch::Sender<Objects<K>>, object: K, keep: impl Fn(&K) -> bool) {
    change(objects, |map| {
        let name = object.name_any();
        match keep(&object) {
            true => {
                map.insert(name, Arc::new(object));
                true
            }
            false => map.remove(&name).is_some(),
        }
    });
}

fn change<K>(
    objects: &watch::Sender<Objects<K>>,
    edit: impl FnOnce(&mut BTreeMap<String, Arc<K>>) -> bool,
) {
    objects.send_if_modified(|objects| objects.as_mut().is_some_and(edit));
}

/// Where the three objects of the configuration come from.
pub struct Sources {
    /// At most the one protection.
    pub protection: watch::Receiver<Objects<PgProtection>>,
    /// The policies of the namespace.
    pub policies: watch::Receiver<Objects<PgBackupPolicy>>,
    /// The archives of the namespace.
    pub archives: watch::Receiver<Objects<PgArchive>>,
}

impl Sources {
    /// Keeps `wanted` up to date. Ends when a watch does.
    pub async fn follow(mut self, wanted: watch::Sender<Wanted>) {
        loop {
            let now = self.read();
            wanted.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
            let changed = tokio::select! {
                changed = self.protection.changed() => changed,
                changed = self.policies.changed() => changed,
                changed = self.archives.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn read(&mut self) -> Wanted {
        let protection = self.protection.borrow_and_update();
        let policies = self.policies.borrow_and_update();
        let archives = self.archives.borrow_and_update();
        let (Some(protections), Some(policies), Some(archives)) =
            (&*protection, &*policies, &*archives)
        else {
            return Wanted::Nothing(NotReady::Starting);
        };
        let Some(protection) = protections.values().next() else {
            return Wanted::Nothing(NotReady::NotAccepted);
        };
        let policy = policies.get(&protection.spec.policy);
        let archive = policy.and_then(|policy| archives.get(&policy.spec.archive));
        resolve(
            protection,
            policy.map(AsRef::as_ref),
            archive.map(AsRef::as_ref),
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::json;

    use super::*;

    fn policy(name: &str, archive: &str, ceiling: &str) -> DeserializeGuard<PgBackupPolicy> {
        let object = json!({
            "metadata": {"name": name},
            "spec": {"archive": archive, "wal": {"slotCeiling": ceiling}},
        });
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_decoded_stops_no_other_and_stays_what_it_was() {
        let (sender, objects) = watch::channel(None);
        let too_much = "99999999Ti";
        let events = [
            Event::Init,
            Event::InitApply(policy("a", "one", "1Gi")),
            Event::InitApply(policy("b", "one", too_much)),
            Event::InitDone,
            Event::Apply(policy("a", "two", too_much)),
            Event::Apply(policy("c", "one", "1Gi")),
            Event::Init,
            Event::InitApply(policy("a", "two", too_much)),
            Event::InitApply(policy("b", "one", too_much)),
            Event::InitApply(policy("d", "one", "1Gi")),
            Event::InitDone,
        ];
        gather(stream::iter(events.map(Ok)), |_| true, sender).await;
        let objects = objects.borrow();
        let objects = objects.iter().flatten();
        let seen: Vec<_> = objects
            .map(|(name, policy)| (name.as_str(), policy.spec.archive.as_str()))
            .collect();
        assert_eq!(seen, [("a", "one"), ("d", "one")]);
    }
}
