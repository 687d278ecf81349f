//! `highwater wal daemon`: pushes for clients that are too short-lived to keep a connection, a lineage, a scan.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use super::{
    Config, ConfigError,
    flights::Outcome,
    protocol::{ALIVE, ALIVE_EVERY, LONGEST_REQUEST, answer, parse_request},
    pusher::Pusher,
};
use crate::archive::OpenError;

/// PostgreSQL archives one file at a time; more come from people.
const MOST_CLIENTS: usize = 16;
/// Between two looks at a store that does not answer: until then it is looked before each put.
const PROBE_AGAIN: Duration = Duration::from_secs(60);
/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(10);
/// How long pushes may take to end when the daemon is told to: all can be repeated.
const DRAIN: Duration = Duration::from_secs(5);

/// Arguments of `highwater wal daemon`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration: where the archive is.
    #[arg(long)]
    pub config: PathBuf,
    /// Where to listen: a path that only this user may use.
    #[arg(long)]
    pub socket: PathBuf,
}

/// What ends the daemon with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The archive's settings make no sense.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is a daemon on that socket.
    #[error("another daemon listens on {}: stop it, or choose another path", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error("failed to listen on {}: {cause}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The signal handler could not be set.
    #[error("failed to listen for SIGTERM: {0}")]
    Signal(io::Error),
}

/// Listens until SIGTERM.
///
/// # Errors
/// See [`Error`].
pub async fn run(args: Args) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    // As long as something is ready, one request after the other pushes ahead.
    let pusher = Pusher::new(Config::read(&args.config)?, usize::MAX)?;
    let socket = Socket::bind(&args.socket)?;
    tracing::info!(socket = %args.socket.display(), "pushing WAL for clients");
    // Before the first client comes: it would wait for as many requests.
    let store = pusher.clone();
    tokio::spawn(async move {
        store.prepare().await;
    });
    let store = pusher.clone();
    tokio::spawn(async move {
        while store.creates_only().await.is_none() {
            tokio::time::sleep(PROBE_AGAIN).await;
        }
    });
    tokio::select! {
        never = serve(&socket, &pusher) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let left = pusher.drain(DRAIN).await;
    if left > 0 {
        tracing::warn!(
            "{left} segments were still on their way after {} s: PostgreSQL asks for them again",
            DRAIN.as_secs()
        );
    }
    Ok(())
}

enum Never {}

async fn serve(socket: &Socket, pusher: &Pusher) -> Never {
    let clients = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let permit = clients.clone().acquire_owned().await;
        match socket.listener.accept().await {
            Ok((stream, _)) if socket.is_ours(&stream) => {
                let pusher = pusher.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer_to(stream, &pusher).await {
                        tracing::debug!(%error, "a client went away");
                    }
                    drop(permit);
                });
            }
            Ok(_) => tracing::warn!("refused a client of another user"),
            Err(error) => {
                // No file descriptors: they come back when clients end.
                tracing::warn!(%error, "failed to accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer_to(mut stream: UnixStream, pusher: &Pusher) -> io::Result<()> {
    let mut request = Vec::new();
    let mut limited = (&mut stream).take(LONGEST_REQUEST);
    tokio::time::timeout(REQUEST, limited.read_to_end(&mut request)).await??;
    let answer = match parse_request(&request) {
        Some(path) => said(work(&mut stream, pusher, &path).await?),
        None => answer(
            2,
            "failed to understand the request: use the client of this version",
        ),
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// Pushes, and gives the client a sign of life now and then.
async fn work(stream: &mut UnixStream, pusher: &Pusher, path: &Path) -> io::Result<Outcome> {
    let pushed = pusher.push(path);
    tokio::pin!(pushed);
    loop {
        tokio::select! {
            outcome = &mut pushed => return Ok(outcome),
            () = tokio::time::sleep(ALIVE_EVERY) => stream.write_all(&[ALIVE]).await?,
        }
    }
}

fn said(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Ok(()) => answer(0, ""),
        Err(error) => answer(error.exit_code(), &error.to_string()),
    }
}

/// A socket that nobody else listens on.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    uid: u32,
    /// Locked as long as this process lives.
    _lock: File,
}

impl Socket {
    /// A socket that a killed daemon left is replaced, a living one's is not.
    fn bind(path: &Path) -> Result<Self, Error> {
        let failed = |cause| Error::Listen {
            path: path.to_owned(),
            cause,
        };
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(beside(path, "lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Taken(path.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        let listener = listen(path).map_err(failed)?;
        let uid = fs::metadata("/proc/self").map_err(failed)?.uid();
        Ok(Self {
            listener,
            path: path.to_owned(),
            uid,
            _lock: lock,
        })
    }

    /// Root may do everything anyway.
    fn is_ours(&self, stream: &UnixStream) -> bool {
        let peer = stream.peer_cred().map(|peer| peer.uid());
        peer.is_ok_and(|uid| uid == self.uid || uid == 0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The lock stays: without its file two daemons could each hold one.
        let _ = fs::remove_file(&self.path);
    }
}

/// Under its own name the socket appears only when nobody else may use it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let new = beside(path, "new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}
