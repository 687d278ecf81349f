//! A PgRestore that the API server took and this program cannot decode: told where its admin looks, and left alone.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::DeserializeGuard,
};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    api::{
        PgRestore,
        conditions::{self, COMPLETED, Status},
        managers,
    },
    controller::{Context, context::Chain},
    guarded::Undecodable,
    kubernetes::{RequestError, apply_status_unchanged, request},
};

const REASON: &str = "Undecodable";

/// Tells of each. Ends with the watch.
pub async fn tell(ctx: Arc<Context>, mut told: UnboundedReceiver<Undecodable>) {
    while let Some(object) = told.recv().await {
        let about = reference(&object);
        let message = message(&object);
        ctx.events.warning(&about, REASON, message.as_str()).await;
        match refuse(&ctx, &object, message).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                tracing::warn!(restore = about.name, error = %Chain(&error), "failed to report a PgRestore that cannot be decoded");
            }
        }
    }
}

fn reference(object: &Undecodable) -> ObjectReference {
    let guard = DeserializeGuard::<PgRestore>(Err(object.clone()));
    guard.object_ref(&())
}

fn message(object: &Undecodable) -> String {
    format!(
        "failed to decode this PgRestore: {}; nothing was done: delete it and create a new one",
        object.error
    )
}

/// Writes condition Completed, if nothing has begun: what a status holds that cannot be read must not be lost.
async fn refuse(ctx: &Context, object: &Undecodable, message: String) -> Result<(), RequestError> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let kind = ApiResource::erase::<PgRestore>(&());
    let raw: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), namespace, &kind);
    let live = request(raw.get(name)).await?;
    if live.uid() != object.metadata.uid || has_begun(&live) {
        return Ok(());
    }
    let status = json!({
        "observedGeneration": live.metadata.generation,
        "conditions": refusal(message, live.metadata.generation, ctx.clock.now()),
    });
    let api: Api<DeserializeGuard<PgRestore>> = Api::namespaced(ctx.client.clone(), namespace);
    let applied = apply_status_unchanged(&api, &live.metadata, managers::CONTROLLER, &status);
    applied.await.map(drop)
}

fn has_begun(live: &DynamicObject) -> bool {
    let status = live
        .data
        .get("status")
        .and_then(|status| status.as_object());
    status.is_some_and(|status| !status.is_empty())
}

fn refusal(message: String, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions = Vec::new();
    conditions::upsert(
        &mut conditions,
        COMPLETED,
        Status::False,
        REASON,
        message,
        generation,
        now,
    );
    conditions
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::{Client, client::Body};
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        clock::SystemClock,
        controller::{Events, Image, Scope},
    };

    fn stored(status: &Value) -> Value {
        json!({
            "apiVersion": "highwater.dev/v1alpha1",
            "kind": "PgRestore",
            "metadata": {"name": "copy", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "7"},
            "spec": {
                "source": {"protection": "orders"},
                "target": {"time": "2026-11-31T14:03:12Z"},
                "into": {"statefulSet": "copy"},
            },
            "status": status,
        })
    }

    /// What is written to an API server that has this status.
    async fn written(status: Value) -> Vec<(String, Value)> {
        let calls: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (seen, object) = (calls.clone(), stored(&status));
        let server = tower::service_fn(move |call: Request<Body>| {
            let (seen, object) = (seen.clone(), object.clone());
            async move {
                let (method, path) = (call.method().clone(), call.uri().path().to_owned());
                let body = call.into_body().collect().await.unwrap().to_bytes();
                if method != Method::GET {
                    let body = serde_json::from_slice(&body).unwrap();
                    seen.lock().unwrap().push((path, body));
                }
                let answer = serde_json::to_vec(&object).unwrap();
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(answer)))
            }
        });
        let client = Client::new(server, "default");
        let events = Events::new(client.clone(), managers::CONTROLLER, None);
        let image = Image {
            name: String::new(),
            pull_policy: String::new(),
        };
        let ctx = Context::new(client, Arc::new(SystemClock), events, image, Scope::Cluster);
        let (sender, told) = mpsc::unbounded_channel();
        let guard: DeserializeGuard<PgRestore> = serde_json::from_value(stored(&status)).unwrap();
        sender.send(guard.0.unwrap_err()).unwrap();
        drop(sender);
        tell(Arc::new(ctx), told).await;
        calls.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn its_admin_is_told_by_an_event_and_a_condition() {
        let written = written(Value::Null).await;
        let [(events, event), (path, status)] = written.as_slice() else {
            panic!("{written:?}");
        };
        assert!(events.ends_with("/namespaces/shop/events"), "{events}");
        assert_eq!(event["reason"], REASON);
        let note = event["note"].as_str().unwrap();
        assert!(note.contains("2026-11-31T14:03:12Z"), "{note}");
        assert!(path.ends_with("/pgrestores/copy/status"), "{path}");
        assert_eq!(status["metadata"]["resourceVersion"], "7");
        let condition = &status["status"]["conditions"][0];
        assert_eq!(
            (
                &condition["type"],
                &condition["status"],
                &condition["reason"]
            ),
            (&json!(COMPLETED), &json!("False"), &json!(REASON))
        );
    }

    #[tokio::test]
    async fn a_status_that_is_there_stays() {
        let begun = json!({"into": "statefulset/copy", "conditions": []});
        assert_eq!(written(begun).await.len(), 1, "the event alone");
    }
}
