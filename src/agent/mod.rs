//! One per protected database: drives backup sessions, ships WAL, plans restores, says what can be recovered.
//!
//! It talks to PostgreSQL, to the archive, and to Highwater's kinds in its namespace. Tasks share [`shared::Shared`] and
//! speak by watch channels: `link` keeps the connection and ships, `backup` drives sessions, `restore` plans, `audit`
//! reads the archive, `report` writes the protection's status.

mod audit;
mod backup;
mod config;
mod coverage;
mod lineage;
mod link;
mod metrics;
mod pause;
mod preflight;
mod primary;
mod report;
mod restore;
mod retention;
mod settle;
mod shared;
mod slots;
mod store;
pub mod transport;
mod unprotect;
pub mod wal;
mod watch;

use std::{sync::Arc, time::Duration};

use kube::{Api, Client, Resource, ResourceExt, core::DeserializeGuard, runtime::watcher};
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub use config::Args;
pub use metrics::Metrics;
pub use settle::{Why, goes_on};
pub use shared::{Demand, Progress};

use self::{
    config::{NotReady, Wanted},
    pause::Pause,
    primary::Login,
    report::{Publisher, Report, Reporter},
    shared::Shared,
    store::Stores,
    transport::Transports,
    watch::{Objects, Sources, collect},
};
use crate::{
    api::{PgArchive, PgBackup, PgBackupPolicy, PgProtection, PgRestore, managers, names},
    clock::{Clock, SystemClock},
    controller::{
        Events,
        context::Chain,
        server::{Health, ServeError, serve},
    },
    kubernetes::request,
};

/// How long tasks may take to end after SIGTERM.
const LAST: Duration = Duration::from_secs(20);

/// What ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client: neither in a pod nor with a kubeconfig.
    #[error("failed to find out how to reach the Kubernetes API")]
    Config(#[from] kube::config::InferConfigError),
    /// The client's configuration cannot be used.
    #[error("failed to make a client for the Kubernetes API")]
    Client(#[from] kube::Error),
    /// The signal handler could not be set.
    #[error("failed to listen for SIGTERM")]
    Signal(#[source] std::io::Error),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A task that never ends has ended.
    #[error("the task {0} ended")]
    Ended(&'static str),
    /// A task panicked.
    #[error("a task panicked")]
    Panicked(#[from] JoinError),
}

/// Runs until SIGTERM, which is no error, or until one task ends, which is.
///
/// # Errors
/// The first task that ends, and why.
pub async fn run(args: Args) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let (metrics, health) = (Metrics::default(), Health::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    health.pending("configuration", "the protection was not read yet");
    let listen = args.metrics_listen;
    let stop = CancellationToken::new();
    let work = work(args, client, metrics, health.clone(), stop.clone());
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        served = serve(listen, health, registry) => return Ok(served?),
        ended = &mut work => return ended,
    }
    stop.cancel();
    if tokio::time::timeout(LAST, work).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    Ok(())
}

/// All tasks, with a client of the caller's; once `stop` is cancelled their ends are no error.
///
/// # Errors
/// The first task that ends, and why.
pub async fn work(
    args: Args,
    client: Client,
    metrics: Metrics,
    health: Health,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Some(protection) = first_read(&args, &client, &stop).await else {
        return Ok(());
    };
    health.ready("configuration");
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, args, client, metrics, &protection, stop.clone());
    while let Some(ended) = tasks.join_next().await {
        let name = ended?;
        if !stop.is_cancelled() {
            return Err(Error::Ended(name));
        }
        // Watches and the publisher have no end of their own; what ships has.
        if name == "link" {
            break;
        }
    }
    Ok(())
}

/// The protection, waited for.
async fn first_read(
    args: &Args,
    client: &Client,
    stop: &CancellationToken,
) -> Option<PgProtection> {
    let api: Api<PgProtection> = Api::namespaced(client.clone(), &args.namespace);
    let mut pause = Pause::new(Duration::from_millis(300), Duration::from_secs(10));
    loop {
        match request(api.get(&args.protection)).await {
            Ok(protection) => return Some(protection),
            Err(error) => {
                tracing::warn!(protection = args.protection, error = %Chain(&error), "failed to read the protection");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause.next()) => {}
            () = stop.cancelled() => return None,
        }
    }
}

type Tasks = JoinSet<&'static str>;

fn spawn(
    tasks: &mut Tasks,
    args: Args,
    client: Client,
    metrics: Metrics,
    protection: &PgProtection,
    stop: CancellationToken,
) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let status = protection.status.clone().unwrap_or_default();
    let applied = Report::read_back(&status);
    let (wanted_sender, wanted) = channel::channel(Wanted::Nothing(NotReady::Starting));
    let shared = Arc::new(Shared {
        about: protection.object_ref(&()),
        stateful_set: protection.spec.stateful_set.clone(),
        epoch: epoch(&*clock),
        login: Login::new(&args),
        transports: Transports::default(),
        slots: tokio::sync::Mutex::new(()),
        slot: names::slot(&protection.uid().unwrap_or_default()),
        stores: Stores::new(&args),
        reporter: Reporter::new(applied.clone(), clock.clone()),
        applied: channel::Sender::new(applied.clone()),
        events: Events::new(client.clone(), managers::AGENT, args.instance.clone()),
        metrics,
        clock,
        wanted,
        link: channel::Sender::new(None),
        holding: channel::Sender::new(None),
        progress: channel::Sender::new(Progress::default()),
        demand: channel::Sender::new(Demand::default()),
        audit: tokio::sync::Notify::new(),
        stop,
        namespace: args.namespace,
        protection: args.protection,
        client,
    });
    let protections = configuration(tasks, &shared, wanted_sender);
    let (backups, restores) = work_lists(tasks, &shared);
    let seen = seen(tasks, &shared, (protections.clone(), backups.clone()));
    let publisher = Publisher {
        shared: shared.clone(),
        protections,
        backups: backups.clone(),
        restores: restores.clone(),
    };
    task(tasks, "report", publisher.run(applied));
    task(
        tasks,
        "backup",
        backup::Driver::new(shared.clone(), backups).run(),
    );
    task(tasks, "restore", restore::run(shared.clone(), restores));
    task(tasks, "audit", audit::run(shared.clone(), seen));
    task(tasks, "slots", slots::run(shared.clone()));
    task(tasks, "link", link::run(shared));
}

/// Watches what the archive's contents are looked at with.
fn seen(
    tasks: &mut Tasks,
    shared: &Arc<Shared>,
    (protections, open): (
        channel::Receiver<Objects<PgProtection>>,
        channel::Receiver<Objects<PgBackup>>,
    ),
) -> audit::Seen {
    let (sender, backups) = channel::channel(None);
    let api = shared.api::<DeserializeGuard<audit::Existing>>();
    let all = watcher::Config::default;
    task(tasks, "catalog", collect(api, all(), |_| true, sender));
    let (sender, restores) = channel::channel(None);
    let running = collect(shared.api(), all(), audit::is_running, sender);
    task(tasks, "running restores", running);
    audit::Seen {
        backups,
        open,
        restores,
        protections,
    }
}

fn task(tasks: &mut Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        work.await;
        name
    });
}

/// Watches protection, policies and archives, and puts them together.
fn configuration(
    tasks: &mut Tasks,
    shared: &Arc<Shared>,
    wanted: channel::Sender<Wanted>,
) -> channel::Receiver<Objects<PgProtection>> {
    let (protections, protection) = channel::channel(None);
    let (policy_sender, policies) = channel::channel(None);
    let (archive_sender, archives) = channel::channel(None);
    let one = watcher::Config::default().fields(&format!("metadata.name={}", shared.protection));
    let all = watcher::Config::default;
    let sources = Sources {
        protection: protection.clone(),
        policies,
        archives,
    };
    let api = shared.api::<DeserializeGuard<PgProtection>>();
    task(
        tasks,
        "protection",
        collect(api, one, |_| true, protections),
    );
    let api = shared.api::<DeserializeGuard<PgBackupPolicy>>();
    task(
        tasks,
        "policies",
        collect(api, all(), |_| true, policy_sender),
    );
    let api = shared.api::<DeserializeGuard<PgArchive>>();
    task(
        tasks,
        "archives",
        collect(api, all(), |_| true, archive_sender),
    );
    task(tasks, "configuration", sources.follow(wanted));
    protection
}

/// Unlike that of any earlier run: the time it began, in milliseconds.
fn epoch(clock: &dyn Clock) -> String {
    format!("{:x}", clock.now().as_millisecond())
}

type WorkLists = (
    channel::Receiver<Objects<PgBackup>>,
    channel::Receiver<Objects<PgRestore>>,
);

/// Watches what is to be done: backups that are not over, restores without a plan.
fn work_lists(tasks: &mut Tasks, shared: &Arc<Shared>) -> WorkLists {
    let (backup_sender, backups) = channel::channel(None);
    let (restore_sender, restores) = channel::channel(None);
    let name = shared.protection.clone();
    let ours = move |backup: &PgBackup| backup.spec.protection == name && backup::is_open(backup);
    let all = watcher::Config::default;
    task(
        tasks,
        "backups",
        collect(shared.api(), all(), ours, backup_sender),
    );
    task(
        tasks,
        "restores",
        collect(shared.api(), all(), restore::is_open, restore_sender),
    );
    (backups, restores)
}
