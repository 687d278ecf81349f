//! Taking, telling of and deleting snapshots, faults included; single snapshots and the members of
//! a group go this one way.
//!
//! A cut that has begun goes on when the caller gives up: on a retry it is found by its name, as
//! with drivers that ask a storage array.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use crate::clock;
use crate::faults::{Cut, Fault, Faults, How, decide, seen};
use crate::pool::{self, Claim, Pool, Snapshot, internal};
use crate::proto::csi;
use crate::validate;

const NANOS: i64 = 1_000_000_000;

/// The snapshots of a pool, under the faults that are switched on.
#[derive(Clone)]
pub struct Snapshots {
    /// Where they are.
    pub pool: Arc<Pool>,
    /// What goes wrong.
    pub faults: Arc<Faults>,
}

impl Snapshots {
    /// The record of the snapshot that this request wants, which may exist already.
    pub fn planned(&self, request: &csi::CreateSnapshotRequest) -> Result<Snapshot, Status> {
        let name = validate::required(&request.name, "name")?;
        let source = validate::required(&request.source_volume_id, "source_volume_id")?;
        if let Some(snapshot) = self.pool.snapshots.by_name(name) {
            if snapshot.volume == source {
                return Ok(snapshot);
            }
            return Err(Status::already_exists(format!(
                "snapshot {name} exists, of volume {}",
                snapshot.volume
            )));
        }
        let volume = self.pool.known_volume(source)?;
        Ok(Snapshot {
            id: pool::new_id("snap")?,
            name: name.to_owned(),
            volume: volume.id,
            capacity: volume.capacity,
            created_ns: 0,
            group: None,
            labels: validate::labels(&request.parameters),
        })
    }

    /// Takes the snapshot, or finds it; one request of a caller.
    pub async fn take(&self, planned: Snapshot) -> Result<Snapshot, Status> {
        let fault = self.fault(&planned)?;
        let earlier = self.faults.count(&planned.name);
        let existing = self.pool.snapshots.by_name(&planned.name);
        let plan = decide(&fault, earlier, existing.is_some());
        if fault != Fault::default() {
            tracing::info!(
                name = planned.name,
                earlier,
                ?plan,
                "a fault is switched on"
            );
        }
        let taken = match plan.cut {
            Cut::None => existing.unwrap_or(planned),
            Cut::Now(delay, how) => self.cut_now(planned, delay, how, true).await?,
            Cut::Lost(delay, how) => self.cut_now(planned, delay, how, false).await?,
            Cut::AfterError(delay, how) => {
                // Busy: the cut is under way since an earlier request.
                if let Ok(claim) = self.claim(&planned) {
                    tokio::spawn(self.clone().cut(planned.clone(), delay, how, true, claim));
                }
                planned
            }
            Cut::AfterOk(delay, how) => {
                let claim = self.claim(&planned)?;
                let recorded = self.record(planned)?;
                tokio::spawn(
                    self.clone()
                        .cut_if_wanted(recorded.clone(), delay, how, claim),
                );
                recorded
            }
            Cut::AfterDelete => self.record(planned)?,
        };
        plan.error.map_or(Ok(taken), Err)
    }

    /// What a caller is told of the snapshot.
    pub fn told(&self, snapshot: Snapshot) -> Result<csi::Snapshot, Status> {
        let seen = seen(&snapshot, &self.fault(&snapshot)?, clock::now_ns());
        Ok(csi::Snapshot {
            size_bytes: seen.size,
            snapshot_id: snapshot.id,
            source_volume_id: snapshot.volume,
            creation_time: seen.created_ns.map(timestamp),
            ready_to_use: seen.ready,
            group_snapshot_id: snapshot.group.unwrap_or_default(),
        })
    }

    /// The snapshot with this id, unless its handle is lost.
    pub fn known(&self, id: &str) -> Result<Option<Snapshot>, Status> {
        self.pool
            .snapshots
            .get(id)
            .map_or(Ok(None), |found| self.unless_lost(found))
    }

    /// All snapshots but those whose handle is lost.
    pub fn all(&self) -> Result<Vec<Snapshot>, Status> {
        let all = self.pool.snapshots.all().into_iter();
        all.filter_map(|snapshot| self.unless_lost(snapshot).transpose())
            .collect()
    }

    /// Deletes the snapshot. Not there is success.
    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        let _claim = self.pool.claim("snapshot", id)?;
        let Some(snapshot) = self.known(id)? else {
            return Ok(());
        };
        let fault = self.fault(&snapshot)?;
        let cut_now = fault.cut_after_delete && !self.pool.snapshot_path(id).exists();
        self.pool.delete_snapshot(id).await.map_err(internal)?;
        tracing::info!(id, "snapshot deleted");
        if cut_now {
            self.pool
                .cut(&snapshot.volume, id, How::Atomic)
                .await
                .map_err(internal)?;
            tracing::warn!(id, "snapshot cut after its deletion");
        }
        Ok(())
    }

    fn fault(&self, snapshot: &Snapshot) -> Result<Fault, Status> {
        self.faults
            .of(snapshot, self.pool.volumes.get(&snapshot.volume).as_ref())
    }

    fn unless_lost(&self, snapshot: Snapshot) -> Result<Option<Snapshot>, Status> {
        let lost = self.fault(&snapshot)?.handle_lost;
        Ok(Some(snapshot).filter(|_| !lost))
    }

    fn claim(&self, snapshot: &Snapshot) -> Result<Claim, Status> {
        self.pool.claim("snapshot name", &snapshot.name)
    }

    fn record(&self, mut snapshot: Snapshot) -> Result<Snapshot, Status> {
        snapshot.created_ns = clock::now_ns();
        self.pool
            .snapshots
            .put(snapshot.clone())
            .map_err(internal)?;
        Ok(snapshot)
    }

    async fn cut_now(
        &self,
        planned: Snapshot,
        delay: Duration,
        how: How,
        keep: bool,
    ) -> Result<Snapshot, Status> {
        let claim = self.claim(&planned)?;
        // It may have been cut between the look-up and the claim.
        if let Some(existing) = self.pool.snapshots.by_name(&planned.name) {
            return Ok(existing);
        }
        let work = tokio::spawn(self.clone().cut(planned, delay, how, keep, claim));
        work.await
            .map_err(|e| Status::internal(format!("failed to cut a snapshot: {e}")))?
    }

    async fn cut(
        self,
        planned: Snapshot,
        delay: Duration,
        how: How,
        keep: bool,
        _claim: Claim,
    ) -> Result<Snapshot, Status> {
        tokio::time::sleep(delay).await;
        self.pool
            .cut(&planned.volume, &planned.id, how)
            .await
            .map_err(internal)?;
        let Snapshot {
            id, name, volume, ..
        } = &planned;
        tracing::info!(id, name, volume, keep, "snapshot cut");
        if keep {
            self.record(planned)
        } else {
            Ok(planned)
        }
    }

    /// The cut of a snapshot that is on record already, unless it was deleted meanwhile.
    async fn cut_if_wanted(self, recorded: Snapshot, delay: Duration, how: How, _claim: Claim) {
        tokio::time::sleep(delay).await;
        let Snapshot { id, volume, .. } = &recorded;
        if self.pool.snapshots.get(id).is_none() {
            return;
        }
        match self.pool.cut(volume, id, how).await {
            Ok(()) => tracing::warn!(id, "snapshot cut after the answer"),
            Err(error) => tracing::error!(id, "{error:#}"),
        }
    }
}

/// As CSI wants it.
pub fn timestamp(ns: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ns.div_euclid(NANOS),
        nanos: i32::try_from(ns.rem_euclid(NANOS)).unwrap_or_default(),
    }
}
