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
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
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
    mut registry: Registry,
) -> Result<(), ServeError> {
    registry.register_collector(Box::new(Memory));
    let failed = |cause| ServeError { address, cause };
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Shared { health, registry }));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    axum::serve(listener, app).await.map_err(failed)
}

/// The memory of this process, under the name that all dashboards know.
#[derive(Debug)]
struct Memory;

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let Some(bytes) = resident(&status) else {
            return Ok(());
        };
        let (name, help) = ("process_resident_memory_bytes", "Resident memory");
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(bytes).encode(metric)
    }
}

/// Bytes, from `/proc/PID/status`.
fn resident(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
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
    fn memory_is_among_the_metrics() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Memory));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        assert!(value.unwrap().parse::<i64>().unwrap() > 0, "{text}");
    }

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
