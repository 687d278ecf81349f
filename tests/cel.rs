//! Each rule of the schemas, evaluated here, lets one input pass and refuses another with its message. The flow tests ask
//! the real API server the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cel_cases;
mod cel_reserved;

use std::collections::BTreeSet;

use cel_cases::{Case, rules};
use highwater::api::{PgArchive, PgBackup, PgBackupPolicy, PgProtection, PgRestore, crds};
use kube::{CustomResourceExt, core::cel};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object(spec: &Value) -> Value {
    json!({"apiVersion": "highwater.dev/v1alpha1", "kind": "X", "metadata": {"name": "x"}, "spec": spec})
}

/// What the rules say of `after`, made from `before`: of the text as it comes, which our types may not hold.
fn messages<K: CustomResourceExt>(before: Option<&Value>, after: &Value) -> String {
    let crd = serde_json::to_value(K::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let before = before.map(object);
    let outcome = cel::Validator::new().validate(schema, &object(after), before.as_ref());
    outcome
        .err()
        .map_or(String::new(), |errors| errors.to_string())
}

/// What the rules say, and whether the object can be decoded.
fn judged<K: CustomResourceExt + DeserializeOwned>(case: &Case, spec: &Value) -> (String, bool) {
    let decoded = serde_json::from_value::<K>(object(spec)).is_ok();
    (messages::<K>(case.before.as_ref(), spec), decoded)
}

fn of(case: &Case, spec: &Value) -> (String, bool) {
    match case.kind {
        "PgArchive" => judged::<PgArchive>(case, spec),
        "PgBackupPolicy" => judged::<PgBackupPolicy>(case, spec),
        "PgProtection" => judged::<PgProtection>(case, spec),
        "PgBackup" => judged::<PgBackup>(case, spec),
        "PgRestore" => judged::<PgRestore>(case, spec),
        other => panic!("no kind {other}"),
    }
}

#[test]
fn each_rule_passes_one_input_and_refuses_another() {
    for case in rules() {
        let (said, decoded) = of(&case, &case.good);
        assert!(said.is_empty(), "{}: {said}", case.message);
        assert!(decoded, "{}: {} is not decoded", case.message, case.good);
        let (said, _) = of(&case, &case.bad);
        assert!(said.contains(case.message), "{}: {said:?}", case.bad);
    }
}

#[test]
fn every_rule_of_the_schemas_has_a_case() {
    let mut found = BTreeSet::new();
    for crd in crds::all() {
        collect(&serde_json::to_value(&crd).unwrap(), &mut found);
    }
    let covered: BTreeSet<String> = rules().iter().map(|case| case.message.to_owned()).collect();
    // A rule that a derive macro lost is missing on the left.
    assert_eq!(found, covered);
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for rule in map
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                found.insert(rule["message"].as_str().unwrap_or("no message").to_owned());
            }
            map.values().for_each(|inner| collect(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, found)),
        _ => {}
    }
}

/// Texts as long as a name that are none: keys of a Secret.
const KEYS: [&str; 3] = ["key", "userKey", "passwordKey"];

/// Names become parts of requests: one that nothing bounds is seen here.
#[test]
fn every_text_that_is_as_long_as_a_name_has_a_rule() {
    fn unbounded(field: &str, schema: &Value, found: &mut Vec<String>) {
        let is_name = schema["type"] == "string" && schema["maxLength"] == 253;
        let has_rule = schema.get("x-kubernetes-validations").is_some();
        if is_name && !has_rule && !KEYS.contains(&field) {
            found.push(field.to_owned());
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(name, inner, found);
        }
        if let Some(items) = schema.get("items") {
            unbounded(field, items, found);
        }
    }
    let mut found = Vec::new();
    for crd in crds::all() {
        let crd = serde_json::to_value(&crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        unbounded("spec", &schema["properties"]["spec"], &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
    let bare = json!({"properties": {"a": {"items": {"type": "string", "maxLength": 253}}}});
    unbounded("spec", &bare, &mut found);
    assert_eq!(found, ["a"]);
}
