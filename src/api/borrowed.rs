//! Kubernetes' own types in our schemas: what the API server lets in must be possible to decode, as an object that is not is left
//! out by everybody who watches.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A number is a quantity, too, and the schema lets it in: Kubernetes' own type takes a text alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(i64),
    Text(String),
}

impl From<NumberOrText> for Quantity {
    fn from(quantity: NumberOrText) -> Self {
        match quantity {
            NumberOrText::Number(number) => Self(number.to_string()),
            NumberOrText::Text(text) => Self(text),
        }
    }
}

/// A quantity that may be left out.
pub fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quantity>, D::Error> {
    let quantity = Option::<NumberOrText>::deserialize(deserializer)?;
    Ok(quantity.map(Into::into))
}

/// Quantities by name.
pub fn quantities<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Quantity>, D::Error> {
    let map = BTreeMap::<String, NumberOrText>::deserialize(deserializer)?;
    let entries = map.into_iter();
    Ok(entries
        .map(|(name, quantity)| (name, quantity.into()))
        .collect())
}

/// The schema of a pod's rules about nodes and other pods.
pub fn affinity(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Affinity::json_schema(generator);
    schema.insert("nullable".to_owned(), json!(true));
    bound(&mut schema);
    schema
}

/// The schema of a pod's tolerations.
pub fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    let mut items = Toleration::json_schema(generator);
    bound(&mut items);
    json_schema!({"type": "array", "nullable": true, "maxItems": 64, "items": items})
}

/// The API server takes any number where the format says int32 or int64: one that nobody can decode would be stored.
fn bound(schema: &mut Schema) {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                let most = match fields.get("format").and_then(Value::as_str) {
                    Some("int32") => Some(i64::from(i32::MAX)),
                    // What a double holds exactly, as the schema has doubles.
                    Some("int64") => Some((1 << 53) - 1),
                    _ => None,
                };
                if let Some(most) = most {
                    fields.insert("minimum".to_owned(), json!(-most));
                    fields.insert("maximum".to_owned(), json!(most));
                }
                fields.values_mut().for_each(walk);
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = schema.clone().to_value();
    walk(&mut value);
    if let Value::Object(fields) = value {
        *schema = fields.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{IntoResources, IntoScheduling, RestoreInto};

    #[test]
    fn a_quantity_is_a_text_or_a_number() {
        let size = |value: Value| {
            let into: RestoreInto = serde_json::from_value(json!({"size": value})).unwrap();
            into.size.map(|size| size.0)
        };
        assert_eq!(size(json!("20Gi")).as_deref(), Some("20Gi"));
        assert_eq!(
            size(json!(21_474_836_480_u64)).as_deref(),
            Some("21474836480")
        );
        assert_eq!(size(json!(null)), None);
        let limits = json!({"limits": {"cpu": 2, "memory": "2Gi"}});
        let IntoResources { requests, limits } = serde_json::from_value(limits).unwrap();
        assert!(requests.is_empty());
        let limits: Vec<&str> = limits.values().map(|limit| limit.0.as_str()).collect();
        assert_eq!(limits, ["2", "2Gi"]);
    }

    /// Every number that the schema of a field lets in can be decoded.
    #[test]
    fn numbers_are_bounded() {
        fn unbounded(path: &str, value: &Value, found: &mut Vec<String>) {
            if let Value::Object(fields) = value {
                let is_number = fields.get("type") == Some(&json!("integer"));
                if is_number && !(fields.contains_key("minimum") && fields.contains_key("maximum"))
                {
                    found.push(path.to_owned());
                }
                for (name, field) in fields {
                    unbounded(&format!("{path}/{name}"), field, found);
                }
            }
        }
        let mut generator = schemars::generate::SchemaSettings::openapi3()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator();
        let schema = generator.subschema_for::<IntoScheduling>().to_value();
        assert!(schema.to_string().contains("\"weight\""));
        let mut found = Vec::new();
        unbounded("", &schema, &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}
