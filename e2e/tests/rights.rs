//! What Highwater's programs asked for, against what the shipped roles grant. Runs after the scenarios, on the same cluster.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Kubectl,
    audit::{self, ROLES, Scope, Seen, Use},
};
use serde_json::Value;

/// Granted, and not to be seen in the log of any API server: why.
const EXPLAINED: [(&str, &str, &str); 2] = [
    (
        "bind",
        "rbac.authorization.k8s.io/clusterroles",
        "asked by the API server itself when a RoleBinding is written; the log has the request alone",
    ),
    (
        "delete",
        "groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents",
        "a backup whose VolumeGroupSnapshot somebody else deleted",
    ),
];

/// The roles that ship, and how each program's bindings of it reach.
const SHIPPED: [(&str, &str, &str, Scope); 6] = [
    (
        "controller",
        "clusterrole",
        "highwater-controller",
        Scope::Cluster,
    ),
    (
        "controller",
        "clusterrole",
        "highwater-controller-cluster",
        Scope::Cluster,
    ),
    (
        "controller",
        "clusterrole",
        "highwater-controller-in-place",
        Scope::Cluster,
    ),
    (
        "controller",
        "role",
        "highwater-controller-lease",
        Scope::Namespace,
    ),
    ("agent", "clusterrole", "highwater-agent", Scope::Namespace),
    (
        "recovery",
        "clusterrole",
        "highwater-recovery",
        Scope::Namespace,
    ),
];

/// One right as a rule grants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    role: String,
    bound: Scope,
    verb: String,
    resource: String,
    /// The one object that it is about.
    name: Option<String>,
}

impl Grant {
    fn covers(&self, used: &Use) -> bool {
        let Self {
            role,
            bound,
            verb,
            resource,
            name,
        } = self;
        let about = name.is_none() || *name == used.name;
        (role, bound, verb, resource) == (&used.role, &used.bound, &used.verb, &used.resource)
            && about
            && asks_where_it_may(used)
    }
}

/// What lies in namespaces is asked for in one; only what a controller for the whole cluster watches, in all of them.
fn asks_where_it_may(used: &Use) -> bool {
    let watches = ["list", "watch"].contains(&used.verb.as_str());
    match used.role.as_str() {
        "highwater-controller-cluster" => used.asked == Scope::Cluster,
        "highwater-controller-in-place" if used.resource == "/persistentvolumes" => {
            used.asked == Scope::Cluster
        }
        "highwater-controller" => used.asked == Scope::Namespace || watches,
        _ => used.asked == Scope::Namespace,
    }
}

#[test]
fn nothing_was_forbidden_and_nothing_is_granted_for_nothing() {
    if let Err(error) = compare() {
        panic!("{error:#}");
    }
}

fn compare() -> Result<()> {
    let kubectl = Kubectl::from_env()?;
    let seen = audit::seen()?;
    let mut complaints = Vec::new();
    for role in ROLES {
        let Some(seen) = seen.get(role).filter(|seen| !seen.used.is_empty()) else {
            complaints.push(format!(
                "the audit log knows no request of a {role}: run the scenarios first"
            ));
            continue;
        };
        let granted = granted(&kubectl, role)?;
        println!("{role}: {} rights", granted.len());
        complaints.extend(judge(role, &granted, seen));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// What is granted and was not used, what was used and is not granted, and what was refused.
fn judge(role: &str, granted: &BTreeSet<Grant>, seen: &Seen) -> Vec<String> {
    let Seen { used, refused } = seen;
    let idle = granted.iter().filter(|grant| {
        let explained = EXPLAINED
            .iter()
            .any(|(verb, resource, _)| *verb == grant.verb && *resource == grant.resource);
        !explained && !used.iter().any(|used| grant.covers(used))
    });
    let idle = idle.map(|grant| {
        let Grant {
            role: by,
            bound: _,
            verb,
            resource,
            name,
        } = grant;
        let name = name.as_deref().unwrap_or("any");
        format!("{role} never used: {verb} {resource} ({name}) of {by}")
    });
    let beyond = used
        .iter()
        .filter(|used| !granted.iter().any(|grant| grant.covers(used)));
    let beyond = beyond.map(|used| {
        let Use {
            role: by, bound, ..
        } = used;
        format!("{role} used what no shipped role grants: {used} by {by:?}, {bound:?}")
    });
    let refused = refused.iter().map(|what| format!("{role} may not: {what}"));
    idle.chain(beyond).chain(refused).collect()
}

/// What the shipped roles say, as the cluster has them.
fn granted(kubectl: &Kubectl, program: &str) -> Result<BTreeSet<Grant>> {
    let mut grants = BTreeSet::new();
    for (_, kind, name, bound) in SHIPPED.iter().filter(|shipped| shipped.0 == program) {
        let role = kubectl.get("highwater-system", kind, name)?;
        let role = role.with_context(|| format!("there is no {kind} {name}"))?;
        for rule in role["rules"].as_array().into_iter().flatten() {
            grants.extend(expand(name, *bound, rule));
        }
    }
    let is_wild = |grant: &&Grant| grant.verb == "*" || grant.resource.contains('*');
    let wild = grants.iter().find(is_wild);
    ensure!(
        wild.is_none(),
        "a role of {program} has a wildcard: {wild:?}"
    );
    Ok(grants)
}

/// Each right of a rule.
fn expand(role: &str, bound: Scope, rule: &Value) -> Vec<Grant> {
    let list = |field: &str| -> Vec<String> {
        let entries = rule[field].as_array().into_iter().flatten();
        entries
            .filter_map(|entry| entry.as_str().map(str::to_owned))
            .collect()
    };
    let mut names: Vec<_> = list("resourceNames").into_iter().map(Some).collect();
    if names.is_empty() {
        names.push(None);
    }
    let mut grants = Vec::new();
    for group in list("apiGroups") {
        for resource in list("resources") {
            for verb in list("verbs") {
                grants.extend(names.iter().map(|name| Grant {
                    role: role.to_owned(),
                    bound,
                    verb: verb.clone(),
                    resource: format!("{group}/{resource}"),
                    name: name.clone(),
                }));
            }
        }
    }
    grants
}

#[cfg(test)]
mod control {
    use serde_json::json;

    use super::*;

    fn used(verb: &str, resource: &str, name: &str) -> Use {
        Use {
            role: "highwater-agent".into(),
            bound: Scope::Namespace,
            asked: Scope::Namespace,
            verb: verb.into(),
            resource: resource.into(),
            name: Some(name.into()),
        }
    }

    /// What is complained of, the first words of each.
    fn complaints(rule: &Value, used: &[Use], refused: &[&str]) -> Vec<String> {
        let granted = expand("highwater-agent", Scope::Namespace, rule);
        let seen = Seen {
            used: used.iter().cloned().collect(),
            refused: refused.iter().map(|what| (*what).to_owned()).collect(),
        };
        let all = judge("agent", &granted.into_iter().collect(), &seen);
        let short = |text: String| text.split(" (").next().unwrap_or_default().to_owned();
        all.into_iter().map(short).collect()
    }

    #[test]
    fn each_right_counts_for_itself() {
        let rule =
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]});
        let all = ["get", "list", "watch"].map(|verb| used(verb, "/pods", "a"));
        assert!(complaints(&rule, &all, &[]).is_empty());
        assert_eq!(
            complaints(&rule, &all[..2], &[]),
            ["agent never used: watch /pods"]
        );
    }

    #[test]
    fn a_right_about_one_object_is_used_by_that_one_alone() {
        let rule = json!({"apiGroups": ["g"], "resources": ["leases"], "resourceNames": ["a", "b"], "verbs": ["get"]});
        let [a, b, c] = ["a", "b", "c"].map(|name| used("get", "g/leases", name));
        assert!(complaints(&rule, &[a.clone(), b], &[]).is_empty());
        assert_eq!(
            complaints(&rule, &[a, c], &[]),
            [
                "agent never used: get g/leases",
                "agent used what no shipped role grants: get g/leases"
            ]
        );
    }

    #[test]
    fn what_another_binding_or_place_allowed_is_no_use() {
        let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        let wide = Use {
            bound: Scope::Cluster,
            ..used("get", "/pods", "a")
        };
        let other = Use {
            role: "admin".into(),
            ..used("get", "/pods", "a")
        };
        let everywhere = Use {
            asked: Scope::Cluster,
            ..used("get", "/pods", "a")
        };
        for odd in [wide, other, everywhere] {
            assert_eq!(complaints(&rule, &[odd], &[]).len(), 2);
        }
        let right = used("get", "/pods", "a");
        assert_eq!(
            complaints(&rule, &[right], &["patch g/x: by a policy"]),
            ["agent may not: patch g/x: by a policy"]
        );
    }
}
