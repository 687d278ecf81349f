use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::find::{Found, Value, find};
use crate::api::Connection;

fn secret(name: &str, key: &str) -> Value {
    Value::Secret {
        name: name.into(),
        key: key.into(),
        optional: false,
    }
}

fn literal(text: &str) -> Value {
    Value::Literal(text.into())
}

fn found(pod: Json, marks: &[(&str, &str)], connection: Option<Json>) -> Result<Found, String> {
    let pod = serde_json::from_value(pod).unwrap();
    let marks: BTreeMap<String, String> = marks
        .iter()
        .map(|(key, value)| (format!("highwater.dev/{key}"), (*value).to_owned()))
        .collect();
    let connection: Option<Connection> =
        connection.map(|connection| serde_json::from_value(connection).unwrap());
    find(&pod, &marks, connection.as_ref()).map_err(|rejection| rejection.reason.to_owned())
}

fn one(env: Json) -> Json {
    json!({"containers": [{"name": "db", "env": env}]})
}

#[test]
fn credentials_come_from_the_environment() {
    let from_secret = |variable: &str, name: &str, key: &str| json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}});
    for (name, env, user, password) in [
        (
            "secret keys",
            json!([
                from_secret("POSTGRES_USER", "pg", "u"),
                from_secret("POSTGRES_PASSWORD", "pg", "p")
            ]),
            secret("pg", "u"),
            secret("pg", "p"),
        ),
        (
            "the usual user",
            json!([from_secret("POSTGRES_PASSWORD", "pg", "p")]),
            literal("postgres"),
            secret("pg", "p"),
        ),
        (
            "in clear",
            json!([{"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_PASSWORD", "value": "x7"}]),
            literal("app"),
            literal("x7"),
        ),
        (
            "a user from a ConfigMap",
            json!([
                {"name": "POSTGRES_USER", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "u"}}},
                from_secret("POSTGRES_PASSWORD", "pg", "p"),
            ]),
            Value::ConfigMap {
                name: "cm".into(),
                key: "u".into(),
            },
            secret("pg", "p"),
        ),
        (
            "the superuser's own password beside an application's",
            json!([
                {"name": "POSTGRES_USER", "value": "app"},
                from_secret("POSTGRES_PASSWORD", "pg", "password"),
                from_secret("POSTGRES_POSTGRES_PASSWORD", "pg", "postgres-password"),
            ]),
            literal("postgres"),
            secret("pg", "postgres-password"),
        ),
        (
            "another image's names",
            json!([{"name": "POSTGRESQL_USERNAME", "value": "app"}, from_secret("POSTGRESQL_PASSWORD", "pg", "p")]),
            literal("app"),
            secret("pg", "p"),
        ),
    ] {
        let found = found(one(env), &[], None).unwrap();
        assert_eq!((found.user, found.password), (user, password), "{name}");
    }
}

#[test]
fn credentials_come_from_mounted_files() {
    let pod = |volume: Json, mount: Json| {
        json!({
            "containers": [{
                "name": "db",
                "env": [{"name": "POSTGRES_PASSWORD_FILE", "value": "/run/pg/pass/word"}],
                "volumeMounts": [mount],
            }],
            "volumes": [volume],
        })
    };
    let at = |path: &str| json!({"name": "v", "mountPath": path});
    for (name, volume, mount, expected) in [
        (
            "a whole Secret",
            json!({"name": "v", "secret": {"secretName": "pg"}}),
            at("/run/pg/pass"),
            secret("pg", "word"),
        ),
        (
            "chosen keys",
            json!({"name": "v", "secret": {"secretName": "pg", "items": [{"key": "k", "path": "pass/word"}]}}),
            at("/run/pg"),
            secret("pg", "k"),
        ),
        (
            "one file by subPath",
            json!({"name": "v", "secret": {"secretName": "pg"}}),
            json!({"name": "v", "mountPath": "/run/pg/pass/word", "subPath": "word"}),
            secret("pg", "word"),
        ),
        (
            "a projected volume",
            json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "pg", "items": [{"key": "k", "path": "word"}]}}]}}),
            at("/run/pg/pass/"),
            secret("pg", "k"),
        ),
    ] {
        assert_eq!(
            found(pod(volume, mount), &[], None).map(|found| found.password),
            Ok(expected),
            "{name}"
        );
    }
}

#[test]
fn credentials_come_from_a_secret_taken_in_as_a_whole() {
    let pod = json!({"containers": [{"name": "db", "envFrom": [{"secretRef": {"name": "pg"}}]}]});
    let found = found(pod, &[], None).unwrap();
    assert_eq!(found.password, secret("pg", "POSTGRES_PASSWORD"));
    assert_eq!(
        found.user,
        Value::Secret {
            name: "pg".into(),
            key: "POSTGRES_USER".into(),
            optional: true
        }
    );
}

#[test]
fn what_is_said_wins() {
    let pod = one(json!([{"name": "POSTGRES_PASSWORD", "value": "x7"}]));
    let by_mark = found(
        pod.clone(),
        &[("credentials", "mine"), ("port", "6543")],
        None,
    )
    .unwrap();
    assert_eq!(by_mark.user, secret("mine", "username"));
    assert_eq!(by_mark.password, secret("mine", "password"));
    assert_eq!(by_mark.port, 6543);
    let connection = json!({"port": 7654, "database": "app", "credentials": {"secretName": "spec", "userKey": "u"}});
    let by_spec = found(
        pod,
        &[("credentials", "mine"), ("port", "6543")],
        Some(connection),
    )
    .unwrap();
    assert_eq!(by_spec.user, secret("spec", "u"));
    assert_eq!(by_spec.password, secret("spec", "password"));
    assert_eq!((by_spec.port, by_spec.database.as_str()), (7654, "app"));
}

#[test]
fn the_container_and_its_port() {
    let password = json!([{"name": "POSTGRES_PASSWORD", "value": "x7"}]);
    let exporter = json!({"name": "exporter", "ports": [{"containerPort": 9187}]});
    for (name, containers, marks, expected) in [
        (
            "by its environment",
            json!([exporter, {"name": "db", "env": password}]),
            vec![],
            Ok(("db", 5432)),
        ),
        (
            "by its port",
            json!([exporter, {"name": "db", "ports": [{"containerPort": 5432}], "envFrom": [{"secretRef": {"name": "pg"}}]}]),
            vec![],
            Ok(("db", 5432)),
        ),
        (
            "by its name",
            json!([{"name": "a", "env": password}, {"name": "b", "env": password, "ports": [{"containerPort": 5433}]}]),
            vec![("container", "b")],
            Ok(("b", 5433)),
        ),
        (
            "a named port among others",
            json!([{"name": "db", "env": password, "ports": [{"containerPort": 8008}, {"containerPort": 5434, "name": "postgresql"}]}]),
            vec![],
            Ok(("db", 5434)),
        ),
        (
            "a port in the environment",
            json!([{"name": "db", "env": [{"name": "POSTGRES_PASSWORD", "value": "x7"}, {"name": "PGPORT", "value": "6000"}]}]),
            vec![],
            Ok(("db", 6000)),
        ),
        (
            "two alike",
            json!([{"name": "a", "env": password}, {"name": "b", "env": password}]),
            vec![],
            Err("ContainerNotFound"),
        ),
        (
            "a wrong name",
            json!([{"name": "a", "env": password}]),
            vec![("container", "b")],
            Err("ContainerNotFound"),
        ),
        (
            "no password",
            json!([{"name": "a"}]),
            vec![],
            Err("CredentialsNotFound"),
        ),
        (
            "no port number",
            json!([{"name": "a", "env": password}]),
            vec![("port", "pg")],
            Err("PortInvalid"),
        ),
    ] {
        let found = found(json!({ "containers": containers }), &marks, None);
        let found = found
            .as_ref()
            .map(|found| (found.container.as_str(), found.port))
            .map_err(String::as_str);
        assert_eq!(found, expected, "{name}");
    }
}
