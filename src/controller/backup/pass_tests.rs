//! Whole passes over one backup, against an API server that answers from memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::{
    Client,
    client::Body,
    runtime::{controller::Action, reflector},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Backups, Error, Limits, at_once::AtOnce, attempt::SnapshotSet, group::tests::grouped,
    model::base::base, observe::Observed, reconcile, told::Told,
};
use crate::{
    api::{
        PgBackup, annotations,
        conditions::{self, ACCEPTED, COMPLETED},
    },
    clock::Clock,
    controller::{Class, Context, Events, Image, PassError, Scope},
};

const BACKUP: &str = "/apis/highwater.dev/v1alpha1/namespaces/shop/pgbackups/nightly";
const PROTECTION: &str = "/apis/highwater.dev/v1alpha1/namespaces/shop/pgprotections/orders";
/// Of the backup: the deadline over all attempts is an hour.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// How the API server takes the turn.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    Kept,
    LeftOut,
    Refused(u16),
}

/// The objects by path, and the writes that it was asked for.
struct Server {
    objects: BTreeMap<String, Value>,
    taken: Taken,
    writes: Vec<String>,
    requests: usize,
}

impl Server {
    fn of(observed: &Observed, taken: Taken) -> Self {
        let mut server = Self {
            objects: BTreeMap::new(),
            taken,
            writes: Vec::new(),
            requests: 0,
        };
        let source = observed.source.as_ref().unwrap();
        let highwater = "/apis/highwater.dev/v1alpha1/namespaces/shop";
        let class = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses/cow";
        server.put(BACKUP, &observed.backup);
        server.put(PROTECTION, &observed.protection);
        server.put(
            &format!("{highwater}/pgbackuppolicies/gold"),
            &observed.policy,
        );
        let owner = "/apis/apps/v1/namespaces/shop/statefulsets/orders";
        server.put(owner, &source.stateful_set);
        server.put("/api/v1/namespaces/shop/pods/orders-0", &source.pod);
        for (name, claim) in &source.claims {
            let claims = "/api/v1/namespaces/shop/persistentvolumeclaims";
            server.put(&format!("{claims}/{name}"), claim);
        }
        for (name, volume) in &source.volumes {
            server.put(&format!("/api/v1/persistentvolumes/{name}"), volume);
        }
        server.put(class, &source.classes[0]);
        server
    }

    fn put(&mut self, path: &str, object: &impl Serialize) {
        let object = serde_json::to_value(object).unwrap();
        self.objects.insert(path.to_owned(), object);
    }

    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        self.requests += 1;
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => self.list(path),
            },
            Method::PATCH => self.patch(path, body),
            _ => (201, json!({"metadata": {"name": "event"}})),
        }
    }

    /// Of kinds that have objects here.
    fn list(&self, path: &str) -> (u16, Value) {
        let below = format!("{path}/");
        let items = self.objects.iter().filter(|(at, _)| at.starts_with(&below));
        let items: Vec<_> = items.map(|(_, object)| object.clone()).collect();
        match items.is_empty() {
            true => refusal(404),
            false => (200, json!({"metadata": {}, "items": items})),
        }
    }

    fn patch(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let at = path.trim_end_matches("/status").to_owned();
        let mut status = body["status"].clone();
        if at == PROTECTION {
            match self.taken {
                Taken::Kept => {}
                Taken::LeftOut => status = json!({}),
                // From another port each time.
                Taken::Refused(code) => return refusal_by(code, self.requests),
            }
        }
        let Some(object) = self.objects.get_mut(&at) else {
            return refusal(404);
        };
        self.writes.push(at);
        for (field, value) in status.as_object().into_iter().flatten() {
            object["status"][field] = value.clone();
        }
        object["metadata"]["resourceVersion"] = json!(self.writes.len().to_string());
        (200, object.clone())
    }
}

fn refusal(code: u16) -> (u16, Value) {
    refusal_by(code, 0)
}

fn refusal_by(code: u16, port: usize) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "R" };
    let message = format!("webhook \"site\" denied the request from 10.0.0.1:{port}");
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    (code, status)
}

struct At(Mutex<Timestamp>);

impl Clock for At {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// A controller and its API server.
struct Site {
    server: Arc<Mutex<Server>>,
    clock: Arc<At>,
    backups: Arc<Backups>,
}

impl Site {
    fn new(observed: &Observed, taken: Taken) -> Self {
        let server = Arc::new(Mutex::new(Server::of(observed, taken)));
        let answering = server.clone();
        let client = tower::service_fn(move |request: Request<Body>| {
            let server = answering.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let path = parts.uri.path().to_owned();
                let answer = server.lock().unwrap().answer(&parts.method, &path, &body);
                let response = Response::builder().status(answer.0);
                let answer = serde_json::to_vec(&answer.1).unwrap();
                Ok::<_, std::convert::Infallible>(response.body(Body::from(answer)).unwrap())
            }
        });
        let client = Client::new(client, "shop");
        let clock = Arc::new(At(Mutex::new(CREATED.parse().unwrap())));
        let image = Image {
            name: "highwater".to_owned(),
            pull_policy: "Never".to_owned(),
        };
        let ctx = Context::new(
            client.clone(),
            clock.clone(),
            Events::new(client, "highwater-controller", None),
            image,
            Scope::Cluster,
        );
        let backups = Arc::new(Backups {
            ctx: Arc::new(ctx),
            wake: Arc::default(),
            at_once: Arc::new(AtOnce::new(Limits {
                total: 1,
                ..Limits::default()
            })),
            told: untold(),
        });
        Self {
            server,
            clock,
            backups,
        }
    }

    fn backup(&self) -> PgBackup {
        let server = self.server.lock().unwrap();
        serde_json::from_value(server.objects[BACKUP].clone()).unwrap()
    }

    /// A pass, when the watch has told of the last write.
    async fn pass(&self, minute: i64) -> Result<Action, Error> {
        let created: Timestamp = CREATED.parse().unwrap();
        *self.clock.0.lock().unwrap() = created + jiff::SignedDuration::from_mins(minute);
        // As the controller does: it is large.
        Box::pin(reconcile(Arc::new(self.backup()), self.backups.clone())).await
    }

    /// Status, reason and message of a condition.
    fn said(&self, type_: &str) -> Option<(String, String, String)> {
        let status = self.backup().status?;
        let it = conditions::find(&status.conditions, type_)?;
        Some((it.status.clone(), it.reason.clone(), it.message.clone()))
    }

    fn writes(&self) -> Vec<String> {
        self.server.lock().unwrap().writes.clone()
    }
}

/// Watches that have told of nothing yet.
fn untold() -> Told {
    Told {
        backups: reflector::store().0,
        protections: reflector::store().0,
        policies: reflector::store().0,
        snapshots: reflector::store().0,
        contents: reflector::store().0,
        written: Default::default(),
        trust: Default::default(),
    }
}

/// A backup that may begin.
fn ready() -> Observed {
    let mut observed = base();
    observed.backup.metadata.finalizers = Some(vec![annotations::BACKUP_FINALIZER.to_owned()]);
    observed
}

#[tokio::test]
async fn a_backup_that_takes_its_turn_begins() {
    let site = Site::new(&ready(), Taken::Kept);
    site.pass(0).await.unwrap();
    assert_eq!(site.said(ACCEPTED).unwrap().0, "True");
    assert_eq!(site.writes(), [PROTECTION, BACKUP]);
}

#[tokio::test]
async fn a_turn_that_cannot_be_taken_is_told_and_is_what_the_backup_ends_by() {
    for (taken, outcome, reason, word) in [
        (Taken::Refused(403), "Forbidden", "TurnRefused", "denied"),
        (Taken::Refused(422), "Invalid", "TurnRefused", "denied"),
        (Taken::Refused(500), "ApiError", "TurnRefused", "denied"),
        (Taken::LeftOut, "TurnNotKept", "TurnNotKept", "CRDs"),
    ] {
        let site = Site::new(&ready(), taken);
        let error = site.pass(0).await.unwrap_err();
        assert_eq!(error.reason(), outcome, "{error}");
        let (status, said, message) = site.said(ACCEPTED).unwrap();
        assert_eq!((&*status, &*said), ("False", reason));
        assert!(message.contains(word), "{message}");
        assert_eq!(site.said(COMPLETED).unwrap().0, "Unknown");

        let told = |site: &Site| site.writes().iter().filter(|at| *at == BACKUP).count();
        site.pass(59).await.unwrap_err();
        assert_eq!(told(&site), 1, "nothing is told twice");

        site.pass(60).await.unwrap();
        let ended = ("False".to_owned(), reason.to_owned(), message);
        assert_eq!(site.said(COMPLETED), Some(ended.clone()));
        assert_eq!(site.said(ACCEPTED), Some(ended));
    }
}

#[tokio::test]
async fn what_passes_by_itself_is_not_told() {
    for code in [409, 429, 503] {
        let site = Site::new(&ready(), Taken::Refused(code));
        let passed = site.pass(0).await;
        assert_eq!(passed.is_ok(), code == 409, "a conflict is tried at once");
        assert!(site.writes().is_empty(), "{code}");
        site.server.lock().unwrap().taken = Taken::Kept;
        site.pass(1).await.unwrap();
        assert_eq!(site.said(ACCEPTED).unwrap().0, "True");
    }
}

/// A backup of another database, in backup mode or behind it.
fn other(stopped: bool) -> PgBackup {
    let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "R", "message": "", "lastTransitionTime": CREATED});
    let mut conditions = vec![condition(ACCEPTED)];
    conditions.extend(stopped.then(|| condition(conditions::STOPPED)));
    let attempt = json!({"number": 1, "startedAt": "2026-01-01T00:00:00.000000Z", "pod": "p", "podUid": "u", "address": "a"});
    serde_json::from_value(json!({
        "metadata": {"name": "other", "namespace": "other", "uid": "other-uid"},
        "spec": {"protection": "other"},
        "status": {"conditions": conditions, "attempt": attempt,
            "session": {"attempt": 1, "startLsn": "0/1000028", "stopLsn": stopped.then_some("0/2000028")}},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_backup_waits_until_others_have_left_backup_mode() {
    let site = Site::new(&ready(), Taken::Kept);
    let next = || site.backups.at_once.next(CREATED.parse().unwrap());
    site.backups.at_once.note(&other(false));
    site.pass(0).await.unwrap();
    let (status, reason, message) = site.said(ACCEPTED).unwrap();
    assert_eq!((&*status, &*reason), ("False", "WaitsForOthers"));
    assert!(message.contains("--backups-at-once"), "{message}");
    site.pass(1).await.unwrap();
    assert_eq!(
        site.writes(),
        [BACKUP],
        "it is said once, and no turn taken"
    );

    assert!(next().is_empty());
    site.backups.at_once.note(&other(true));
    let [woken] = &next()[..] else {
        panic!("it is woken");
    };
    assert_eq!(woken.name, "nightly");
    site.pass(2).await.unwrap();
    assert_eq!(site.said(ACCEPTED).unwrap().0, "True");
    assert!(next().is_empty(), "it has its place");
}

#[tokio::test]
async fn a_backup_that_waited_for_others_to_the_end_says_so() {
    let site = Site::new(&ready(), Taken::Kept);
    site.backups.at_once.note(&other(false));
    let rest = site.pass(0).await.unwrap();
    // Said at first, as everything that holds a backup.
    let moment = std::time::Duration::from_millis(5);
    let until_it_lapses = std::time::Duration::from_secs(300) + moment;
    assert_eq!(rest, Action::requeue(until_it_lapses));
    site.pass(60).await.unwrap();
    let (status, reason, message) = site.said(COMPLETED).unwrap();
    assert_eq!((&*status, &*reason), ("False", "WaitsForOthers"));
    assert!(message.contains("--backups-at-once"), "{message}");
}

#[tokio::test]
async fn who_gets_no_turn_keeps_no_place() {
    let mut of_another = ready().backup;
    of_another.metadata.name = Some("another".to_owned());
    let now: Timestamp = CREATED.parse().unwrap();
    let enters = |site: &Site| {
        let planned = other(false).status.unwrap();
        let mut planned = serde_json::to_value(planned).unwrap();
        let volume = json!({"claim": "c", "volume": "v", "mounts": [], "driver": "d", "volumeHandle": "h", "capacity": 1,
            "volumeMode": "Filesystem", "volumeSnapshot": "s", "className": "c", "ready": false, "retained": false});
        planned["volumes"] = json!([volume]);
        let planned = serde_json::from_value(planned).unwrap();
        let set = SnapshotSet::read_back(&planned).unwrap();
        site.backups.at_once.enter(&of_another, &set, now).is_ok()
    };
    let refused = Site::new(&ready(), Taken::Refused(403));
    refused.pass(0).await.unwrap_err();
    assert!(enters(&refused));
    let begun = Site::new(&ready(), Taken::Kept);
    begun.pass(0).await.unwrap();
    assert!(!enters(&begun));
}

/// As it is for a moment where another controller has begun an attempt, and for ever where somebody has set the status back.
#[tokio::test]
async fn a_turn_of_a_later_attempt_is_asked_for_less_and_less_often() {
    let mut observed = ready();
    let turn = json!({"backup": "nightly", "uid": "backup-uid", "attempt": 2});
    let protection = observed.protection.as_mut().unwrap();
    protection.status.as_mut().unwrap().turn = serde_json::from_value(turn).unwrap();
    let site = Site::new(&observed, Taken::Kept);
    let error = site.pass(0).await.unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    assert_eq!(error.class(), Class::Transient, "the pause grows");
    assert!(site.writes().is_empty());
}

/// Each start of a controller has a pass over each backup that there is.
#[tokio::test]
async fn a_completed_backup_by_a_group_is_asked_nothing_for() {
    let mut completed = grouped();
    let status = completed.backup.status.as_mut().unwrap();
    status.group.as_mut().unwrap().labelled = false;
    let now = CREATED.parse().unwrap();
    let holds = conditions::Status::True;
    conditions::upsert(
        &mut status.conditions,
        COMPLETED,
        holds,
        "Completed",
        "",
        None,
        now,
    );
    completed.source = ready().source;
    let site = Site::new(&completed, Taken::Kept);
    let requests = || site.server.lock().unwrap().requests;
    assert_eq!(site.pass(10).await.unwrap(), Action::await_change());
    assert_eq!(requests(), 0);

    // A pass that was held up before the cut has put the label on again, and is told of a conflict.
    site.backups.told.trust.lose(&completed.backup);
    site.pass(11).await.unwrap();
    let claims = "/api/v1/namespaces/shop/persistentvolumeclaims/data-orders-0";
    assert!(
        site.writes().iter().any(|at| at == claims),
        "it is taken off"
    );
}
