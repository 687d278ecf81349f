//! Keeps the connection to the primary, settles the lineage, and has WAL shipped: again and again, for ever.

mod ship;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use self::ship::ship;
use super::{
    config::{Config, Wanted},
    pause::Pause,
    preflight,
    primary::{self, Answering, NoPrimary},
    settle::settle,
    shared::Shared,
    store::{self, Trouble},
    transport::Choice,
    unprotect,
    wal::{self, Path, Server, lag},
};
use crate::{
    api::{
        DatabaseFacts, Primary, Transport, WalStatus,
        conditions::{CONNECTED, SLOTS_DROPPED, STREAMING_REFUSED, Status, WAL_ARCHIVING},
    },
    controller::context::Chain,
    postgres::{
        TimelineId,
        server::{IDLE_SLOT_TIMEOUT, ServerFacts},
        session::QueryError,
        slot::{self, Slot},
        wal_reader,
    },
};

/// The longest pause between two tries to connect.
const LONGEST: Duration = Duration::from_secs(15);
/// Between two tries to drop slots.
const UNPROTECT: Duration = Duration::from_secs(5);
/// After this many failures in a row the archive is opened anew.
const REOPEN: u32 = 5;

/// Runs until the process is to end.
pub async fn run(shared: Arc<Shared>) {
    let mut wanted = shared.wanted.clone();
    let mut pause = Pause::new(Duration::from_millis(500), LONGEST);
    while !shared.stop.is_cancelled() {
        let now = wanted.borrow_and_update().clone();
        let rest = match now {
            Wanted::Nothing(why) => {
                tracing::info!(%why, "waiting");
                if let Some(reason) = why.reason() {
                    let reporter = &shared.reporter;
                    reporter.condition(WAL_ARCHIVING, Status::False, reason, why.to_string());
                }
                None
            }
            Wanted::Unprotect(members) => {
                let _slots = shared.slots.lock().await;
                let done = unprotect::run(&shared.login, &members, &shared.slot, &shared.reporter);
                (!done.await).then_some(UNPROTECT)
            }
            Wanted::Protect(config) => {
                let since = Instant::now();
                let end = protect(&shared, &config, &mut wanted).await;
                shared.link.send_replace(None);
                shared.holding.send_replace(None);
                shared.metrics.connected.set(0);
                if since.elapsed() > LONGEST {
                    pause.reset();
                }
                end.told(&shared, &mut pause)
            }
        };
        let rest = async {
            match rest {
                Some(rest) => tokio::time::sleep(rest).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => match changed {
                // A member came or went: what failed so far says nothing about how long this one takes.
                Ok(()) => pause.reset(),
                Err(_) => return,
            },
            () = rest => {}
            () = shared.stop.cancelled() => {}
        }
    }
}

/// Why shipping ended.
enum End {
    /// The process is to end, or the configuration changed.
    Asked,
    /// There is no primary to work with.
    NoPrimary(NoPrimary),
    /// The session failed.
    Session(wal::Error),
    /// The archive failed.
    Archive(Trouble),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Archive(trouble)
    }
}

impl From<NoPrimary> for End {
    fn from(error: NoPrimary) -> Self {
        Self::NoPrimary(error)
    }
}

impl From<wal::Error> for End {
    fn from(error: wal::Error) -> Self {
        match error.is_archiving() {
            true => Self::Archive(Trouble::new(error.reason(), &error)),
            false => Self::Session(error),
        }
    }
}

impl End {
    /// Says it in status, and how long to rest.
    fn told(self, shared: &Shared, pause: &mut Pause) -> Option<Duration> {
        let (type_, reason, message) = match self {
            Self::Asked => return Some(Duration::ZERO),
            Self::NoPrimary(error) => (CONNECTED, error.reason(), Chain(&error).to_string()),
            Self::Session(error) => (CONNECTED, error.reason(), Chain(&error).to_string()),
            Self::Archive(trouble) => (WAL_ARCHIVING, trouble.reason, trouble.message),
        };
        tracing::warn!(reason, "{message}");
        shared.metrics.error(reason);
        if type_ == CONNECTED {
            let stalled =
                format!("no WAL is shipped while the database is not connected: {message}");
            shared
                .reporter
                .condition(WAL_ARCHIVING, Status::False, "NotConnected", stalled);
        } else {
            // Credentials may have been put right.
            shared.stores.forget();
        }
        shared
            .reporter
            .condition(type_, Status::False, reason, message);
        Some(pause.next())
    }
}

async fn protect(
    shared: &Arc<Shared>,
    config: &Config,
    wanted: &mut watch::Receiver<Wanted>,
) -> End {
    match serve(shared, config, wanted).await {
        Ok(()) => End::Asked,
        Err(end) => end,
    }
}

async fn serve(
    shared: &Arc<Shared>,
    config: &Config,
    wanted: &mut watch::Receiver<Wanted>,
) -> Result<(), End> {
    let answering = primary::find(&shared.login, &config.members).await;
    let answering = answering.inspect_err(|_| preflight::forget(shared))?;
    preflight::look(shared, &answering).await;
    // From here on nothing is lost, whatever the archive does.
    let held = match config.transport {
        // PostgreSQL keeps what it has not archived; what we held before is let go of in time.
        Transport::ArchiveCommand => held(shared, &answering).await?,
        Transport::Auto | Transport::Streaming | Transport::Sql => {
            Some(hold(shared, &answering).await?)
        }
    };
    let restart = held.as_ref().and_then(|slot| slot.restart_lsn);
    tracing::info!(
        pod = answering.member.pod,
        slot = held.is_some(),
        ?restart,
        "connected"
    );
    let known = shared.reporter.read().wal;
    let archived = restart.or_else(|| known?.archived_through);
    let (progress, metrics) = (shared.progress.subscribe(), &shared.metrics);
    // With archive_command a slot is what is left of another transport, and goes.
    let relies = config.transport != Transport::ArchiveCommand;
    let holding = relies.then(|| answering.member.uid.clone());
    shared.holding.send_replace(holding);
    tokio::select! {
        served = serve_one(shared, config, wanted, &answering, held.is_some()) => served,
        () = lag::follow(&answering.client, archived, progress, metrics) => Ok(()),
        () = preflight::follow(shared, &answering) => Ok(()),
        () = dropped(shared), if relies => Ok(()),
    }
}

/// Until somebody has dropped the slot. It is made again by who begins anew.
async fn dropped(shared: &Shared) {
    // Whoever tells it is as old as this.
    let _ = shared.holding.subscribe().wait_for(Option::is_none).await;
}

async fn serve_one(
    shared: &Arc<Shared>,
    config: &Config,
    wanted: &mut watch::Receiver<Wanted>,
    answering: &Answering,
    has_slot: bool,
) -> Result<(), End> {
    let (server, pod) = (server(shared, answering), &answering.member.pod);
    let transports = &shared.transports;
    let choice = transports.choose(config.transport, config.synchronous, &server, pod);
    let choice = choice.await;
    let chosen = choice.as_ref().ok();
    connected(shared, answering, chosen, config.synchronous, has_slot);
    let choice = choice.map_err(|refused| Trouble::new(STREAMING_REFUSED, &refused))?;
    tracing::info!(reason = choice.reason, "{}", choice.message);
    let by = choice.transport();
    if by == Transport::ArchiveCommand {
        // Before the archive is tried, each time again.
        wal::archives(&answering.client).await?;
    }
    let archive = shared.stores.archive(config)?;
    let findings = archive.probe(&*shared.clock).await.map_err(Trouble::from)?;
    store::found(shared, &findings);
    let path = path(answering).await?;
    let settled = settle(shared, &archive, answering, &path, by, None).await?;
    match ship(shared, config, wanted, answering, &path, &choice, settled).await {
        Err(wal::Error::Conflict(conflict)) => {
            // Two histories: the old lineage stays as it is, a new one starts; a conflict in that one is an error.
            told_conflict(shared, &conflict).await;
            let settled = settle(shared, &archive, answering, &path, by, Some(conflict)).await?;
            Ok(ship(shared, config, wanted, answering, &path, &choice, settled).await?)
        }
        other => Ok(other?),
    }
}

/// For streams from the server that answered.
fn server(shared: &Shared, answering: &Answering) -> Server {
    Server {
        options: shared.login.options(&answering.member.address),
        system_identifier: answering.facts.system_identifier,
        timeline: answering.facts.timeline,
        client: answering.client.clone(),
        clock: shared.clock.clone(),
    }
}

async fn told_conflict(shared: &Shared, conflict: &str) {
    tracing::error!(conflict, "two histories in one lineage");
    shared.metrics.error("WalConflict");
    shared
        .reporter
        .condition(WAL_ARCHIVING, Status::False, "WalConflict", conflict);
    shared
        .events
        .warning(&shared.about, "WalConflict", conflict)
        .await;
}

/// The slot of another transport, if it is still there.
async fn held(shared: &Shared, answering: &Answering) -> Result<Option<Slot>, End> {
    let found = slot::find(&answering.client, &shared.slot).await;
    found.map_err(|error| End::Session(error.into()))
}

/// The slot, which keeps WAL from now on. One that has lost its WAL is of no use and is made anew.
async fn hold(shared: &Shared, answering: &Answering) -> Result<Slot, End> {
    let session = |error: QueryError| End::Session(error.into());
    let (client, name) = (&answering.client, &shared.slot);
    let note = match slot::find(client, name).await.map_err(session)? {
        Some(held) if held.wal_status != slot::WalStatus::Lost => return Ok(held),
        Some(_) => {
            slot::drop(client, name).await.map_err(session)?;
            Some(slot_lost(name))
        }
        None => had_slot(shared, answering).then(|| slot_dropped(name, &answering.member.pod)),
    };
    let held = slot::create(client, name).await.map_err(session)?;
    if let Some(note) = note {
        tracing::error!("{note}");
        shared.metrics.error("SlotLost");
        shared.events.warning(&shared.about, "SlotLost", note).await;
    }
    Ok(held)
}

/// Whether we held a slot on this server before, by what status says.
fn had_slot(shared: &Shared, answering: &Answering) -> bool {
    let known = shared.reporter.read();
    let primary = known.primary.map(|primary| primary.pod);
    let identifier = known.database.map(|database| database.system_identifier);
    known.wal.is_some_and(|wal| wal.slot.is_some())
        && primary.as_ref() == Some(&answering.member.pod)
        && identifier == Some(answering.facts.system_identifier)
}

fn slot_dropped(name: &str, pod: &str) -> String {
    format!(
        "replication slot {name} on {pod} was dropped, not by Highwater, and is made again: WAL that was not archived by then may be missing from the archive. If a manager of the database drops slots that it does not know, name this one in its settings"
    )
}

fn slot_lost(name: &str) -> String {
    format!(
        "replication slot {name} has lost its WAL (max_slot_wal_keep_size, idle_replication_slot_timeout): WAL may be missing from the archive"
    )
}

fn connected(
    shared: &Shared,
    answering: &Answering,
    choice: Option<&Choice>,
    synchronous: bool,
    has_slot: bool,
) {
    let Answering { member, facts, .. } = answering;
    shared.metrics.connected.set(1);
    shared.reporter.edit(|report| {
        report
            .conditions
            .retain(|condition| condition.type_ != SLOTS_DROPPED);
        report.primary = Some(Primary {
            pod: member.pod.clone(),
            timeline: facts.timeline,
        });
        report.database = Some(database(facts));
        if let Some(choice) = choice {
            let before = report.wal.take();
            report.wal = Some(WalStatus {
                transport: choice.transport(),
                reason: choice.reason.to_owned(),
                slot: has_slot.then(|| shared.slot.clone()),
                synchronous: synchronous && choice.transport() == Transport::Streaming,
                max_slot_wal_keep_size: facts.settings.get("max_slot_wal_keep_size").cloned(),
                archived_through: before.as_ref().and_then(|wal| wal.archived_through),
                lag_bytes: before.as_ref().and_then(|wal| wal.lag_bytes),
                standby_slots: before.map(|wal| wal.standby_slots).unwrap_or_default(),
            });
        }
    });
    let timeout = facts.settings.get(IDLE_SLOT_TIMEOUT);
    let timeout = timeout.filter(|timeout| has_slot && *timeout != "0");
    let message = takes_writes(&member.pod, facts.timeline, timeout);
    shared
        .reporter
        .condition(CONNECTED, Status::True, "Connected", message);
}

/// `timeout`: after how long PostgreSQL gives up our slot, if it does.
fn takes_writes(pod: &str, timeline: TimelineId, timeout: Option<&String>) -> String {
    let said = format!("{pod} takes writes on timeline {timeline}");
    match timeout {
        None => said,
        Some(timeout) => format!(
            "{said}; {IDLE_SLOT_TIMEOUT} is {timeout}: where no segment is archived for longer, as the archive is away or none is full, PostgreSQL gives up the WAL that the replication slot holds. Set it to 0"
        ),
    }
}

fn database(facts: &ServerFacts) -> DatabaseFacts {
    DatabaseFacts {
        system_identifier: facts.system_identifier,
        major_version: i32::try_from(facts.major).unwrap_or_default(),
        segment_size: facts.segment_size,
        data_directory: facts.data_directory.display().to_string(),
        wal_directory: None,
        tablespaces: facts
            .tablespaces
            .iter()
            .map(|tablespace| tablespace.location.display().to_string())
            .collect(),
    }
}

/// The timeline and how the cluster came there.
async fn path(answering: &Answering) -> Result<Path, End> {
    let timeline = answering.facts.timeline;
    let session = |error: wal::Error| End::Session(error);
    let text = wal_reader::history_file(&answering.client, timeline)
        .await
        .map_err(|error| session(error.into()))?;
    let ancestors = match text {
        None => Vec::new(),
        Some(text) => wal::ancestors(timeline, &text).map_err(|error| session(error.into()))?,
    };
    Ok(Path {
        timeline,
        ancestors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_postgresql_gives_up_is_told() {
        let said = |timeout: Option<&String>| takes_writes("orders-0", TimelineId::FIRST, timeout);
        assert_eq!(said(None), "orders-0 takes writes on timeline 1");
        let said = said(Some(&"1d".to_owned()));
        assert!(
            said.contains("idle_replication_slot_timeout is 1d"),
            "{said}"
        );
        assert!(said.ends_with("Set it to 0"), "{said}");
    }
}
