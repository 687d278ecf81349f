//! What who runs standbys does when the primary is gone: the standby that has most is promoted, the others follow it, and the
//! old primary begins anew as a standby.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater::postgres::Lsn;
use highwater_e2e::harness::{connect, has, members, prey::Prey, story, until_async};
use tokio_postgres::Client;

use super::{
    Run,
    sets::{PASSFILE, STREAMING, Set},
};

/// Nothing comes from the old primary any more.
const ALONE: &str =
    "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
const HAS: &str = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text";

/// A standby and what it has.
struct Standby {
    pod: String,
    address: String,
    client: Client,
    has: Lsn,
}

/// kill -9 of the primary, and all that follows. `false`: not all stream, so that nobody could be sure to have everything.
pub async fn fail_over(run: &Run, set: &Set) -> Result<bool> {
    let (kubectl, namespace) = (&run.kubectl, run.namespace.as_str());
    let Some(old) = set.primary.get() else {
        return Ok(false);
    };
    let Ok(standbys) = standbys(set, &old).await else {
        return Ok(false);
    };
    let prey = Prey::find(kubectl, namespace, &old, "postgres")?;
    set.primary.set(None);
    prey.kill()?;
    // Before kubelet starts it again. Its volume goes with it.
    let claim = format!("data-{old}");
    let claim = ["-n", namespace, "delete", "pvc", &claim, "--wait=false"];
    kubectl.run(&claim)?;
    prey.replace(kubectl)?;
    let new = promote(standbys).await?;
    members::copy_from(&set.database, &set.database.address_of(&new)?)?;
    run.tell(&format!("failover from {old} to {new}"));
    set.primary.set(Some(new));
    Ok(true)
}

/// The standbys, while each of them streams.
async fn standbys(set: &Set, primary: &str) -> Result<Vec<Standby>> {
    let mut standbys = Vec::new();
    for pod in set.pods.iter().filter(|pod| *pod != primary) {
        let address = set.database.address_of(pod)?;
        let client = connect(&address).await?;
        standbys.push(Standby {
            pod: pod.clone(),
            address,
            client,
            has: Lsn::new(0),
        });
    }
    let primary = connect(&set.database.address_of(primary)?).await?;
    let whole: bool = primary.query_one(STREAMING, &[]).await?.get(0);
    ensure!(whole, "not all stream");
    Ok(standbys)
}

/// Promotes the one that has most, and lets the others follow it; its name.
async fn promote(mut standbys: Vec<Standby>) -> Result<String> {
    for standby in &mut standbys {
        until_async("the end of the stream", &standby.client, ALONE).await?;
        let has: String = standby.client.query_one(HAS, &[]).await?.get(0);
        standby.has = has.parse()?;
    }
    standbys.sort_by_key(|standby| standby.has);
    let new = standbys.pop().context("there is no standby")?;
    let promoted: bool = new
        .client
        .query_one("SELECT pg_promote()", &[])
        .await?
        .get(0);
    ensure!(promoted, "{} was not promoted in time", new.pod);
    for standby in &standbys {
        let follow = format!(
            "ALTER SYSTEM SET primary_conninfo = 'host={} user=postgres passfile={PASSFILE}'",
            new.address
        );
        standby.client.batch_execute(&follow).await?;
        let reload = "SELECT pg_reload_conf()";
        standby.client.batch_execute(reload).await?;
    }
    Ok(new.pod)
}

/// A member that is ready is killed, and its pod made anew. `false`: it is not ready, or gone already.
pub fn kill_member(run: &Run, pod: &str) -> Result<bool> {
    let there = run.kubectl.get(&run.namespace, "pod", pod)?;
    if !there.is_some_and(|pod| has(&pod, "Ready", "True")) {
        return Ok(false);
    }
    let Ok(prey) = Prey::find(&run.kubectl, &run.namespace, pod, "postgres") else {
        return Ok(false);
    };
    prey.kill()?;
    prey.replace(&run.kubectl)?;
    Ok(true)
}

/// Waits until every member streams again.
pub async fn whole(set: &Set) -> Result<()> {
    let begin = std::time::Instant::now();
    while begin.elapsed() < story::LIMIT {
        if let Some(primary) = set.primary.get()
            && standbys(set, &primary).await.is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("{}: not all members stream", set.database.name)
}
