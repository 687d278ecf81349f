//! What another namespace may restore, and what it names.

use serde_json::{Value, json};

use super::Case;

fn allowed(namespaces: Value) -> Value {
    json!({"statefulSet": "orders", "policy": "gold", "allowRestoreTo": namespaces})
}

fn granted(namespace: &str, protection: &str) -> Value {
    let grant = json!({"namespace": namespace, "protection": protection});
    let archive = json!({"archive": "main", "name": "shop-orders", "grantedBy": grant});
    json!({"source": {"archive": archive}, "into": {"statefulSet": "copy"}})
}

pub fn rules() -> Vec<Case> {
    let allow = |good, bad| Case {
        kind: "PgProtection",
        before: None,
        good: allowed(good),
        bad: allowed(bad),
        message: "allowRestoreTo lists namespaces by their names, as in shop-test: there are no wildcards",
    };
    let grant = |good, bad, message| Case {
        kind: "PgRestore",
        before: None,
        good,
        bad,
        message,
    };
    let namespace =
        "namespace must begin and end with a letter or digit, and hold only a-z, 0-9 and -";
    let protection =
        "protection must begin and end with a letter or digit, and hold only a-z, 0-9, . and -";
    vec![
        allow(json!(["shop-test", "0-day"]), json!(["shop-test", "*"])),
        allow(json!([]), json!(["shop-"])),
        // It can be taken back.
        Case {
            before: Some(allowed(json!(["shop-test"]))),
            ..allow(json!(["other"]), json!(["Other"]))
        },
        grant(
            granted("shop", "orders.v2"),
            granted("shop/pgprotections/orders?", "orders.v2"),
            namespace,
        ),
        grant(
            granted("0-day", "orders"),
            granted("..", "orders"),
            namespace,
        ),
        grant(
            granted("shop", "orders"),
            granted("shop", "../orders"),
            protection,
        ),
        grant(
            granted("shop", "orders"),
            granted("shop", "orders#"),
            protection,
        ),
    ]
}
