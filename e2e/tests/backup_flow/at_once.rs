//! Backups of several databases on one node: so many of them at once as the controller was told, also by its successor.

use std::pin::pin;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use highwater::{
    api::{PgBackup, conditions},
    controller::{Scope, backup::Limits},
};
use highwater_e2e::flow::Lifeline;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};

use super::{
    ALONE,
    fixture::{Fixture, is_completed, start_with},
};

const LIMITS: Limits = Limits {
    total: 50,
    per_driver: 20,
    per_node: 1,
};

#[tokio::test]
async fn backups_of_a_node_wait_for_each_other_where_the_controller_is_told_so() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (first, second) = (
        Fixture::new("flow-node-first").await?,
        Fixture::new("flow-node-second").await?,
    );
    let start = async || {
        let client = Lifeline::endless().client().await?;
        anyhow::Ok(start_with(&client, Scope::Cluster, LIMITS))
    };
    let controller = start().await?;
    let order = tokio::spawn(second_begins_after_first(first.client.clone()));
    first.ask_for_backup("first", "orders").await?;
    first.seen("first", "the first begins", is_accepted).await?;
    second.ask_for_backup("second", "orders").await?;
    let waits = |backup: &PgBackup| {
        let accepted = find(backup, conditions::ACCEPTED);
        accepted.is_some_and(|it| it.reason == "WaitsForOthers")
    };
    let told = second.seen("second", "the second waits", waits).await?;
    let accepted = find(&told, conditions::ACCEPTED).context("nothing is told")?;
    let said = "1 at once on node ";
    ensure!(accepted.message.contains(said), "{}", accepted.message);

    // Its successor knows who runs, as it is written down.
    controller.abort();
    let controller = start().await?;
    first
        .play("first", "the first completes", is_completed)
        .await?;
    second
        .play("second", "the second completes", is_completed)
        .await?;
    controller.abort();
    let is_after = order.await??;
    ensure!(
        is_after,
        "the second began when the first was in backup mode"
    );
    Ok(())
}

/// Whether the first had left backup mode when the second's attempt began, by the order in which the cluster took
/// both: their clocks tell a begin before the objects were read, and an end by the second.
async fn second_begins_after_first(client: Client) -> Result<bool> {
    let backups = Api::<PgBackup>::all(client);
    let mut changes = pin!(watcher(backups, watcher::Config::default()).applied_objects());
    let mut is_stopped = false;
    while let Some(backup) = changes.next().await.transpose()? {
        let Some(status) = &backup.status else {
            continue;
        };
        match backup.name_any().as_str() {
            "first" => is_stopped |= conditions::is_true(&status.conditions, conditions::STOPPED),
            "second" if status.attempt.is_some() => return Ok(is_stopped),
            _ => {}
        }
    }
    bail!("failed to watch the backups: the watch ended")
}

fn is_accepted(backup: &PgBackup) -> bool {
    let status = backup.status.as_ref();
    status.is_some_and(|it| conditions::is_true(&it.conditions, conditions::ACCEPTED))
}

fn find<'a>(
    backup: &'a PgBackup,
    type_: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    conditions::find(&backup.status.as_ref()?.conditions, type_)
}
