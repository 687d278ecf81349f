//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use super::{Kubectl, Watching, story::LIMIT};

/// Asks until there is an answer, at most for `limit`. The error says what was waited for.
///
/// # Errors
/// No answer in time, or asking failed to the end.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let answer = ask();
        if let Ok(Some(value)) = answer {
            return Ok(value);
        }
        if begin.elapsed() > limit {
            match answer {
                Err(error) => bail!("{what}: not within {} s: {error:#}", limit.as_secs()),
                Ok(_) => bail!("{what}: not within {} s", limit.as_secs()),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Asks a database again and again for what `condition` selects, a truth value.
///
/// # Errors
/// It is not true in time, or the database does not answer.
pub async fn until_async(what: &str, client: &Client, condition: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        if client.query_one(condition, &[]).await?.get(0) {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a condition of an object to have a status; ends at once where `Completed` turns `False` instead.
///
/// # Errors
/// Not in time, or the object failed for good.
pub async fn condition(
    kubectl: &Kubectl,
    namespace: &str,
    (kind, name): (&str, &str),
    (type_, status): (&str, &str),
    limit: Duration,
) -> Result<Value> {
    let what = format!("{kind}/{name} {type_}={status}");
    let failed = |object: &Value| status != "False" && has(object, "Completed", "False");
    let mut watching = Watching::one(kubectl, namespace, kind, name)?;
    let found = watching
        .wait(&what, limit, |object| {
            has(object, type_, status) || failed(object)
        })
        .await?;
    if failed(&found) {
        let why = said(&found, "Completed");
        let why = why.map(|c| format!("{} {}", c["reason"], c["message"]));
        bail!("{what}: failed for good: {}", why.unwrap_or_default());
    }
    Ok(found)
}

/// The conditions of an object.
fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
}

/// The condition of this type, if the object has one.
pub fn said<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    conditions(object).find(|c| c["type"] == type_)
}

/// Waits until an object is gone; one of the cluster is in any namespace.
///
/// # Errors
/// It is still there.
pub async fn gone(kubectl: &Kubectl, namespace: &str, kind: &str, name: &str) -> Result<()> {
    until(&format!("{kind} {name} gone"), LIMIT, || {
        Ok(kubectl.get(namespace, kind, name)?.is_none().then_some(()))
    })
    .await
}

/// Whether a condition of an object has this status.
pub fn has(object: &Value, type_: &str, status: &str) -> bool {
    said(object, type_).is_some_and(|c| c["status"] == status)
}
