//! What the agent's tasks share.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    config::Wanted,
    metrics::Metrics,
    primary::Login,
    report::{Report, Reporter},
    store::Stores,
    transport::Transports,
};
use crate::{
    archive::LineageId,
    clock::Clock,
    controller::Events,
    postgres::{Lsn, server::ServerFacts},
};

/// What the agent's tasks share.
pub struct Shared {
    /// The client of the Kubernetes API.
    pub client: Client,
    /// The namespace of the protection.
    pub namespace: String,
    /// The protection's name.
    pub protection: String,
    /// The protected StatefulSet.
    pub stateful_set: String,
    /// Tells the tails of this run from those of another.
    pub epoch: String,
    /// The protection, as an event refers to it.
    pub about: ObjectReference,
    /// How members are reached.
    pub login: Login,
    /// How WAL came, or did not.
    pub transports: Transports,
    /// The replication slot's name.
    pub slot: String,
    /// Held by whoever makes or drops slots.
    pub slots: tokio::sync::Mutex<()>,
    /// Opens the archive.
    pub stores: Stores,
    /// The protection's status.
    pub reporter: Reporter,
    /// The same as the API server has it.
    pub applied: watch::Sender<Report>,
    /// The recorder.
    pub events: Events,
    /// The numbers.
    pub metrics: Metrics,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What is to be done now.
    pub wanted: watch::Receiver<Wanted>,
    /// The database that WAL is shipped from, while there is one.
    pub link: watch::Sender<Option<Arc<Link>>>,
    /// The UID of the pod whose slot we rely on. Nobody's: there is none, or it was seen to be gone.
    pub holding: watch::Sender<Option<String>>,
    /// How far shipping is.
    pub progress: watch::Sender<Progress>,
    /// What somebody waits for.
    pub demand: watch::Sender<Demand>,
    /// Asks the auditor to look now.
    pub audit: tokio::sync::Notify,
    /// The process is to end.
    pub stop: CancellationToken,
}

impl Shared {
    /// Objects of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The primary that WAL is shipped from, and the lineage that it is shipped to.
pub struct Link {
    /// Its pod's address.
    pub address: String,
    /// What it says of itself.
    pub facts: ServerFacts,
    /// The role of the session.
    pub user: String,
    /// The lineage's id.
    pub id: LineageId,
}

/// How far shipping is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Where to.
    pub lineage: Option<LineageId>,
    /// Every byte before is durable in the archive.
    pub durable: Option<Lsn>,
    /// How far PostgreSQL had flushed at the last poll.
    pub flushed: Option<Lsn>,
    /// The newest clock pair that the archive holds: everything acknowledged by then is in it.
    pub covered: Option<jiff::Timestamp>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// WAL up to here.
    pub lsn: Option<Lsn>,
    /// A clock pair from this moment (by our clock) or later: counts up.
    pub clock: u64,
}
