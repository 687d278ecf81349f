//! The one place where this driver reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch.
#[allow(
    clippy::disallowed_methods,
    reason = "a snapshot's creation time is wall time"
)]
pub fn now_ns() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}
