//! Requests that a program's token could be used for.

use highwater_e2e::harness::Request;
use serde_json::{Value, json};

/// A read.
pub fn get(path: String) -> Request {
    Request {
        method: "GET",
        path,
        body: None,
    }
}

/// A write that changes nothing: the API server only says what it would do.
pub fn dry(method: &'static str, path: &str, kind: &'static str, body: Value) -> Request {
    let and = if path.contains('?') { '&' } else { '?' };
    Request {
        method,
        path: format!("{path}{and}dryRun=All"),
        body: Some((kind, body)),
    }
}

/// As [`dry`]: something new.
pub fn post(path: &str, body: Value) -> Request {
    dry("POST", path, "application/json", body)
}

/// As [`dry`]: a change.
pub fn merge(path: &str, body: Value) -> Request {
    dry("PATCH", path, "application/merge-patch+json", body)
}

/// Highwater's objects in a namespace.
pub struct Kinds<'a> {
    /// Theirs.
    pub namespace: &'a str,
    /// The field manager of the program that asks, and what its events name.
    pub manager: &'a str,
}

impl Kinds<'_> {
    /// Of a kind, an object, or its status.
    pub fn path(&self, rest: &str) -> String {
        format!(
            "/apis/highwater.dev/v1alpha1/namespaces/{}/{rest}",
            self.namespace
        )
    }

    /// A status as this program applies it.
    pub fn apply(&self, (kind, name): (&str, &str), status: Value) -> Request {
        let resource = format!("{}s/{name}", kind.to_lowercase());
        let query = format!("fieldManager={}&force=true", self.manager);
        dry(
            "PATCH",
            &self.path(&format!("{resource}/status?{query}")),
            "application/apply-patch+yaml",
            json!({"apiVersion": "highwater.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "status": status}),
        )
    }

    /// Takes a field out of the status of `object`, as in `pgbackups/orders-1`.
    pub fn status(&self, object: &str, field: &str) -> Request {
        let path = self.path(&format!("{object}/status"));
        merge(&path, json!({"status": {field: null}}))
    }

    /// One condition alone.
    pub fn condition(&self, about: (&str, &str), type_: &str) -> Request {
        let condition = json!({"type": type_, "status": "Unknown", "reason": "Tried", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        self.apply(about, json!({"conditions": [condition]}))
    }

    /// An event about an object.
    pub fn event(&self, (kind, name): (&str, &str)) -> Request {
        let version = match kind {
            "Pod" => "v1",
            _ => "highwater.dev/v1alpha1",
        };
        let event = json!({
            "metadata": {"name": format!("{name}.tried")}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "action": "Reconcile", "reason": "Tried", "type": "Normal", "note": "tried",
            "reportingController": self.manager, "reportingInstance": "stolen",
            "regarding": {"apiVersion": version, "kind": kind, "name": name, "namespace": self.namespace},
        });
        let path = format!(
            "/apis/events.k8s.io/v1/namespaces/{}/events",
            self.namespace
        );
        post(&path, event)
    }
}

/// A plan that an agent may make, but for the backup that it names.
pub fn plan(backup: &str) -> Value {
    json!({"plan": {
        "summary": "tried", "backup": backup, "backupKey": "k", "archive": "main", "archiveName": "n",
        "lineage": "k3v9q2abcd", "timeline": 1, "walFrom": "0/28", "walTo": "0/5000", "bytes": 1,
    }})
}
