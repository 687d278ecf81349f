//! The shipping process: the agent's shipper with all that runs beside it, on one thread as in the agent, without Kubernetes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use highwater::{
    agent::{
        Demand, Metrics, Progress,
        wal::{self, Route, Server, Shipper, Signals, Source, lag},
    },
    api::PgArchiveSpec,
    archive::{
        Archive, FORMAT, Identity, Lineage, LineageId, MountedSecrets, store as object_store,
    },
    clock::{Clock, SystemClock},
    postgres::{
        server::{self, ServerFacts},
        session::{APPLICATION, Client, ConnectOptions, Credentials, Source as Secret, connect},
        slot,
    },
    telemetry::{self, LogFormat},
};
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

/// What it says once the archive has all that was due.
pub const READY: &str = "everything is shipped";
/// Its slot.
pub const SLOT: &str = "highwater_bench";
/// The policy's default.
const TAIL_INTERVAL: Duration = Duration::from_secs(5);

/// How WAL comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// By the replication protocol.
    Streaming,
    /// Over an ordinary connection.
    Sql,
}

/// From where to where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// How.
    pub transport: Transport,
    /// PostgreSQL's, on loopback.
    pub port: u16,
    /// The superuser's.
    pub password: String,
    /// The S3 server's, on loopback.
    pub store_port: u16,
    /// Where its keys are, a file each.
    pub credentials: PathBuf,
    /// An empty bucket.
    pub bucket: String,
}

impl Order {
    fn options(&self) -> ConnectOptions {
        ConnectOptions {
            host: "127.0.0.1".into(),
            port: self.port,
            database: "postgres".into(),
            credentials: Credentials {
                user: Secret::value("postgres"),
                password: Some(Secret::value(self.password.clone())),
            },
            application: APPLICATION,
            timeout: Duration::from_secs(10),
        }
    }

    /// Its lineage, whether it was begun or not; and how many segments go at once.
    ///
    /// # Errors
    /// The archive cannot be opened.
    pub fn lineage(&self) -> Result<(Lineage, usize)> {
        let spec: PgArchiveSpec = serde_json::from_value(serde_json::json!({
            "s3": {
                "bucket": self.bucket,
                "endpoint": format!("http://127.0.0.1:{}", self.store_port),
                "allowHttp": true,
                // Without TLS it would hash each body once more.
                "signPayload": false,
            },
        }))?;
        let mounted = MountedSecrets {
            credentials: Some(self.credentials.clone()),
            ca_file: None,
            directory: "/nowhere".into(),
        };
        let archive = Archive::new(object_store::open(&spec, &mounted)?, &spec, "bench")?;
        let parallel = spec.uploads().parallel();
        Ok((archive.lineage(LineageId::from_random([7; 10])), parallel))
    }
}

/// Ships until SIGTERM, and then what is left.
///
/// # Errors
/// The session's, the archive's.
pub fn run(order: &Path) -> Result<()> {
    telemetry::init("info", LogFormat::Text);
    let order: Order = serde_json::from_slice(&std::fs::read(order)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(ship(&order))
}

async fn ship(order: &Order) -> Result<()> {
    let client = Arc::new(connect(&order.options()).await?);
    let facts = server::facts(&client).await?;
    let (lineage, parallel) = begin(order, &facts).await?;
    let held = slot::create(&client, SLOT).await?.restart_lsn;
    // Nobody changes what they say; they must be there.
    let (_interval, tail_interval) = watch::channel(TAIL_INTERVAL);
    let (_demand, demand) = watch::channel(Demand::default());
    let (_others, others) = watch::channel(Vec::new());
    let (progress, seen) = watch::channel(Progress::default());
    let (notices, mut noticed) = mpsc::unbounded_channel();
    let metrics = Metrics::default();
    let route = Route {
        client: client.clone(),
        slot: SLOT.into(),
        size: facts.segment_size,
        path: wal::Path {
            timeline: facts.timeline,
            ancestors: Vec::new(),
        },
        lineage,
        system_identifier: facts.system_identifier,
        parallel,
        others,
    };
    let signals = Signals {
        tail_interval,
        demand,
        progress,
        stop: on_sigterm()?,
        metrics: metrics.clone(),
        notices,
    };
    let source = source(order, &client, &facts);
    let mut shipper = Shipper::open(route, signals, source, "bench".into(), None).await?;
    tokio::select! {
        shipped = shipper.run(said_once()) => Ok(shipped?),
        () = lag::follow(&client, held, seen, &metrics) => bail!("nobody follows how far it is"),
        notice = noticed.recv() => bail!("WAL is missing or damaged: {notice:?}"),
    }
}

/// A new lineage.
async fn begin(order: &Order, facts: &ServerFacts) -> Result<(Lineage, usize)> {
    let (lineage, parallel) = order.lineage()?;
    let identity = Identity {
        format: FORMAT,
        lineage: lineage.id().clone(),
        system_identifier: facts.system_identifier,
        major_version: i32::try_from(facts.major)?,
        segment_size: facts.segment_size,
        created_at: SystemClock.now(),
    };
    lineage.create_identity(&identity).await?;
    Ok((lineage, parallel))
}

fn source(order: &Order, client: &Arc<Client>, facts: &ServerFacts) -> Source {
    match order.transport {
        Transport::Sql => Source::Sql,
        Transport::Streaming => {
            let server = Server {
                options: order.options(),
                system_identifier: facts.system_identifier,
                timeline: facts.timeline,
                client: client.clone(),
                clock: Arc::new(SystemClock),
            };
            Source::streaming(server, false)
        }
    }
}

fn on_sigterm() -> Result<CancellationToken> {
    let (stop, mut terminate) = (CancellationToken::new(), signal(SignalKind::terminate())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stopped.cancel();
    });
    Ok(stop)
}

fn said_once() -> impl FnMut() {
    let mut said = false;
    move || {
        if !std::mem::replace(&mut said, true) {
            println!("{READY}");
        }
    }
}
