//! Verifying an archive in full, from the bucket's side: every object is read and compared with all that is known of it,
//! and the WAL is walked from end to end. Nothing is ever written.

mod again;
mod backups;
mod finding;
mod histories;
mod index;
mod inventory;
mod judge;
mod objects;
mod report;
mod run;
mod segments;
mod summary;
mod tails;
mod wal;

use std::{collections::BTreeMap, num::NonZeroU8};

use jiff::Timestamp;
use object_store::ObjectMeta;

use self::{
    index::{Index, trouble},
    inventory::Inventory,
    objects::{Outcome, read_file, read_json},
};
use super::{
    Archive, ClockPair, Identity, Lineage, LineageId, ReadError, YOUNG, handle::unavailable,
    retention::Expired,
};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineHistory, TimelineId};

pub use finding::{Finding, Note, Problem};
pub use report::{BackupReport, KindReport, LineageReport, TimelineReport};
pub use run::{Progress, Run};

/// What is verified.
#[derive(Clone, Debug)]
pub struct Scope {
    /// One lineage; `None`: all.
    pub lineage: Option<LineageId>,
    /// One timeline's WAL; `None`: all.
    pub timeline: Option<TimelineId>,
    /// WAL from this segment's place in the log on.
    pub from: Option<SegmentName>,
    /// WAL up to this segment's place in the log, this one included.
    pub to: Option<SegmentName>,
    /// Segments that are read at once.
    pub parallel: NonZeroU8,
    /// When it begins.
    pub now: Timestamp,
}

impl Scope {
    /// Whether the WAL of `name` is to be read.
    fn covers(&self, name: SegmentName, size: SegmentSize) -> bool {
        let timeline = self.timeline.is_none_or(|id| id == name.timeline());
        timeline && self.overlaps(name.start(size), name.end(size), size)
    }

    /// Whether a range of the log is asked about.
    fn overlaps(&self, from: Lsn, to: Lsn, size: SegmentSize) -> bool {
        let begins = self.from.is_none_or(|first| to > first.start(size));
        begins && self.to.is_none_or(|last| from < last.end(size))
    }
}

/// One lineage, what is known of it so far, and what is asked.
struct Subject<'a> {
    lineage: &'a Lineage,
    identity: &'a Identity,
    inventory: &'a Inventory,
    histories: &'a BTreeMap<TimelineId, TimelineHistory>,
    index: &'a Index,
    expired: &'a Expired,
    scope: &'a Scope,
    run: &'a Run,
}

impl Archive {
    /// Verifies what `scope` names. What is wrong is in `run`, also if this ends early.
    ///
    /// # Errors
    /// The store does not say definitely what lies there: that is no verdict. `NotFound`: there is no such lineage.
    pub async fn verify(&self, scope: &Scope, run: &Run) -> Result<Vec<LineageReport>, ReadError> {
        let lineages = match &scope.lineage {
            Some(id) => vec![id.clone()],
            None => self.folders(run).await?,
        };
        let mut reports = Vec::new();
        for id in lineages {
            let lineage = self.lineage(id);
            let identity = match lineage.identity().await {
                Ok(identity) => identity,
                Err(error @ ReadError::NotFound { .. }) if scope.lineage.is_some() => {
                    // Nothing at all is a wrong name; something without an identity object is damage.
                    if lineage.list(&lineage.layout.root()).await?.is_empty() {
                        return Err(error);
                    }
                    run.find(
                        Problem::IdentityDamaged,
                        lineage.layout.identity(),
                        "it is missing",
                    );
                    continue;
                }
                Err(ReadError::NotFound { key }) => {
                    run.find(Problem::IdentityDamaged, key, "it is missing");
                    continue;
                }
                Err(ReadError::Corrupt { key, what }) => {
                    run.find(Problem::IdentityDamaged, key, what);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // One of a newer program must not keep the others from being verified.
            match lineage.readable(&identity) {
                Ok(()) => reports.push(lineage.verify(&identity, scope, run).await?),
                Err(error) => run.leave_out(error.to_string()),
            }
        }
        Ok(reports)
    }

    /// The lineages of this database, whether or not they have an identity object.
    async fn folders(&self, run: &Run) -> Result<Vec<LineageId>, ReadError> {
        let root = self.root();
        let folders = self.objects.folders(&root).await;
        let folders = folders.map_err(|cause| unavailable(&root, cause))?;
        let mut lineages = Vec::new();
        for folder in folders {
            match folder.parse() {
                Ok(id) => lineages.push(id),
                Err(_) if folder == "probe" => {}
                Err(_) => {
                    let what = "it is no lineage's folder";
                    run.find(Problem::Orphan, format!("{root}/{folder}/"), what);
                }
            }
        }
        Ok(lineages)
    }
}

impl Lineage {
    /// Verifies this lineage, which is `identity`'s. What is wrong is in `run`, also if this ends early.
    ///
    /// # Errors
    /// The store does not say definitely what lies there, or the lineage is of a newer format: that is no verdict.
    pub async fn verify(
        &self,
        identity: &Identity,
        scope: &Scope,
        run: &Run,
    ) -> Result<LineageReport, ReadError> {
        self.readable(identity)?;
        // Before anything else is listed: what a clock promises was there before the clock.
        let clocks = self.clocks(run).await?;
        let inventory = self.inventory().await?;
        let size = identity.segment_size;
        let (objects, bytes) = inventory.volume(|name| scope.covers(*name, size));
        run.will_read(objects, bytes);
        self.check_identity(identity, &inventory, run).await?;
        for orphan in &inventory.orphans {
            let what = "no rule of the archive format names it";
            run.find(Problem::Orphan, orphan, what);
        }
        let histories = histories::read(self, &inventory, run).await?;
        let index = Index::read(self, &inventory, size, run).await?;
        let expired = self.read_expired(&inventory, run).await?;
        let subject = Subject {
            lineage: self,
            identity,
            inventory: &inventory,
            histories: &histories,
            index: &index,
            expired: &expired,
            scope,
            run,
        };
        subject.verify(clocks).await
    }

    async fn check_identity(
        &self,
        identity: &Identity,
        inventory: &Inventory,
        run: &Run,
    ) -> Result<(), ReadError> {
        let key = self.layout.identity();
        if identity.lineage != *self.id() {
            let what = format!("it is of lineage {}", identity.lineage);
            run.find(Problem::IdentityDamaged, &key, what);
        }
        let Some(object) = &inventory.identity else {
            return Ok(());
        };
        if let Outcome::Broken(what) = read_file(self, object, run).await? {
            run.find(Problem::IdentityDamaged, &key, what);
        }
        Ok(())
    }

    async fn clocks(&self, run: &Run) -> Result<BTreeMap<TimelineId, ClockPair>, ReadError> {
        let listed = self.list(&self.layout.clocks()).await?;
        let mut clocks = BTreeMap::new();
        for (timeline, object) in Inventory::sort(&self.layout, listed).clocks {
            run.will_read(1, object.size);
            match read_json::<ClockPair>(self, &object, run).await? {
                Outcome::Sound(pair) => drop(clocks.insert(timeline, pair)),
                Outcome::Gone => {}
                other => run.find(Problem::ClockWrong, &object.location, trouble(other)),
            }
        }
        Ok(clocks)
    }

    /// What is not said there is lost where it is missing.
    async fn read_expired(&self, inventory: &Inventory, run: &Run) -> Result<Expired, ReadError> {
        let Some(object) = &inventory.expired else {
            return Ok(Expired::default());
        };
        match read_json::<Expired>(self, object, run).await? {
            Outcome::Sound(expired) => return Ok(expired),
            Outcome::Gone => {}
            other => run.find(Problem::ExpiredWrong, &object.location, trouble(other)),
        }
        Ok(Expired::default())
    }

    async fn inventory(&self) -> Result<Inventory, ReadError> {
        // Tails first: a segment that becomes whole is there before its tails go.
        let mut objects = self.list(&self.layout.all_tails()).await?;
        objects.extend(self.list(&self.layout.root()).await?);
        Ok(Inventory::sort(&self.layout, objects))
    }
}

impl Subject<'_> {
    async fn verify(
        &self,
        clocks: BTreeMap<TimelineId, ClockPair>,
    ) -> Result<LineageReport, ReadError> {
        let run = self.run;
        for object in &self.inventory.backup_histories {
            match read_file(self.lineage, object, run).await? {
                Outcome::Sound(_) | Outcome::Gone => {}
                other => run.find(Problem::FileDamaged, &object.location, trouble(other)),
            }
        }
        let backups = backups::read(self.lineage, self.identity, self.inventory, run).await?;
        let mut found = segments::verify(self).await?;
        tails::verify(self, &mut found).await?;
        // Of what is not read the index says it.
        for (name, (_, entry)) in &self.index.entries {
            if !self.in_scope(*name) {
                found.commit(name.timeline(), entry.last_commit);
            }
        }
        let listed = judge::listed(self, self.inventory);
        // Writers have gone on meanwhile: what was missing may have come.
        let later = self.lineage.inventory().await?;
        let counting = judge::listed(self, &later);
        judge::find_missing(self, &later, &counting);
        judge::find_unknown(self, &later, &counting);
        judge::find_forks(self, &listed, &later);
        judge::find_clocks(self, &listed, &clocks, run);
        let clocks = clocks.into_values().collect();
        let sound = judge::sound(self, &listed, &found, backups.clone(), clocks);
        let sound = again::read(self, &later, sound, &backups).await?;
        judge::find_backups(self, &sound, &backups);
        Ok(summary::summarize(self, &listed, &sound, &found, &backups))
    }

    fn in_scope(&self, name: SegmentName) -> bool {
        self.scope.covers(name, self.identity.segment_size)
    }

    fn overlaps(&self, from: Lsn, to: Lsn) -> bool {
        self.scope.overlaps(from, to, self.identity.segment_size)
    }

    fn is_young(&self, object: &ObjectMeta) -> bool {
        let modified = Timestamp::from_second(object.last_modified.timestamp());
        modified.is_ok_and(|modified| modified + YOUNG > self.scope.now)
    }
}
