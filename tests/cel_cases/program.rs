//! A drill's own program.

use serde_json::{Value, json};

use super::{Case, merge};

fn drill(more: Value) -> Value {
    let mut program = json!({"image": "registry.example/check:1", "command": ["check"]});
    merge(&mut program, more);
    json!({"source": {"backup": "orders-1"}, "verify": {"program": program}})
}

pub fn rules() -> Vec<Case> {
    let case = |good, bad, message| Case {
        kind: "PgRestore",
        before: None,
        good: drill(good),
        bad: drill(bad),
        message,
    };
    let image = "image must hold no spaces, as in registry.example/orders-check:1";
    let deadline = "deadlineSeconds must be from 1 to 86400, which is a day";
    vec![
        case(
            json!({"image": "localhost:5000/check@sha256:0a"}),
            json!({"image": "check:1 "}),
            image,
        ),
        case(
            json!({"command": ["psql", "", "-c", "SELECT 1"]}),
            json!({"command": ["", "psql"]}),
            "command must begin with the program, as in [psql]",
        ),
        case(
            json!({"deadlineSeconds": 1}),
            json!({"deadlineSeconds": 0}),
            deadline,
        ),
        case(
            json!({"deadlineSeconds": 86400, "args": ["-v"], "imagePullPolicy": "Never"}),
            json!({"deadlineSeconds": 86401}),
            deadline,
        ),
    ]
}
