//! The container of a drill's own program: what it has, and what recovery's pod is beside it.

use k8s_openapi::api::core::v1::Pod as KubePod;
use serde_json::json;

use super::*;
use crate::controller::restore::drill;

const SECRETS: [&str; 5] = [
    "archive-credentials",
    "archive-ca",
    "decryption",
    "highwater-token",
    "highwater-run",
];

/// A drill that asks `program`, when its claims are written down.
fn drill_with(program: Option<Json>) -> Observed {
    let mut observed = observed(json!({}), planned());
    let spec = &mut observed.restore.spec;
    let verify = program.map_or(json!({}), |program| json!({ "program": program }));
    spec.verify = Some(serde_json::from_value(verify).unwrap());
    spec.decryption =
        serde_json::from_value(json!({"secretName": "age", "key": "identity"})).unwrap();
    observed.into = drill::destination(spec, "r");
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("nothing is written down");
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    observed
}

fn pod_of(observed: &Observed) -> Json {
    let objects = made_by(observed);
    let pod = objects.into_iter().find(|(kind, _)| *kind == Kind::Pod);
    pod.unwrap().1
}

fn program() -> Json {
    json!({"image": "registry.example/check:1", "command": ["check"], "args": ["--all", "-v"]})
}

fn names(list: &Json) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item["name"].as_str()).collect()
}

#[test]
fn a_program_has_nothing_of_recoverys() {
    let pod = pod_of(&drill_with(Some(program())));
    let spec = &pod["spec"];
    let check = &spec["initContainers"][1];
    assert_eq!(
        names(&check["volumeMounts"]),
        [
            "highwater-bin",
            "highwater-check-request",
            "highwater-check-answer"
        ]
    );
    let read_only = |container: &Json, name: &str| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == name).unwrap();
        mount["readOnly"] == true
    };
    let recovery = &spec["containers"][0];
    // Each writes where the other only reads.
    for (container, expected) in [(check, [true, false]), (recovery, [false, true])] {
        let found = ["highwater-check-request", "highwater-check-answer"]
            .map(|name| read_only(container, name));
        assert_eq!(found, expected);
    }
    assert!(read_only(check, "highwater-bin"));
    assert_eq!(
        (&check["env"], &check["envFrom"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(check["resources"], json!(null));
    // The token is recovery's alone, and everything else is there as ever.
    assert_eq!(spec["automountServiceAccountToken"], false);
    let mounted = names(&recovery["volumeMounts"]);
    for secret in SECRETS {
        assert!(
            !names(&spec["volumes"]).contains(&secret) || mounted.contains(&secret),
            "{secret}"
        );
    }
    for needed in ["decryption", "highwater-token", "restored-0"] {
        assert!(mounted.contains(&needed), "{mounted:?}");
    }
    assert_eq!(
        names(&spec["initContainers"][0]["volumeMounts"]),
        ["highwater-bin"]
    );
}

#[test]
fn a_program_runs_restricted_and_ends_with_recovery() {
    let mut given = program();
    given["resources"] = json!({"limits": {"memory": "64Mi"}});
    given["imagePullPolicy"] = json!("Never");
    let pod = pod_of(&drill_with(Some(given)));
    let check = &pod["spec"]["initContainers"][1];
    assert_eq!(
        check["command"],
        json!([
            "/highwater/bin/highwater",
            "check-program",
            "--check-request=/highwater/check/request",
            "--check-answer=/highwater/check/answer",
            "--",
            "check",
            "--all",
            "-v",
        ])
    );
    assert_eq!(
        check["securityContext"],
        json!({
            "runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": true,
            "allowPrivilegeEscalation": false, "privileged": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    // Among the init containers that makes it a sidecar, which keeps no pod running.
    assert_eq!(check["restartPolicy"], "Always");
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(check["image"], "registry.example/check:1");
    assert_eq!(check["imagePullPolicy"], "Never");
    assert_eq!(check["resources"], json!({"limits": {"memory": "64Mi"}}));
    // What it is made of is what Kubernetes takes.
    let _: KubePod = serde_json::from_value(pod).unwrap();
}

#[test]
fn without_a_program_there_is_no_container() {
    let pod = pod_of(&drill_with(None));
    assert_eq!(names(&pod["spec"]["initContainers"]), ["install"]);
    assert_eq!(pod["spec"]["automountServiceAccountToken"], true);
    assert!(!pod.to_string().contains("check"), "{pod:#}");
}

#[test]
fn an_image_that_is_not_there_is_told() {
    let mut observed = drill_with(Some(program()));
    let step = plan(&observed, &image());
    observed = done(observed, &step);
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
    let pod = json!({
        "metadata": {"name": "r-recovery"},
        "spec": {"containers": []},
        "status": {"phase": "Pending", "initContainerStatuses": [
            {"name": "install", "image": "", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"terminated": {"exitCode": 0}}},
            {"name": "check", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": waiting},
        ]},
    });
    observed.pod = Some(serde_json::from_value(pod).unwrap());
    let Step::Wait(waiting) = plan(&observed, &image()) else {
        panic!("it does not wait")
    };
    assert_eq!(
        waiting.message,
        "container check of pod r-recovery: ImagePullBackOff not found"
    );
}

/// Recovery's end is the pod's, whatever the sidecar does; the sidecar's end is nobody's.
#[test]
fn only_recoverys_end_counts() {
    let ended = |recovery: Json, check: Json| {
        let status = |name: &str, state: Json| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let pod = json!({
            "metadata": {"name": "r-recovery"},
            "spec": {"containers": []},
            "status": {
                "phase": "Running",
                "containerStatuses": [status("recovery", recovery)],
                "initContainerStatuses": [status("check", check)],
            },
        });
        let pod: KubePod = serde_json::from_value(pod).unwrap();
        crate::controller::restore::running::has_ended(&pod)
    };
    let (running, over) = (
        json!({"running": {}}),
        json!({"terminated": {"exitCode": 0}}),
    );
    assert!(!ended(running.clone(), over.clone()));
    assert!(ended(over, running));
}

#[test]
fn what_a_program_asks_for_is_looked_at_before_anything_is_made() {
    let mut observed = observed(json!({}), planned());
    let mut given = program();
    given["resources"] = json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}});
    observed.restore.spec.verify =
        Some(serde_json::from_value(json!({ "program": given })).unwrap());
    observed.into = drill::destination(&observed.restore.spec, "r");
    let Step::Fail(refused) = plan(&observed, &image()) else {
        panic!("it is not refused")
    };
    assert_eq!(refused.reason, "InvalidResources");
    assert!(refused.message.starts_with("verify.program.resources."));
}
