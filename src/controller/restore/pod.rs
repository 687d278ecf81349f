//! The recovery pod and what it runs as. Pure.

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelectorTerm, PodSpec, PreferredSchedulingTerm,
};
use serde_json::{Map, Value as Json, json};

use super::{Identity, check, overrides, source::Source};
use crate::{
    api::{
        Decryption, PgArchiveSpec, RestoreInto, RestoredVolume, VerifyProgram, VolumeStatus,
        annotations, names,
    },
    controller::{Image, archive_claim},
};

/// The ClusterRole that every recovery pod is bound to in its namespace; it is shipped.
pub const CLUSTER_ROLE: &str = "highwater-recovery";
/// The container that PostgreSQL runs in.
pub const CONTAINER: &str = "recovery";

const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The program, where the database's image and a drill's find it.
pub const PROGRAM: &str = "/highwater/bin/highwater";
/// The volume that it is in.
pub const BINARY: &str = "highwater-bin";
/// Where that is mounted.
pub const BINARY_AT: &str = "/highwater/bin";
/// The same volume in our own image, where `/highwater` is the program itself.
const INSTALL: &str = "/install";
const ARCHIVE_CREDENTIALS: &str = "/etc/highwater/archive/credentials";
const ARCHIVE_CA: &str = "/etc/highwater/archive/ca";
const DECRYPTION: &str = "/etc/highwater/decryption";
const ARCHIVE_DIRECTORY: &str = "/var/lib/highwater/archive";

/// What the pod is made from.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryPod<'a> {
    /// The restore.
    pub identity: &'a Identity,
    /// The StatefulSet that is restored from.
    pub source: &'a Source,
    /// What is otherwise than there.
    pub into: &'a RestoreInto,
    /// Its container that runs PostgreSQL.
    pub container: &'a Container,
    /// Where the archive is.
    pub archive: &'a PgArchiveSpec,
    /// The key for encrypted WAL.
    pub decryption: Option<&'a Decryption>,
    /// The program that a drill looks at the database with.
    pub program: Option<&'a VerifyProgram>,
    /// The backup's volumes.
    pub volumes: &'a [VolumeStatus],
    /// The claims made from them.
    pub restored: &'a [RestoredVolume],
    /// Where the source's volumes can be reached from.
    pub topology: &'a [NodeSelectorTerm],
    /// Highwater's own image.
    pub image: &'a Image,
}

impl RecoveryPod<'_> {
    /// ServiceAccount, RoleBinding and pod.
    pub fn objects(&self) -> [Json; 3] {
        let name = names::recovery(&self.identity.name);
        let account = names::recovery_account(&self.identity.name);
        let metadata = self.metadata(&name);
        let service_account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self.metadata(&account)});
        let role_binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": CLUSTER_ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.identity.namespace}],
        });
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.spec(&account)});
        if let Some(directory) = &self.archive.directory {
            archive_claim::mark(&mut pod["metadata"]["labels"], directory);
        }
        [service_account, role_binding, pod]
    }

    fn metadata(&self, name: &str) -> Json {
        json!({
            "name": name,
            "namespace": self.identity.namespace,
            "labels": labels(self.identity, "recovery"),
            "ownerReferences": [self.identity.owner_reference()],
        })
    }

    fn spec(&self, service_account: &str) -> Json {
        let (volumes, mounts) = self.volumes();
        let mut spec = json!({
            "restartPolicy": "OnFailure",
            "serviceAccountName": service_account,
            // A drill's program gets none: recovery mounts it by itself then.
            "automountServiceAccountToken": self.program.is_none(),
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 60,
            "initContainers": self.init_containers(),
            "containers": [{
                "name": CONTAINER,
                "image": self.container.image,
                "imagePullPolicy": self.container.image_pull_policy,
                "command": [PROGRAM],
                "args": self.args(),
                "resources": overrides::resources(self.into).or_else(|| self.container.resources.clone()),
                "securityContext": self.container.security_context,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        });
        self.as_the_clone(&mut spec);
        if let Some(directory) = &self.archive.directory {
            archive_claim::bring(&mut spec["affinity"], directory);
        }
        without_nulls(spec)
    }

    fn init_containers(&self) -> Vec<Json> {
        let install = json!({
            "name": "install",
            "image": self.image.name,
            "imagePullPolicy": self.image.pull_policy,
            "args": ["install", format!("{INSTALL}/highwater")],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "securityContext": {
                "runAsUser": 65532,
                "runAsNonRoot": true,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": BINARY, "mountPath": INSTALL}],
        });
        let check = self.program.map(check::container);
        [install].into_iter().chain(check).collect()
    }

    /// What the pod has of the source's, and of what is otherwise than there: the claims are bound where it runs.
    fn as_the_clone(&self, spec: &mut Json) {
        if let Some(mut pod) = self.source.pod().cloned() {
            overrides::schedule(&mut pod, self.into);
            spec["securityContext"] = json!(pod.security_context);
            spec["imagePullSecrets"] = json!(pod.image_pull_secrets);
            spec["nodeSelector"] = json!(pod.node_selector);
            spec["tolerations"] = json!(pod.tolerations);
            spec["runtimeClassName"] = json!(pod.runtime_class_name);
            spec["priorityClassName"] = json!(pod.priority_class_name);
            spec["schedulerName"] = json!(pod.scheduler_name);
            spec["affinity"] = json!(self.affinity(&pod));
        }
    }

    /// Rules about other pods in the source are about the source's labels, which this pod has not; those that are asked for
    /// hold, as the claims are bound where this pod runs.
    fn affinity(&self, pod: &PodSpec) -> Affinity {
        let scheduling = self.into.scheduling.as_ref();
        let affinity = pod.affinity.clone().unwrap_or_default();
        match scheduling.and_then(|scheduling| scheduling.affinity.as_ref()) {
            Some(_) => affinity,
            None => Affinity {
                node_affinity: Some(self.near_the_source(affinity.node_affinity)),
                pod_affinity: None,
                pod_anti_affinity: None,
            },
        }
    }

    /// The scheduler does not know from where a snapshot can be reached. A wish, no rule: most drivers reach it from
    /// everywhere, and the source's node or zone may be what was lost.
    fn near_the_source(&self, node: Option<NodeAffinity>) -> NodeAffinity {
        let mut node = node.unwrap_or_default();
        let wishes = self.topology.iter().map(|term| PreferredSchedulingTerm {
            weight: 100,
            preference: term.clone(),
        });
        node.preferred_during_scheduling_ignored_during_execution
            .get_or_insert_default()
            .extend(wishes);
        node
    }

    fn args(&self) -> Vec<String> {
        let mut args = vec![
            "recover".to_owned(),
            format!("--namespace={}", self.identity.namespace),
            format!("--restore={}", self.identity.name),
        ];
        args.extend(archive_args(self.archive));
        if self.decryption.is_some() {
            args.push(format!("--decryption-identity={DECRYPTION}/identity"));
        }
        if self.program.is_some() {
            args.extend(check::args());
        }
        args
    }

    fn volumes(&self) -> (Vec<Json>, Vec<Json>) {
        let mut all = Volumes::default();
        all.add(BINARY, json!({"emptyDir": {}}));
        all.mount(BINARY, BINARY_AT, json!({"readOnly": true}));
        all.add(
            "highwater-run",
            json!({"emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
        );
        all.mount("highwater-run", "/highwater/run", json!({}));
        for (at, restored) in self.restored.iter().enumerate() {
            let volume = self.volumes.iter().find(|v| v.volume == restored.volume);
            let Some(volume) = volume.filter(|v| v.volume_mode != "Block" && !v.mounts.is_empty())
            else {
                continue;
            };
            let name = format!("restored-{at}");
            all.add(
                &name,
                json!({"persistentVolumeClaim": {"claimName": restored.claim}}),
            );
            for mount in &volume.mounts {
                all.mount(&name, &mount.path, json!({"subPath": mount.sub_path}));
            }
        }
        all.archive(self.archive);
        if let Some(Decryption { secret_name, key }) = self.decryption {
            let items = json!([{"key": key, "path": "identity"}]);
            // A Secret that is missing would keep the pod waiting without a word: recovery says it.
            let secret = json!({"secretName": secret_name, "defaultMode": 0o444, "items": items, "optional": true});
            all.add("decryption", json!({ "secret": secret }));
            all.mount("decryption", DECRYPTION, json!({"readOnly": true}));
        }
        if self.program.is_some() {
            check::mount(&mut all);
        }
        (all.volumes, all.mounts)
    }
}

/// Where a program finds what [`Volumes::archive`] mounts.
pub fn archive_args(archive: &PgArchiveSpec) -> Vec<String> {
    let mut args = Vec::new();
    if archive.credentials.is_some() {
        args.push(format!("--archive-credentials={ARCHIVE_CREDENTIALS}"));
    }
    if archive.ca_secret().is_some() {
        args.push(format!("--archive-ca={ARCHIVE_CA}/ca.crt"));
    }
    if archive.directory.is_some() {
        args.push(format!("--archive-directory={ARCHIVE_DIRECTORY}"));
    }
    args
}

/// The labels of recovery and planning pods: none that the source's pods have.
pub fn labels(identity: &Identity, component: &str) -> Json {
    let mut labels = identity.labels();
    labels[COMPONENT_LABEL] = json!(component);
    labels[annotations::MANAGED_BY_LABEL] = json!(annotations::MANAGED_BY);
    labels
}

/// A pod's volumes, and where its container mounts them.
#[derive(Default)]
pub struct Volumes {
    /// `spec.volumes`.
    pub volumes: Vec<Json>,
    /// `volumeMounts`.
    pub mounts: Vec<Json>,
}

impl Volumes {
    /// One more volume.
    pub fn add(&mut self, name: &str, source: Json) {
        self.volumes.push(merged(json!({"name": name}), source));
    }

    /// Mounts it.
    pub fn mount(&mut self, name: &str, path: &str, more: Json) {
        let mount = json!({"name": name, "mountPath": path});
        self.mounts.push(without_nulls(merged(mount, more)));
    }

    /// The archive's Secrets and directory: readable by whoever PostgreSQL runs as, which the pod's spec need not tell.
    pub fn archive(&mut self, archive: &PgArchiveSpec) {
        let read_only = || json!({"readOnly": true});
        if let Some(credentials) = &archive.credentials {
            let secret = json!({"secretName": credentials.secret_name, "defaultMode": 0o444});
            self.add("archive-credentials", json!({ "secret": secret }));
            self.mount("archive-credentials", ARCHIVE_CREDENTIALS, read_only());
        }
        if let Some(ca) = archive.ca_secret() {
            let items = json!([{"key": ca.key, "path": "ca.crt"}]);
            let secret = json!({"secretName": ca.name, "defaultMode": 0o444, "items": items});
            self.add("archive-ca", json!({ "secret": secret }));
            self.mount("archive-ca", ARCHIVE_CA, read_only());
        }
        if let Some(directory) = &archive.directory {
            let claim = json!({"claimName": directory.persistent_volume_claim});
            self.add("archive", json!({ "persistentVolumeClaim": claim }));
            self.mount("archive", ARCHIVE_DIRECTORY, read_only());
        }
    }
}

fn merged(mut into: Json, from: Json) -> Json {
    if let (Some(into), Json::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
    into
}

/// Without the fields of the first level that are null, and of containers.
fn without_nulls(value: Json) -> Json {
    match value {
        Json::Object(fields) => Json::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect::<Map<_, _>>(),
        ),
        Json::Array(items) => Json::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
