//! `/livez`, `/readyz` and `/metrics`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

/// What is not ready yet, by name. Ready is when nothing is pending.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Health {
    /// `what` is not ready, because of `why`. True if that is news.
    pub fn pending(&self, what: &'static str, why: impl Into<String>) -> bool {
        let why = why.into();
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(what, why.clone()).as_ref() != Some(&why)
    }

    /// `what` is ready.
    pub fn ready(&self, what: &'static str) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.remove(what);
    }

    /// One line for each thing that is pending.
    pub fn list(&self) -> Vec<String> {
        let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending
            .iter()
            .map(|(what, why)| format!("{what}: {why}"))
            .collect()
    }
}

/// Why the server could not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve health and metrics on {address}: {cause}")]
pub struct ServeError {
    address: SocketAddr,
    cause: std::io::Error,
}

struct Shared {
    health: Health,
    registry: Registry,
}

/// Serves until an error.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    registry: Registry,
) -> Result<(), ServeError> {
    let failed = |cause| ServeError { address, cause };
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Shared { health, registry }));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    axum::serve(listener, app).await.map_err(failed)
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let pending = shared.health.list();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    let body = format!("pending:\n{}\n", pending.join("\n"));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut body = String::new();
    if encode(&mut body, &shared.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_what_changed() {
        let health = Health::default();
        assert!(health.pending("lease", "not asked yet"));
        assert!(!health.pending("lease", "not asked yet"));
        assert!(health.pending("lease", "no answer"));
        assert_eq!(health.list(), ["lease: no answer"]);
        health.ready("lease");
        assert!(health.list().is_empty());
    }
}
