//! Databases to back up, each part's in a namespace of its own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use highwater_e2e::harness::{Database, Deployment, Kubectl, measure::Watch, publish, story};
use kube::Client;

/// How many databases are started at a time.
const STARTING: usize = 4;

/// A database with its claims.
pub struct Subject {
    pub database: Database,
    pub claims: Vec<String>,
}

/// Highwater on the dev cluster.
pub struct Place {
    pub client: Client,
    deployment: Deployment,
}

impl Place {
    /// Deploys this program.
    pub async fn new(program: &Path) -> Result<Self> {
        let images = publish::load(program)?;
        println!("deploying");
        let deployment = Deployment::apply(Kubectl::from_env()?, images).await?;
        // What is measured is what is shipped: scenarios have raised it.
        let controller = deployment
            .kubectl
            .get("highwater-system", "deployment", "highwater")?;
        ensure!(
            !format!("{controller:?}").contains("HIGHWATER_BACKUPS_AT_ONCE"),
            "scenarios ran in this cluster, and raised how many backups may run at once: begin with a new one"
        );
        let client = Client::try_default().await?;
        Ok(Self { client, deployment })
    }

    /// An empty namespace with archive and policy, and a watch over it.
    pub fn empty(&self, part: &str) -> Result<(String, Watch)> {
        let namespace = format!("bench-backup-{part}");
        self.clear(&namespace)?;
        self.deployment.namespace(&namespace)?;
        let watch = Watch::start(&self.deployment.kubectl, &namespace)?;
        println!("{part}: making databases");
        Ok((namespace, watch))
    }

    /// A database of this shape, not protected yet.
    pub async fn database(&self, namespace: &str, name: &str, shape: &Shape) -> Result<Subject> {
        let (place, class) = (&self.deployment, "highwater-btrfs");
        let database = Database::create_as(place, namespace, name, class, &shape.manifest).await?;
        let claims = shape.claims.iter().map(|claim| format!("{claim}-{name}-0"));
        let claims = claims.collect();
        Ok(Subject { database, claims })
    }

    /// So many databases of this shape, protected.
    pub async fn databases(
        &self,
        namespace: &str,
        count: usize,
        shape: &Shape,
    ) -> Result<Vec<Subject>> {
        let make = async |number| {
            let name = format!("db-{number}");
            self.database(namespace, &name, shape).await
        };
        let subjects = futures::stream::iter(0..count).map(make);
        let subjects: Vec<_> = subjects.buffered(STARTING).try_collect().await?;
        Ok(subjects)
    }

    /// Takes a namespace away: its backups first, as their snapshots would stay.
    pub fn clear(&self, namespace: &str) -> Result<()> {
        let kubectl = &self.deployment.kubectl;
        if kubectl.get("default", "namespace", namespace)?.is_none() {
            return Ok(());
        }
        let all = [
            "delete",
            "pgbackups.highwater.dev",
            "--all",
            "--timeout=600s",
        ];
        kubectl.run(&[&["-n", namespace], &all[..]].concat())?;
        kubectl.run(&["delete", "namespace", namespace, "--timeout=300s"])?;
        Ok(())
    }
}

/// Protects them, waits for the first backup of each, and shows that the watch sees it.
pub async fn protect(subjects: &[Subject], watch: &Watch) -> Result<()> {
    for Subject { database, .. } in subjects {
        database.annotate("highwater.dev/policy", "gold")?;
    }
    for Subject { database, .. } in subjects {
        let (kubectl, namespace) = (&database.kubectl, &database.namespace);
        let first = story::first_backup(kubectl, namespace, &database.name).await?;
        watch.backup(&first).await.context("nothing is seen")?;
    }
    Ok(())
}

/// A manifest and the names of its claims.
pub struct Shape {
    manifest: String,
    claims: &'static [&'static str],
}

impl Shape {
    /// One volume.
    pub fn one() -> Self {
        Self {
            manifest: include_str!("../../../manifests/postgres.yaml").to_owned(),
            claims: &["data"],
        }
    }

    /// Data, WAL and two tablespaces: the manifest of the scenarios, and one tablespace more.
    pub fn four() -> Self {
        let three = include_str!("../../../manifests/postgres-volumes.yaml");
        let mount = "- {name: fast, mountPath: /var/lib/postgresql/fast}";
        let more = mount.replace("fast", "slow");
        let spaces = "/var/lib/postgresql/fast/space";
        let both = format!("{spaces} {}", spaces.replace("fast", "slow"));
        let (head, claim) = three
            .rsplit_once("    - metadata: {name: fast}\n")
            .unwrap_or((three, ""));
        let claim = |name: &str| format!("    - metadata: {{name: {name}}}\n{claim}");
        let head = head
            .replace(mount, &format!("{mount}\n            {more}"))
            .replace(spaces, &both);
        Self {
            manifest: format!("{head}{}{}", claim("fast"), claim("slow")),
            claims: &["data", "wal", "fast", "slow"],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use highwater_e2e::harness::fill;
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_fourth_volume_is_like_the_third() {
        let shape = Shape::four();
        let names = [
            "NAME",
            "NAMESPACE",
            "PASSWORD",
            "POSTGRES_IMAGE",
            "PULL_POLICY",
            "STORAGE_CLASS",
        ];
        let manifest = fill(&shape.manifest, &names.map(|name| (name, "x"))).unwrap();
        let set = manifest.split("---\n").last().unwrap();
        let set: Value = serde_saphyr::from_str(set).unwrap();
        let names = |list: &Value, path: &str| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|it| it.pointer(path).unwrap().as_str().unwrap().to_owned())
                .collect()
        };
        let claims = &set["spec"]["volumeClaimTemplates"];
        assert_eq!(names(claims, "/metadata/name"), shape.claims);
        assert_eq!(claims[3]["spec"], claims[2]["spec"]);
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(names(&container["volumeMounts"], "/name"), shape.claims);
        let spaces = container["env"].as_array().unwrap().iter();
        let mut spaces = spaces.filter(|it| it["name"] == "POSTGRES_TABLESPACES");
        assert_eq!(
            spaces.next().unwrap()["value"],
            "/var/lib/postgresql/fast/space /var/lib/postgresql/slow/space"
        );
    }
}
