//! A database's pod, and a controller in this process.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use highwater::{
    api::{PgBackup, PgBackupPolicy, PgProtection, conditions, crds, managers},
    clock::SystemClock,
    controller::{
        Context, Events, Image, Scope,
        backup::{self, Limits},
    },
    csi::VolumeSnapshotClass,
    kubernetes::apply_status,
};
use highwater_e2e::{devcluster::DRIVER, flow::Lifeline, harness::volume_folder};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{agent::Agent, wait::until};

/// The claims of the pod.
pub const VOLUMES: usize = 2;

pub async fn apply<K>(api: &Api<K>, name: &str, object: Value) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    Ok(api
        .patch(
            name,
            &PatchParams::apply("test").force(),
            &Patch::Apply(object),
        )
        .await?)
}

pub fn start(client: &Client) -> JoinHandle<()> {
    start_in(client, Scope::Cluster)
}

pub fn start_in(client: &Client, scope: Scope) -> JoinHandle<()> {
    start_with(client, scope, Limits::default())
}

pub fn start_with(client: &Client, scope: Scope, limits: Limits) -> JoinHandle<()> {
    let image = Image {
        name: "none".into(),
        pull_policy: "Never".into(),
    };
    let events = Events::new(client.clone(), managers::CONTROLLER, None);
    let mut ctx = Context::new(client.clone(), Arc::new(SystemClock), events, image, scope);
    ctx.backups_at_once = limits;
    tokio::spawn(backup::run(Arc::new(ctx)))
}

/// Applies the CRDs, and waits until the API server serves them.
pub async fn define_kinds(client: &Client) -> Result<()> {
    let kinds = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in crds::all() {
        let mut object = serde_json::to_value(&crd)?;
        object["apiVersion"] = "apiextensions.k8s.io/v1".into();
        object["kind"] = "CustomResourceDefinition".into();
        apply(&kinds, &crd.name_any(), object).await?;
    }
    for crd in crds::all() {
        until("a CRD is served", || async {
            let crd = kinds.get(&crd.name_any()).await?;
            let conditions = crd.status.and_then(|status| status.conditions);
            let mut conditions = conditions.into_iter().flatten();
            let is_served = conditions.any(|c| c.type_ == "Established" && c.status == "True");
            Ok(is_served.then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// A pod with two volumes and what the door asks for, in a namespace of its own.
pub struct Fixture {
    pub client: Client,
    pub namespace: String,
}

impl Fixture {
    pub async fn new(namespace: &str) -> Result<Self> {
        let client = Lifeline::endless().client().await?;
        define_kinds(&client).await?;
        let namespaces = Api::<Namespace>::all(client.clone());
        // An earlier run's backups go only with a controller.
        let controller = start(&client);
        until("an old namespace is gone", || async {
            let old = namespaces.get_opt(namespace).await?;
            if old
                .as_ref()
                .is_some_and(|n| n.metadata.deletion_timestamp.is_none())
            {
                namespaces
                    .delete(namespace, &DeleteParams::default())
                    .await?;
            }
            Ok(old.is_none().then_some(()))
        })
        .await?;
        controller.abort();
        let fixture = Self::empty(client, namespace).await?;
        fixture
            .database()
            .await
            .context("failed to make the database's pod")?;
        Ok(fixture)
    }

    /// The namespace alone; it was never there before.
    pub async fn empty(client: Client, namespace: &str) -> Result<Self> {
        let namespaces = Api::<Namespace>::all(client.clone());
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        apply(&namespaces, namespace, object).await?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
        })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a claim that has its volume before a pod has it, and returns where the driver has that.
    #[allow(dead_code, reason = "of one of the tests that share this")]
    pub async fn bound(&self, name: &str) -> Result<PathBuf> {
        let claims = self.api::<PersistentVolumeClaim>();
        let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "highwater-btrfs-immediate",
            "resources": {"requests": {"storage": "1Gi"}}}});
        apply(&claims, name, object).await?;
        let volume = until("the claim is bound", || async {
            let claim = claims.get(name).await?;
            Ok(claim.spec.and_then(|spec| spec.volume_name))
        })
        .await?;
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let volume = volumes.get(&volume).await?;
        let csi = volume.spec.and_then(|spec| spec.csi);
        volume_folder(&csi.context("no CSI volume")?.volume_handle)
    }

    /// The pod's UID and address, when it runs. It mounts its first claim at `data`.
    pub async fn pod(&self, data: &str, host_network: bool) -> Result<(String, String)> {
        let claim = |name: &str| {
            json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "highwater-btrfs", "resources": {"requests": {"storage": "64Mi"}}}})
        };
        let env = json!([{"name": "POSTGRES_PASSWORD", "value": "planted-secret"}]);
        let spec = json!({
            "serviceName": "orders", "selector": {"matchLabels": {"app": "orders"}},
            "volumeClaimTemplates": [claim("data"), claim("wal")],
            "template": {"metadata": {"labels": {"app": "orders"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "hostNetwork": host_network,
                "containers": [{"name": "db", "image": "localhost/pause:1", "imagePullPolicy": "Never", "env": env,
                    "volumeMounts": [{"name": "data", "mountPath": data}, {"name": "wal", "mountPath": "/wal"}]}]}},
        });
        let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "orders"}, "spec": spec});
        apply(&self.api::<StatefulSet>(), "orders", object).await?;
        until("pod orders-0 runs", || async {
            let pod = self.api::<Pod>().get_opt("orders-0").await?;
            let runs = |pod: Pod| {
                let status = pod.status?;
                (status.phase? == "Running").then_some((pod.metadata.uid?, status.pod_ip?))
            };
            Ok(pod.and_then(runs))
        })
        .await
    }

    async fn database(&self) -> Result<()> {
        let (uid, address) = self.pod("/data", false).await?;
        let api_version = "highwater.dev/v1alpha1";
        apply(
            &self.api::<PgBackupPolicy>(),
            "gold",
            json!({"apiVersion": api_version, "kind": "PgBackupPolicy",
            "metadata": {"name": "gold"}, "spec": {"archive": "main"}}),
        )
        .await?;
        apply(
            &self.api::<PgProtection>(),
            "orders",
            json!({"apiVersion": api_version, "kind": "PgProtection",
            "metadata": {"name": "orders"}, "spec": {"statefulSet": "orders", "policy": "gold"}}),
        )
        .await?;
        let status = json!({
            "conditions": [condition("Active"), condition("Connected"), condition("WalArchiving")],
            "members": [{"pod": "orders-0", "uid": uid, "address": address}],
            "primary": {"pod": "orders-0", "timeline": 1},
            "database": {"systemIdentifier": "7391000000000000001", "majorVersion": 15, "segmentSize": 16_777_216,
                "dataDirectory": "/data/pg"},
        });
        apply_status(&self.api::<PgProtection>(), "orders", "test", &status).await?;
        Ok(())
    }

    /// From here on the class itself keeps snapshots.
    pub async fn retain_by_class(&self) -> Result<()> {
        let object = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass",
            "metadata": {"name": "flow-retain"}, "driver": DRIVER, "deletionPolicy": "Retain"});
        let classes = Api::<VolumeSnapshotClass>::all(self.client.clone());
        apply(&classes, "flow-retain", object).await?;
        let object = json!({"apiVersion": "highwater.dev/v1alpha1", "kind": "PgBackupPolicy",
            "metadata": {"name": "gold"}, "spec": {"archive": "main", "snapshot": {"className": "flow-retain"}}});
        apply(&self.api::<PgBackupPolicy>(), "gold", object).await?;
        Ok(())
    }

    pub async fn ask_for_backup(&self, name: &str, protection: &str) -> Result<PgBackup> {
        let object = serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"protection": protection}}),
        )?;
        Ok(self
            .api::<PgBackup>()
            .create(&PostParams::default(), &object)
            .await?)
    }

    /// Plays the agent, and the user, until `done`.
    pub async fn play(
        &self,
        name: &str,
        what: &str,
        done: impl Fn(&PgBackup) -> bool,
    ) -> Result<PgBackup> {
        let agent = &Agent::default();
        until(what, || async {
            let backup = self.api::<PgBackup>().get(name).await?;
            agent.pass(self, &backup).await?;
            Ok(done(&backup).then_some(backup))
        })
        .await
    }

    /// Waits, without an agent that does anything.
    #[allow(dead_code, reason = "of one of the tests that share this")]
    pub async fn seen(
        &self,
        name: &str,
        what: &str,
        done: impl Fn(&PgBackup) -> bool,
    ) -> Result<PgBackup> {
        until(what, || async {
            let backup = self.api::<PgBackup>().get(name).await?;
            Ok(done(&backup).then_some(backup))
        })
        .await
    }

    pub async fn delete_backup(&self, name: &str) -> Result<()> {
        self.api::<PgBackup>()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Deletes it, and plays the agent until it is gone.
    #[allow(dead_code, reason = "of one of the tests that share this")]
    pub async fn delete_to_the_end(&self, name: &str) -> Result<()> {
        self.delete_backup(name).await?;
        let agent = &Agent::default();
        until("the PgBackup is gone", || async {
            let found = self.api::<PgBackup>().get_opt(name).await?;
            let Some(backup) = found else {
                return Ok(Some(()));
            };
            agent.pass(self, &backup).await?;
            Ok(None)
        })
        .await
    }

    #[allow(dead_code, reason = "of one of the tests that share this")]
    pub async fn gone(&self, name: &str) -> Result<()> {
        until("the PgBackup is gone", || async {
            Ok(self
                .api::<PgBackup>()
                .get_opt(name)
                .await?
                .is_none()
                .then_some(()))
        })
        .await
    }
}

pub fn condition(type_: &str) -> Value {
    json!({"type": type_, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

pub fn is_completed(backup: &PgBackup) -> bool {
    backup
        .status
        .as_ref()
        .is_some_and(|s| conditions::is_true(&s.conditions, conditions::COMPLETED))
}
