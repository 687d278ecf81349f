//! Where a restore may go.

use serde_json::{Value, json};

use super::Case;

fn case(good: Value, bad: Value, message: &'static str) -> Case {
    let spec = |into: Value| json!({"source": {"protection": "orders"}, "into": into});
    Case {
        kind: "PgRestore",
        before: None,
        good: spec(good),
        bad: spec(bad),
        message,
    }
}

fn labelled(labels: Value) -> Value {
    json!({"statefulSet": "copy", "labels": labels})
}

fn named(names: &[(&str, &str)]) -> Value {
    let names = names.iter();
    let names = names.map(|(volume, claim)| json!({"volume": volume, "claim": claim}));
    json!({"volumes": {"names": names.collect::<Vec<_>>()}})
}

pub fn rules() -> Vec<Case> {
    let not_ours =
        "labels must not begin with highwater.dev/: by those Highwater knows its own objects";
    let value = "a label's value is empty, or begins and ends with a letter or digit, and holds only A-Z, a-z, 0-9, -, _ and .";
    let claim = "claim must begin and end with a letter or digit, and hold only a-z, 0-9, - and single dots";
    let replicas = "replicas is 0 or 1: further members would begin empty behind the same Service; add them when the first answers, as docs/runbooks/restore.md says";
    let alone = "replicas and policy go with statefulSet: claims alone have no pods";
    let prefix_or_names = "give exactly one of namePrefix and names";
    let priority = "priorityClassName must not begin with system-: those are for what the cluster itself needs";
    let labels =
        "labels do not go with inPlace: its claims have the labels that the StatefulSet gives them";
    let nothing_here = "into.inPlace goes with source.protection or source.backup: what is only in an archive has no StatefulSet here";
    let archive = json!({"archive": {"archive": "main", "name": "shop-orders"}});
    vec![
        case(
            json!({"inPlace": {}, "size": "2Gi"}),
            json!({"inPlace": {}, "labels": {"team": "a"}}),
            labels,
        ),
        case(
            json!({"inPlace": {"scale": true}}),
            json!({"inPlace": {"scale": true}, "replicas": 1}),
            alone,
        ),
        Case {
            kind: "PgRestore",
            before: None,
            good: json!({"source": {"backup": "orders-1"}, "into": {"inPlace": {"scale": true}}}),
            bad: json!({"source": archive, "into": {"inPlace": {"scale": true}}}),
            message: nothing_here,
        },
        case(
            json!({"statefulSet": "copy", "replicas": 0}),
            json!({"statefulSet": "copy", "replicas": 3}),
            replicas,
        ),
        case(
            json!({"statefulSet": "copy", "replicas": 1, "policy": "gold"}),
            json!({"volumes": {"namePrefix": "copy"}, "policy": "gold"}),
            alone,
        ),
        case(
            json!({"volumes": {"namePrefix": "copy"}, "size": "2Gi", "labels": {"team": "a"}}),
            json!({"volumes": {"namePrefix": "copy"}, "replicas": 1}),
            alone,
        ),
        case(
            labelled(json!({"team": "a", "example.com/team": ""})),
            labelled(json!({"highwater.dev/clone": "orders"})),
            not_ours,
        ),
        case(
            labelled(json!({"team": "A-1_b.c"})),
            labelled(json!({"team": "a b"})),
            value,
        ),
        case(
            named(&[("data", "orders-data"), ("wal", "orders.wal")]),
            json!({"volumes": {}}),
            prefix_or_names,
        ),
        case(
            json!({"volumes": {"namePrefix": "copy"}}),
            json!({"volumes": {"namePrefix": "copy", "names": [{"volume": "data", "claim": "a"}]}}),
            prefix_or_names,
        ),
        case(
            named(&[("data", "a"), ("wal", "b")]),
            named(&[("data", "a"), ("wal", "a")]),
            "names: two volumes cannot have the same claim",
        ),
        case(
            named(&[("data", "orders.data-0")]),
            named(&[("data", "orders..data")]),
            claim,
        ),
        case(
            json!({"statefulSet": "copy", "scheduling": {"priorityClassName": ""}}),
            json!({"statefulSet": "copy", "scheduling": {"priorityClassName": "system-cluster-critical"}}),
            priority,
        ),
    ]
}
