//! What Highwater's programs asked for, against what the shipped roles grant. Runs after the scenarios, on the same cluster.

use anyhow::{Context, Result, bail, ensure};
use highwater_e2e::harness::{
    Kubectl,
    audit::{ROLES, Rights, Seen},
};
use serde_json::Value;

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
    let mut complaints = Vec::new();
    for role in ROLES {
        let seen = Seen::of(&kubectl, role)?;
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

/// What the shipped roles say, as the cluster has them.
fn granted(kubectl: &Kubectl, role: &str) -> Result<Rights> {
    let mut rules = rules(kubectl, "clusterrole", &format!("highwater-{role}"))?;
    if role == "controller" {
        for (kind, part) in [("clusterrole", "cluster"), ("role", "lease")] {
            let name = format!("highwater-{role}-{part}");
            rules.extend(self::rules(kubectl, kind, &name)?);
        }
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
        bail!("the role of {role} has a wildcard");
    }
    Ok(rights)
}

fn rules(kubectl: &Kubectl, kind: &str, name: &str) -> Result<Vec<Value>> {
    let role = kubectl.get("highwater-system", kind, name)?;
    let role = role.with_context(|| format!("there is no {kind} {name}"))?;
    Ok(role["rules"].as_array().cloned().unwrap_or_default())
}

#[test]
fn an_idle_right_is_noticed() {
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
}
