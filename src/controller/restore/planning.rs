//! The planning pod, where the source is an archive and no agent knows it. Pure.

use serde_json::{Value as Json, json};

use super::{
    Identity,
    pod::{CLUSTER_ROLE, Volumes, archive_args, labels},
};
use crate::{
    api::{PgArchiveSpec, names},
    controller::{Image, archive_claim},
};

/// As agents run: Highwater's own image needs no other.
const USER: i64 = 65532;

/// What the pod is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanningPod<'a> {
    /// The restore.
    pub identity: &'a Identity,
    /// Where the archive is.
    pub archive: &'a PgArchiveSpec,
    /// Highwater's own image.
    pub image: &'a Image,
}

impl PlanningPod<'_> {
    /// ServiceAccount, RoleBinding and pod. All go with the PgRestore.
    pub fn objects(&self) -> [Json; 3] {
        let name = names::planning(&self.identity.name);
        let account = names::planning_account(&self.identity.name);
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
            pod["spec"]["affinity"] = json!({"podAffinity": archive_claim::beside(directory)});
        }
        [service_account, role_binding, pod]
    }

    fn metadata(&self, name: &str) -> Json {
        json!({
            "name": name,
            "namespace": self.identity.namespace,
            "labels": labels(self.identity, "planning"),
            "ownerReferences": [self.identity.owner_reference()],
        })
    }

    fn spec(&self, service_account: &str) -> Json {
        let mut mounted = Volumes::default();
        mounted.archive(self.archive);
        let mut args = vec![
            "plan".to_owned(),
            format!("--namespace={}", self.identity.namespace),
            format!("--restore={}", self.identity.name),
        ];
        args.extend(archive_args(self.archive));
        json!({
            "restartPolicy": "OnFailure",
            "serviceAccountName": service_account,
            "automountServiceAccountToken": true,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "planning",
                "image": self.image.name,
                "imagePullPolicy": self.image.pull_policy,
                "args": args,
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounted.mounts,
            }],
            "volumes": mounted.volumes,
        })
    }
}
