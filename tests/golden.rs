//! What is generated and committed is what the code says. `UPDATE_GOLDEN=1` rewrites the files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use highwater::api::crds;
use serde_json::Value;

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
