//! The oracle, where nobody mends what broke, and where something is left.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use highwater::{
    api::PgBackup,
    clock::{Clock, SystemClock},
    postgres::{
        backup_mode,
        session::{ConnectOptions, Credentials, Source, connect},
    },
};
use highwater_e2e::flow::{Death, Lifeline};
use kube::ResourceExt;

use super::{
    archive,
    crash::{rehearse, tell},
    fixture::define_kinds,
    judge::{End, Expected, at_rest, judge, until_holds},
    programs::{Agent, Controller},
    restored, run,
    site::Site,
};

/// Longer than any life takes.
const PATIENCE: Duration = Duration::from_secs(5);
const EXPECTED: Expected = Expected {
    attempts: 2,
    unheard: 1,
    seconds: 3600,
    may_fail: false,
};

fn refused<T: std::fmt::Debug>(result: Result<T>, by: &str) -> Result<()> {
    match result {
        Err(error) if format!("{error:#}").contains(by) => Ok(()),
        other => bail!("want {by:?}, got {other:?}"),
    }
}

/// A controller dies after its first snapshot, the agent beside it, and nobody starts them again.
async fn abandon(site: &Site) -> Result<PgBackup> {
    site.begin(EXPECTED.seconds).await?;
    let line = Lifeline::ending_at_creation("volumesnapshots", Death::BeforeAnswer);
    let controller = Controller::start(site, line).await?;
    let agent = Agent::start(site, Lifeline::endless(), None).await?;
    let backup = site.ask().await?;
    controller.lifeline.death().await;
    controller.kill().await;
    let decided = tokio::time::timeout(PATIENCE, site.decided(&backup)).await;
    ensure!(decided.is_err(), "decided by nobody: {decided:?}");
    let still_held = at_rest(site);
    agent.kill().await;
    refused(still_held, "sessions in backup mode")?;
    let api = site.fixture.api::<PgBackup>();
    Ok(api.get(&backup.name_any()).await?)
}

async fn a_session_left(site: &Site) -> Result<()> {
    let options = ConnectOptions {
        host: "127.0.0.1".to_owned(),
        port: site.database.port,
        database: "postgres".to_owned(),
        credentials: Credentials {
            user: Source::value("postgres"),
            password: None,
        },
        application: "highwater-backup",
        timeout: PATIENCE,
    };
    let session = connect(&options).await?;
    backup_mode::start(&session, "left", true).await?;
    refused(at_rest(site), "1 sessions in backup mode")?;
    session.close().await;
    until_holds("the session is gone", || async { at_rest(site) }).await
}

async fn a_slot_left(site: &Site) -> Result<()> {
    let sql = |text: &str| tokio::task::block_in_place(|| site.database.sql(text));
    sql("SELECT pg_create_physical_replication_slot('left')")?;
    refused(at_rest(site), "left")?;
    sql("SELECT pg_drop_replication_slot('left')")?;
    at_rest(site)
}

#[test]
fn what_nobody_mends_and_what_is_left_is_seen() -> Result<()> {
    run(seen)
}

async fn seen() -> Result<()> {
    let client = Lifeline::endless().client().await?;
    define_kinds(&client).await?;
    let time = SystemClock.now().as_millisecond();
    let site = Site::new(client, &format!("sweep-control-{time:x}")).await?;
    rehearse(&site).await?;

    let backup = abandon(&site).await?;
    refused(judge(&site, &backup, EXPECTED).await, "not decided")?;
    let left = site.fixture.require_nothing_left(&backup).await;
    refused(left, "left behind")?;
    a_session_left(&site).await?;
    a_slot_left(&site).await?;

    // The same backup, once somebody mends it.
    let controller = Controller::start(&site, Lifeline::endless()).await?;
    let agent = Agent::start(&site, Lifeline::endless(), None).await?;
    let decided = site.decided(&backup).await?;
    let owed = site.no_more_owed(&backup.name_any());
    let owed = owed.context("nothing is owed")?;
    let more = restored::require_rows(&site, &decided, i64::MAX).await;
    refused(more, "are owed")?;
    site.owes(&backup.name_any(), owed);
    let end = judge(&site, &decided, EXPECTED).await?;
    ensure!(end == End::Completed, "{end}");
    agent.kill().await;
    let (archived, away) = (
        site.archive_directory(),
        site.archive_directory().with_extension("away"),
    );
    fs::rename(&archived, &away)?;
    let without = archive::require_restorable(&site, &decided).await;
    ensure!(without.is_err(), "it is restorable without its archive");
    fs::rename(&away, &archived)?;
    let agent = Agent::start(&site, Lifeline::endless(), None).await?;
    tell(&site, &decided, EXPECTED).await?;
    agent.kill().await;
    controller.kill().await;
    site.close().await
}
