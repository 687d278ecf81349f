//! Which fields of this version the CRDs that are installed do not have, as where somebody has upgraded the program alone.
//! The API server refuses a status with such a field, or drops it without a word. Pure.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use crate::api::{GROUP, VERSION};

/// What the API server publishes of the group: whoever may discover kinds may read it, and no right on CRDs is needed.
pub const OPENAPI: &str = "/openapi/v3/apis/highwater.dev/v1alpha1";
/// So many fields of a CRD are named.
const NAMED: usize = 5;

/// What of `definitions` the OpenAPI document `served` lacks, in a sentence. `None`: nothing.
pub fn lacking(definitions: &[CustomResourceDefinition], served: &Value) -> Option<String> {
    let lacks = definitions.iter().filter_map(|definition| {
        let name = definition.metadata.name.clone().unwrap_or_default();
        let wanted = wanted(definition)?;
        let mut fields = Vec::new();
        compare("", &wanted, published(served, definition)?, &mut fields);
        (!fields.is_empty()).then(|| format!("the CRD {name} lacks {}", named(&fields)))
    });
    let lacks: Vec<_> = lacks.collect();
    (!lacks.is_empty()).then(|| {
        format!(
            "{}: apply the CRDs of this version first: kubectl apply --server-side -k crds",
            lacks.join("; ")
        )
    })
}

fn named(fields: &[String]) -> String {
    let first = fields[..fields.len().min(NAMED)].join(", ");
    match fields.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The schema that this version is built with.
fn wanted(definition: &CustomResourceDefinition) -> Option<Value> {
    let mut versions = definition.spec.versions.iter();
    let version = versions.find(|version| version.name == VERSION)?;
    let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
    serde_json::to_value(schema).ok()
}

/// The schema of the same kind in the document. `None`: it is not served, which is another's to say.
fn published<'a>(served: &'a Value, definition: &CustomResourceDefinition) -> Option<&'a Value> {
    let kind = &definition.spec.names.kind;
    let is_of = |schema: &&Value| {
        let mut kinds = schema["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten();
        kinds.any(|it| it["group"] == GROUP && it["version"] == VERSION && it["kind"] == **kind)
    };
    let schemas = served["components"]["schemas"].as_object()?;
    schemas.values().find(is_of)
}

/// Adds the path of each property of `wanted` that `served` has not; of what lies below none.
fn compare(path: &str, wanted: &Value, served: &Value, lacking: &mut Vec<String>) {
    if served["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let properties = wanted["properties"].as_object().into_iter().flatten();
    for (name, field) in properties {
        let path = match path {
            "" => name.clone(),
            _ => format!("{path}.{name}"),
        };
        match served["properties"].get(name) {
            Some(served) => compare(&path, field, served, lacking),
            None => lacking.push(path),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(field) = wanted.get(inner) {
            compare(path, field, &served[inner], lacking);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::crds;

    /// What an API server publishes that has the CRDs of this version.
    pub fn current() -> Value {
        let schemas = crds::all().into_iter().map(|definition| {
            let kind = definition.spec.names.kind.clone();
            let mut schema = wanted(&definition).unwrap();
            schema["properties"]["metadata"] =
                json!({"allOf": [{"$ref": "#/components/schemas/ObjectMeta"}]});
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": GROUP, "version": VERSION, "kind": kind}]);
            (format!("dev.highwater.v1alpha1.{kind}"), schema)
        });
        let mut schemas: serde_json::Map<_, _> = schemas.collect();
        let lists = json!({"type": "object", "properties": {"items": {"type": "array"}},
            "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": "PgBackupList"}]});
        schemas.insert("dev.highwater.v1alpha1.PgBackupList".to_owned(), lists);
        json!({"openapi": "3.0.0", "components": {"schemas": schemas}})
    }

    /// The same without a field, which must be there.
    pub fn without(mut served: Value, kind: &str, at: &str, field: &str) -> Value {
        let path = format!("/components/schemas/dev.highwater.v1alpha1.{kind}/properties{at}");
        let fields = served.pointer_mut(&path).and_then(Value::as_object_mut);
        assert!(fields.unwrap().remove(field).is_some(), "{path}/{field}");
        served
    }

    #[test]
    fn crds_of_this_version_lack_nothing() {
        assert_eq!(OPENAPI, format!("/openapi/v3/apis/{GROUP}/{VERSION}"));
        assert_eq!(lacking(&crds::all(), &current()), None);
        let other = json!({"components": {"schemas": {}}});
        assert_eq!(lacking(&crds::all(), &other), None, "none is served");
    }

    #[test]
    fn a_field_that_an_older_crd_lacks_is_named() {
        let status = "/status/properties";
        for (kind, at, field, said) in [
            (
                "PgProtection",
                status,
                "turn",
                "pgprotections.highwater.dev lacks status.turn: ",
            ),
            (
                "PgProtection",
                status,
                "preflight",
                "lacks status.preflight: apply",
            ),
            (
                "PgProtection",
                "/status/properties/preflight/properties",
                "roleConnections",
                "lacks status.preflight.roleConnections: ",
            ),
            (
                "PgBackup",
                "/status/properties/volumes/items/properties",
                "retained",
                "pgbackups.highwater.dev lacks status.volumes.retained: ",
            ),
            (
                "PgArchive",
                "/spec/properties/s3/properties",
                "region",
                "pgarchives.highwater.dev lacks spec.s3.region: ",
            ),
        ] {
            let why = lacking(&crds::all(), &without(current(), kind, at, field)).unwrap();
            assert!(why.contains(said), "{why}");
            assert!(
                why.ends_with("kubectl apply --server-side -k crds"),
                "{why}"
            );
        }
    }

    #[test]
    fn each_crd_is_named_and_not_each_of_many_fields() {
        let older = without(current(), "PgProtection", "/status/properties", "turn");
        let older = without(older, "PgBackup", "", "status");
        let why = lacking(&crds::all(), &older).unwrap();
        let expected = "the CRD pgprotections.highwater.dev lacks status.turn; the CRD pgbackups.highwater.dev lacks status: ";
        assert!(why.starts_with(expected), "{why}");
        let mut bare = current();
        let status = "/components/schemas/dev.highwater.v1alpha1.PgBackup/properties/status";
        *bare.pointer_mut(status).unwrap() = json!({"type": "object"});
        let why = lacking(&crds::all(), &bare).unwrap();
        assert!(why.contains("status.attempt, status.catalog"), "{why}");
        assert!(why.contains(" more: apply"), "{why}");
        *bare.pointer_mut(status).unwrap() = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(
            lacking(&crds::all(), &bare),
            None,
            "it keeps whatever comes"
        );
    }
}
