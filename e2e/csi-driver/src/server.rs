//! The sockets and the life of the process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use futures::{Stream, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::authority;
use crate::controller::ControllerService;
use crate::faults::Faults;
use crate::group::GroupService;
use crate::identity::IdentityService;
use crate::node::NodeService;
use crate::pool::Pool;
use crate::proto::csi::controller_server::ControllerServer;
use crate::proto::csi::group_controller_server::GroupControllerServer;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::registration::RegistrationService;
use crate::snapshots::Snapshots;

/// How long requests that run may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// What the driver is started with.
#[derive(Debug, clap::Parser)]
#[command(version, about)]
pub struct Options {
    /// The unix socket for CSI.
    #[arg(long)]
    pub endpoint: PathBuf,
    /// The unix socket for registration, in kubelet's `plugins_registry`; none: not registered.
    #[arg(long)]
    pub registration: Option<PathBuf>,
    /// The driver's name, as CSIDriver, StorageClass and VolumeSnapshotClass give it.
    #[arg(long, default_value = "btrfs.csi.test.highwater.dev")]
    pub driver_name: String,
    /// The node's name.
    #[arg(long)]
    pub node_id: String,
    /// A folder on btrfs, which keeps all volumes, snapshots and records.
    #[arg(long)]
    pub pool: PathBuf,
    /// Offer no snapshots.
    #[arg(long)]
    pub no_snapshots: bool,
    /// A JSON file with fault switches, read again for each request.
    #[arg(long)]
    pub control: Option<PathBuf>,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<()> {
    let pool = Arc::new(Pool::open(&options.pool).await?);
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let incoming = UnixListenerStream::new(listen(&options.endpoint)?);
    let csi = serve(incoming, csi_routes(&options, pool), stopped.clone());
    let registration = match &options.registration {
        Some(path) => {
            let incoming = UnixListenerStream::new(listen(path)?).map_ok(authority::readable);
            Some(serve(incoming, registration_routes(&options)?, stopped))
        }
        None => None,
    };
    tracing::info!(endpoint = %options.endpoint.display(), "serving");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.send_replace(true);
    let servers = futures::future::join_all(std::iter::once(csi).chain(registration));
    // Sidecars keep their connections open for ever: they do not hold up the end.
    if tokio::time::timeout(GRACE, servers).await.is_err() {
        tracing::warn!("requests were still running");
    }
    for path in std::iter::once(&options.endpoint).chain(&options.registration) {
        remove_socket(path)?;
    }
    Ok(())
}

fn csi_routes(options: &Options, pool: Arc<Pool>) -> Routes {
    let offer = !options.no_snapshots;
    let faults = Arc::new(Faults::new(options.control.clone()));
    let snapshots = Snapshots {
        pool: Arc::clone(&pool),
        faults,
    };
    let identity = IdentityService {
        driver_name: options.driver_name.clone(),
        offer_groups: offer,
    };
    let controller = ControllerService {
        pool: Arc::clone(&pool),
        snapshots: snapshots.clone(),
        offer_snapshots: offer,
    };
    let node = NodeService {
        pool,
        node_id: options.node_id.clone(),
    };
    let routes = Routes::new(IdentityServer::new(identity))
        .add_service(ControllerServer::new(controller))
        .add_service(NodeServer::new(node));
    if offer {
        routes.add_service(GroupControllerServer::new(GroupService { snapshots }))
    } else {
        routes
    }
}

fn registration_routes(options: &Options) -> Result<Routes> {
    let endpoint = std::path::absolute(&options.endpoint)?;
    let service = RegistrationService {
        driver_name: options.driver_name.clone(),
        endpoint: endpoint.to_string_lossy().into_owned(),
    };
    Ok(Routes::new(RegistrationServer::new(service)))
}

fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
    }
    remove_socket(path)?;
    UnixListener::bind(path).with_context(|| format!("failed to listen on {}", path.display()))
}

/// The task ends after `stopped`.
fn serve<C>(
    incoming: impl Stream<Item = io::Result<C>> + Send + 'static,
    routes: Routes,
    mut stopped: watch::Receiver<bool>,
) -> JoinHandle<()>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let shutdown = async move {
        // An error means that the sender is gone: the process ends.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let server = Server::builder().add_routes(routes);
    tokio::spawn(async move {
        if let Err(error) = server
            .serve_with_incoming_shutdown(incoming, shutdown)
            .await
        {
            tracing::error!("failed to serve: {error}");
        }
    })
}

fn remove_socket(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
