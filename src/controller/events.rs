//! Events: what is told again aggregates, what is new is told; one event per change of a condition, not per pass.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::context::Chain;
use crate::{
    api::conditions::{self, Status},
    kubernetes::request,
};

/// The longest note that the API server takes.
const LONGEST_NOTE: usize = 1024;

/// Reasons of a condition that is `False` because an admin wants it so.
const EXPECTED: [&str; 6] = [
    "Unprotected",
    "ProtectionEnded",
    "NoSchedule",
    "Suspended",
    "Paused",
    "Uncatalogued",
];

/// Reasons of a condition that is `Unknown` because it goes on as it should.
const ON_ITS_WAY: [&str; 7] = [
    "InProgress",
    "WaitingForSession",
    "Snapshotting",
    "WaitingForCut",
    "WaitingForDriver",
    "Shipping",
    "Abandoned",
];

/// Reasons of a condition that is `Unknown` because an admin has to do something first.
const HELD_UP: [&str; 1] = ["MissingReference"];

/// Publishes events. A failure to publish is logged and nothing else: it must not mask what the event is about.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
    told: Arc<Mutex<HashMap<Topic, Told>>>,
}

/// The UID of what an event is about, and its reason.
type Topic = (Option<String>, String);

/// The last note on a topic, and the recorder that counts how often it was told. kube's recorder takes events of one reason
/// for the same whatever their note says, so each note has one of its own.
struct Told {
    note: String,
    recorder: Recorder,
}

/// Topics remembered; beyond it all are forgotten, and an event told again is a new one.
const TOPICS: usize = 1024;

impl Events {
    /// `program` is the reporting controller, as in `highwater-controller`; `instance` the pod.
    pub fn new(client: Client, program: &str, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: program.to_owned(),
            instance,
        };
        Self {
            client,
            reporter,
            told: Arc::default(),
        }
    }

    fn recorder(&self, about: &ObjectReference, reason: &str, note: &str) -> Recorder {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = (about.uid.clone(), reason.to_owned());
        if let Some(last) = told.get(&topic).filter(|last| last.note == note) {
            return last.recorder.clone();
        }
        if told.len() >= TOPICS {
            told.clear();
        }
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let (note, kept) = (note.to_owned(), recorder.clone());
        told.insert(
            topic,
            Told {
                note,
                recorder: kept,
            },
        );
        recorder
    }

    /// Something that an admin expects.
    pub async fn normal(&self, about: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.publish(about, EventType::Normal, reason, note.into())
            .await;
    }

    /// Something that an admin should look at.
    pub async fn warning(&self, about: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.publish(about, EventType::Warning, reason, note.into())
            .await;
    }

    /// One event for each condition in `after` whose status or reason is not the one in `before`. `False` warns, and what is held up.
    /// Conditions that start as `Unknown`, or go on as they should, say nothing yet; two that say the same are one event.
    /// Call it after the status was applied.
    pub async fn condition_changes(
        &self,
        about: &ObjectReference,
        before: &[Condition],
        after: &[Condition],
    ) {
        for condition in changed(before, after) {
            let type_ = type_of(condition);
            let note = if condition.message.is_empty() {
                format!("{} is {}", condition.type_, condition.status)
            } else {
                condition.message.clone()
            };
            self.publish(about, type_, &condition.reason, note).await;
        }
    }

    async fn publish(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        mut note: String,
    ) {
        if note.len() > LONGEST_NOTE {
            let end = (0..=LONGEST_NOTE - 4)
                .rev()
                .find(|at| note.is_char_boundary(*at))
                .unwrap_or_default();
            note.truncate(end);
            note.push_str(" ...");
        }
        let recorder = self.recorder(about, reason, &note);
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = request(recorder.publish(&event, about)).await {
            tracing::warn!(reason, error = %Chain(&error), "failed to publish an event");
        }
    }
}

fn type_of(condition: &Condition) -> EventType {
    let reason = condition.reason.as_str();
    let is_false = condition.status == Status::False.as_str() && !EXPECTED.contains(&reason);
    match is_false || HELD_UP.contains(&reason) {
        true => EventType::Warning,
        false => EventType::Normal,
    }
}

fn changed<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    let mut told: Vec<&Condition> = after.iter().filter(|it| is_news(before, it)).collect();
    // What is decided before what is only held up by it.
    told.sort_by_key(|it| it.status == Status::Unknown.as_str());
    let mut said = HashSet::new();
    told.retain(|it| said.insert((&it.reason, &it.message)));
    told
}

fn is_news(before: &[Condition], condition: &Condition) -> bool {
    let unknown = condition.status == Status::Unknown.as_str();
    let on_its_way = unknown && ON_ITS_WAY.contains(&condition.reason.as_str());
    let is_new = match conditions::find(before, &condition.type_) {
        Some(old) => (&old.status, &old.reason) != (&condition.status, &condition.reason),
        None => !unknown,
    };
    is_new && !on_its_way
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn what_is_told_again_counts_and_what_is_new_is_told() {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&calls);
        let server = tower::service_fn(move |request: Request<Body>| {
            seen.lock().unwrap().push(request.method().to_string());
            async {
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(
                    b"{\"metadata\":{\"name\":\"e\"}}".to_vec(),
                )))
            }
        });
        let events = Events::new(Client::new(server, "default"), "highwater-agent", None);
        let about = ObjectReference::default();
        events.normal(&about, "LineageStarted", "lineage a").await;
        events.normal(&about, "LineageStarted", "lineage a").await;
        events.normal(&about, "LineageStarted", "lineage b").await;
        assert_eq!(*calls.lock().unwrap(), ["POST", "PATCH", "POST"]);
    }

    #[test]
    fn an_event_follows_a_change_of_status_or_reason_only() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let with = |entries: &[(&str, Status, &str, &str)]| {
            let mut list = Vec::new();
            for (type_, status, reason, message) in entries {
                conditions::upsert(&mut list, type_, *status, reason, *message, None, now);
            }
            list
        };
        let before = with(&[
            ("Active", Status::False, "PolicyNotFound", "a"),
            ("Cut", Status::Unknown, "Waiting", "0 of 2"),
        ]);
        let after = with(&[
            ("Active", Status::False, "ArchiveNotFound", "b"),
            ("Cut", Status::Unknown, "Waiting", "1 of 2"),
            ("Ready", Status::Unknown, "Waiting", ""),
        ]);
        let types = |after: &[Condition]| -> Vec<String> {
            let told = changed(&before, after);
            let types = told.iter().map(|condition| condition.type_.clone());
            types.collect()
        };
        assert_eq!(types(&after), ["Active"]);
        assert!(changed(&after, &after).is_empty());
        let held_up = with(&[
            ("Cut", Status::Unknown, "ArchiveNotFound", "the same"),
            ("Active", Status::False, "ArchiveNotFound", "the same"),
        ]);
        assert_eq!(types(&held_up), ["Active"], "one event says it");
        let on_its_way = with(&[("Cut", Status::Unknown, "Snapshotting", "")]);
        assert!(types(&on_its_way).is_empty(), "it goes on as it should");
        let in_trouble = with(&[("Cut", Status::Unknown, "CreateFailed", "")]);
        assert_eq!(types(&in_trouble), ["Cut"]);
        let warns = |list: Vec<Condition>| matches!(type_of(&list[0]), EventType::Warning);
        assert!(!warns(in_trouble));
        let held_up = [("Completed", Status::Unknown, "MissingReference", "")];
        assert!(warns(with(&held_up)), "it waits for an admin");
    }
}
