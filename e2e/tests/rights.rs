//! What Highwater's ServiceAccounts did, by the API server's audit log, against what the shipped roles grant. Runs after the
//! scenarios, on the same cluster.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use highwater_e2e::harness::Kubectl;
use serde_json::Value;

/// Verb and resource, as in `patch snapshot.storage.k8s.io/volumesnapshots` or `get /pods`.
type Rights = BTreeSet<String>;

/// Who runs as what.
const ROLES: [&str; 3] = ["controller", "agent", "recovery"];

/// Granted, and not to be seen after the scenarios: why.
const EXPLAINED: [(&str, &str); 5] = [
    (
        "bind ",
        "asked by the API server when a RoleBinding to a ClusterRole is written",
    ),
    (
        "/finalizers",
        "asked by the API server where OwnerReferencesPermissionEnforcement is on",
    ),
    (
        "delete /services",
        "a restore that is deleted while its clone starts",
    ),
    (
        "delete apps/statefulsets",
        "a restore that is deleted while its clone starts",
    ),
    (
        "delete snapshot.storage.k8s.io/volumesnapshotcontents",
        "a backup whose VolumeSnapshot somebody else deleted",
    ),
];

#[test]
fn nothing_was_forbidden_and_nothing_is_granted_for_nothing() {
    if let Err(error) = compare() {
        panic!("{error:#}");
    }
}

fn compare() -> Result<()> {
    let kubectl = Kubectl::from_env()?;
    let kubeconfig = std::env::var("KUBECONFIG").context("KUBECONFIG is not set")?;
    let log = Path::new(&kubeconfig).with_file_name("audit.log");
    let accounts = kubectl.run(&[
        "get",
        "serviceaccounts",
        "--all-namespaces",
        "-o",
        "jsonpath={range .items[*]}{.metadata.namespace}:{.metadata.name} {end}",
    ])?;
    let accounts: BTreeSet<&str> = accounts.split_whitespace().collect();
    let mut complaints = Vec::new();
    for role in ROLES {
        let seen = seen(&log, role, &accounts)?;
        ensure!(
            !seen.used.is_empty(),
            "the audit log knows no request of a {role}: run the scenarios first"
        );
        let granted = granted(&kubectl, role)?;
        println!(
            "{role}: {} of {} rights used",
            seen.used.len(),
            granted.len()
        );
        complaints.extend(
            unused(&granted, &seen.used).map(|right| format!("{role} never used: {right}")),
        );
        complaints.extend(
            seen.forbidden
                .iter()
                .map(|right| format!("{role} may not: {right}")),
        );
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// Rights that no request needed. A client that reads or writes a kind needs the verbs that go with it: get, list
/// and watch are one thing, and so are create and patch, with which server-side apply makes and changes objects.
fn unused<'a>(granted: &'a Rights, used: &'a Rights) -> impl Iterator<Item = &'a String> {
    granted.iter().filter(move |right| {
        let (verb, resource) = right.split_once(' ').unwrap_or_default();
        let has = |verb: &str| used.contains(&format!("{verb} {resource}"));
        let used = match verb {
            "get" | "list" | "watch" => has("get") || has("list") || has("watch"),
            "create" | "patch" => has("create") || has("patch"),
            other => has(other),
        };
        let explained = EXPLAINED.iter().any(|(part, _)| right.contains(part));
        !used && !explained
    })
}

#[derive(Default)]
struct Seen {
    used: Rights,
    forbidden: Rights,
}

/// `accounts` are those that are there: of one that goes with its protection or namespace, the rights may go before the
/// program does.
fn seen(log: &Path, role: &str, accounts: &BTreeSet<&str>) -> Result<Seen> {
    let file = File::open(log).with_context(|| format!("failed to open {}", log.display()))?;
    let mut seen = Seen::default();
    for line in BufReader::new(file).lines() {
        let event: Value = serde_json::from_str(&line?).context("failed to read the audit log")?;
        let user = event["user"]["username"].as_str().unwrap_or_default();
        if role_of(user) != Some(role) || event["objectRef"].is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &event["objectRef"];
        let mut right = format!(
            "{} {}/{}",
            text(&event["verb"]),
            text(&about["apiGroup"]),
            text(&about["resource"])
        );
        if let Some(part) = about["subresource"].as_str() {
            right = format!("{right}/{part}");
        }
        // Not every 403: one also comes from a namespace that is being deleted.
        match event["annotations"]["authorization.k8s.io/decision"].as_str() {
            Some("forbid") => {
                let account = user.strip_prefix("system:serviceaccount:");
                let is_there = account.is_some_and(|account| accounts.contains(account));
                is_there && seen.forbidden.insert(right)
            }
            _ => seen.used.insert(right),
        };
    }
    Ok(seen)
}

/// Which of Highwater's programs this user is.
fn role_of(user: &str) -> Option<&'static str> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    match name {
        "highwater-controller" if namespace == "highwater-system" => Some("controller"),
        _ if name.ends_with("-highwater") => Some("agent"),
        _ if name.ends_with("-recovery") => Some("recovery"),
        _ => None,
    }
}

/// What the shipped roles say, as the cluster has them.
fn granted(kubectl: &Kubectl, role: &str) -> Result<Rights> {
    let name = format!("highwater-{role}");
    let mut rules = rules(kubectl, "clusterrole", &name)?;
    if role == "controller" {
        rules.extend(self::rules(kubectl, "role", &name)?);
    }
    let mut rights = Rights::new();
    let list = |rule: &Value, field: &str| -> Vec<String> {
        let entries = rule[field].as_array().into_iter().flatten();
        entries
            .filter_map(|entry| entry.as_str().map(str::to_owned))
            .collect()
    };
    for rule in rules {
        for group in list(&rule, "apiGroups") {
            for resource in list(&rule, "resources") {
                let verbs = list(&rule, "verbs");
                rights.extend(
                    verbs
                        .iter()
                        .map(|verb| format!("{verb} {group}/{resource}")),
                );
            }
        }
    }
    if rights.iter().any(|right| right.contains('*')) {
        bail!("{name} has a wildcard");
    }
    Ok(rights)
}

fn rules(kubectl: &Kubectl, kind: &str, name: &str) -> Result<Vec<Value>> {
    let role = kubectl.get("highwater-system", kind, name)?;
    let role = role.with_context(|| format!("there is no {kind} {name}"))?;
    Ok(role["rules"].as_array().cloned().unwrap_or_default())
}

#[test]
fn an_idle_right_and_a_forbidden_request_are_noticed() {
    let rights = |list: &[&str]| {
        list.iter()
            .map(|right| (*right).to_owned())
            .collect::<Rights>()
    };
    let granted = rights(&[
        "get /pods",
        "watch /pods",
        "delete /pods",
        "bind rbac/clusterroles",
    ]);
    let used = rights(&["list /pods"]);
    assert_eq!(
        unused(&granted, &used).collect::<Vec<_>>(),
        ["delete /pods"]
    );
    let folder = std::env::temp_dir().join(format!("rights-{}", std::process::id()));
    let event = r#"{"user":{"username":"system:serviceaccount:a:orders-highwater"},"verb":"get","objectRef":{"resource":"secrets"},"annotations":{"authorization.k8s.io/decision":"forbid"}}"#;
    let written = std::fs::write(&folder, format!("{event}\n"));
    let seen = written.map_err(anyhow::Error::from).and_then(|()| {
        let there = seen(&folder, "agent", &BTreeSet::from(["a:orders-highwater"]))?;
        Ok((there, seen(&folder, "agent", &BTreeSet::new())?))
    });
    assert!(seen.is_ok_and(|(there, gone)| {
        there.forbidden.contains("get /secrets") && gone.forbidden.is_empty()
    }));
    let _ = std::fs::remove_file(folder);
}
