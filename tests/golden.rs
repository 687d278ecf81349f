//! What is generated and committed is what the code says. `UPDATE_GOLDEN=1` rewrites the files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod policies;
mod reasons;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use highwater::api::crds;
use serde_json::{Value, json};

fn committed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn definitions() -> Vec<(String, Value)> {
    crds::all()
        .iter()
        .map(|crd| {
            let name = crd.metadata.name.clone().unwrap();
            (name, serde_json::to_value(crd).unwrap())
        })
        .collect()
}

/// Calls `visit` with every schema under a property, and its path.
fn properties(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
        for (name, field) in fields {
            let path = format!("{path}.{name}");
            visit(&path, field);
            properties(&path, field, visit);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            properties(&format!("{path}[]"), inner, visit);
        }
    }
}

fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

#[test]
fn crds_are_as_committed() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut resources = String::new();
    for crd in crds::all() {
        let name = crd.metadata.name.clone().unwrap();
        let file = format!("crds/{name}.yaml");
        let yaml = crds::to_yaml(&crd).unwrap();
        if update {
            fs::write(committed(&file), &yaml).unwrap();
        }
        let found = fs::read_to_string(committed(&file)).unwrap_or_default();
        assert!(
            found == yaml,
            "{file} is not what the types say: run `make crds`"
        );
        resources.push_str(&format!("  - {name}.yaml\n"));
    }
    let kustomization = fs::read_to_string(committed("crds/kustomization.yaml")).unwrap();
    assert!(
        kustomization.contains(&resources),
        "crds/kustomization.yaml does not list exactly\n{resources}"
    );
}

#[test]
fn every_field_has_a_description() {
    let mut bare = Vec::new();
    for (name, definition) in definitions() {
        let root = schema(&definition);
        let described = |field: &Value| {
            field
                .get("description")
                .and_then(Value::as_str)
                .is_some_and(|text| !text.trim().is_empty())
        };
        if !described(root) {
            bare.push(name.clone());
        }
        properties(&name, root, &mut |path, field| {
            let root_field = [".spec", ".status"]
                .iter()
                .any(|root| path == format!("{name}{root}"));
            if !root_field && !described(field) {
                bare.push(path.to_owned());
            }
        });
    }
    assert!(bare.is_empty(), "no description: {bare:#?}");
}

/// Every document of a manifest.
fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(committed(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

const ROLES: [&str; 5] = [
    "roles/controller",
    "roles/agent",
    "roles/recovery",
    "controller/lease-role",
    "in-place/role",
];

#[test]
fn no_role_reads_secrets_or_runs_commands_in_pods() {
    let mut rules = 0;
    for file in ROLES {
        for document in documents(&format!("manifests/{file}.yaml")) {
            for rule in document["rules"].as_array().into_iter().flatten() {
                rules += 1;
                for (field, forbidden) in [
                    (
                        "resources",
                        &["secrets", "pods/exec", "pods/attach", "nodes/proxy", "*"][..],
                    ),
                    ("verbs", &["*", "escalate", "impersonate"]),
                    ("apiGroups", &["*"]),
                ] {
                    for value in rule[field].as_array().unwrap() {
                        let value = value.as_str().unwrap();
                        assert!(!forbidden.contains(&value), "{file}: {rule} grants {value}");
                    }
                }
                let binds = rule["verbs"].as_array().unwrap().contains(&"bind".into());
                assert!(
                    !binds || rule.get("resourceNames").is_some(),
                    "{file}: {rule}"
                );
            }
        }
    }
    assert!(rules > 15, "found {rules} rules only");
}

/// The ClusterRoles that agents and recovery pods are bound to.
fn shipped_roles() -> Vec<String> {
    let name = |file: &str| {
        let role = documents(file).remove(0);
        role["metadata"]["name"].as_str().unwrap().to_owned()
    };
    [
        "manifests/roles/agent.yaml",
        "manifests/roles/recovery.yaml",
    ]
    .map(name)
    .to_vec()
}

fn strings<'a>(rule: &'a Value, field: &str) -> Vec<&'a str> {
    let values = rule[field].as_array().into_iter().flatten();
    values.filter_map(Value::as_str).collect()
}

/// Whether a rule lets its holder give away more rights than the shipped ones.
fn grants_more_than(shipped: &[String], rule: &Value) -> bool {
    let groups = strings(rule, "apiGroups");
    if !groups.contains(&"rbac.authorization.k8s.io") && !groups.contains(&"*") {
        return false;
    }
    let verbs = strings(rule, "verbs");
    strings(rule, "resources")
        .into_iter()
        .any(|resource| match resource {
            "clusterroles" => verbs != ["bind"] || strings(rule, "resourceNames") != shipped,
            // Whoever makes a binding needs `bind` for what it binds.
            "rolebindings" => verbs.iter().any(|v| ["*", "bind", "escalate"].contains(v)),
            _ => true,
        })
}

/// What belongs to no namespace: a Highwater for one namespace has these rights in the whole cluster, and no other.
const CLUSTER_SCOPED: [&str; 7] = [
    "persistentvolumes",
    "storageclasses",
    "volumesnapshotclasses",
    "volumesnapshotcontents",
    "volumegroupsnapshotclasses",
    "volumegroupsnapshotcontents",
    "customresourcedefinitions",
];

#[test]
fn the_cluster_role_has_what_belongs_to_no_namespace_and_nothing_else() {
    let roles = documents("manifests/roles/controller.yaml");
    let resources = |role: &Value| -> Vec<String> {
        let rules = role["rules"].as_array().unwrap().iter();
        let resources = rules.flat_map(|rule| strings(rule, "resources"));
        resources.map(str::to_owned).collect()
    };
    let [namespaced, cluster] = &roles[..] else {
        panic!("{} roles", roles.len());
    };
    assert_eq!(cluster["metadata"]["name"], "highwater-controller-cluster");
    assert_eq!(resources(cluster), CLUSTER_SCOPED);
    let misplaced = resources(namespaced);
    let misplaced: Vec<_> = misplaced
        .iter()
        .filter(|resource| CLUSTER_SCOPED.contains(&resource.as_str()))
        .collect();
    assert!(misplaced.is_empty(), "{misplaced:?}");
    for binding in documents("manifests/namespaced/bindings.yaml") {
        let in_cluster = binding["kind"] == "ClusterRoleBinding";
        assert_eq!(
            in_cluster,
            binding["roleRef"]["name"] == "highwater-controller-cluster"
        );
    }
}

#[test]
fn only_the_shipped_roles_can_be_bound() {
    let shipped = shipped_roles();
    let mut bound = 0;
    for file in ROLES {
        for document in documents(&format!("manifests/{file}.yaml")) {
            for rule in document["rules"].as_array().into_iter().flatten() {
                assert!(!grants_more_than(&shipped, rule), "{file}: {rule}");
                bound += usize::from(strings(rule, "verbs").contains(&"bind"));
            }
        }
    }
    assert_eq!(bound, 1);
}

#[test]
fn a_rule_that_grants_more_is_seen() {
    let shipped = shipped_roles();
    let rule = |resource: &str, names: &[String], verbs: &[&str]| {
        json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource], "resourceNames": names,
            "verbs": verbs})
    };
    let more = [shipped.as_slice(), &["cluster-admin".to_owned()]].concat();
    for rule in [
        rule("clusterroles", &[], &["bind"]),
        rule("clusterroles", &more, &["bind"]),
        rule("clusterroles", &shipped, &["bind", "escalate"]),
        rule("clusterroles", &shipped, &["bind", "create"]),
        rule("clusterroles", &shipped, &["*"]),
        rule("clusterrolebindings", &[], &["create"]),
        rule("roles", &[], &["create"]),
        rule("roles", &[], &["escalate"]),
        rule("rolebindings", &[], &["create", "bind"]),
        rule("*", &[], &["get"]),
    ] {
        assert!(grants_more_than(&shipped, &rule), "{rule}");
    }
    let allowed = rule("clusterroles", &shipped, &["bind"]);
    assert!(!grants_more_than(&shipped, &allowed));
}

/// Whether anything can be written into it that the schema does not list.
fn is_free(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let free = [
                "x-kubernetes-preserve-unknown-fields",
                "x-kubernetes-embedded-resource",
            ];
            free.iter()
                .any(|mark| fields.get(*mark) == Some(&true.into()))
                || fields.get("additionalProperties") == Some(&true.into())
                || fields.values().any(is_free)
        }
        Value::Array(items) => items.iter().any(is_free),
        _ => false,
    }
}

/// Whoever may create a PgRestore must not get any pod by it.
#[test]
fn a_restore_has_no_free_field() {
    let (_, definition) = definitions()
        .into_iter()
        .find(|(name, _)| name.starts_with("pgrestores."))
        .unwrap();
    let spec = &schema(&definition)["properties"]["spec"];
    assert!(spec["properties"]["into"].is_object());
    assert!(!is_free(spec), "{spec:#}");

    let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut patched = spec.clone();
    patched["properties"]["into"]["properties"]["patch"] = free;
    assert!(is_free(&patched));
    let mut labelled = spec.clone();
    labelled["properties"]["into"]["properties"]["any"] =
        json!({"type": "object", "additionalProperties": true});
    assert!(is_free(&labelled));
}

/// An alert about a number that nobody tells never fires.
#[test]
fn alerts_are_about_numbers_that_are_told() {
    let told: String = ["src/agent/metrics.rs", "src/controller/metrics.rs"]
        .iter()
        .map(|file| fs::read_to_string(committed(file)).unwrap())
        .collect();
    let rules = &documents("docs/alerts.yaml")[0]["spec"]["groups"][0]["rules"];
    let rules = rules.as_array().unwrap();
    assert!(rules.len() >= 6);
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let names = expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("highwater_"));
        for name in names {
            let name = name.trim_end_matches("_total");
            assert!(told.contains(&format!("\"{name}\"")), "{name}");
        }
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        assert!(committed(runbook).exists(), "{runbook}");
    }
}

/// The numbers that agents and controllers register, as Prometheus shows them.
fn numbers() -> BTreeSet<String> {
    let files = ["src/agent/metrics.rs", "src/controller/metrics.rs"];
    let texts = files.map(|file| fs::read_to_string(committed(file)).unwrap());
    let literals = texts
        .iter()
        .flat_map(|text| text.split('"').skip(1).step_by(2));
    let is_name = |it: &&str| {
        let word = it.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        word && it.starts_with("highwater_")
    };
    let names = literals.filter(is_name);
    names.map(|name| registered(name).to_owned()).collect()
}

/// What Prometheus adds to the names of counters, histograms and infos.
fn registered(name: &str) -> &str {
    let endings = ["_total", "_bucket", "_info"];
    let mut stems = endings
        .iter()
        .filter_map(|ending| name.strip_suffix(ending));
    stems.next().unwrap_or(name)
}

#[test]
fn every_number_is_described_and_the_dashboard_shows_no_other() {
    let page = fs::read_to_string(committed("docs/metrics.md")).unwrap();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `highwater_"));
    let described = rows.filter_map(|row| row.split('`').next());
    let described = described.map(|name| registered(&format!("highwater_{name}")).to_owned());
    let numbers = numbers();
    assert_eq!(described.collect::<BTreeSet<_>>(), numbers);
    assert!(numbers.len() > 20, "{numbers:?}");

    let dashboard = fs::read_to_string(committed("docs/grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|it| it["targets"].as_array().unwrap());
    let mut shown = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("highwater_"));
        shown.extend(names.map(|name| registered(name).to_owned()));
    }
    let unknown: Vec<_> = shown.difference(&numbers).collect();
    assert!(unknown.is_empty() && shown.len() > 10, "{unknown:?}");
}

/// Every file below `folder`, as one text.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap();
    let texts = entries.map(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path),
            false => fs::read_to_string(&path).unwrap_or_default(),
        }
    });
    texts.collect()
}

/// The numbers of the invariants of section 4, and the rows of section 7's table that say what tries to break each.
fn invariants(design: &str) -> (Vec<u32>, Vec<(u32, &str)>) {
    let (_, section) = design.split_once("\n## 4. ").unwrap();
    let (section, _) = section.split_once("\n## 5. ").unwrap();
    let number = |line: &str| line.trim_start().split_once(". ")?.0.parse().ok();
    let items = section.lines().skip(1).filter_map(number);
    let rows = design.lines().filter(|line| line.starts_with("| 4."));
    let rows = rows.flat_map(|row| {
        let name = row.split('|').nth(1).unwrap();
        let words = name.split([' ', ',']);
        let numbers = words.filter_map(|word| word.strip_prefix("4.")?.parse().ok());
        numbers.map(move |number| (number, row))
    });
    (items.collect(), rows.collect())
}

/// A promise without a test, and a test that is gone, are seen.
#[test]
fn what_must_never_happen_has_tests_that_are_there() {
    let design = fs::read_to_string(committed("docs/design.md")).unwrap();
    let (items, rows) = invariants(&design);
    assert_eq!(items, (1..=15).collect::<Vec<_>>());
    for item in items {
        let has_row = rows.iter().any(|(number, _)| *number == item);
        assert!(has_row, "section 7 has no row for 4.{item}");
    }
    let source: String = ["src", "tests", "e2e/src", "e2e/tests"]
        .iter()
        .map(|folder| sources(&committed(folder)))
        .collect();
    for (number, row) in rows {
        let tests = row.split('`').skip(1).step_by(2);
        for test in tests.filter(|name| name.matches('_').count() > 1) {
            let is_there = source.contains(&format!("fn {test}("));
            assert!(is_there, "4.{number}: there is no test {test}");
        }
    }
}

#[test]
fn agents_run_the_image_of_the_controller() {
    let deployment = &documents("manifests/controller/deployment.yaml")[0];
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let image = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .find(|variable| variable["name"] == "HIGHWATER_IMAGE")
        .unwrap();
    assert_eq!(image["value"], container["image"]);
}
