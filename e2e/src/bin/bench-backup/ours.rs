//! Highwater's backups of the same databases.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use highwater::api::{
    PgBackup, PgBackupSpec,
    conditions::{self, COMPLETED, SESSION},
};
use highwater_e2e::harness::measure::{BackupTimes, Watch};
use kube::{Api, Client, api::PostParams, runtime::wait::await_condition};
use serde_json::Value;

use crate::place::Subject;

/// The longest that one may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Asks for one of each database at once, and waits for all.
pub async fn run(
    client: &Client,
    watch: &Watch,
    subjects: &[Subject],
    name: &str,
) -> Result<Vec<BackupTimes>> {
    let backups = subjects.iter().map(async |subject| {
        ask(client, subject, name).await?;
        completed(client, subject, name).await
    });
    let mut times = Vec::new();
    for backup in try_join_all(backups).await? {
        times.push(watch.backup(&backup).await?);
    }
    Ok(times)
}

/// Makes the PgBackup.
pub async fn ask(client: &Client, subject: &Subject, name: &str) -> Result<()> {
    let spec = PgBackupSpec {
        protection: subject.database.name.clone(),
        reason: highwater::api::BackupReason::Manual,
    };
    let backup = PgBackup::new(&full(subject, name), spec);
    let backups = backups(client, subject);
    backups.create(&PostParams::default(), &backup).await?;
    Ok(())
}

/// Waits until it is in backup mode.
pub async fn begun(client: &Client, subject: &Subject, name: &str) -> Result<()> {
    let (name, backups) = (full(subject, name), backups(client, subject));
    let begun = await_condition(backups, &name, |backup: Option<&PgBackup>| {
        let status = backup.and_then(|backup| backup.status.as_ref());
        status.is_some_and(|status| conditions::is_true(&status.conditions, SESSION))
    });
    let begun = tokio::time::timeout(LIMIT, begun).await;
    begun.with_context(|| format!("PgBackup {name} is not in backup mode"))??;
    Ok(())
}

/// Waits until it has completed.
pub async fn completed(client: &Client, subject: &Subject, name: &str) -> Result<Value> {
    let (name, backups) = (full(subject, name), backups(client, subject));
    let ended = await_condition(backups, &name, |backup: Option<&PgBackup>| {
        backup.is_some_and(|backup| said(backup).is_some())
    });
    let ended = tokio::time::timeout(LIMIT, ended).await;
    let ended = ended.with_context(|| format!("PgBackup {name} does not end"))??;
    let ended = ended.with_context(|| format!("PgBackup {name} is gone"))?;
    ensure!(said(&ended) == Some(true), "PgBackup {name} failed");
    Ok(serde_json::to_value(&ended)?)
}

/// Whether it completed or failed, once it has.
pub fn said(backup: &PgBackup) -> Option<bool> {
    let conditions = &backup.status.as_ref()?.conditions;
    match conditions::is_true(conditions, COMPLETED) {
        true => Some(true),
        false => conditions::is_false(conditions, COMPLETED).then_some(false),
    }
}

/// Those of the namespace of a database.
pub fn backups(client: &Client, subject: &Subject) -> Api<PgBackup> {
    Api::namespaced(client.clone(), &subject.database.namespace)
}

/// Its name.
pub fn full(subject: &Subject, name: &str) -> String {
    format!("{}-{name}", subject.database.name)
}
