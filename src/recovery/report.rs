//! The recovery pod's part of PgRestore.status: `progress` and the condition `Recovered`.

use std::{sync::Arc, time::Duration};

use kube::{Api, Client};
use tokio::{sync::watch, time::Instant};

use super::job::WHOLE;
use crate::{
    api::{
        PgArchive, PgRestore, PgRestoreStatus, RestoreProgress,
        conditions::{self, RECOVERED, Status},
        managers,
    },
    clock::Clock,
    controller::context::Chain,
    kubernetes::{RequestError, apply_status, request},
};

/// How often progress is written.
const PERIOD: Duration = Duration::from_secs(2);
/// How long the API server may be away before the program gives up and is started again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads and writes what this restore is about.
pub struct Reporter {
    client: Client,
    namespace: String,
    name: String,
    uid: Option<String>,
    generation: Option<i64>,
    clock: Arc<dyn Clock>,
}

impl Reporter {
    /// Reads the restore.
    ///
    /// # Errors
    /// It is gone, or the API server does not answer.
    pub async fn open(
        client: Client,
        namespace: &str,
        name: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, PgRestore), RequestError> {
        let api: Api<PgRestore> = Api::namespaced(client.clone(), namespace);
        let restore = patiently(|| request(api.get(name))).await?;
        let reporter = Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: restore.metadata.uid.clone(),
            generation: restore.metadata.generation,
            clock,
        };
        Ok((reporter, restore))
    }

    /// The restore's UID.
    pub fn uid(&self) -> &str {
        self.uid.as_deref().unwrap_or_default()
    }

    /// Reads an archive.
    ///
    /// # Errors
    /// As any request.
    pub async fn archive(&self, name: &str) -> Result<PgArchive, RequestError> {
        let api: Api<PgArchive> = Api::namespaced(self.client.clone(), &self.namespace);
        patiently(|| request(api.get(name))).await
    }

    /// Writes progress and condition, until the API server took them.
    ///
    /// # Errors
    /// The restore is gone, or the API server does not answer.
    pub async fn write(
        &self,
        progress: &RestoreProgress,
        status: Status,
        reason: &str,
        message: &str,
    ) -> Result<(), RequestError> {
        patiently(|| self.apply(progress, status, reason, message)).await
    }

    async fn apply(
        &self,
        progress: &RestoreProgress,
        status: Status,
        reason: &str,
        message: &str,
    ) -> Result<(), RequestError> {
        let api: Api<PgRestore> = Api::namespaced(self.client.clone(), &self.namespace);
        let before = request(api.get(&self.name)).await?;
        let before = before.status.unwrap_or_default().conditions;
        let mut conditions = conditions::owned(&before, &[RECOVERED]);
        conditions::upsert(
            &mut conditions,
            RECOVERED,
            status,
            reason,
            message,
            self.generation,
            self.clock.now(),
        );
        let status = PgRestoreStatus {
            progress: Some(progress.clone()),
            conditions,
            ..PgRestoreStatus::default()
        };
        apply_status(&api, &self.name, managers::RECOVERY, &status).await?;
        Ok(())
    }

    /// Writes what changed every few seconds, until it is dropped.
    pub async fn follow(
        &self,
        mut progress: watch::Receiver<RestoreProgress>,
    ) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut written = None;
        loop {
            ticks.tick().await;
            let now = progress.borrow_and_update().clone();
            if written.as_ref() == Some(&now) {
                continue;
            }
            let (reason, message) = match now.percent.as_str() {
                WHOLE => ("Verifying", "the restored database is looked at".to_owned()),
                percent => ("Replaying", replaying(percent, now.remaining_seconds)),
            };
            match self.apply(&now, Status::Unknown, reason, &message).await {
                Ok(()) => written = Some(now),
                Err(error) => tracing::warn!(error = %Chain(&error), "failed to write progress"),
            }
        }
    }
}

fn replaying(percent: &str, remaining: Option<i64>) -> String {
    match remaining {
        None => format!("PostgreSQL replays WAL: {percent}"),
        Some(seconds) => format!("PostgreSQL replays WAL: {percent}, about {seconds} s are left"),
    }
}

/// Repeats a request that another try may help.
pub async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let started = Instant::now();
    loop {
        match call().await {
            Err(error) if is_final(&error) || started.elapsed() > PATIENCE => return Err(error),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(answer) => return Ok(answer),
        }
    }
}

/// A right may be granted a moment after the pod starts, so 403 is none of these.
fn is_final(error: &RequestError) -> bool {
    matches!(error.code(), Some(400 | 404 | 422))
}
