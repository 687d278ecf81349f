//! Has WAL come into one lineage, and says how that goes.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    agent::{
        config::{Config, Wanted, same_archive},
        pause::Pause,
        primary::Answering,
        settle::Settled,
        shared::{Link, Progress, Shared},
        transport::Choice,
        wal::{
            self, Delays, Notice, Other, Path, Route, Server, Shipper, Signals, Watched, Watcher,
        },
    },
    api::{
        Member,
        conditions::{Status, WAL_ARCHIVING},
    },
    archive::LineageId,
    controller::context::Chain,
    postgres::Lsn,
};

use super::{LONGEST, REOPEN, server, slot_lost};

/// Who has WAL come.
enum Carrier {
    /// We do.
    Shipper(Box<Shipper>),
    /// PostgreSQL does.
    Watcher(Box<Watcher>),
}

impl Carrier {
    async fn open(
        shared: &Shared,
        config: &Config,
        choice: &Choice,
        route: Route,
        signals: Signals,
        archived: Option<Lsn>,
    ) -> Result<Self, wal::Error> {
        Ok(match choice.source(config.synchronous) {
            Some(source) => {
                let epoch = shared.epoch.clone();
                let shipper = Shipper::open(route, signals, source, epoch, archived);
                Self::Shipper(Box::new(shipper.await?))
            }
            None => {
                let watcher = Watcher::open(route, signals, archived, Delays::default());
                Self::Watcher(Box::new(watcher.await?))
            }
        })
    }

    /// Until the session or the archive fails. Calls `works` each time when nothing is wrong with the archive.
    async fn run(
        &mut self,
        shared: &Shared,
        choice: &Choice,
        id: &LineageId,
        mut works: impl FnMut(),
    ) -> Result<(), wal::Error> {
        match self {
            Self::Shipper(shipper) => {
                let message = &choice.message;
                let archiving = || {
                    works();
                    let reporter = &shared.reporter;
                    reporter.condition(WAL_ARCHIVING, Status::True, "Archiving", message);
                };
                shipper.run(archiving).await
            }
            Self::Watcher(watcher) => {
                let seen = |watched: &Watched| {
                    works();
                    told(shared, watched, id);
                };
                watcher.run(seen).await
            }
        }
    }
}

/// Says what a look at PostgreSQL's own archiver said.
fn told(shared: &Shared, watched: &Watched, id: &LineageId) {
    let (status, reason, message) = match &watched.trouble {
        None => (Status::True, "Archiving", watched.message()),
        Some(trouble) => (Status::False, trouble.reason(), trouble.message(id)),
    };
    let reporter = &shared.reporter;
    reporter.condition(WAL_ARCHIVING, status, reason, message);
    reporter.edit(|report| {
        if let Some(wal) = &mut report.wal {
            wal.slot = watched.holds_slot.then(|| shared.slot.clone());
        }
    });
}

/// Ships until the process is to end or the configuration changes.
pub(super) async fn ship(
    shared: &Arc<Shared>,
    config: &Config,
    wanted: &mut watch::Receiver<Wanted>,
    answering: &Answering,
    path: &Path,
    choice: &Choice,
    settled: Settled,
) -> Result<(), wal::Error> {
    let Settled {
        id,
        lineage,
        archived,
    } = settled;
    shared.progress.send_replace(Progress {
        lineage: Some(id.clone()),
        ..Progress::default()
    });
    let Answering {
        member,
        client,
        facts,
        user,
    } = answering;
    let (interval, tail_interval) = watch::channel(Duration::from_secs(5));
    let (others_sender, other_members) = watch::channel(others(shared, config, member));
    let route = Route {
        client: client.clone(),
        slot: shared.slot.clone(),
        size: facts.segment_size,
        path: path.clone(),
        lineage,
        system_identifier: facts.system_identifier,
        parallel: config.store.uploads().parallel(),
        others: other_members,
    };
    let (notices, noticed) = mpsc::unbounded_channel();
    let signals = Signals {
        tail_interval,
        demand: shared.demand.subscribe(),
        progress: shared.progress.clone(),
        stop: shared.stop.clone(),
        metrics: shared.metrics.clone(),
        notices,
    };
    // What was waited for in another history says nothing about this one; whoever still waits asks again.
    shared.demand.send_modify(|demand| demand.lsn = None);
    let opened = Carrier::open(shared, config, choice, route, signals, archived);
    let mut carrier = opened.await?;
    shared.link.send_replace(Some(Arc::new(Link {
        address: member.address.clone(),
        facts: facts.clone(),
        user: user.clone(),
        id: id.clone(),
    })));
    let server = server(shared, answering);
    let shipped = tokio::select! {
        shipped = ship_on(shared, choice, &id, &mut carrier) => shipped,
        () = reconfigured(config, wanted, member, |config| {
            interval.send_replace(config.tail_interval);
            others_sender.send_replace(others(shared, config, member));
        }) => Ok(()),
        () = announce(shared, noticed) => Ok(()),
        () = better(shared, config, choice, &server, &member.pod) => Ok(()),
    };
    if let Err(wal::Error::Stream(error)) = &shipped {
        shared.transports.broken(&member.pod, error);
    }
    shared.link.send_replace(None);
    shipped
}

/// Returns once there is a better transport. Where commits may wait for the archive, a stream is looked for all the time.
async fn better(shared: &Shared, config: &Config, choice: &Choice, server: &Server, pod: &str) {
    let longest = match config.synchronous {
        true => LONGEST,
        false => Duration::MAX,
    };
    let transports = &shared.transports;
    transports
        .better(config.transport, longest, choice, server, pod)
        .await;
}

/// The members beside the primary.
fn others(shared: &Shared, config: &Config, primary: &Member) -> Vec<Other> {
    let others = config.members.iter().filter(|member| *member != primary);
    others
        .map(|member| Other {
            pod: member.pod.clone(),
            options: shared.login.options(&member.address),
        })
        .collect()
}

/// An event for each notice.
async fn announce(shared: &Shared, mut notices: mpsc::UnboundedReceiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        let (reason, note) = match notice {
            Notice::Gap { from, to, cause } => {
                let why = cause.message();
                let note = format!("WAL from {from} to {to} is missing from the archive: {why}");
                ("WalGap", note)
            }
            Notice::Damaged(damage) => ("WalDamaged", damage.to_string()),
            Notice::SlotLost => ("SlotLost", slot_lost(&shared.slot)),
        };
        shared.events.warning(&shared.about, reason, note).await;
        shared.audit.notify_one();
    }
}

/// Ships, and goes on when the archive failed and is back.
async fn ship_on(
    shared: &Shared,
    choice: &Choice,
    id: &LineageId,
    carrier: &mut Carrier,
) -> Result<(), wal::Error> {
    let mut pause = Pause::new(Duration::from_millis(500), LONGEST);
    let mut failures = 0;
    loop {
        let shipped = carrier.run(shared, choice, id, || {
            failures = 0;
            shared.transports.works();
        });
        let error = match shipped.await {
            Ok(()) => return Ok(()),
            Err(error) if !error.is_archive() || error.is_conflict() => return Err(error),
            Err(error) => error,
        };
        let message = Chain(&error).to_string();
        tracing::warn!(
            reason = error.reason(),
            message,
            "the archive does not take WAL"
        );
        shared.metrics.error(error.reason());
        shared
            .reporter
            .condition(WAL_ARCHIVING, Status::False, error.reason(), message);
        failures += 1;
        if failures >= REOPEN {
            // With a new store: credentials may have been rotated.
            return Err(error);
        }
        tokio::select! {
            () = tokio::time::sleep(pause.next()) => {}
            () = shared.stop.cancelled() => return Ok(()),
        }
    }
}

/// Lets `keep_up` follow small changes, and returns when more than that has changed.
async fn reconfigured(
    known: &Config,
    wanted: &mut watch::Receiver<Wanted>,
    member: &Member,
    keep_up: impl Fn(&Config),
) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let Wanted::Protect(config) = now else { return };
        // Another pod at the address, or none: the session may be half open.
        let gone = !config.members.iter().any(|other| other == member);
        let other_way =
            known.transport != config.transport || known.synchronous != config.synchronous;
        if gone || !same_archive(known, &config) || other_way {
            return;
        }
        keep_up(&config);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}
