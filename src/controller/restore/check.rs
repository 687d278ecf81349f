//! The container of a drill's own program, in the recovery pod. Pure.
//!
//! A sidecar among the init containers: the kubelet starts it before recovery, restarts it, and ends it when recovery has ended,
//! however that was. So it keeps no pod running, and an image that cannot be pulled is seen before anything is replayed.

use serde_json::{Value as Json, json};

use super::{
    overrides,
    pod::{self, Volumes},
};
use crate::api::VerifyProgram;

/// Its name.
pub const CONTAINER: &str = "check";

const REQUEST: (&str, &str) = ("highwater-check-request", "/highwater/check/request");
const ANSWER: (&str, &str) = ("highwater-check-answer", "/highwater/check/answer");
const TOKEN: (&str, &str) = (
    "highwater-token",
    "/var/run/secrets/kubernetes.io/serviceaccount",
);
/// Whom it runs as: neither PostgreSQL's user nor root.
const USER: u32 = 65532;

/// Where recovery and the program meet, as arguments of both.
pub fn args() -> [String; 2] {
    [
        format!("--check-request={}", REQUEST.1),
        format!("--check-answer={}", ANSWER.1),
    ]
}

/// The sidecar: nothing of the database is mounted, no Secret and no token; the program finds the database by what recovery
/// tells the binary that runs it.
pub fn container(program: &VerifyProgram) -> Json {
    let mut command = vec![pod::PROGRAM.to_owned(), "check-program".to_owned()];
    command.extend(args());
    command.push("--".to_owned());
    command.extend(program.command.iter().chain(&program.args).cloned());
    json!({
        "name": CONTAINER,
        "image": program.image,
        "imagePullPolicy": program.image_pull_policy,
        "restartPolicy": "Always",
        "command": command,
        "resources": program.resources.as_ref().map(overrides::given),
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": pod::BINARY, "mountPath": pod::BINARY_AT, "readOnly": true},
            {"name": REQUEST.0, "mountPath": REQUEST.1, "readOnly": true},
            {"name": ANSWER.0, "mountPath": ANSWER.1},
        ],
    })
}

/// What recovery mounts: each side writes where the other can only read.
pub fn mount(all: &mut Volumes) {
    for ((name, path), read_only) in [(REQUEST, json!({})), (ANSWER, json!({"readOnly": true}))] {
        all.add(
            name,
            json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        );
        all.mount(name, path, read_only);
    }
    // As the API server would mount it, but into recovery's container alone.
    let sources = json!([
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]);
    all.add(TOKEN.0, json!({"projected": {"sources": sources}}));
    all.mount(TOKEN.0, TOKEN.1, json!({"readOnly": true}));
}
