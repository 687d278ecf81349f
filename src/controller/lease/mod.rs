//! The Lease that lets one of the replicas work. It saves work and noise; safety rests on names and preconditions.
//!
//! Every write names the `resourceVersion` that was read, so of two candidates one fails. A holder that cannot renew in
//! time ends the process.

mod decide;

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

pub use decide::{DURATION, Decision, PERIOD, RENEW_DEADLINE, Seen, decide};

use super::context::Chain;
use crate::{api::managers, clock::Clock, kubernetes::RequestError};

/// The longest that one request about the Lease may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The Lease was lost: another replica may work already.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Somebody else holds it.
    #[error("lost the lease {name}: {holder} holds it")]
    Taken {
        /// The Lease.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// No renewal succeeded in time.
    #[error("lost the lease {name}: not renewed for {} s", RENEW_DEADLINE.as_secs())]
    NotRenewed {
        /// The Lease.
        name: String,
    },
}

/// A replica's part in the election.
pub struct Election<'a> {
    api: Api<Lease>,
    name: &'static str,
    me: String,
    clock: &'a dyn Clock,
    /// The Lease as it was last read or written, and since when it is so.
    last: Option<(Seen, Instant)>,
}

impl<'a> Election<'a> {
    /// `me` names this replica and no other.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &'static str,
        me: String,
        clock: &'a dyn Clock,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name,
            me,
            clock,
            last: None,
        }
    }

    /// Returns when this replica holds the Lease. `answered` is called after each request with whether it succeeded.
    pub async fn acquire(&mut self, mut answered: impl FnMut(Result<(), &RequestError>)) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.step().await {
                Ok(held) => {
                    answered(Ok(()));
                    if held {
                        return;
                    }
                }
                Err(error) => answered(Err(&error)),
            }
        }
    }

    /// Renews until that fails for too long or somebody else holds the Lease.
    pub async fn hold(&mut self) -> Lost {
        let mut renewed = Instant::now();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sent = Instant::now();
            match self.step().await {
                Ok(true) => renewed = sent,
                Ok(false) => {
                    return Lost::Taken {
                        name: self.name.to_owned(),
                        holder: self
                            .last
                            .as_ref()
                            .map_or_else(String::new, |(seen, _)| seen.holder.clone()),
                    };
                }
                Err(error) => {
                    tracing::warn!(lease = self.name, error = %Chain(&error), "failed to renew the lease");
                }
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return Lost::NotRenewed {
                    name: self.name.to_owned(),
                };
            }
        }
    }

    /// Gives the Lease up, so that another replica need not wait for silence. A failure costs only that wait.
    pub async fn release(&mut self) {
        if let Ok(Some(seen)) = self.look().await
            && seen.holder == self.me
        {
            let _ = self.write(&seen, "", seen.transitions).await;
        }
    }

    /// Looks, decides, and does it. True if the Lease is ours now.
    async fn step(&mut self) -> Result<bool, RequestError> {
        let seen = self.look().await?;
        let silent = self
            .last
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let written = match (decide(seen.as_ref(), &self.me, silent), &seen) {
            (Decision::Create, _) => self.create().await,
            (Decision::Renew, Some(seen)) => {
                let me = self.me.clone();
                self.write(seen, &me, seen.transitions).await
            }
            (Decision::Take { transitions }, Some(seen)) => {
                let me = self.me.clone();
                self.write(seen, &me, transitions).await
            }
            (Decision::Wait | Decision::Renew | Decision::Take { .. }, _) => return Ok(false),
        };
        match written {
            Ok(lease) => {
                self.note(&lease);
                Ok(true)
            }
            // Somebody was faster: the next look says who.
            Err(error) if error.is_conflict() => {
                self.look().await.map(|seen| self.is_mine(seen.as_ref()))
            }
            Err(error) => Err(error),
        }
    }

    fn is_mine(&self, seen: Option<&Seen>) -> bool {
        seen.is_some_and(|seen| seen.holder == self.me)
    }

    async fn look(&mut self) -> Result<Option<Seen>, RequestError> {
        let Some(lease) = limited(self.api.get_opt(self.name)).await? else {
            self.last = None;
            return Ok(None);
        };
        Ok(Some(self.note(&lease)))
    }

    /// Remembers the Lease, and since when it is as it is.
    fn note(&mut self, lease: &Lease) -> Seen {
        let seen = seen(lease);
        let unchanged = self.last.as_ref().is_some_and(|(last, _)| *last == seen);
        if !unchanged {
            self.last = Some((seen.clone(), Instant::now()));
        }
        seen
    }

    async fn create(&self) -> Result<Lease, RequestError> {
        let now = self.clock.now();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                lease_transitions: Some(0),
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        };
        limited(self.api.create(&PostParams::default(), &lease)).await
    }

    async fn write(
        &self,
        seen: &Seen,
        holder: &str,
        transitions: i32,
    ) -> Result<Lease, RequestError> {
        let now = MicroTime(self.clock.now());
        let mut spec = serde_json::json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": DURATION.as_secs(),
            "leaseTransitions": transitions,
            "renewTime": now,
        });
        if transitions != seen.transitions {
            spec["acquireTime"] = serde_json::json!(now);
        }
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": seen.resource_version },
            "spec": spec,
        });
        let params = PatchParams {
            field_manager: Some(managers::CONTROLLER.to_owned()),
            ..PatchParams::default()
        };
        limited(self.api.patch(self.name, &params, &Patch::Merge(patch))).await
    }
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.as_ref();
    Seen {
        holder: spec
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default(),
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec
            .and_then(|spec| spec.lease_transitions)
            .unwrap_or_default(),
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, RequestError> {
    match timeout(TIMEOUT, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(RequestError::Timeout),
    }
}
