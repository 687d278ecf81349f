//! A StatefulSet's spec as it may be kept in a status and an archive: without what may be a secret. Pure.
//!
//! A literal value of an environment variable may be a password, whatever the variable is called, so only those stay
//! whose names say that they are none. The variable itself stays, without a value: a restore can tell what is missing.
//! References (`valueFrom`, `envFrom`) stay: they name a Secret and do not hold it. `command` and `args` stay too,
//! without which nothing would start; a password does not belong there, where every process listing shows it.

use serde_json::Value;

/// Variables whose values a clone needs and that hold no secret by their meaning.
const HARMLESS: [&str; 17] = [
    "LANG",
    "LANGUAGE",
    "PGDATA",
    "PGDATABASE",
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "POSTGRES_DB",
    "POSTGRES_HOST_AUTH_METHOD",
    "POSTGRES_INITDB_ARGS",
    "POSTGRES_INITDB_WALDIR",
    "POSTGRES_USER",
    "POSTGRESQL_DATABASE",
    "POSTGRESQL_DATA_DIR",
    "POSTGRESQL_USERNAME",
    "POSTGRESQL_VOLUME_DIR",
    "TZ",
];

/// The spec without literal values of environment variables.
pub fn redact(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(pod) = spec
        .pointer_mut("/template/spec")
        .and_then(Value::as_object_mut)
    {
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            let containers = pod.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let variables = container.get_mut("env").and_then(Value::as_array_mut);
                variables.into_iter().flatten().for_each(redact_variable);
            }
        }
    }
    spec
}

fn redact_variable(variable: &mut Value) {
    let name = variable
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    // The `_FILE` form names a file.
    if HARMLESS.contains(&name) || name.starts_with("LC_") || name.ends_with("_FILE") {
        return;
    }
    if let Some(variable) = variable.as_object_mut() {
        variable.remove("value");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_literal_value_stays_that_may_be_a_secret() {
        let env = json!([
            {"name": "POSTGRES_PASSWORD", "value": "planted"},
            {"name": "APP_DSN", "value": "postgres://u:planted@h/d"},
            {"name": "REF", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "PGDATA", "value": "/data/pg"},
            {"name": "POSTGRES_PASSWORD_FILE", "value": "/run/secrets/pg"},
        ]);
        let container = json!({"name": "c", "args": ["-c", "fsync=on"], "env": env, "newField": 1});
        let spec = json!({"serviceName": "db", "template": {"spec": {
            "containers": [container], "initContainers": [container], "ephemeralContainers": [container],
        }}});
        let redacted = redact(&spec);
        assert!(!redacted.to_string().contains("planted"));
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            let kept = &redacted["template"]["spec"][list][0];
            assert_eq!(kept["env"][0], json!({"name": "POSTGRES_PASSWORD"}));
            assert_eq!(kept["env"][2], env[2]);
            assert_eq!(kept["env"][3], env[3]);
            assert_eq!(kept["env"][4], env[4]);
            assert_eq!(
                (&kept["args"], &kept["newField"]),
                (&container["args"], &json!(1))
            );
        }
        assert_eq!(redacted["serviceName"], "db");
        assert_eq!(redact(&json!({})), json!({}));
    }
}
