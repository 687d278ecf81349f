//! The objects of a protection's agent: ServiceAccount, RoleBinding, Deployment. Pure.

use serde_json::{Map, Value as Json, json};

use super::find::{Found, Value};
use crate::{
    api::{PgArchiveSpec, annotations, names},
    controller::{Image, archive_claim},
    postgres::SegmentSize,
};

/// The ClusterRole that every agent is bound to in its namespace; it is shipped.
pub const CLUSTER_ROLE: &str = "highwater-agent";
/// Label values that tell an agent's pods.
pub const COMPONENT: &str = "agent";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

const DATABASE_FILES: &str = "/etc/highwater/database";
const ARCHIVE_CREDENTIALS: &str = "/etc/highwater/archive/credentials";
const ARCHIVE_CA: &str = "/etc/highwater/archive/ca";
const ARCHIVE_DIRECTORY: &str = "/var/lib/highwater/archive";
/// An unprivileged user: the image's own.
const USER: i64 = 65532;

/// What the objects are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// The PgProtection.
    pub protection: String,
    /// Its UID: it owns the objects.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// How PostgreSQL is reached.
    pub found: Found,
    /// Where the archive is.
    pub archive: PgArchiveSpec,
    /// The size of the database's WAL segments, once an agent has told it.
    pub segment_size: SegmentSize,
    /// What it runs.
    pub image: Image,
}

/// The objects, as they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The name of Deployment and RoleBinding.
    pub name: String,
    /// The name of the ServiceAccount.
    pub account: String,
    /// The ServiceAccount.
    pub service_account: Json,
    /// The RoleBinding.
    pub role_binding: Json,
    /// The Deployment.
    pub deployment: Json,
}

/// The selector of an agent's pods.
pub fn pod_selector(protection: &str) -> String {
    format!(
        "{}={},{COMPONENT_LABEL}={COMPONENT}",
        annotations::PROTECTION_LABEL,
        names::label(protection)
    )
}

impl Agent {
    /// Builds them.
    pub fn objects(&self) -> Objects {
        let name = names::agent(&self.protection);
        let account = names::agent_account(&self.protection);
        let service_account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self.metadata(&account),
        });
        let role_binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": self.metadata(&name),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CLUSTER_ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.namespace}],
        });
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(&name),
            "spec": {
                "replicas": 1,
                // Two agents of one protection would only get in each other's way.
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": self.selector()},
                "template": {"metadata": {"labels": self.pod_labels()}, "spec": self.pod(&account)},
            },
        });
        Objects {
            name,
            account,
            service_account,
            role_binding,
            deployment,
        }
    }

    fn metadata(&self, name: &str) -> Json {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": "highwater.dev/v1alpha1",
                "kind": "PgProtection",
                "name": self.protection,
                "uid": self.uid,
                "controller": true,
            }],
        })
    }

    fn selector(&self) -> Json {
        json!({
            annotations::PROTECTION_LABEL: names::label(&self.protection),
            COMPONENT_LABEL: COMPONENT,
        })
    }

    fn labels(&self) -> Json {
        json!({
            annotations::PROTECTION_LABEL: names::label(&self.protection),
            COMPONENT_LABEL: COMPONENT,
            "app.kubernetes.io/name": "highwater",
            annotations::MANAGED_BY_LABEL: annotations::MANAGED_BY,
        })
    }

    fn pod_labels(&self) -> Json {
        let mut labels = self.labels();
        if let Some(directory) = &self.archive.directory {
            archive_claim::mark(&mut labels, directory);
        }
        labels
    }

    fn pod(&self, service_account: &str) -> Json {
        let mut pod = self.anywhere(service_account);
        if let Some(directory) = &self.archive.directory {
            pod["affinity"] = json!({"podAffinity": archive_claim::beside(directory)});
        }
        pod
    }

    fn anywhere(&self, service_account: &str) -> Json {
        let (volumes, mounts) = self.volumes();
        let soon = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30});
        json!({
            "serviceAccountName": service_account,
            "automountServiceAccountToken": true,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 30,
            // From a lost node WAL would wait five minutes otherwise.
            "tolerations": [soon("node.kubernetes.io/unreachable"), soon("node.kubernetes.io/not-ready")],
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "agent",
                "image": self.image.name,
                "imagePullPolicy": self.image.pull_policy,
                "args": self.args(),
                "env": self.env(),
                "ports": [{"name": "metrics", "containerPort": 8080, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"path": "/livez", "port": "metrics"}, "periodSeconds": 10, "timeoutSeconds": 5},
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": self.memory()}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        })
    }

    /// A segment is held as it came, as it goes, and while the next one begins and a tail is merged.
    fn memory(&self) -> String {
        let segment = self.segment_size.get() >> 20;
        format!("{}Mi", (192 + 4 * segment).max(256))
    }

    fn args(&self) -> Vec<String> {
        let Found {
            container: _,
            port,
            database,
            user,
            password,
        } = &self.found;
        let mut args = vec![
            "agent".to_owned(),
            format!("--namespace={}", self.namespace),
            format!("--protection={}", self.protection),
            format!("--port={port}"),
            format!("--database={database}"),
        ];
        match user {
            Value::Literal(user) => args.push(format!("--user={user}")),
            // Where the file may be missing, the agent takes its default.
            Value::Secret { .. } | Value::ConfigMap { .. } => {
                args.push(format!("--user-file={DATABASE_FILES}/username"));
            }
        }
        if !matches!(password, Value::Literal(_)) {
            args.push(format!("--password-file={DATABASE_FILES}/password"));
        }
        if self.archive.credentials.is_some() {
            args.push(format!("--archive-credentials={ARCHIVE_CREDENTIALS}"));
        }
        if self.archive.ca_secret().is_some() {
            args.push(format!("--archive-ca={ARCHIVE_CA}/ca.crt"));
        }
        if self.archive.directory.is_some() {
            args.push(format!("--archive-directory={ARCHIVE_DIRECTORY}"));
        }
        args
    }

    /// A password that the StatefulSet's template holds in clear has no other way here; it never is an argument.
    fn env(&self) -> Json {
        match &self.found.password {
            Value::Literal(password) => json!([{"name": "HIGHWATER_PASSWORD", "value": password}]),
            Value::Secret { .. } | Value::ConfigMap { .. } => json!([]),
        }
    }

    fn volumes(&self) -> (Vec<Json>, Vec<Json>) {
        let mut volumes = Vec::new();
        let mut mounts = Vec::new();
        let mut add = |name: &str, path: &str, read_only: bool, source: Json| {
            let mut volume = Map::new();
            volume.insert("name".to_owned(), json!(name));
            if let Json::Object(source) = source {
                volume.extend(source);
            }
            volumes.push(Json::Object(volume));
            let mut mount = json!({"name": name, "mountPath": path});
            if read_only {
                mount["readOnly"] = json!(true);
            }
            mounts.push(mount);
        };
        let database: Vec<Json> = [
            (&self.found.user, "username"),
            (&self.found.password, "password"),
        ]
        .into_iter()
        .filter_map(|(value, path)| projection(value, path))
        .collect();
        if !database.is_empty() {
            let source = json!({"projected": {"defaultMode": 0o440, "sources": database}});
            add("database", DATABASE_FILES, true, source);
        }
        if let Some(credentials) = &self.archive.credentials {
            let source =
                json!({"secret": {"secretName": credentials.secret_name, "defaultMode": 0o440}});
            add("archive-credentials", ARCHIVE_CREDENTIALS, true, source);
        }
        if let Some(ca) = self.archive.ca_secret() {
            let items = json!([{"key": ca.key, "path": "ca.crt"}]);
            let source =
                json!({"secret": {"secretName": ca.name, "defaultMode": 0o440, "items": items}});
            add("archive-ca", ARCHIVE_CA, true, source);
        }
        if let Some(directory) = &self.archive.directory {
            let claim = json!({"claimName": directory.persistent_volume_claim});
            let source = json!({ "persistentVolumeClaim": claim });
            add("archive", ARCHIVE_DIRECTORY, false, source);
        }
        (volumes, mounts)
    }
}

/// The part of a projected volume that shows `value` as the file `path`.
fn projection(value: &Value, path: &str) -> Option<Json> {
    match value {
        Value::Literal(_) => None,
        Value::Secret {
            name,
            key,
            optional,
        } => {
            let mut source = json!({"name": name, "items": [{"key": key, "path": path}]});
            if *optional {
                source["optional"] = json!(true);
            }
            Some(json!({ "secret": source }))
        }
        Value::ConfigMap { name, key } => {
            Some(json!({"configMap": {"name": name, "items": [{"key": key, "path": path}]}}))
        }
    }
}

/// Whether everything that `desired` says is so in `live`, which may say more.
pub fn holds(live: &Json, desired: &Json) -> bool {
    match (live, desired) {
        (Json::Object(live), Json::Object(desired)) => desired.iter().all(|(key, value)| {
            live.get(key)
                .map_or_else(|| is_empty(value), |live| holds(live, value))
        }),
        (Json::Array(live), Json::Array(desired)) => {
            live.len() == desired.len()
                && live
                    .iter()
                    .zip(desired)
                    .all(|(live, desired)| holds(live, desired))
        }
        (live, desired) => live == desired,
    }
}

/// Empty lists and maps are not stored.
fn is_empty(value: &Json) -> bool {
    match value {
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Null => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(found: Found, archive: Json) -> Agent {
        Agent {
            protection: "orders".into(),
            uid: "u-1".into(),
            namespace: "shop".into(),
            found,
            archive: serde_json::from_value(archive).unwrap(),
            segment_size: SegmentSize::DEFAULT,
            image: Image {
                name: "registry.example/highwater:1".into(),
                pull_policy: "IfNotPresent".into(),
            },
        }
    }

    fn found(user: Value, password: Value) -> Found {
        Found {
            container: "db".into(),
            port: 5432,
            database: "postgres".into(),
            user,
            password,
        }
    }

    fn secret(key: &str) -> Value {
        Value::Secret {
            name: "pg".into(),
            key: key.into(),
            optional: false,
        }
    }

    #[test]
    fn secrets_are_mounted_where_the_agent_looks() {
        let agent = agent(
            found(secret("u"), secret("p")),
            json!({"s3": {"bucket": "backups", "caSecret": {"name": "ca", "key": "tls.crt"}}, "credentials": {"secretName": "bucket"}}),
        );
        let objects = agent.objects();
        let pod = &objects.deployment["spec"]["template"]["spec"];
        let paths: Vec<_> = pod["containers"][0]["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        assert_eq!(paths, [DATABASE_FILES, ARCHIVE_CREDENTIALS, ARCHIVE_CA]);
        assert_eq!(
            pod["volumes"][0]["projected"]["sources"][0]["secret"]["items"][0],
            json!({"key": "u", "path": "username"})
        );
        assert_eq!(pod["volumes"][2]["secret"]["items"][0]["path"], "ca.crt");
        let typed: k8s_openapi::api::apps::v1::Deployment =
            serde_json::from_value(objects.deployment.clone()).unwrap();
        assert_eq!(typed.metadata.name.as_deref(), Some("orders-highwater"));
    }

    #[test]
    fn larger_segments_need_more_memory() {
        let archive = json!({"s3": {"bucket": "backups"}});
        let mut agent = agent(found(secret("u"), secret("p")), archive);
        for (mebibytes, limit) in [(1, "256Mi"), (16, "256Mi"), (64, "448Mi"), (1024, "4288Mi")] {
            agent.segment_size = SegmentSize::new(mebibytes << 20).unwrap();
            let deployment = agent.objects().deployment;
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["resources"]["limits"]["memory"], limit);
        }
    }

    #[test]
    fn every_store_gets_its_secrets() {
        let ca = json!({"name": "ca", "key": "tls.crt"});
        for store in [
            json!({"s3": {"bucket": "backups", "caSecret": ca}}),
            json!({"gcs": {"bucket": "backups", "caSecret": ca}}),
            json!({"azure": {"container": "backups", "caSecret": ca}}),
        ] {
            let mut archive = store.clone();
            archive["credentials"] = json!({"secretName": "bucket"});
            let deployment = agent(found(secret("u"), secret("p")), archive)
                .objects()
                .deployment;
            let pod = &deployment["spec"]["template"]["spec"];
            let args = pod["containers"][0]["args"].to_string();
            for arg in [
                "--archive-credentials=/etc/highwater/archive/credentials",
                "--archive-ca=/etc/highwater/archive/ca/ca.crt",
            ] {
                assert!(args.contains(arg), "{store}: {args}");
            }
            assert_eq!(pod["volumes"][1]["secret"]["secretName"], "bucket");
            assert_eq!(pod["volumes"][2]["secret"]["secretName"], "ca");
        }
    }

    #[test]
    fn a_literal_password_is_no_argument() {
        let literal = Value::Literal("hunter2".into());
        let agent = agent(
            found(Value::Literal("app".into()), literal),
            json!({"directory": {"persistentVolumeClaim": "wal"}}),
        );
        let deployment = agent.objects().deployment;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert!(!container["args"].to_string().contains("hunter2"));
        assert_eq!(container["env"][0]["name"], "HIGHWATER_PASSWORD");
        assert!(container["args"].to_string().contains("--user=app"));
        assert_eq!(container["volumeMounts"][0]["mountPath"], ARCHIVE_DIRECTORY);
    }

    #[test]
    fn agents_of_one_claim_run_beside_each_other() {
        let template = |archive| {
            let agent = agent(found(secret("u"), secret("p")), archive);
            agent.objects().deployment["spec"]["template"].clone()
        };
        let directory = template(json!({"directory": {"persistentVolumeClaim": "wal"}}));
        let wishes = &directory["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        let term = &wishes[0]["podAffinityTerm"];
        assert_eq!(term["topologyKey"], "kubernetes.io/hostname");
        let selected = term["labelSelector"]["matchLabels"].as_object().unwrap();
        assert!(!selected.is_empty());
        for (label, value) in selected {
            assert_eq!(directory["metadata"]["labels"][label], *value);
        }
        let bucket = template(json!({"s3": {"bucket": "backups"}}));
        assert!(bucket["spec"].get("affinity").is_none());
    }

    #[test]
    fn more_than_desired_holds_and_less_does_not() {
        let desired = json!({"a": {"b": [1, {"c": "x"}]}, "none": []});
        for (live, expected) in [
            (json!({"a": {"b": [1, {"c": "x", "d": 2}]}, "e": 1}), true),
            (json!({"a": {"b": [1, {"c": "y"}]}}), false),
            (json!({"a": {"b": [1]}}), false),
            (json!({"a": {"b": [1, {"c": "x"}, 3]}}), false),
            (json!({}), false),
        ] {
            assert_eq!(holds(&live, &desired), expected, "{live}");
        }
    }
}
