//! The databases: one member, three members that stream, three volumes.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use highwater_e2e::harness::{
    Database, Deployment, PASSWORD, connect, members, story, until_async,
};
use serde_json::json;
use tokio_postgres::Client;

use super::load::Load;

/// A commit is acknowledged when one of the standbys has it, too; the agent, which streams as well, does not count.
const SYNCHRONOUS: &str = "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (walreceiver)'";
/// How many stream.
pub const STREAMING: &str = "SELECT count(*) = 2 FROM pg_stat_replication WHERE application_name = 'walreceiver' AND state = 'streaming'";
const MEMBERS: u8 = 3;
/// What standbys log in with after a failover: PostgreSQL's log tells a setting that changes, a password in it too. Each
/// member has it, as it lies in the data directory.
pub const PASSFILE: &str = "/var/lib/postgresql/data/pgdata/members.pass";

/// The pod that takes writes; none while another one is being chosen.
#[derive(Clone)]
pub struct Primary(Arc<Mutex<Option<String>>>);

impl Primary {
    fn new(pod: String) -> Self {
        Self(Arc::new(Mutex::new(Some(pod))))
    }

    pub fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set(&self, pod: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pod;
    }
}

/// A StatefulSet under load.
pub struct Set {
    pub database: Database,
    pub primary: Primary,
    pub load: Load,
    /// Its pods.
    pub pods: Vec<String>,
    /// Backups that were restored and compared, oldest first.
    pub verified: Mutex<Vec<String>>,
}

impl Set {
    fn new(database: Database, members: u8) -> Arc<Self> {
        let name = &database.name;
        let pods: Vec<_> = (0..members).map(|it| format!("{name}-{it}")).collect();
        let primary = Primary::new(format!("{name}-0"));
        let load = Load::start(&database, &primary);
        Arc::new(Self {
            database,
            primary,
            load,
            pods,
            verified: Mutex::default(),
        })
    }

    /// A session with each member.
    pub async fn members(&self) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for pod in &self.pods {
            let address = self.database.address_of(pod)?;
            clients.push(connect(&address).await.with_context(|| pod.clone())?);
        }
        Ok(clients)
    }
}

/// Makes them, and waits for the first backup of each. The long form has one more.
pub async fn make(deployment: &Deployment, namespace: &str, long: bool) -> Result<Vec<Arc<Set>>> {
    let one = include_str!("../../manifests/postgres.yaml");
    let volumes = include_str!("../../manifests/postgres-volumes.yaml");
    let mut shapes = vec![("single", one), ("volumes", volumes)];
    if long {
        shapes.push(("second", one));
    }
    let class = "highwater-btrfs";
    let mut sets = Vec::new();
    for (name, shape) in shapes {
        let database = Database::create_as(deployment, namespace, name, class, shape).await?;
        if name == "volumes" {
            tablespace(&database).await?;
        }
        sets.push(Set::new(database, 1));
    }
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let database = Database::create_as(deployment, namespace, "members", class, shape).await?;
    stream(&database).await?;
    sets.push(Set::new(database, MEMBERS));
    // Of the three that stream a standby is backed up, of the others who there is.
    let spec = json!({"spec": {
        "backupFrom": "PreferStandby",
        "deadlines": {"backup": "10m", "cut": "2m", "ready": "10m"},
    }});
    let policy = ("pgp", "gold");
    deployment.kubectl.patch(namespace, policy, &spec)?;
    for set in &sets {
        set.database.annotate("highwater.dev/policy", "gold")?;
    }
    for set in &sets {
        let name = &set.database.name;
        story::first_backup(&deployment.kubectl, namespace, name).await?;
    }
    Ok(sets)
}

/// What the load changes lies on the third volume.
async fn tablespace(database: &Database) -> Result<()> {
    let client = database.connect().await?;
    for statement in [
        "CREATE TABLESPACE fast LOCATION '/var/lib/postgresql/fast/space'",
        "ALTER SYSTEM SET default_tablespace = 'fast'",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

/// Three members of which two stream, and hold WAL for the archive.
async fn stream(database: &Database) -> Result<()> {
    let client = database.connect().await?;
    for setting in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '900MB'",
        // A standby that comes late finds what it needs: it has no slot.
        "ALTER SYSTEM SET wal_keep_size = '512MB'",
        // Now, so that they copy it: nothing is committed until they stream.
        SYNCHRONOUS,
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(setting).await?;
    }
    let passfile = format!(
        "COPY (SELECT '*:*:*:postgres:{PASSWORD}') TO PROGRAM 'cat > {PASSFILE} && chmod 600 {PASSFILE}'"
    );
    client.batch_execute(&passfile).await?;
    members::join_all(database, MEMBERS).await?;
    until_async("two standbys stream", &client, STREAMING).await
}
