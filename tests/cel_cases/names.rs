//! Names of other objects: they become parts of a request's path.

use serde_json::{Value, json};

use super::Case;

/// What a name must not be: each would be more in a path than a name.
const BAD: [&str; 6] = [
    "../orders",
    "orders/x",
    "orders?",
    "orders%2f",
    "Orders",
    ".",
];

macro_rules! said {
    ($field:literal) => {
        concat!(
            $field,
            " must begin and end with a letter or digit, and hold only a-z, 0-9, . and -"
        )
    };
}

/// One field: its kind, what is said of it, and a spec that has it.
type Field = (&'static str, &'static str, fn(&str) -> Value);

const FIELDS: [Field; 18] = [
    ("PgRestore", said!("protection"), |name| {
        source(json!({"protection": name}))
    }),
    ("PgRestore", said!("backup"), |name| {
        source(json!({"backup": name}))
    }),
    ("PgRestore", said!("archive"), |name| {
        source(json!({"archive": {"archive": name, "name": "shop-orders"}}))
    }),
    ("PgRestore", said!("secretName"), |name| {
        let mut spec = source(json!({"backup": "b"}));
        spec["decryption"] = json!({"secretName": name, "key": "Key_1"});
        spec
    }),
    ("PgRestore", said!("storageClassName"), |name| {
        into(json!({"volumes": {"namePrefix": "copy"}, "storageClassName": name}))
    }),
    ("PgRestore", said!("policy"), |name| {
        into(json!({"statefulSet": "copy", "policy": name}))
    }),
    (
        "PgProtection",
        said!("statefulSet"),
        |name| json!({"statefulSet": name, "policy": "gold"}),
    ),
    (
        "PgProtection",
        said!("policy"),
        |name| json!({"statefulSet": "orders", "policy": name}),
    ),
    ("PgProtection", said!("secretName"), |name| {
        let credentials = json!({"secretName": name, "userKey": "PG_USER"});
        json!({"statefulSet": "orders", "policy": "gold", "connection": {"credentials": credentials}})
    }),
    (
        "PgBackup",
        said!("protection"),
        |name| json!({"protection": name}),
    ),
    (
        "PgBackupPolicy",
        said!("archive"),
        |name| json!({"archive": name}),
    ),
    (
        "PgBackupPolicy",
        said!("className"),
        |name| json!({"archive": "main", "snapshot": {"className": name}}),
    ),
    (
        "PgBackupPolicy",
        said!("groupClassName"),
        |name| json!({"archive": "main", "snapshot": {"groupClassName": name}}),
    ),
    (
        "PgArchive",
        said!("persistentVolumeClaim"),
        |name| json!({"directory": {"persistentVolumeClaim": name}}),
    ),
    (
        "PgArchive",
        said!("secretName"),
        |name| json!({"s3": {"bucket": "backups"}, "credentials": {"secretName": name}}),
    ),
    (
        "PgArchive",
        said!("name"),
        |name| json!({"s3": {"bucket": "backups", "caSecret": ca(name)}}),
    ),
    (
        "PgArchive",
        said!("name"),
        |name| json!({"gcs": {"bucket": "backups", "caSecret": ca(name)}}),
    ),
    (
        "PgArchive",
        said!("name"),
        |name| json!({"azure": {"container": "backups", "account": "backups", "caSecret": ca(name)}}),
    ),
];

fn ca(name: &str) -> Value {
    json!({"name": name, "key": "CA_1.crt"})
}

fn source(source: Value) -> Value {
    json!({"source": source, "into": {"statefulSet": "copy"}})
}

fn into(into: Value) -> Value {
    json!({"source": {"protection": "orders"}, "into": into})
}

pub fn rules() -> Vec<Case> {
    let fields = FIELDS.iter().zip(BAD.iter().cycle());
    let cases = fields.map(|((kind, message, spec), bad)| Case {
        kind,
        before: None,
        good: spec("orders.v2-0"),
        bad: spec(bad),
        message,
    });
    cases.collect()
}
