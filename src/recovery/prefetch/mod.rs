//! WAL segments on their way before PostgreSQL asks for them: a server in `highwater recover`, on a local socket.
//!
//! It hands out whole, verified segments or says that it has none. It never says that there is none: whatever it does not
//! hand out, `highwater wal fetch` asks the archive for itself, and only that decides what PostgreSQL is told. So a server
//! that fails, is slow or is gone costs time and nothing else.

mod handover;
mod shelf;

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

#[cfg(test)]
pub(super) use handover::receive_now;
pub use handover::{Files, Given, request};

use self::{
    handover::Request,
    shelf::{Ready, Shelf},
};
use super::{
    archive,
    fetch::FetchConfig,
    files::{self, Owner},
};
use crate::{archive::OpenError, buffers::Buffers};

/// Segments that are held at once, in memory or in files.
const MOST: usize = 4;
/// Bytes of them, unless one segment is larger.
const BYTES: u64 = 128 << 20;

/// Why there is no prefetch.
#[derive(Debug, thiserror::Error)]
pub enum PrefetchError {
    /// The archive cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The socket cannot be made.
    #[error("failed to listen on {}: {cause}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The configuration names no socket.
    #[error("failed to listen: no socket is configured")]
    NoSocket,
}

/// The server. It ends, and its memory is free again, when it is dropped.
#[derive(Debug)]
pub struct Prefetcher {
    _serving: AbortOnDropHandle<Infallible>,
}

impl Prefetcher {
    /// Listens on the socket that `config` names, for `owner` alone. `None`: for our own user. Must be called in a tokio
    /// runtime.
    ///
    /// # Errors
    /// See [`PrefetchError`].
    pub fn start(config: &FetchConfig, owner: Option<Owner>) -> Result<Self, PrefetchError> {
        let path = config.socket.as_ref().ok_or(PrefetchError::NoSocket)?;
        let buffers = Buffers::kept();
        let source = archive::open(config, Some(buffers.clone()))?;
        let listener = listen(path, owner).map_err(|cause| PrefetchError::Listen {
            path: path.clone(),
            cause,
        })?;
        let shelf = Arc::new(Shelf::new(source, buffers, config, MOST, BYTES));
        Ok(Self {
            _serving: AbortOnDropHandle::new(tokio::spawn(serve(listener, shelf))),
        })
    }
}

/// Whoever may write to the socket's file may connect.
fn listen(path: &Path, owner: Option<Owner>) -> io::Result<UnixListener> {
    // An earlier try's. Nobody listens on it any more.
    files::remove(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    if let Some(Owner { uid, gid }) = owner {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(listener)
}

async fn serve(listener: UnixListener, shelf: Arc<Shelf>) -> Infallible {
    loop {
        match listener.accept().await {
            // Ends with its client, which PostgreSQL starts one at a time.
            Ok((client, _)) => drop(tokio::spawn(answer(client, Arc::clone(&shelf)))),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection of wal fetch");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One segment for one client.
async fn answer(client: UnixStream, shelf: Arc<Shelf>) {
    let handed_out = async {
        let Request {
            name,
            file,
            named,
            later,
        } = handover::receive(&client).await?;
        shelf.put_by(later);
        let given = match shelf.take(name).await {
            None => None,
            Some(Ready::Written(_)) if named => None,
            Some(Ready::Written(written)) => {
                shelf.put_by(vec![file]);
                Some(Given::In(written))
            }
            Some(Ready::Content(content)) => {
                let written = shelf.write(file, content).await;
                written.map(|file| match named {
                    true => Given::There,
                    false => Given::In(file),
                })
            }
        };
        let found = given.is_some();
        handover::answer(&client, given).await?;
        if found {
            shelf.refill(name);
        }
        io::Result::Ok(())
    };
    if let Err(error) = handed_out.await {
        tracing::debug!(%error, "failed to hand out a segment: wal fetch asks the archive itself");
    }
}
