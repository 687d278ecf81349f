//! What admission leaves to agents and recovery pods, against what they write.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{definitions, documents, schema, strings};

/// What the controller writes into each status: all that no policy leaves to another program.
const CONTROLLERS: [(&str, &[&str]); 3] = [
    (
        "pgprotections",
        &[
            "observedGeneration",
            "archiveName",
            "members",
            "lastBackup",
            "lastExpired",
            "lastVerified",
            "lastRestore",
            "schedules",
            "verification",
            "backupNow",
            "turn",
        ],
    ),
    (
        "pgbackups",
        &[
            "observedGeneration",
            "attempt",
            "volumes",
            "group",
            "statefulSet",
        ],
    ),
    (
        "pgrestores",
        &["observedGeneration", "into", "volumes", "inPlace", "phases"],
    ),
];

/// Whom a policy is about, and what it is called.
const POLICIES: [(&str, &str, &str); 5] = [
    ("pgprotections", "agent", "highwater-agent-protection"),
    ("pgbackups", "agent", "highwater-agent-backup"),
    ("pgrestores", "agent", "highwater-agent-restore"),
    ("pgrestores", "planning pod", "highwater-planning"),
    ("pgrestores", "recovery pod", "highwater-recovery"),
];

/// The texts in single quotation marks of a policy's variable.
fn listed(policy: &Value, variable: &str) -> BTreeSet<String> {
    let variables = policy["spec"]["variables"].as_array().unwrap();
    let found = variables.iter().find(|it| it["name"] == variable).unwrap();
    let text = found["expression"].as_str().unwrap();
    text.split('\'')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// A field or condition that is new has to be somebody's, or its writer is refused.
#[test]
fn policies_leave_each_program_its_own_fields() {
    let documents = documents("manifests/roles/admission.yaml");
    for (kind, ours) in CONTROLLERS {
        let (_, definition) = definitions()
            .into_iter()
            .find(|(name, _)| name.starts_with(kind))
            .unwrap();
        let status = &schema(&definition)["properties"]["status"]["properties"];
        let mut fields: BTreeSet<String> = ours.iter().map(|field| (*field).to_owned()).collect();
        for (_, program, name) in POLICIES.iter().filter(|policy| policy.0 == kind) {
            let is_it = |it: &&Value| it["metadata"]["name"] == *name;
            let policy = documents.iter().find(is_it).unwrap();
            for field in listed(policy, "fields") {
                // Whose a plan is the source says: an agent's, or an archive's.
                let planned = (kind, field.as_str()) == ("pgrestores", "plan");
                assert!(
                    fields.insert(field.clone()) || planned,
                    "{field} of {kind} is several programs'"
                );
            }
            let described = status["conditions"]["description"].as_str().unwrap();
            let theirs = described
                .split(';')
                .find(|part| part.contains(&format!("({program})")));
            let theirs = theirs
                .unwrap()
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned);
            assert_eq!(listed(policy, "conditions"), theirs.collect(), "{name}");
        }
        fields.insert("conditions".to_owned());
        let all = status.as_object().unwrap().keys().cloned();
        assert_eq!(fields, all.collect(), "{kind}");
    }
}

/// Which accounts a policy is about: the end of their names.
fn accounts(policy: &Value) -> String {
    let conditions = policy["spec"]["matchConditions"].as_array().unwrap();
    let account = conditions
        .iter()
        .find(|it| it["name"] == "account")
        .unwrap();
    let text = account["expression"].as_str().unwrap();
    text.rsplit('\'').nth(1).unwrap().to_owned()
}

#[test]
fn what_agents_and_recovery_pods_write_has_a_policy_that_denies() {
    let documents = documents("manifests/roles/admission.yaml");
    let (policies, bindings): (Vec<&Value>, Vec<&Value>) = documents
        .iter()
        .partition(|it| it["kind"] == "ValidatingAdmissionPolicy");
    for policy in &policies {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail", "{policy}");
        let name = &policy["metadata"]["name"];
        let bound = bindings.iter().find(|it| it["spec"]["policyName"] == *name);
        let bound = &bound.unwrap()["spec"];
        assert_eq!(bound["validationActions"], json!(["Deny"]), "{name}");
        assert_eq!(bound.get("matchResources"), None, "{name}");
    }
    let mut written = 0;
    for (file, account) in [
        ("agent", "-highwater"),
        ("recovery", "-recovery"),
        ("recovery", "-planning"),
    ] {
        let roles = super::documents(&format!("manifests/roles/{file}.yaml"));
        for rule in roles[0]["rules"].as_array().unwrap() {
            let writes = |verb: &&&str| !["get", "list", "watch"].contains(*verb);
            if strings(rule, "verbs").iter().find(writes).is_none() {
                continue;
            }
            let group = strings(rule, "apiGroups");
            for resource in strings(rule, "resources") {
                written += 1;
                let guards = |policy: &&&Value| {
                    let about = &policy["spec"]["matchConstraints"]["resourceRules"][0];
                    accounts(policy) == account
                        && strings(about, "apiGroups") == group
                        && strings(about, "resources") == [resource]
                        && strings(about, "operations").contains(&"UPDATE")
                };
                assert!(policies.iter().any(|it| guards(&it)), "{file} {resource}");
            }
        }
    }
    assert_eq!(written, 6);
}
