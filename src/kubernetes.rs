//! The few calls that every program makes to the Kubernetes API in the same way.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};

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
