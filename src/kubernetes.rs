//! The few calls that every program makes to the Kubernetes API in the same way.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::api::named;

/// The longest a single request may take. Without it a half-open connection hangs a read for ever.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to the Kubernetes API that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server said no, or could not be reached.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// No answer within [`REQUEST_TIMEOUT`].
    #[error("no answer from the Kubernetes API within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl RequestError {
    /// The HTTP status, where the API server answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            Self::Kube(_) | Self::Timeout => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// An object of this name exists, or it changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The API server has decided against it, and will again: neither is it overloaded, nor has anything changed meanwhile.
    pub fn is_refusal(&self) -> bool {
        self.code()
            .is_some_and(|code| !matches!(code, 404 | 409 | 429 | 502..=504))
    }

    /// This program lacks the right.
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }
}

/// Runs one request with [`REQUEST_TIMEOUT`].
///
/// # Errors
/// As the request, or no answer in time.
pub async fn request<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(RequestError::Timeout),
    }
}

/// One by a name that somebody has written. What no object can be called is not asked for: in the path it would be more than a name.
///
/// # Errors
/// As any request.
pub async fn find<K>(api: &Api<K>, name: &str) -> Result<Option<K>, RequestError>
where
    K: Clone + DeserializeOwned + Debug,
{
    match named::is_name(name) {
        true => request(api.get_opt(name)).await,
        false => Ok(None),
    }
}

/// Applies `status` as the part that `manager` owns: what it owned before and leaves out now is removed, what others
/// own stays.
///
/// # Errors
/// As any request; 404 if the object is gone.
pub async fn apply_status<K, S>(
    api: &Api<K>,
    name: &str,
    manager: &str,
    status: &S,
) -> Result<K, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    request(api.patch_status(
        name,
        &PatchParams::apply(manager).force(),
        &Patch::Apply(patch),
    ))
    .await
}

/// As [`apply_status`], of the object as it was read: a conflict (409) if anybody has written it since. So a writer that
/// was held up cannot undo what another has decided meanwhile.
///
/// # Errors
/// As any request; 404 if the object is gone, 409 if it changed.
pub async fn apply_status_unchanged<K, S>(
    api: &Api<K>,
    read: &ObjectMeta,
    manager: &str,
    status: &S,
) -> Result<K, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let name = read.name.as_deref().unwrap_or_default();
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "uid": read.uid, "resourceVersion": read.resource_version },
        "status": status,
    });
    request(api.patch_status(
        name,
        &PatchParams::apply(manager).force(),
        &Patch::Apply(patch),
    ))
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response, StatusCode};
    use k8s_openapi::api::apps::v1::StatefulSet;
    use kube::{Client, client::Body};

    use super::*;

    /// The paths that are asked for when one of this name is looked for, and there is none.
    async fn asked_for(name: &str) -> Vec<String> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let server = tower::service_fn(move |call: Request<Body>| {
            seen.lock().unwrap().push(call.uri().to_string());
            let gone = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": "NotFound", "message": "", "code": 404});
            let answer = Response::builder().status(StatusCode::NOT_FOUND);
            let answer = answer.body(Body::from(gone.to_string().into_bytes()));
            async move { Ok::<_, std::io::Error>(answer.unwrap()) }
        });
        let api = Api::<StatefulSet>::namespaced(Client::new(server, "default"), "shop");
        assert!(find(&api, name).await.unwrap().is_none(), "{name}");
        let asked = asked.lock().unwrap();
        asked.clone()
    }

    #[tokio::test]
    async fn what_no_object_can_be_called_is_not_asked_for() {
        let path = "/apis/apps/v1/namespaces/shop/statefulsets/orders.v2";
        assert_eq!(asked_for("orders.v2").await, [path]);
        for name in [
            "",
            "..",
            "orders/scale",
            "../../prod/statefulsets/orders",
            "orders?x=y",
            "orders%2fscale",
            "Orders",
            "orders#",
        ] {
            assert_eq!(asked_for(name).await, [""; 0], "{name}");
        }
    }
}
