//! The program, as a recovery pod runs it for each file of WAL.

use highwater::api::PgArchiveSpec;
use serde_json::{Value, json};

/// What `wal fetch` is told.
pub fn fetch_config(
    spec: &PgArchiveSpec,
    credentials: Option<&str>,
    ca: Option<&str>,
    progress: &str,
    deadline_seconds: u64,
) -> Value {
    json!({
        "archive": spec,
        "mounted": { "credentials": credentials, "ca": ca, "directory": "/nowhere" },
        "plan": {
            "summary": "", "backup": "b", "backupKey": "k", "archive": "a", "archiveName": "shop-orders",
            "lineage": "0123456789", "timeline": 2, "walFrom": "0/2000000", "walTo": "0/4000000", "bytes": 1,
        },
        "line": [],
        "segment_size": 16 << 20,
        "deadline_seconds": deadline_seconds,
        "progress": progress,
    })
}
