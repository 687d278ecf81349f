//! Each rule of the schemas, evaluated here, lets one input pass and refuses another with its message. The flow tests ask
//! the real API server the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cel_cases;

use std::collections::BTreeSet;

use cel_cases::{Case, rules};
use highwater::api::{PgArchive, PgBackup, PgBackupPolicy, PgProtection, PgRestore, crds};
use kube::{CustomResourceExt, core::cel};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// What is said of `after`, made from `before`. `Err`: our own types cannot hold it.
fn messages<K>(before: Option<&Value>, after: &Value) -> serde_json::Result<Vec<String>>
where
    K: CustomResourceExt + Serialize + DeserializeOwned,
{
    let object = |spec: &Value| -> serde_json::Result<K> {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec}))
    };
    let after = object(after)?;
    let outcome = match before {
        Some(before) => cel::validate_cel_update(&after, &object(before).unwrap()),
        None => cel::validate_cel(&after),
    };
    Ok(match outcome {
        Ok(()) => Vec::new(),
        Err(errors) => vec![errors.to_string()],
    })
}

fn of(case: &Case, spec: &Value) -> serde_json::Result<Vec<String>> {
    let before = case.before.as_ref();
    match case.kind {
        "PgArchive" => messages::<PgArchive>(before, spec),
        "PgBackupPolicy" => messages::<PgBackupPolicy>(before, spec),
        "PgProtection" => messages::<PgProtection>(before, spec),
        "PgBackup" => messages::<PgBackup>(before, spec),
        "PgRestore" => messages::<PgRestore>(before, spec),
        other => panic!("no kind {other}"),
    }
}

#[test]
fn each_rule_passes_one_input_and_refuses_another() {
    for case in rules() {
        let said = of(&case, &case.good).unwrap();
        assert!(said.is_empty(), "{}: {said:?}", case.message);
        let said = of(&case, &case.bad);
        let refused = |said: &Vec<String>| said.iter().any(|text| text.contains(case.message));
        assert!(
            said.as_ref().map_or(true, refused),
            "{}: {said:?}",
            case.message
        );
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
