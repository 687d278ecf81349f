//! Members of a database that copy one of them and stream from it, as `manifests/postgres-members.yaml` has them.

use anyhow::{Context, Result};
use serde_json::Value;
use tokio_postgres::Client;

use super::{Database, Watching, connect, has, story};

/// Lets replication connections in, as who runs standbys has it.
///
/// # Errors
/// The database refuses.
pub async fn allow_replication(client: &Client) -> Result<()> {
    let allow =
        "COPY (SELECT 'host replication all all scram-sha-256') TO PROGRAM 'cat >> pg_hba.conf'";
    client.batch_execute(allow).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(())
}

/// Says whom members copy that begin from now on: there is no DNS in the dev cluster.
///
/// # Errors
/// The API server refuses.
pub fn copy_from(database: &Database, address: &str) -> Result<()> {
    let (name, namespace) = (&database.name, &database.namespace);
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}-members, namespace: {namespace}}}\n\
         data: {{first: \"{address}\"}}\n"
    );
    database.kubectl.apply(&map).map(drop)
}

/// Lets the second member copy the first and stream from it; returns a session with it.
///
/// # Errors
/// It does not become ready.
pub async fn join(orders: &Database) -> Result<Client> {
    let joined = join_all(orders, 2).await?;
    connect(joined.first().context("nobody joined")?).await
}

/// Lets others copy the first member and stream from it until there are `members`; returns the addresses of those that came.
///
/// # Errors
/// One does not become ready.
pub async fn join_all(database: &Database, members: u8) -> Result<Vec<String>> {
    allow_replication(&database.connect().await?).await?;
    copy_from(database, &database.address()?)?;
    let arrived = arrived(database, members).await?;
    Ok(arrived.into_iter().map(|(_, address)| address).collect())
}

/// Asks for so many members and waits until all but the first are ready; returns the names and addresses of their pods.
///
/// # Errors
/// One does not become ready.
pub async fn arrived(database: &Database, members: u8) -> Result<Vec<(String, String)>> {
    database.want(members)?;
    let mut arrived = Vec::new();
    for number in 1..members {
        let name = format!("{}-{number}", database.name);
        let ready = |pod: &Value| has(pod, "Ready", "True");
        let pod = Watching::one(&database.kubectl, &database.namespace, "pod", &name)?
            .wait(&format!("pod {name} ready"), story::LIMIT, ready)
            .await?;
        let address = pod["status"]["podIP"].as_str().context("no address")?;
        arrived.push((name, address.to_owned()));
    }
    Ok(arrived)
}
