//! Drives every unfinished backup of the protection: one effect at a time, woken by what changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use tokio::{sync::watch, time::Instant};

use super::{
    catalogue,
    plan::{Held, Step, Void, plan},
    session::{Opened, PING, Session, StartError},
    status::void_message,
    work::{Backup, connected_message, demand, ends_backup_mode, open, unless_late, urgency},
};
use crate::{
    agent::{
        config::Wanted,
        shared::{Link, Shared},
        watch::Objects,
    },
    api::{Attempt, PgBackup, conditions},
    postgres::Lsn,
};

/// How long a backup waits for the agent's own connection before its attempt fails.
const LINK: Duration = Duration::from_secs(30);

/// Drives backups until the process is to end.
pub struct Driver {
    shared: Arc<Shared>,
    objects: watch::Receiver<Objects<PgBackup>>,
    backups: BTreeMap<String, Backup>,
    held: Option<(String, Session)>,
}

impl Driver {
    /// Nothing is held yet.
    pub fn new(shared: Arc<Shared>, objects: watch::Receiver<Objects<PgBackup>>) -> Self {
        Self {
            shared,
            objects,
            backups: BTreeMap::new(),
            held: None,
        }
    }

    /// Drives until the process is to end or the watch does.
    pub async fn run(mut self) {
        while !self.shared.stop.is_cancelled() {
            self.refresh();
            self.write().await;
            if self.act().await {
                continue;
            }
            if self.rest().await.is_err() {
                return;
            }
        }
        // The session ends with its connection: whoever starts next finds it lost, and says so.
        self.release();
    }

    /// Takes what the watch brought.
    fn refresh(&mut self) {
        let objects = self.objects.borrow_and_update();
        let Some(objects) = &*objects else { return };
        self.backups.retain(|uid, _| {
            let mut known = objects.values();
            known.any(|object| object.uid().as_ref() == Some(uid))
        });
        for object in objects.values() {
            let Some(uid) = object.uid() else { continue };
            let backup = self
                .backups
                .entry(uid)
                .or_insert_with(|| Backup::new(object));
            if !Arc::ptr_eq(&backup.object, object) {
                backup.object = object.clone();
            }
        }
    }

    /// Those that are catalogued at once: what came before is told with it, by one request. Where that fails or takes long
    /// it is told nevertheless.
    fn catalogued_next(&self) -> BTreeSet<String> {
        let ceiling = self.ceiling();
        let is_next = |(uid, backup): &(&String, &Backup)| {
            backup.step.due_at().is_none()
                && plan(&backup.observed(), self.held_for(uid), ceiling) == Step::Catalogue
        };
        let next = self.backups.iter().filter(is_next);
        next.map(|(uid, _)| uid.clone()).collect()
    }

    /// Writes the parts that changed.
    async fn write(&mut self) {
        let later = self.catalogued_next();
        let backups = self.backups.iter_mut();
        let now = Instant::now();
        let backups = backups.filter(|(uid, it)| it.is_to_write(now) && !later.contains(*uid));
        for (_, backup) in backups {
            backup.write(&self.shared).await;
        }
    }

    fn held_for(&self, uid: &str) -> Option<Held> {
        let (holder, session) = self.held.as_ref()?;
        (holder == uid).then(|| session.held())
    }

    /// How long backup mode may last, while anybody wants a backup.
    fn ceiling(&self) -> Option<Duration> {
        match &*self.shared.wanted.borrow() {
            Wanted::Protect(config) => Some(config.backup_mode),
            Wanted::Nothing(_) | Wanted::Unprotect(_) => None,
        }
    }

    /// The first step that can be taken; what ends backup mode goes first.
    fn next(&self) -> Option<(String, Step)> {
        let (ceiling, now) = (self.ceiling(), Instant::now());
        let mut steps: Vec<_> = self
            .backups
            .iter()
            .map(|(uid, backup)| {
                let step = plan(&backup.observed(), self.held_for(uid), ceiling);
                (uid, backup, step)
            })
            .filter(|(uid, backup, step)| {
                (backup.step.is_due(now) || ends_backup_mode(*step)) && self.can(uid, *step)
            })
            .map(|(uid, _, step)| (uid.clone(), step))
            .collect();
        if let Some((uid, _)) = self
            .held
            .as_ref()
            .filter(|(uid, _)| !self.backups.contains_key(uid))
        {
            return Some((uid.clone(), Step::Release));
        }
        steps.sort_by_key(|(_, step)| urgency(*step));
        steps.into_iter().next()
    }

    /// Whether something would come of it now.
    fn can(&self, uid: &str, step: Step) -> bool {
        match step {
            Step::Wait | Step::Hold => false,
            Step::Start(_) => {
                let patience = self
                    .backups
                    .get(uid)
                    .and_then(|backup| backup.waits_for_link);
                let linked = self.shared.link.borrow().is_some();
                self.held.is_none()
                    && matches!(&*self.shared.wanted.borrow(), Wanted::Protect(_))
                    && (linked || patience.is_none_or(|since| since.elapsed() >= LINK))
            }
            Step::ShipWal(stop) => self.shipped(uid, stop) || self.demanded() < Some(stop),
            Step::Release
            | Step::Fail(..)
            | Step::Stop
            | Step::Keep
            | Step::Catalogue
            | Step::Uncatalogue => true,
        }
    }

    fn shipped(&self, uid: &str, stop: Lsn) -> bool {
        let ended = self
            .backups
            .get(uid)
            .is_some_and(|b| b.lineage_ended(&self.shared).is_some());
        ended || self.shared.progress.borrow().durable >= Some(stop)
    }

    fn demanded(&self) -> Option<Lsn> {
        self.shared.demand.borrow().lsn
    }

    /// Takes one step. `false` if there is none.
    async fn act(&mut self) -> bool {
        let Some((uid, step)) = self.next() else {
            return false;
        };
        tracing::debug!(uid, ?step, "backup");
        match step {
            Step::Wait | Step::Hold => {}
            Step::Release => self.release(),
            Step::Start(_) => self.start(&uid).await,
            Step::Fail(attempt, void) => self.fail(&uid, attempt, void),
            Step::Stop => {
                if let Some((_, session)) = &mut self.held {
                    session.stop().await;
                }
            }
            Step::Keep => self.keep(&uid).await,
            Step::ShipWal(stop) => self.ship(&uid, stop).await,
            Step::Catalogue => self.catalogue(&uid).await,
            Step::Uncatalogue => self.uncatalogue(&uid).await,
        }
        true
    }

    fn release(&mut self) {
        self.held = None;
        self.shared.metrics.session_age.set(0.0);
    }

    fn fail(&mut self, uid: &str, attempt: u32, void: Void) {
        let (now, ceiling) = (self.shared.clock.now(), self.ceiling());
        self.release();
        if void != Void::NotWanted {
            self.shared.metrics.error(void.reason());
        }
        if let Some(backup) = self.backups.get_mut(uid) {
            let message = void_message(void, ceiling);
            tracing::warn!(
                backup = backup.object.name_any(),
                attempt,
                message,
                "attempt is void"
            );
            backup.part.failed(attempt, void.reason(), message, now);
            backup.dirty = true;
        }
    }

    async fn start(&mut self, uid: &str) {
        let link = self.shared.link.borrow().clone();
        let Wanted::Protect(config) = self.shared.wanted.borrow().clone() else {
            return;
        };
        let Some(backup) = self.backups.get_mut(uid) else {
            return;
        };
        let Some(attempt) = backup.attempt().cloned() else {
            return;
        };
        let Some(link) = link else {
            match backup.waits_for_link {
                None => backup.waits_for_link = Some(Instant::now()),
                Some(_) => {
                    let why = connected_message(&self.shared);
                    self.not_started(uid, &attempt, &StartError::not_connected(&why));
                }
            }
            return;
        };
        match open(
            &self.shared,
            &mut self.objects,
            &config,
            &link,
            &attempt,
            uid,
            backup,
        )
        .await
        {
            None => backup.waits_for_link = None,
            Some(Ok(opened)) => self.started(uid, &attempt, &link, opened),
            // As where nobody is connected yet: it is back in a moment, and an attempt is not spent on it.
            Some(Err(error)) if error.may_pass() && backup.waits_less_than(LINK) => {
                tracing::info!(backup = backup.object.name_any(), %error, "waiting for the database");
                backup.step.failed();
            }
            Some(Err(error)) => self.not_started(uid, &attempt, &error),
        }
    }

    fn started(&mut self, uid: &str, attempt: &Attempt, link: &Arc<Link>, opened: Opened) {
        let now = self.shared.clock.now();
        if let Some(backup) = self.backups.get_mut(uid) {
            tracing::info!(backup = backup.object.name_any(), attempt = attempt.number, start = %opened.started.start_lsn, "in backup mode");
            backup.part.started(
                attempt.number,
                &link.id,
                &link.facts,
                &opened.started,
                opened.checkpoint,
                now,
            );
            backup.server = Some(link.clone());
            backup.waits_for_link = None;
            backup.step.settled();
            backup.dirty = true;
            self.held = Some((uid.to_owned(), opened.session));
        }
    }

    fn not_started(&mut self, uid: &str, attempt: &Attempt, error: &StartError) {
        let now = self.shared.clock.now();
        self.shared.metrics.error(error.reason);
        if let Some(backup) = self.backups.get_mut(uid) {
            tracing::warn!(backup = backup.object.name_any(), attempt = attempt.number, %error, "failed to begin backup mode");
            backup.waits_for_link = None;
            backup
                .part
                .failed(attempt.number, error.reason, error.to_string(), now);
            backup.dirty = true;
        }
    }

    /// Label and map must be in the archive before anybody believes in the stop.
    async fn keep(&mut self, uid: &str) {
        let now = self.shared.clock.now();
        let Some((_, session)) = &self.held else {
            return;
        };
        let Some((stopped, backup_mode)) = session.stopped() else {
            return;
        };
        // The WAL can go ahead meanwhile.
        demand(&self.shared, stopped.stop_lsn);
        let Some(backup) = self.backups.get_mut(uid) else {
            return;
        };
        match catalogue::keep(&self.shared, &backup.object, &backup.part, stopped).await {
            Ok(()) => {
                tracing::info!(backup = backup.object.name_any(), stop = %stopped.stop_lsn, seconds = backup_mode.as_secs_f64(), "backup mode ended");
                backup.part.stopped(stopped, *backup_mode, now);
                backup.dirty = true;
                backup.step.settled();
                self.release();
            }
            Err(error) => {
                tracing::warn!(backup = backup.object.name_any(), %error, "failed to put the backup label into the archive");
                self.shared.metrics.error(error.reason);
                backup
                    .part
                    .waits(conditions::STOPPED, error.reason, error.to_string(), now);
                backup.dirty = true;
                backup.step.failed();
            }
        }
    }

    async fn ship(&mut self, uid: &str, stop: Lsn) {
        demand(&self.shared, stop);
        if !self.shipped(uid, stop) {
            return;
        }
        let now = self.shared.clock.now();
        let Some(backup) = self.backups.get_mut(uid) else {
            return;
        };
        if let Some(attempt) = backup.lineage_ended(&self.shared) {
            let message = "the lineage of this backup ended before its WAL was archived";
            backup.part.failed(attempt, "LineageEnded", message, now);
            backup.dirty = true;
            return;
        }
        match catalogue::covered(&self.shared, &backup.part).await {
            Ok((from, to)) => {
                backup.part.wal_archived(from, to, now);
                backup.dirty = true;
                backup.step.settled();
            }
            Err(error) => {
                tracing::warn!(backup = backup.object.name_any(), %error, "WAL of the backup is not in the archive");
                self.shared.metrics.error(error.reason);
                backup.part.waits(
                    conditions::WAL_ARCHIVED,
                    error.reason,
                    error.to_string(),
                    now,
                );
                backup.dirty = true;
                backup.step.failed();
            }
        }
    }

    async fn catalogue(&mut self, uid: &str) {
        let now = self.shared.clock.now();
        let Some(backup) = self.backups.get_mut(uid) else {
            return;
        };
        let (object, part, server) = (
            backup.object.clone(),
            backup.part.clone(),
            backup.server.clone(),
        );
        let written = catalogue::write(&self.shared, &object, &part, server.as_ref());
        // The store may be away for minutes: what came before is not held back as long.
        let told = async {
            if backup.dirty {
                backup.write(&self.shared).await;
            }
        };
        match unless_late(written, told).await {
            Ok(entry) => {
                tracing::info!(
                    backup = backup.object.name_any(),
                    manifest = entry.manifest,
                    "catalogued"
                );
                backup.part.catalogued(entry, now);
                backup.dirty = true;
                backup.step.settled();
                self.shared.audit.notify_one();
            }
            Err(error) => {
                tracing::warn!(backup = backup.object.name_any(), %error, "failed to catalogue the backup");
                self.shared.metrics.error(error.reason);
                backup
                    .part
                    .waits(conditions::CATALOGUED, error.reason, error.to_string(), now);
                backup.dirty = true;
                backup.step.failed();
            }
        }
    }

    /// Nothing may choose it any more when its snapshots go.
    async fn uncatalogue(&mut self, uid: &str) {
        let now = self.shared.clock.now();
        let Some(backup) = self.backups.get_mut(uid) else {
            return;
        };
        let name = backup.object.name_any();
        match catalogue::delete(&self.shared, &backup.object, &backup.part, now).await {
            Ok(()) => {
                tracing::info!(backup = name, "deleted from the catalog");
                backup.part.uncatalogued(now);
                backup.step.settled();
                self.shared.audit.notify_one();
            }
            Err(error) => {
                tracing::warn!(backup = name, %error, "failed to delete the backup from the catalog");
                self.shared.metrics.error(error.reason);
                let message = format!("its entry in the archive's catalog is still there: {error}");
                let (type_, reason) = (conditions::CATALOGUED, error.reason);
                backup.part.waits(type_, reason, message, now);
                backup.step.failed();
            }
        }
        backup.dirty = true;
    }

    /// Until something changes.
    async fn rest(&mut self) -> Result<(), watch::error::RecvError> {
        let mut link = self.shared.link.subscribe();
        let mut progress = self.shared.progress.subscribe();
        let mut wanted = self.shared.wanted.clone();
        // What was read above is known; a change from here on wakes.
        wanted.mark_unchanged();
        let now = Instant::now();
        let is_to_write = self.backups.values().any(|it| it.is_to_write(now));
        if is_to_write || self.next().is_some() {
            return Ok(());
        }
        let ships = self.backups.iter().any(|(uid, b)| {
            matches!(
                plan(&b.observed(), self.held_for(uid), self.ceiling()),
                Step::ShipWal(_)
            )
        });
        let retry = self.wake_at(now);
        let mut ping = false;
        let lost = async {
            match &self.held {
                Some((_, session)) => session.lost().await,
                None => std::future::pending().await,
            }
        };
        let mut session_lost = None;
        tokio::select! {
            changed = self.objects.changed() => changed?,
            _ = link.changed() => {}
            _ = wanted.changed() => {}
            _ = progress.changed(), if ships => {}
            loss = lost => session_lost = Some(loss),
            () = tokio::time::sleep(PING), if self.held.is_some() => ping = true,
            () = tokio::time::sleep_until(retry) => {}
            () = self.shared.stop.cancelled() => {}
        }
        if let Some((_, session)) = &mut self.held {
            if let Some(loss) = session_lost {
                session.set_lost(loss);
            }
            if ping {
                session.ping().await;
            }
            let age = session.since().elapsed().as_secs_f64();
            self.shared.metrics.session_age.set(age);
        }
        Ok(())
    }

    /// The next retry, end of patience or ceiling after `now`.
    fn wake_at(&self, now: Instant) -> Instant {
        let waits = |backup: &Backup| [backup.step.due_at(), backup.status.due_at()];
        let retries = self.backups.values().flat_map(waits).flatten();
        let patience = self
            .backups
            .values()
            .filter_map(|b| b.waits_for_link)
            .map(|at| at + LINK);
        let ceiling = self
            .held
            .iter()
            .filter_map(|(_, session)| Some(session.since() + self.ceiling()?));
        let far = now + Duration::from_secs(3600);
        retries
            .chain(patience)
            .chain(ceiling)
            .filter(|at| *at > now)
            .fold(far, Instant::min)
    }
}
