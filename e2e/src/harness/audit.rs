//! What Highwater's ServiceAccounts asked the API server for, by its audit log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::kubeconfig;

/// Highwater's programs, by the names of their roles.
pub const ROLES: [&str; 3] = ["controller", "agent", "recovery"];

/// What a test says of itself when it asks with a program's token: what it tries is no use of a right.
pub const TESTER: &str = "highwater-e2e";

/// How far a right reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// What lies in a namespace.
    Namespace,
    /// What lies in none, or in all.
    Cluster,
}

/// One right as it was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The role that gave it; of what was refused, none.
    pub role: String,
    /// How far the binding of that role reaches.
    pub bound: Scope,
    /// Whether the request named a namespace.
    pub asked: Scope,
    /// The verb.
    pub verb: String,
    /// As in `snapshot.storage.k8s.io/volumesnapshots`, `/pods` or `highwater.dev/pgbackups/status`.
    pub resource: String,
    /// The object, where the request is about one.
    pub name: Option<String>,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("all");
        write!(
            f,
            "{} {} ({name}, {:?})",
            self.verb, self.resource, self.asked
        )
    }
}

/// What one of Highwater's programs asked for, wherever it ran.
#[derive(Debug, Default)]
pub struct Seen {
    /// What it was allowed.
    pub used: BTreeSet<Use>,
    /// What it was refused, and why: by its rights, by an admission policy, by any other rule.
    pub refused: BTreeSet<String>,
}

/// All of them, by the names of their roles, from the dev cluster's audit log.
///
/// # Errors
/// This is not the dev cluster, or the log cannot be read.
pub fn seen() -> Result<BTreeMap<&'static str, Seen>> {
    let folder = kubeconfig()?;
    let folder = folder.parent().context("the kubeconfig lies nowhere")?;
    let mut reading = Reading::default();
    // The API server begins a new file when one is large.
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("audit") && name.ends_with(".log")) {
            let read = reading.read(&path);
            read.with_context(|| format!("failed to read {}", path.display()))?;
        }
    }
    Ok(reading.judge())
}

/// A request that was refused.
struct Refusal {
    at: String,
    namespace: String,
    account: String,
    role: &'static str,
    what: String,
}

/// A RoleBinding that came or went; without a name, all of the namespace.
struct Change {
    at: String,
    namespace: String,
    name: Option<String>,
    made: bool,
}

#[derive(Default)]
struct Reading {
    seen: BTreeMap<&'static str, Seen>,
    refusals: Vec<Refusal>,
    changes: Vec<Change>,
}

impl Reading {
    fn read(&mut self, log: &Path) -> Result<()> {
        let mut lines = BufReader::new(fs::File::open(log)?);
        let mut line = String::new();
        loop {
            line.clear();
            // The last line may be on its way still.
            if lines.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                return Ok(());
            }
            let matters = line.contains("\"system:serviceaccount:")
                || line.contains("\"rolebindings\"")
                || (line.contains("\"namespaces\"") && line.contains("\"delete\""));
            if matters {
                self.take(&serde_json::from_str(&line)?);
            }
        }
    }

    fn take(&mut self, event: &Value) {
        self.changes.extend(change(event));
        let user = text(&event["user"]["username"]);
        let account = user.strip_prefix("system:serviceaccount:");
        let Some((namespace, account)) = account.and_then(|account| account.split_once(':')) else {
            return;
        };
        let Some(role) = role_of(account).filter(|_| is_asked_by_a_program(event)) else {
            return;
        };
        if event["responseStatus"]["code"] == 403 {
            if !namespace_goes(event) {
                let why = text(&event["responseStatus"]["message"]);
                self.refusals.push(Refusal {
                    at: text(&event["requestReceivedTimestamp"]).to_owned(),
                    namespace: namespace.to_owned(),
                    account: account.to_owned(),
                    role,
                    what: format!("{}: {why}", used(event)),
                });
            }
            return;
        }
        let used = used(event);
        let seen = self.seen.entry(role).or_default();
        // A server-side apply of what is not there is asked for both rights, and only the first stands in the log.
        if used.verb == "patch" && event["responseStatus"]["code"] == 201 {
            let verb = "create".to_owned();
            seen.used.insert(Use {
                verb,
                ..used.clone()
            });
        }
        seen.used.insert(used);
    }

    /// Of an account whose RoleBinding went, with its protection, its restore or its namespace, the rights go before the
    /// program does.
    fn judge(mut self) -> BTreeMap<&'static str, Seen> {
        self.changes.sort_by(|a, b| a.at.cmp(&b.at));
        for refusal in self.refusals {
            let about = |change: &&Change| {
                change.at <= refusal.at
                    && change.namespace == refusal.namespace
                    && (change.name.is_none() || change.name.as_ref() == Some(&refusal.account))
            };
            let last = self.changes.iter().rfind(about);
            if last.is_none_or(|change| change.made) {
                let seen = self.seen.entry(refusal.role).or_default();
                seen.refused.insert(refusal.what);
            }
        }
        self.seen
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_asked_by_a_program(event: &Value) -> bool {
    let agent = text(&event["userAgent"]);
    !event["objectRef"].is_null() && !agent.starts_with("kubectl") && agent != TESTER
}

/// Nothing is made any more in a namespace that is being deleted.
fn namespace_goes(event: &Value) -> bool {
    let causes = event["responseStatus"]["details"]["causes"].as_array();
    let mut causes = causes.into_iter().flatten();
    causes.any(|cause| cause["reason"] == "NamespaceTerminating")
}

fn change(event: &Value) -> Option<Change> {
    let about = &event["objectRef"];
    let code = event["responseStatus"]["code"].as_u64()?;
    let (verb, resource) = (text(&event["verb"]), text(&about["resource"]));
    let made = match (verb, resource) {
        ("create" | "patch", "rolebindings") if code == 201 => true,
        ("delete" | "deletecollection", "rolebindings") if code < 300 => false,
        ("delete", "namespaces") if code < 300 => false,
        _ => return None,
    };
    Some(Change {
        at: text(&event["requestReceivedTimestamp"]).to_owned(),
        namespace: text(&about["namespace"]).to_owned(),
        name: about["name"]
            .as_str()
            .filter(|_| resource == "rolebindings")
            .map(str::to_owned),
        made,
    })
}

/// What an event of the log asked for, and which role allowed it.
pub(super) fn used(event: &Value) -> Use {
    let about = &event["objectRef"];
    let [group, resource] = ["apiGroup", "resource"].map(|field| text(&about[field]));
    let (bound, role) = allowed_by(text(&event["annotations"]["authorization.k8s.io/reason"]))
        .unwrap_or((Scope::Cluster, ""));
    Use {
        role: role.to_owned(),
        bound,
        asked: match text(&about["namespace"]) {
            "" => Scope::Cluster,
            _ => Scope::Namespace,
        },
        verb: text(&event["verb"]).to_owned(),
        resource: match about["subresource"].as_str() {
            Some(part) => format!("{group}/{resource}/{part}"),
            None => format!("{group}/{resource}"),
        },
        name: about["name"].as_str().map(str::to_owned),
    }
}

/// The role in `RBAC: allowed by RoleBinding "a/b" of ClusterRole "c" to ServiceAccount "d/b"`.
fn allowed_by(reason: &str) -> Option<(Scope, &str)> {
    let (binding, rest) = reason
        .strip_prefix("RBAC: allowed by ")?
        .split_once(" \"")?;
    let (_, role) = rest.split_once("\" of ")?;
    let bound = match binding {
        "RoleBinding" => Scope::Namespace,
        _ => Scope::Cluster,
    };
    Some((bound, role.split('"').nth(1)?))
}

/// Which of Highwater's programs has this account.
pub(super) fn role_of(account: &str) -> Option<&'static str> {
    match account {
        "highwater-controller" => Some("controller"),
        name if name.ends_with("-highwater") => Some("agent"),
        // One role for both.
        name if name.ends_with("-recovery") || name.ends_with("-planning") => Some("recovery"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    const ALLOWED: &str = "RBAC: allowed by RoleBinding \"orders-highwater/a\" of ClusterRole \"highwater-agent\" to ServiceAccount \"orders-highwater/a\"";

    fn event(at: u8, user: &str, verb: &str, resource: &str, code: u16) -> Value {
        json!({
            "user": {"username": user}, "verb": verb,
            "objectRef": {"resource": resource, "namespace": "a", "name": "orders-highwater"},
            "requestReceivedTimestamp": format!("2026-11-22T20:17:{at:02}.000000Z"),
            "responseStatus": {"code": code, "message": "no"},
            "annotations": {"authorization.k8s.io/reason": if code == 403 { "" } else { ALLOWED }},
        })
    }

    const AGENT: &str = "system:serviceaccount:a:orders-highwater";

    fn read(events: &[Value]) -> Seen {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for event in events {
            writeln!(file, "{event}").unwrap();
        }
        write!(file, "{{\"user\": \"system:serviceaccount:").unwrap();
        let mut reading = Reading::default();
        reading.read(file.path()).unwrap();
        reading.judge().remove("agent").unwrap_or_default()
    }

    #[test]
    fn a_refusal_counts_while_its_binding_is_there() {
        let refused = |at| event(at, AGENT, "get", "secrets", 403);
        let binding = |at, verb, code| event(at, "admin", verb, "rolebindings", code);
        let mut namespace = event(5, "admin", "delete", "namespaces", 200);
        namespace["objectRef"]["name"] = json!("a");
        let count = |events: &[Value]| read(events).refused.len();
        assert_eq!(count(&[refused(3)]), 1);
        assert_eq!(count(&[refused(3), binding(4, "delete", 200)]), 1);
        assert_eq!(count(&[refused(6), binding(4, "delete", 200)]), 0);
        assert_eq!(count(&[refused(6), binding(4, "delete", 404)]), 1);
        let again = [binding(4, "delete", 200), binding(5, "patch", 201)];
        assert_eq!(count(&[&again[..], &[refused(6)]].concat()), 1);
        assert_eq!(count(&[namespace, refused(6)]), 0);
    }

    #[test]
    fn a_refusal_by_admission_counts_and_one_in_a_namespace_that_goes_does_not() {
        let mut refused = event(3, AGENT, "patch", "pgbackups", 403);
        refused["annotations"]["authorization.k8s.io/reason"] = json!(ALLOWED);
        assert_eq!(read(&[refused.clone()]).refused.len(), 1);
        refused["responseStatus"]["details"] =
            json!({"causes": [{"reason": "NamespaceTerminating"}]});
        assert!(read(&[refused]).refused.is_empty());
    }

    #[test]
    fn what_a_test_tries_is_no_use_of_a_right() {
        for agent in [TESTER, "kubectl/v1.36.3 (linux/amd64)"] {
            let mut tried = event(3, AGENT, "get", "secrets", 403);
            tried["userAgent"] = json!(agent);
            let mut used = event(3, AGENT, "get", "pgbackups", 200);
            used["userAgent"] = json!(agent);
            let seen = read(&[tried, used]);
            assert!(seen.refused.is_empty() && seen.used.is_empty(), "{agent}");
        }
    }

    #[test]
    fn an_apply_that_makes_an_object_uses_two_rights() {
        let verbs = |code| {
            let seen = read(&[event(3, AGENT, "patch", "pgbackups", code)]);
            let used = seen.used.into_iter();
            used.map(|used| (used.verb, used.role, used.bound))
                .collect::<Vec<_>>()
        };
        let by = |verb: &str| {
            (
                verb.to_owned(),
                "highwater-agent".to_owned(),
                Scope::Namespace,
            )
        };
        assert_eq!(verbs(200), [by("patch")]);
        assert_eq!(verbs(201), [by("create"), by("patch")]);
    }
}
