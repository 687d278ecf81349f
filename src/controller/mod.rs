//! The controller: reconciles Highwater's kinds, through the Kubernetes API only.
//!
//! Every controller has the same five files: `observe` (reads), `validate` and `plan` (pure), `act` (one effect),
//! `report` (one status apply, skipped when nothing changed). Each exports `run(ctx)`, which ends only when its watch
//! does; [`run`] joins them, and the first to end ends the process.

mod archive;
mod archive_claim;
pub mod backup;
pub mod context;
pub mod events;
pub mod lease;
pub mod metrics;
mod protection;
mod restore;
pub mod scope;
pub mod server;
mod startup;
mod trouble;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::{Args as ClapArgs, builder::NonEmptyStringValueParser};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinError, JoinSet},
};

pub use context::{Class, Context, Image, PassError, drive, error_policy, is_ready};
pub use events::Events;
pub use scope::Scope;

use self::{
    context::Chain,
    lease::{Election, Lost},
    server::{Health, ServeError},
};
use crate::{
    api::managers,
    clock::{Clock, SystemClock},
};

/// The Lease's name, in the controller's own namespace.
const LEASE: &str = "highwater-controller";
const PENDING_LEASE: &str = "lease";

/// Arguments of `highwater controller`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The controller's own namespace: its Lease lies there.
    #[arg(long, env = "HIGHWATER_NAMESPACE")]
    namespace: String,
    /// Serve this namespace only. Without it: all. Each such controller runs in a namespace of its own.
    #[arg(long, env = "HIGHWATER_WATCH_NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    watch_namespace: Option<String>,
    /// This replica's name, unlike any other's: the pod's.
    #[arg(long, env = "HIGHWATER_POD")]
    pod: String,
    /// Highwater's own image: agents run it, and recovery pods take the program from it.
    #[arg(long, env = "HIGHWATER_IMAGE")]
    image: String,
    /// The pull policy of that image.
    #[arg(long, env = "HIGHWATER_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    #[command(flatten)]
    backups_at_once: backup::Limits,
    /// How many drills (PgRestores with `verify`) may run at once in all that this controller serves.
    #[arg(long, env = "HIGHWATER_DRILLS_AT_ONCE", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    drills_at_once: u16,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    metrics_listen: SocketAddr,
}

/// What ends the controller.
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
    /// Another replica may work now.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A part that never ends has ended.
    #[error("the {0} controller ended")]
    Ended(&'static str),
    /// A part panicked.
    #[error("a part of the controller panicked")]
    Panicked(#[from] JoinError),
}

/// Runs until SIGTERM, which is no error, or until one part ends, which is.
///
/// # Errors
/// The first part that ends, and why.
pub async fn run(args: Args) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let client = client().await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut ctx = Context::new(
        client.clone(),
        clock.clone(),
        Events::new(client.clone(), managers::CONTROLLER, Some(args.pod.clone())),
        Image {
            name: args.image,
            pull_policy: args.image_pull_policy,
        },
        args.watch_namespace
            .map_or(Scope::Cluster, Scope::Namespace),
    );
    ctx.backups_at_once = args.backups_at_once;
    ctx.drills_at_once = args.drills_at_once.into();
    let ctx = Arc::new(ctx);
    let health = Health::default();
    health.pending(PENDING_LEASE, "the Kubernetes API has not answered yet");
    let mut registry = Registry::default();
    ctx.metrics.register(&mut registry);
    let mut election = Election::new(client, &args.namespace, LEASE, args.pod, &*clock);
    let serve = server::serve(args.metrics_listen, health.clone(), registry);
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        served = serve => served?,
        ended = lead(&mut election, ctx, &health) => return Err(ended),
    }
    election.release().await;
    Ok(())
}

/// Waits for the Lease, then runs all controllers while it is held.
async fn lead(election: &mut Election<'_>, ctx: Arc<Context>, health: &Health) -> Error {
    startup::kinds_served(&ctx.client, health).await;
    election
        .acquire(|answer| match answer {
            Ok(()) => health.ready(PENDING_LEASE),
            Err(error) => {
                let why = Chain(error).to_string();
                if health.pending(PENDING_LEASE, why.clone()) {
                    tracing::warn!(error = why, "failed to ask for the lease");
                }
            }
        })
        .await;
    tracing::info!(serves = %ctx.scope, "holding the lease");
    ctx.metrics.leader.set(1);
    let mut parts = JoinSet::new();
    spawn(&mut parts, &ctx);
    tokio::select! {
        biased;
        lost = election.hold() => lost.into(),
        ended = parts.join_next() => match ended {
            Some(Ok(name)) => Error::Ended(name),
            Some(Err(panicked)) => panicked.into(),
            None => Error::Ended("only"),
        },
    }
}

/// Starts every controller.
fn spawn(parts: &mut JoinSet<&'static str>, ctx: &Arc<Context>) {
    start(parts, "protection", protection::run(ctx.clone()));
    start(parts, "archive", archive::run(ctx.clone()));
    start(parts, "restore", restore::run(ctx.clone()));
    start(parts, "backup", backup::run(ctx.clone()));
}

fn start(
    parts: &mut JoinSet<&'static str>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    parts.spawn(async move {
        part.await;
        name
    });
}

/// A client whose every request ends: connecting by its timeout, requests by [`crate::kubernetes::request`], watches by
/// the server's. Nothing below us retries.
async fn client() -> Result<Client, Error> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(310));
    Ok(Client::try_from(config)?)
}
