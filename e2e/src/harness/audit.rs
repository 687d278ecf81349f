//! What Highwater's ServiceAccounts asked the API server for, by its audit log.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Kubectl, kubeconfig};

/// Verb and resource, as in `patch snapshot.storage.k8s.io/volumesnapshots` or `get /pods`.
pub type Rights = BTreeSet<String>;

/// Highwater's programs, by the names of their roles.
pub const ROLES: [&str; 3] = ["controller", "agent", "recovery"];

/// What one of Highwater's programs asked for, wherever it ran.
#[derive(Debug, Default)]
pub struct Seen {
    /// What it was allowed.
    pub used: Rights,
    /// What it was refused.
    pub forbidden: Rights,
}

impl Seen {
    /// Reads the dev cluster's audit log; `role` is one of [`ROLES`].
    ///
    /// # Errors
    /// This is not the dev cluster, or the log cannot be read.
    pub fn of(kubectl: &Kubectl, role: &str) -> Result<Self> {
        let log = kubeconfig()?.with_file_name("audit.log");
        let accounts = kubectl.run(&[
            "get",
            "serviceaccounts",
            "--all-namespaces",
            "-o",
            "jsonpath={range .items[*]}{.metadata.namespace}:{.metadata.name} {end}",
        ])?;
        read(&log, role, &accounts.split_whitespace().collect())
    }
}

/// `accounts` are those that are there: of one that goes with its protection or namespace, the rights may go before the
/// program does.
fn read(log: &Path, role: &str, accounts: &BTreeSet<&str>) -> Result<Seen> {
    let text = fs::read(log).with_context(|| format!("failed to read {}", log.display()))?;
    let mut seen = Seen::default();
    // The last line may be on its way still.
    let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    for line in text[..whole].split(|byte| *byte == b'\n') {
        let event: Value = serde_json::from_slice(line).context("failed to read the audit log")?;
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let Some(account) = user.strip_prefix("system:serviceaccount:") else {
            continue;
        };
        if role_of(account) != Some(role) || event["objectRef"].is_null() {
            continue;
        }
        // Not every 403: one also comes from a namespace that is being deleted.
        match event["annotations"]["authorization.k8s.io/decision"].as_str() {
            Some("forbid") => accounts.contains(account) && seen.forbidden.insert(right(&event)),
            _ => seen.used.insert(right(&event)),
        };
    }
    Ok(seen)
}

/// What an event of the log asked for.
pub(super) fn right(event: &Value) -> String {
    let about = &event["objectRef"];
    let [verb, group, resource] = [&event["verb"], &about["apiGroup"], &about["resource"]]
        .map(|value| value.as_str().unwrap_or_default());
    match about["subresource"].as_str() {
        Some(part) => format!("{verb} {group}/{resource}/{part}"),
        None => format!("{verb} {group}/{resource}"),
    }
}

/// Which of Highwater's programs this `namespace:name` is.
pub(super) fn role_of(account: &str) -> Option<&'static str> {
    match account.split_once(':')?.1 {
        "highwater-controller" => Some("controller"),
        name if name.ends_with("-highwater") => Some("agent"),
        name if name.ends_with("-recovery") => Some("recovery"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_request_counts_while_its_account_is_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let event = r#"{"user":{"username":"system:serviceaccount:a:orders-highwater"},"verb":"get","objectRef":{"resource":"secrets"},"annotations":{"authorization.k8s.io/decision":"forbid"}}"#;
        std::fs::write(file.path(), format!("{event}\n{{\"us")).unwrap();
        let there = read(file.path(), "agent", &["a:orders-highwater"].into()).unwrap();
        assert_eq!(there.forbidden, Rights::from(["get /secrets".to_owned()]));
        let gone = read(file.path(), "agent", &BTreeSet::new()).unwrap();
        assert!(gone.forbidden.is_empty() && gone.used.is_empty());
        let other = read(file.path(), "controller", &["a:orders-highwater"].into()).unwrap();
        assert!(other.forbidden.is_empty());
    }
}
