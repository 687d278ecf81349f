//! The agent's part of the status, without a database.

use anyhow::Result;
use highwater::{
    api::{PgBackup, conditions, managers},
    kubernetes::apply_status,
};
use kube::ResourceExt;
use serde_json::json;

use super::fixture::{Fixture, condition};

/// Keeps to the handshake, and loses its session as often as asked.
#[derive(Default)]
pub struct Agent {
    pub lose: u32,
}

impl Agent {
    pub async fn pass(&self, fixture: &Fixture, backup: &PgBackup) -> Result<()> {
        let Some(status) = backup.status.as_ref() else {
            return Ok(());
        };
        let is = |type_: &str| conditions::is_true(&status.conditions, type_);
        if is("Discarded") {
            return uncatalogue(fixture, backup).await;
        }
        let Some(attempt) = status.attempt.as_ref().filter(|_| is("Accepted")) else {
            return Ok(());
        };
        let heeded = status
            .session
            .as_ref()
            .is_some_and(|s| s.attempt == attempt.number);
        let mut session =
            json!({"attempt": attempt.number, "startLsn": "0/2000028", "timeline": 1});
        let mut list = vec![condition("Session")];
        let mut part = json!({});
        if !heeded {
            fixture
                .require_no_snapshots_of(backup, attempt.number)
                .await?;
        } else if attempt.number <= self.lose && is("Session") {
            list[0]["status"] = "False".into();
            list[0]["reason"] = "SessionLost".into();
        } else if is("Cut") && !is("Stopped") {
            session["stopLsn"] = "0/2000138".into();
            list.extend([condition("Stopped"), condition("WalArchived")]);
        } else if is("Ready") && is("WalArchived") && !is("Catalogued") {
            session["stopLsn"] = "0/2000138".into();
            list.extend([
                condition("Stopped"),
                condition("WalArchived"),
                condition("Catalogued"),
            ]);
            part["catalog"] = json!({"manifest": "k", "sha256": "s"});
        } else {
            return Ok(());
        }
        // The ceiling counts from here.
        #[allow(clippy::disallowed_methods, reason = "the agent's clock")]
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        list.iter_mut()
            .for_each(|c| c["lastTransitionTime"] = now.clone().into());
        part["session"] = session;
        part["conditions"] = list.into();
        apply_status(
            &fixture.api::<PgBackup>(),
            &backup.name_any(),
            managers::AGENT,
            &part,
        )
        .await?;
        Ok(())
    }
}

/// There is no archive: it has no entry.
async fn uncatalogue(fixture: &Fixture, backup: &PgBackup) -> Result<()> {
    let mut catalogued = condition("Catalogued");
    catalogued["status"] = "False".into();
    catalogued["reason"] = "Uncatalogued".into();
    let session = backup.status.as_ref().and_then(|it| it.session.clone());
    let part = json!({"session": session, "conditions": [catalogued]});
    let (api, name) = (fixture.api::<PgBackup>(), backup.name_any());
    match apply_status(&api, &name, managers::AGENT, &part).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
